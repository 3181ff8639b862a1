"""What history makes of journals: what the folds make of them, however it is read and whoever dies meanwhile."""

from random import Random

import msgspec
import pytest
from msgspec import Raw

from perdure.flow.routing import run_id
from perdure.flow.states import RunState
from perdure.flow.view import View
from perdure.history.rows import OpRow
from perdure.history.store import History
from perdure_schemas.records import Fork, MatchOffered, OpClosed, Record, RunRecalled, RunRequested, StepFailed, V
from tests.evidence.folding import fold_records
from tests.flow.storm import seeds
from tests.flow.test_storm_anything import Anything, played
from tests.flow.world import ERROR, called, completed, payload, waited
from tests.flow.world import World as Partitions
from tests.history.tools import Records, Shelf, read_at_once, read_under_kills
from tests.simulation.checks.evidence import Evidence
from tests.simulation.checks.tales import Op, Tale
from tests.simulation.programs.ledger import Ledger
from tests.simulation.programs.together import apps
from tests.simulation.storms import plan_of, played_out, swarm_of
from tests.simulation.world import World


def journals_of(story: Anything) -> dict[int, Records]:
    return {
        partition: [(offset, ms, raw) for offset, (ms, raw) in enumerate(journal.records)]
        for partition, journal in enumerate(story.journals)
    }


def assert_as_folded(history: History, view: View) -> None:
    for run, state in view.runs.items():
        page = history.run(run)
        assert page is not None, f"{run} is missing"
        row = page.run
        assert (row.function, row.status, row.cause, row.event_id) == (
            state.function, _shown(state.status), state.cause, state.event_id,
        )  # fmt: skip
        assert (row.requested_at, row.started_at, row.ended_at) == (
            state.requested_at, state.started_at or None, state.ended_at,
        )  # fmt: skip
        assert (row.attempt, row.metadata, row.rerun_of) == (state.attempt, state.metadata, state.rerun_of)
        assert_ops_as_folded(page.ops, state, view)


def assert_ops_as_folded(ops: list[OpRow], state: RunState, view: View) -> None:
    still_open = {op.op for op in ops if op.status == "open"}
    crashed = {op for op in state.crashes if op not in state.open}
    assert still_open == {*state.open} | crashed
    if state.ended_at is None:
        decided = view.lines.done(state.id)
        assert {op.op for op in ops if op.status != "open"} == decided


