"""The invariants, read from the log and from what user code witnessed. Nothing here knows the folds.

Each function raises AssertionError with the number of the invariant.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

from tests.evidence.entries import Entry
from tests.simulation.checks.evidence import Evidence
from tests.simulation.checks.matching import check_matching
from tests.simulation.checks.tales import Op, Tale
from tests.simulation.checks.ways import other_way
from tests.simulation.model import FAILS_BY, VALUE, Known, Model
from tests.simulation.programs import syntax
from tests.simulation.programs.app import REMIND
from tests.simulation.programs.ledger import Body
from tests.simulation.programs.syntax import LATER_MS, Program, from_json


def check_invariants(evidence: Evidence) -> None:
    """All of them. The world is at rest: nothing runs, and nothing is on its way."""
    assert not evidence.ledger.conflicts, evidence.ledger.conflicts[0]
    i1_nothing_acknowledged_is_missing(evidence)
    i5_runs_are_as_the_log_says(evidence)
    i6_nothing_starts_too_late(evidence)
    i4_results_have_been_made(evidence)
    i9_time_is_kept(evidence)
    i10_one_run_per_event_and_function(evidence)
    i13_all_partitions_are_paused_alike(evidence)
    check_matching(evidence.effective, evidence.tales)
    i12_nobody_is_passed_over(evidence)
    ends_have_causes(evidence)
    children_are_cancelled(evidence)
    handlers_run_once(evidence)
    outcomes_are_allowed(evidence)


def i1_nothing_acknowledged_is_missing(evidence: Evidence) -> None:
    events = {entry.record["event"]["id"] for entry in evidence.every("event.received")}
    assert evidence.events <= events, f"I1: acknowledged events are not in the log: {evidence.events - events}"
    cancels = {entry.record["run"] for entry in evidence.every("run.cancel_requested")}
    assert evidence.cancelled <= cancels, f"I1: acknowledged cancels are not in the log: {evidence.cancelled - cancels}"
    requested = {entry.record["run"] for entry in evidence.every("run.requested")}
    assert evidence.asked <= requested, f"I1: acknowledged runs are not in the log: {evidence.asked - requested}"


def i13_all_partitions_are_paused_alike(evidence: Evidence) -> None:
    """Each command once, in the order in which the first of its copies stands in partition 0."""
    asked: dict[str, Entry] = {}
    for entry in evidence.effective[0]:
        if entry.kind == "function.pause_requested":
            asked.setdefault(entry.record["command"], entry)
    commands = [(one.record["function"], one.record["paused"]) for one in asked.values()]
    for partition, entries in evidence.effective.items():
        told = [(one.record["function"], one.record["paused"]) for one in entries if one.kind == "function.paused"]
        assert told == commands, f"I13: partition {partition} is told {told}, and {commands} was asked for"


def i5_runs_are_as_the_log_says(evidence: Evidence) -> None:
    """The engine's word for each run that it still knows is the log's."""
    for run, (function, status) in evidence.states.items():
        tale = evidence.tales.get(run)
        told = ("", "") if tale is None else (tale.function, tale.status)
        assert told == (function, status), f"I5: run {run} is {function, status}, and by the log {told}"


def i6_nothing_starts_too_late(evidence: Evidence) -> None:
    """A body begins before its op's outcome, its op's close and its run's end are folded, and after its retry is."""
    begun: Counter[tuple[Any, ...]] = Counter()
    for body in evidence.ledger.bodies:
        if body.word != "began":
            continue
        tale = evidence.tales[body.run]
        op = tale.ops.get(body.op)
        exact = evidence.exact_threads or not body.thread
        if exact:
            assert tale.end is None or tale.end.offset >= body.folded, f"I6: {body} after the end of its run {tale.end}"
        if op is not None and exact:
            decided = op.decided
            assert decided is None or decided.offset >= body.folded, f"I6: {body} after its outcome {decided}"
        if body.claim:
            _begins_by_its_claim(body, op)
        if body.attempt > 1:
            known = body.folded if op is None or not body.claim else op.granted[body.claim].offset
            retried = [entry for entry in op.retried if entry.offset < known] if op is not None else []
            assert len(retried) >= body.attempt - 1, f"I9: {body} before its retry was due"
        _begins_where_it_went(tale, body)
        if exact and not body.claim:
            _begins_under_no_older_code(evidence, tale, body)
        if not tale.parked:
            begun[body.pod, body.tenure, body.run, body.turn, body.op, body.attempt, body.claim] += 1
    twice = {attempt: count for attempt, count in begun.items() if count > 1}
    assert not twice, f"I4: begun twice in one tenure: {twice}"


