"""The invariants, read from the log and from the file that steps write. Nothing here knows the folds.

Each function raises AssertionError with the number of the invariant. `Story` is what one look at everything gives.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.evidence.entries import Entry, Journal, without_repetitions
from tests.system.kill.reader import Line

UPLOADED = "api/contact_list.uploaded"
STARTED_BY_UPLOAD = {"import_contacts", "watch"}


@dataclass
class Sent:
    """What the parent was told that it is durable."""

    events: dict[str, tuple[str, dict[str, Any]]] = field(default_factory=dict[str, tuple[str, dict[str, Any]]])
    """Event id → (name, data)."""
    cancelled: dict[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])
    """Run → (wall clock at the acknowledgement, process that gave it)."""
    born: dict[int, int] = field(default_factory=dict[int, int])
    """Process → wall clock just before it was started."""


@dataclass
class Story:
    """The log as it stands at the end."""

    journal: Journal
    lines: list[Line]
    sent: Sent
    effective: Journal = field(default_factory=dict[int, list[Entry]])
    """Without what was sent between partitions a second time."""
    repeated: int = 0
    """Records that came a second time."""
    ends: dict[str, tuple[str, Entry]] = field(default_factory=dict[str, tuple[str, Entry]])
    """Run → how and by which record it ended."""
    fires: Counter[tuple[str, str, int]] = field(default_factory=Counter[tuple[str, str, int]])
    """(run, timer, setter) → how often its fire is in the log."""

    def every(self, *kinds: str) -> Iterator[Entry]:
        """Records of these kinds, of all kinds if none is given, partition by partition in log order."""
        for entries in self.effective.values():
            yield from (entry for entry in entries if not kinds or entry.kind in kinds)


def check_all(story: Story, states: Mapping[str, tuple[str, str]]) -> None:
    """`states`: what the engine says of each run, (function, status)."""
    story.effective, story.repeated = without_repetitions(story.journal)
    nothing_went_wrong(story)
    i1_nothing_acknowledged_is_missing(story)
    i10_one_run_per_event_and_function(story)
    i4_one_outcome_per_op(story)
    i5_one_end_per_run(story, states)
    i6_nothing_starts_after_its_outcome(story)
    i6_nothing_starts_after_a_cancel(story)
    i9_timers_fire_once_and_never_early(story)


def nothing_went_wrong(story: Story) -> None:
    """The functions of this app never fail, and their code never changed."""
    wrong = [entry.raw for entry in story.every("run.errored", "run.parked")]
    wrong += [entry.raw for entry in story.every("run.finished") if entry.record["status"] != "completed"]
    assert not wrong, wrong


def i1_nothing_acknowledged_is_missing(story: Story) -> None:
    bodies = [entry.record["event"] for entry in story.every("event.received")]
    logged = {body["id"]: (body["name"], body["data"]) for body in bodies}
    missing = set(story.sent.events) - set(logged)
    assert not missing, f"I1: acknowledged events that are not in the log: {sorted(missing)}"
    for event_id, event in story.sent.events.items():
        assert logged[event_id] == event, f"I1: {event_id} was {event} and is {logged[event_id]}"
    cancels = {entry.record["run"] for entry in story.every("run.cancel_requested")}
    missing = set(story.sent.cancelled) - cancels
    assert not missing, f"I1: acknowledged cancels that are not in the log: {sorted(missing)}"


def i10_one_run_per_event_and_function(story: Story) -> None:
    runs: dict[tuple[str, str], set[str]] = defaultdict(set)
    for entry in story.every("run.requested"):
        runs[entry.record["event_id"], entry.record["function"]].add(entry.record["run"])
    more = {pair: found for pair, found in runs.items() if len(found) > 1}
    assert not more, f"I10: {more}"
    expected = {
        (entry.record["event"]["id"], function)
        for entry in story.every("event.received")
        if entry.record["event"]["name"] == UPLOADED
        for function in STARTED_BY_UPLOAD
    }
    assert set(runs) == expected, f"I10: missing {expected - set(runs)}, too many {set(runs) - expected}"


def i4_one_outcome_per_op(story: Story) -> None:
    """A step's result is recorded once: not even a copy, since its step never ran again."""
    counted = Counter((entry.record["run"], entry.record["op"]) for entry in story.every("step.completed"))
    twice = {op: count for op, count in counted.items() if count > 1}
    assert not twice, f"I4: recorded more than once: {twice}"
    ends: dict[tuple[str, str], str] = {}
    for entry in story.every("step.completed", "step.failed"):
        op = entry.record["run"], entry.record["op"]
        assert op not in ends, f"I4: {op} had its outcome ({ends.get(op)}) when {entry.raw!r} came"
        if entry.kind == "step.completed":
            ends[op] = "completed"
        elif "retry_in_ms" not in entry.record:
            ends[op] = "failed"
    attempts = Counter(
        (entry.record["run"], entry.record["op"], entry.record["attempt"]) for entry in story.every("step.failed")
    )
    again = {key: count for key, count in attempts.items() if count > 1}
    assert not again, f"I4: an attempt failed more than once: {again}"