@pytest.mark.parametrize("seed", seeds(6))
def test_history_is_what_the_folds_made_of_it(seed: int, shelf: Shelf) -> None:
    """Whatever is written, at any time, by anybody; compared with a fold of the same records."""
    story = played(seed, forgetful=False)
    history = shelf.opened()
    for partition, records in journals_of(story).items():
        half = records[: len(records) // 2]
        for some in (half, records):
            read_at_once(history, partition, story.partitions, some)
            assert_as_folded(history, fold_records(some, partition, story.partitions).view)
    history.close()


@pytest.mark.parametrize("seed", seeds(6))
def test_it_may_be_killed_between_any_two_records(seed: int, shelf: Shelf) -> None:
    """Slices of any length, some of them read twice, some lost before they were written: the same rows."""
    story = played(seed)
    whole, cut = shelf.opened("whole"), shelf.opened("cut")
    rng = Random(seed)
    for partition, records in journals_of(story).items():
        read_at_once(whole, partition, story.partitions, records)
        read_under_kills(cut, partition, story.partitions, records, rng)
    whole.close()
    cut.close()
    rows, again = shelf.everything("whole"), shelf.everything("cut")
    assert {name: len(rows[name]) > 0 for name in ("runs", "data", "ops", "marks", "events")} == dict.fromkeys(
        ("runs", "data", "ops", "marks", "events"), True
    )
    assert again == rows


WORLDS = (20_146, 20_148, 20_176, 20_183)
"""With ops of every type, among them a wait that gives its event back, and steps in queues."""


def world(seed: int) -> Evidence:
    ledger = Ledger()
    swarm = swarm_of(seed)
    return played_out(World(seed, apps(ledger, swarm), swarm), plan_of(seed), ledger)


@pytest.mark.parametrize("seed", WORLDS)
def test_generated_programs_are_told_as_a_second_reading_tells_them(seed: int, shelf: Shelf) -> None:
    """A cluster under faults; compared with `checks/tales.py`, which shares no code with the folds or with history."""
    evidence = world(seed)
    history = shelf.opened()
    partitions = len(evidence.journal)
    for partition, entries in evidence.journal.items():
        records = [(entry.offset, entry.ms, entry.raw) for entry in entries]
        read_under_kills(history, partition, partitions, records, Random(seed))
    assert sum(len(tale.ops) for tale in evidence.tales.values()) > 20
    for run, tale in evidence.tales.items():
        page = history.run(run)
        assert page is not None, f"{run} is missing"
        assert (page.run.status, page.run.function, page.run.attempt) == (
            _shown(tale.status),
            tale.function,
            tale.attempt,
        )
        assert page.run.ended_at == (None if tale.end is None else tale.end.at)
        told = {name: _fate(tale, op) for name, op in tale.ops.items() if _is_known(op) or name in tale.crashes}
        told |= {name: ("open", None) for name in tale.crashes if name not in told}
        assert {op.op: (op.status, op.ended_at) for op in page.ops} == _closed_by_the_end(tale, told)
        for event, taker in tale.consumed.items():
            assert not taker or (run, taker, "matched") in _uses_of(history, event)
    history.close()


def _is_known(op: Op) -> bool:
    return op.opened is not None or op.decided is not None or op.attempt > 1


def _fate(tale: Tale, op: Op) -> tuple[str, int | None]:
    """What became of it, by its outcome; of one whose result nobody got, that user code gave it up."""
    if op.outcome is None or op.gave_back:
        return ("open", None) if op.closed is None else ("closed", op.closed.at)
    record = op.outcome.record
    failed = record["kind"] == "step.failed" or (record["kind"] == "run.answered" and "error" in record)
    return "failed" if failed else "completed", op.outcome.at


def _closed_by_the_end(tale: Tale, told: dict[str, tuple[str, int | None]]) -> dict[str, tuple[str, int | None]]:
    if tale.end is None:
        return told
    return {name: ("closed", tale.end.at) if status == "open" else (status, at) for name, (status, at) in told.items()}


def _uses_of(history: History, event: str) -> list[tuple[str, str, str]]:
    page = history.event(event)
    assert page is not None, f"event {event} is missing"
    return [(use.run, use.op, use.what) for use in page.uses]


def _shown(status: str) -> str:
    """A run that went on as another one has done its work."""
    return "completed" if status == "continued" else status


def test_a_fork_is_told_with_the_history_that_it_has(shelf: Shelf) -> None:
    """As of the other run, and nothing else of it: no event is used twice, nothing is tried."""
    run, child = run_id("fork"), run_id("child")
    world = Partitions()
    world.to_run(run, RunRequested(run, "work", "fork", rerun_of=run_id("r"), fork=Fork(run_id("r"), 5, 6), v=V))
    failed = StepFailed(run, "0/b#1", 3, "", ERROR, took_us=2_000, v=V)
    took = MatchOffered(run, "k", 0, "e1", 0, payload({"id": "e1"}), "0/w#1", v=V)
    lines: list[tuple[Record, int]] = [
        (completed(run, "0/a#1", 7), 1_000), (failed, 2_000), (waited(run, "0/w#1", "k"), 3_000), (took, 4_000),
        (called(run, "0/c#1", child), 5_000), (OpClosed(run, "0/c#1", v=V), 6_000),
    ]  # fmt: skip
    for n, (line, at) in enumerate(lines):
        world.to_run(run, RunRecalled(run, n, at, Raw(msgspec.json.encode(line)), v=V))
    history = shelf.opened()
    partition = world.of_run(run)
    records = [(offset, ms, raw) for offset, (ms, raw) in enumerate(world.journals[partition].records)]
    read_at_once(history, partition, world.partitions, records)
    page = history.run(run)
    assert page is not None
    assert (page.run.status, page.run.cause, page.run.started_at) == ("running", "fork", world.now)
    assert [(op.op, op.type, op.status, op.opened_at, op.ended_at, op.attempt) for op in page.ops] == [
        ("0/a#1", "step", "completed", 1_000, 1_000, 1),
        ("0/b#1", "step", "failed", 1_998, 2_000, 3),
        ("0/w#1", "wait", "completed", 3_000, 4_000, None),
        ("0/c#1", "call", "closed", 5_000, 6_000, None),
    ]
    assert page.ops[0].result == msgspec.json.encode(payload(7))
    assert page.ops[1].error is not None
    assert page.marks == []
    history.close()