def _begins_by_its_claim(body: Body, op: Op | None) -> None:
    claim = op.granted.get(body.claim) if op is not None else None
    assert claim is not None, f"I6: {body} begins, and its claim was not granted"
    assert claim.record["attempt"] == body.attempt, f"I6: {body} is not the attempt that was granted: {claim}"


def _begins_where_it_went(tale: Tale, body: Body) -> None:
    """I16: code that goes another way than its run did is stopped before it does anything there."""
    other = tale.ops.get(other_way(body.op))
    if other is not None and other.outcome is not None and other.closed is None:
        assert other.outcome.offset >= body.folded, f"I16: {body} begins, and the run went the other way: {other}"


def _begins_under_no_older_code(evidence: Evidence, tale: Tale, body: Body) -> None:
    """I16: what newer code has taken further, as its owner knew when it took up the partition, older code leaves.

    Older code that its owner activates again, as a process on its own log does, is the newest from there on.
    """
    since = evidence.taken_up.get(body.owner[1], 0)
    last = next(((offset, code) for offset, code in reversed(tale.words) if offset < body.folded), None)
    if last is None or max(last[0], last[1].since) >= since:
        return
    numbers = evidence.tellers[body.partition].numbers.get(evidence.codes[body.pod], [])
    mine = max((number for offset, number in numbers if offset < body.folded), default=None)
    newer = mine is not None and last[1].number > mine
    assert not newer, f"I16: {body} begins under code {mine}, and code {last[1].number} has taken its run further"


def i4_results_have_been_made(evidence: Evidence) -> None:
    """What is recorded of a step, a body gave; and each wait that user code saw end is one that the log decided."""
    ended = {(body.run, body.op, body.attempt, body.word) for body in evidence.ledger.bodies if body.word != "began"}
    for entry in evidence.every("step.completed", "step.failed"):
        record = entry.record
        word = "done" if entry.kind == "step.completed" else "raised"
        made = (record["run"], record["op"], record["attempt"], word) in ended
        crashed = entry.kind == "step.failed" and record["error"]["type"].endswith(".Crashed")
        assert made or crashed, f"I4: recorded without having run: {entry.raw!r}"
    went: dict[str, list[str]] = defaultdict(list)
    for (run, _), (told, _, _) in evidence.ledger.seen.items():
        if told[0] == "went":
            went[run].append(told[1])
    for run, events in went.items():
        assert len(events) == len(set(events)), f"I12: run {run} was given an event twice: {sorted(events)}"
        held = {event for event, op in evidence.tales[run].consumed.items() if op}
        assert set(events) <= held, f"I4: run {run} saw events that the log did not give it: {set(events) - held}"


def i9_time_is_kept(evidence: Evidence) -> None:
    """By the log's clock, as the run saw it, nothing comes early."""
    for (run, place), (told, before, after) in evidence.ledger.seen.items():
        program = _program_of(evidence, evidence.tales[run])
        node = None if program is None else _at(program, place.removesuffix("!"))
        least = 0
        match node:
            case syntax.Sleep() if told == ["slept"]:
                least = node.ms
            case syntax.Wait() if told == ["late"]:
                least = node.ms or 0
            case syntax.Timeout() if told == ["timed out"]:
                least = node.ms
            case syntax.Step() if told[0] == "ok" and node.how == "later":
                least = node.fails * LATER_MS
            case _:
                pass
        assert after - before >= least, f"I9: run {run} at {place}: {told} after {after - before} ms of {least}: {node}"