def i5_one_end_per_run(story: Story, states: Mapping[str, tuple[str, str]]) -> None:
    """The first end counts, and is what the engine says; a run that ends by itself says so once."""
    finished: Counter[str] = Counter()
    requested: dict[str, Entry] = {}
    for entry in story.every("run.requested", "run.finished", "run.cancel_requested"):
        run = entry.record["run"]
        if entry.kind == "run.requested":
            requested.setdefault(run, entry)
            continue
        if entry.kind == "run.finished":
            finished[run] += 1
            assert finished[run] == 1, f"I5: run {run} finished twice"
        assert run in requested, f"I5: run {run} ends before it is requested"
        if run not in story.ends:
            status = "cancelled" if entry.kind == "run.cancel_requested" else entry.record["status"]
            story.ends[run] = status, entry
    open_ends = set(requested) - set(story.ends)
    assert not open_ends, f"runs that never ended: {sorted(open_ends)}"
    told = {run: (entry.record["function"], story.ends[run][0]) for run, entry in requested.items()}
    assert told == dict(states), f"I5: by the log {told}, by the engine {states}"


def _end_of_op(story: Story) -> dict[tuple[str, str], Entry]:
    return {
        (entry.record["run"], entry.record["op"]): entry
        for entry in story.every("step.completed", "step.failed")
        if "retry_in_ms" not in entry.record
    }


def i6_nothing_starts_after_its_outcome(story: Story) -> None:
    """The outcome's log time lies before the moment at which it was folded, and after every start of the step."""
    ended = _end_of_op(story)
    for line in story.lines:
        outcome = ended.get((line.run, line.op))
        if line.word == "started" and outcome is not None:
            late = line.ms - outcome.ms
            assert late <= 0, f"I6: {line} started {late} ms after its outcome: {outcome.raw!r}"
    recorded = {(run, op) for (run, op), entry in ended.items() if entry.kind == "step.completed"}
    done = {(line.run, line.op) for line in story.lines if line.word == "done"}
    assert recorded <= done, f"recorded without having run: {sorted(recorded - done)}"


def i6_nothing_starts_after_a_cancel(story: Story) -> None:
    """Once the cancel is acknowledged it is folded; in later processes nothing of the run starts at all.

    A step in a thread writes its line when the thread is scheduled: only other processes are judged by those.
    """
    for line in story.lines:
        if line.word == "started" and line.run in story.sent.cancelled:
            at, pid = story.sent.cancelled[line.run]
            if line.pid != pid or line.kind == "task":
                assert line.ms <= at, f"I6: {line} started {line.ms - at} ms after the cancel of its run was folded"
    for run, (status, entry) in story.ends.items():
        if status == "cancelled":
            mine = (line for line in story.lines if line.run == run and line.word == "started")
            later = [line for line in mine if story.sent.born[line.pid] > entry.ms]
            assert not later, f"I6: started in a process after the one that wrote the cancel: {later}"


def i9_timers_fire_once_and_never_early(story: Story) -> None:
    """Each fire names the record that set it and comes when that is due; what it lets go on goes on once."""
    fires: Counter[tuple[str, str, int]] = Counter()
    for partition, entries in story.effective.items():
        for entry in entries:
            if entry.kind == "timer.fired":
                record = entry.record
                setter = story.journal[partition][record["setter"]]
                assert setter.record["run"] == record["entity"], f"I9: {entry.raw!r} was set by {setter.raw!r}"
                due = _due(setter, record["timer"])
                assert entry.at >= due, f"I9: {entry.raw!r} came {due - entry.at} ms early"
                fires[record["entity"], record["timer"], record["setter"]] += 1
    story.fires = fires
    begun = Counter((line.pid, line.key, line.attempt) for line in story.lines if line.word == "started")
    twice = {attempt: count for attempt, count in begun.items() if count > 1}
    assert not twice, f"I9, I4: begun twice in one process: {twice}"
    _retries_wait(story)
    _sleeps_wait(story)


def _due(setter: Entry, timer: str) -> int:
    record = setter.record
    assert record["op"] == timer, f"I9: {timer} was set by {setter.raw!r}"
    if setter.kind == "step.failed":
        return int(setter.at + record["retry_in_ms"])
    assert setter.kind == "op.opened", f"I9: {timer} was set by {setter.raw!r}"
    opening: dict[str, Any] = record["opening"]
    return int(setter.at + opening["for_ms" if opening["type"] == "sleep" else "timeout_ms"])


def _retries_wait(story: Story) -> None:
    """No attempt starts before the backoff of the one before it is over."""
    dues = {
        (entry.record["run"], entry.record["op"], entry.record["attempt"] + 1): entry.at + entry.record["retry_in_ms"]
        for entry in story.every("step.failed")
        if "retry_in_ms" in entry.record
    }
    for line in story.lines:
        if line.word == "started" and line.attempt > 1:
            due = dues[line.run, line.op, line.attempt]
            assert line.ms >= due, f"I9: {line} started {due - line.ms} ms before its backoff was over"


def _sleeps_wait(story: Story) -> None:
    """In `watch` the n-th tick follows the n-th sleep."""
    dues: dict[tuple[str, str], int] = {}
    for entry in story.every("op.opened"):
        if entry.record["opening"]["type"] == "sleep":
            number = entry.record["op"].rpartition("#")[2]
            dues[entry.record["run"], number] = entry.at + entry.record["opening"]["for_ms"]
    for line in story.lines:
        if line.word == "started" and "/tick#" in line.key:
            due = dues[line.run, line.op.rpartition("#")[2]]
            assert line.ms >= due, f"I9: {line} started {due - line.ms} ms before the sleep was over"
