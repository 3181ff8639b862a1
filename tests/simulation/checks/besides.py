"""Beside itself the past is the same: what is folded with the definitions that were in force makes no difference."""

from collections.abc import Coroutine
from typing import Any

import msgspec

from perdure.flow import decode
from perdure.flow.states import RunState
from perdure.flow.view import View
from perdure.past.beside import Beside
from perdure.past.order import ordered
from perdure.past.reading import read_tape
from perdure.past.tale import Tale
from perdure.past.tape import Tape
from perdure_schemas.definition import Definition
from perdure_schemas.records import AppPaths
from tests.evidence.entries import Journal
from tests.simulation.checks.tapes import Journals


def check_beside(journal: Journal) -> int:
    """Of everything in the log. How many runs were compared."""
    tape = _at_once(read_tape(Journals(journal)))  # type: ignore[arg-type]
    was, would = Tale(), Tale()
    beside = Beside(tape, _definition_of(tape), was, would)
    for stood in ordered(tape.parts, beside.waits_for):
        beside.take(stood)
    assert list(was.runs) == list(would.runs), "the same runs in the same order"
    for run, told in was.runs.items():
        assert told == would.runs[run], f"run {run}"
    assert was.sent == would.sent
    for then, now in zip(beside.was, beside.would, strict=True):
        assert known(then) == known(now), f"partition {then.partition}"
        numbers = [(view.meta.outseq, view.meta.inseq) for view in (then, now)]
        assert numbers[0] == numbers[1], f"partition {then.partition}"
    return len(was.runs)


def _at_once(reading: Coroutine[Any, Any, Tape]) -> Tape:
    """What waits for nothing needs no loop: there may be one already, of a simulated world."""
    while True:
        try:
            turn = reading.send(None)
        except StopIteration as read:
            tape: Tape = read.value
            return tape
        assert turn is None, "it lets others go on, and waits for nothing"


def _definition_of(tape: Tape) -> Definition | None:
    """The app as it was all the time; None if it had several."""
    of_first = [decode(entry.raw) for entry in tape.parts[0].entries if entry.kind == "app.paths"]
    definitions = {one.definition.digest: one.definition for one in of_first if isinstance(one, AppPaths)}
    return next(iter(definitions.values())) if len(definitions) == 1 else None


def known(view: View) -> dict[str, object]:
    """All that is known of runs, events, subscriptions and schedules, but places in the log."""
    found: dict[str, object] = {f"r/{run.id}": _known(run) for run in view.runs.values()}
    found |= {f"e/{event}": one for event, one in view.seen.items()}
    for key, state in view.matches.items():
        found[f"m/{key}"] = [(name, sub.g, sub.waits, sub.own, sub.until) for name, sub in state.subs.items()]
    found |= {f"c/{function}": (cron.line, cron.tz, cron.due) for function, cron in view.crons.items()}
    found["meta"] = (view.at, view.meta.current, view.meta.paths, view.meta.live, view.meta.paused, view.meta.known)
    return found


def _known(run: RunState) -> list[object]:
    ops = {name: (op.type, op.attempt, op.due, op.key, op.child) for name, op in run.open.items()}
    timers = {name: timer.due for name, timer in run.timers.items()}
    told = (run.function, run.status, run.cause, run.number, run.event_id, run.since, run.copies, run.started_at)
    return [*told, run.requested_at, run.ended_at, ops, timers, run.waits, run.taken, msgspec.json.encode(run.rules)]