def i10_one_run_per_event_and_function(evidence: Evidence) -> None:
    runs: dict[tuple[str, str], set[str]] = defaultdict(set)
    for entry in evidence.every("run.requested"):
        if entry.record["cause"] == "event":
            runs[entry.record["event_id"], entry.record["function"]].add(entry.record["run"])
    more = {pair: found for pair, found in runs.items() if len(found) > 1}
    assert not more, f"I10: {more}"
    due = {
        (receipt.entry.record["event"]["id"], function["id"])
        for receipt in evidence.receipts
        for function in receipt.definition["functions"]
        for trigger in function.get("triggers", ())
        if trigger["event"] == receipt.entry.record["event"]["name"]
    }
    assert set(runs) == due, f"I10: missing {due - set(runs)}, too many {set(runs) - due}"


def i12_nobody_is_passed_over(evidence: Evidence) -> None:
    """What comes after a run was requested is copied for all that the run joins on, wherever it comes in."""
    copied = {(entry.record["key"], entry.record["event"]["id"]) for entry in evidence.every("event.keyed")}
    wanted: dict[str, int] = {}
    for tale in evidence.tales.values():
        if tale.request is not None:
            rules = (rule["key"] for rule in tale.request.record.get("rules", ()))
            for key in (*rules, *(op.key for op in tale.ops.values() if op.key)):
                order = evidence.order(tale.request)
                wanted[key] = min(order, wanted.get(key, order))
    for key, since in wanted.items():
        name, path, value = json.loads(key)
        for entry, _ in evidence.receipts:
            event = entry.record["event"]
            if event["name"] == name and _joins(event, path, value) and evidence.order(entry) > since:
                assert (key, event["id"]) in copied, f"I12: {entry.raw!r} passed by who waits at {key}"


def _joins(event: Mapping[str, Any], path: str, value: str) -> bool:
    return not path or f"n:{event['data'].get(path.removeprefix('data.'))}" == value


def ends_have_causes(evidence: Evidence) -> None:
    """Nothing is cancelled that nobody wanted cancelled; what a run's end asks of others is asked."""
    wanted: dict[str, set[str]] = defaultdict(set)
    for run in evidence.may_cancel | evidence.cancelled:
        wanted[run].add("client")
    for tale in evidence.tales.values():
        for op in tale.ops.values():
            opening = op.opened.record["opening"] if op.opened is not None else {}
            if op.type == "cancel":
                wanted[opening["run"]].add("run")
            given_up = op.closed is not None or (op.outcome is None and tale.end is not None)
            if op.type == "call" and opening["awaited"] and given_up:
                wanted[opening["run"]].add("parent")
    for entry in evidence.every("run.cancel_requested"):
        run = entry.record["run"]
        assert wanted.get(run) or _is_heir(evidence, run), f"a cancel that nobody asked for: {entry.raw!r}"
    for run, why in wanted.items():
        known = evidence.tales.get(run)
        assert known is None or not known.live or why == {"client"}, f"I14: {run} lives on, and should not: {why}"


def children_are_cancelled(evidence: Evidence) -> None:
    """Who called a run and gave it up, or ended before its answer, has it cancelled: it may not outlive its parent."""
    cancelled = {entry.record["run"] for entry in evidence.every("run.cancel_requested")}
    for tale in evidence.tales.values():
        for op in tale.ops.values():
            given_up = op.outcome is None and (op.closed is not None or tale.end is not None)
            if op.opened is not None and op.type == "call" and given_up:
                child = op.opened.record["opening"]["run"]
                assert child in cancelled, f"I14: {child} may outlive its parent {tale.id}, which ended: {tale.end}"


def _is_heir(evidence: Evidence, run: str) -> bool:
    tale = evidence.tales[run]
    return tale.request is None or tale.cause == "continue"


