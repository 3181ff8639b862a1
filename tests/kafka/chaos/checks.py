"""What must be true after everything, read from the topics and from what steps wrote. Nothing here knows the folds."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from tests.evidence.entries import Journal, without_repetitions
from tests.kafka.chaos.child import STEPS_OF_A_RUN, WORK
from tests.simulation.checks.tales import Tale, tell


class Body(NamedTuple):
    """A step began."""

    ms: int
    pid: int
    token: str
    key: str


def read_steps(path: Path) -> list[Body]:
    lines = (line.split(" ", 3) for line in path.read_text().splitlines())
    return [Body(int(ms), int(pid), token, key) for ms, pid, token, key in lines]


@dataclass
class Story:
    journal: Journal
    bodies: list[Body]
    events: Mapping[str, Mapping[str, Any]]
    """Those that were acknowledged."""
    born: Mapping[int, int]
    effective: Journal = field(default_factory=dict[int, Any])
    repeated: int = 0
    tales: dict[str, Tale] = field(default_factory=dict[str, Tale])
    steps: int = 0
    too_late: int = 0
    """Results that came after another of the same step, and count for nothing."""


def check_all(story: Story, states: Mapping[str, tuple[str, str]]) -> None:
    """`states`: what a worker with an empty disk says of each run at the end."""
    story.effective, story.repeated = without_repetitions(story.journal)
    story.tales, _ = tell(story.effective)
    no_event_is_lost(story)
    no_run_is_lost(story, states)
    no_result_counts_twice(story)
    nothing_starts_after_its_outcome(story)


def no_event_is_lost(story: Story) -> None:
    received: dict[str, dict[str, Any]] = {}
    for entries in story.effective.values():
        for entry in entries:
            if entry.kind == "event.received":
                received.setdefault(entry.record["event"]["id"], entry.record["event"])
    missing = set(story.events) - set(received)
    assert not missing, f"I1: acknowledged events that are not in the journal: {sorted(missing)[:10]}"
    for id, event in story.events.items():
        assert (received[id]["name"], received[id]["data"]) == (event["name"], event["data"]), f"I1: {received[id]}"


def no_run_is_lost(story: Story, states: Mapping[str, tuple[str, str]]) -> None:
    runs: dict[str, list[str]] = defaultdict(list)
    for tale in story.tales.values():
        assert tale.request is not None, f"run {tale.id} was never requested"
        runs[tale.request.record["event_id"]].append(tale.id)
        assert tale.status == "completed", f"run {tale.id} is {tale.status}: {tale.end}"
        assert not tale.parked, f"run {tale.id} was parked, and no code changed"
    expected = {id for id, event in story.events.items() if event["name"] == WORK}
    assert set(runs) == expected, f"I10: without a run {expected - set(runs)}, too many {set(runs) - expected}"
    twice = {id: found for id, found in runs.items() if len(found) > 1}
    assert not twice, f"I10: {twice}"
    told = {tale.id: (tale.function, tale.status) for tale in story.tales.values()}
    assert told == dict(states), f"I5: by the log {_without(told, states)}, by the engine {_without(states, told)}"


def _without(these: Mapping[str, Any], those: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return [pair for pair in these.items() if those.get(pair[0]) != pair[1]][:10]


def no_result_counts_twice(story: Story) -> None:
    """A run is made of the first result of each of its steps, whoever wrote it and whoever ended it."""
    drawn = {body.token: body.key for body in story.bodies}
    for tale in story.tales.values():
        recorded = {name: op.outcome for name, op in tale.ops.items() if op.type == "step"}
        tokens: list[str] = []
        for name, outcome in recorded.items():
            assert outcome is not None, f"I4: {tale.id}/{name} has no outcome"
            assert outcome.kind == "step.completed", f"I4: {tale.id}/{name}: {outcome}"
            tokens.append(outcome.record["result"]["inline"])
            assert drawn[tokens[-1]] == f"{tale.id}/{name}", f"I4: {tale.id}/{name} has another's result"
        story.steps += len(tokens)
        assert tale.end is not None
        assert len(tokens) == STEPS_OF_A_RUN
        result = tale.end.record["result"]["inline"]
        assert sorted(result) == sorted(tokens), f"I4: {tale.id} is made of {result}, recorded are {tokens}"
    for entries in story.effective.values():
        for entry in entries:
            if entry.kind == "run.finished":
                first = story.tales[entry.record["run"]].end
                assert first is not None
                assert entry.record["result"] == first.record["result"], f"I5: ended in two ways: {entry} and {first}"
    story.too_late = sum(entry.kind == "step.completed" for tale in story.tales.values() for entry in tale.ignored)


def nothing_starts_after_its_outcome(story: Story) -> None:
    """I6: a process that was born after a result was recorded has folded it before it runs anything."""
    ended = {
        f"{tale.id}/{name}": op.outcome.ms
        for tale in story.tales.values()
        for name, op in tale.ops.items()
        if op.outcome is not None
    }
    for body in story.bodies:
        at = ended.get(body.key)
        assert at is None or story.born[body.pid] <= at, f"I6: {body} began in a process younger than its result"