def handlers_run_once(evidence: Evidence) -> None:
    """`on_failure` and `on_cancel` of what failed or was cancelled, and of nothing else; a failure has its event."""
    due: Counter[tuple[str, str]] = Counter()
    for tale in evidence.tales.values():
        if tale.handler:
            due[tale.id, tale.handler] += 1
    runs = Counter(
        (tale.request.record["ending"]["run"], tale.function)
        for tale in evidence.tales.values()
        if tale.request is not None and tale.cause == "handler"
    )
    assert runs == due, f"handlers: missing {due - runs}, too many {runs - due}"
    failed = {f"{tale.id}:failed" for tale in evidence.tales.values() if tale.status == "failed"}
    told = {entry.record["event"]["id"] for entry in evidence.every("event.received")}
    told = {event for event in told if event.endswith(":failed")}
    assert told == failed, f"perdure/function.failed: missing {failed - told}, too many {told - failed}"


def outcomes_are_allowed(evidence: Evidence) -> None:
    """The model's word on each run."""
    events: dict[str, dict[str, Any]] = {}
    for entry in evidence.every("event.received"):
        # An id that comes again with other data is the first one's.
        events.setdefault(entry.record["event"]["id"], entry.record["event"])
    for tale in evidence.tales.values():
        if tale.request is None or tale.end is None:
            continue
        if tale.function.startswith(("abandoned", "basket", "clerk", "vigil")) or tale.cause == "handler":
            _storms_end(evidence, tale)
            continue
        program = _program_of(evidence, tale)
        assert program is not None
        trigger = evidence.trigger(tale)["data"] if tale.function == "begun" else {}
        model = Model(Known(events, trigger, evidence.result, evidence.deaths > 0))
        if tale.status == "completed":
            told = evidence.payload(tale.end.record["result"], "result")
            why = model.allows(program, told)
            assert not why, f"run {tale.id} completed, but {why}"
            assert len(model.used) == len(set(model.used)), f"I12: run {tale.id} was given an event twice: {model.used}"
            assert not trigger.get("again"), f"run {tale.id} should have continued"
        elif tale.status == "continued":
            assert trigger["again"], f"run {tale.id} should not have continued"
            assert model.ends(program), f"run {tale.id} continued, and its program only fails"
        elif tale.status == "failed":
            _failure_is_allowed(tale, tale.end, model.errors(program))


def _failure_is_allowed(tale: Tale, end: Entry, errors: set[str]) -> None:
    error = end.record["error"]
    kind = error["type"].rpartition(".")[2]
    allowed = {name for one in errors for name in FAILS_BY[one]}
    assert kind in allowed, f"run {tale.id} failed by {error['type']}: {error['message']}; allowed: {allowed}"
    if kind == VALUE and errors == {VALUE}:
        assert tale.attempt == 2, f"run {tale.id} was begun {tale.attempt} times"


def _storms_end(evidence: Evidence, tale: Tale) -> None:
    assert tale.end is not None
    if tale.status == "completed":
        result = evidence.payload(tale.end.record["result"], "result")
        if tale.function == "abandoned":
            assert result in ("bought", "reminded"), f"run {tale.id}: {result}"
        if tale.cause == "handler" or tale.function in ("clerk", "vigil"):
            assert result == str(REMIND.value)
        if tale.function == "basket":
            assert result in tale.consumed, f"I12: run {tale.id}: {result} was not given to it"
    else:
        may_fail = tale.function in ("basket", "vigil")
        allowed = ("cancelled", "failed") if may_fail else ("cancelled",)
        assert tale.status in allowed, f"run {tale.id} of {tale.function} is {tale.status}"


def _program_of(evidence: Evidence, tale: Tale) -> Program | None:
    if tale.request is None or tale.function not in ("play", "begun"):
        return None
    if tale.function == "begun":
        return from_json(json.dumps(evidence.trigger(tale)["data"]["program"]))
    positional, _ = evidence.payload(tale.request.record["arguments"], "arguments")
    return from_json(json.dumps(positional[0]))


def _at(program: Program, place: str) -> Program | None:
    """The node at a place such as `0.1.part`."""
    node = program
    for way in place.split(".")[1:]:
        parts: Mapping[str, Program] = dict(syntax.parts_of(node))
        node = parts[way]
    return node
