"""Definitions, cancels and repeated commands under faults: the model `control` on the real folds."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from random import Random
from typing import Any

import pytest

from perdure.flow import FOLDS, decode, definitions, ending, fold
from perdure.flow import run as runs
from perdure.flow.effects import Start
from perdure.flow.routing import partition_of, partition_of_run, run_id
from perdure.flow.states import RunState
from perdure.flow.view import View
from perdure_schemas.definition import Definition, FunctionDefined, TriggerDefined
from perdure_schemas.records import (
    AppDefined,
    AppPaths,
    EventKeyed,
    EventReceived,
    Record,
    RunCancelRequested,
    RunFinished,
    RunRequested,
    V,
)
from tests.flow.storm import UNIT_MS, Storm, StormOwner, seeds
from tests.flow.world import definition_of, event, run_of

PATHS = {1: ("p1",), 2: ("p1", "p2"), 3: ("p1", "p3")}
WINDOW_MS = 3_000 * UNIT_MS
EVENTS = [f"e{n}" for n in range(20)]


def code(number: int) -> Definition:
    """The app in its `number`-th version: the same function, waiting on other paths."""
    paths = tuple(("e", f"data.{path}") for path in PATHS[number])
    function = FunctionDefined("work", "event", (TriggerDefined("e"),), paths=paths, lookback_ms=WINDOW_MS)
    return definition_of(function, window_ms=WINDOW_MS)


class Control(Storm):
    """Pods of three versions start while events come, some runs are cancelled, and clients send commands again."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.events = list(EVENTS)
        self.pods = [2, 3, 1, 2, 3]
        self.random.shuffle(self.pods)
        self.enqueued = [run_id(f"q{n}") for n in range(6)]
        self.sent: dict[str, int] = {}
        self.cancelled: dict[str, int] = {}
        """When: of events by id, of cancels by run, both as the count of all appends so far."""
        self.define(code(1))

    def users(self, owner: StormOwner) -> list[Record]:
        return [
            RunFinished(run, "completed", v=V)
            for run, state in owner.view.runs.items()
            if state.status == "running" and Random(f"{run} {self.time // 60}").random() < 1 / 6
        ]

    def running(self) -> bool:
        return any(state.status == "running" for owner in self.owners for _, state in owner.view.runs.items())

    def play(self) -> None:
        for turn in range(20_000):
            self.time += self.random.random() < 0.3
            self.faults = turn <= 4_000
            self._clients()
            self.turn()
            waiting = self.events or self.pods or self.enqueued
            if turn % 60 == 0 and not waiting and self.quiet() and not self.running():
                return

    def _clients(self) -> None:
        rng = self.random
        if self.events and rng.random() < 0.02:
            self._post(self.events.pop(0))
        if self.enqueued and rng.random() < 0.01:
            run = self.enqueued.pop()
            request = RunRequested(run, "work", "enqueue", v=V)
            self.write(partition_of_run(run, self.partitions), request, copied=1.0)
        if self.pods and rng.random() < 0.004:
            self.write(0, AppDefined(code(self.pods.pop()), activate=rng.random() < 0.2, v=V), copied=0.3)

    def _post(self, event_id: str) -> None:
        self.write(partition_of(event_id, self.partitions), EventReceived(event(event_id, "e", p1=1, p2=1, p3=1), v=V))
        self.sent[event_id] = self.time
        if self.random.random() < 0.3:
            # The id is a hash, and so known before the run is there.
            run = run_of(event_id)
            self.write(partition_of_run(run, self.partitions), RunCancelRequested(run, v=V))
            self.cancelled[run] = self.time


def faults_of(story: Control) -> list[str]:
    faults: list[str] = []
    if len({owner.view.meta.current for owner in story.owners}) > 1:
        faults.append("partitions disagree for good on what is current")
    copies: dict[str, set[str]] = defaultdict(set)
    code_of: dict[str, Definition] = {}
    started: Counter[str] = Counter()
    finished: dict[str, int] = {}
    for partition, journal in enumerate(story.journals):
        view = View(partition, story.partitions)
        for offset, (stamp, raw) in enumerate(journal.records):
            record = decode(raw)
            routes = view.routes()
            fresh = isinstance(record, EventReceived) and view.seen.get(record.event.id) is None
            if fold(view, record, raw, offset, stamp) and isinstance(record, EventKeyed):
                copies[record.key].add(record.event.id)
            if fresh and isinstance(record, EventReceived) and routes is not None:
                code_of[record.event.id] = routes.definition
            started.update(act.run for act in view.effects.acts if isinstance(act, Start))
            view.effects.acts = []
        finished |= {run: state.ended_offset for run, state in view.runs.items() if state.status == "completed"}
    for one, definition in code_of.items():
        for _, path in definition.functions[0].paths:
            later = {other for other in story.sent if story.sent[other] > story.sent[one] + 4}
            if missed := later - copies[f'["e","{path}","n:1"]']:
                faults.append(f"{missed} came after {one} and have no copy at {path}, which its code waits on")
    faults += [f"{run} began again after its end" for run, times in started.items() if times > 1]
    for run in story.cancelled.keys() & finished.keys():
        journal = story.journals[partition_of_run(run, story.partitions)]
        cancels = (n for n, (_, raw) in enumerate(journal.records) if raw.startswith(_cancel_of(run)))
        if next(cancels) < finished[run]:
            faults.append(f"{run} completed after its cancel was acknowledged")
    return faults


def _cancel_of(run: str) -> bytes:
    return b'{"kind":"run.cancel_requested","run":"%b"' % run.encode()


def played(seed: int) -> Control:
    story = Control(seed)
    story.play()
    return story


@pytest.mark.parametrize("seed", seeds(24))
def test_definitions_and_commands_hold(seed: int) -> None:
    story = played(seed)
    assert faults_of(story) == []
    assert len(story.sent) == len(EVENTS)
    story.check()


# Each rule left out, and the check that notices


@contextmanager
def _instead(kind: type[Record], folded: Callable[[View, Any, int], None]) -> Iterator[None]:
    folds: dict[Any, Any] = FOLDS
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(folds, kind, folded)
        yield


def in_one_phase() -> AbstractContextManager[None]:
    """Paths and triggers become current together, in each partition at its own time."""

    def paths(view: View, record: AppPaths, at: int) -> None:
        definitions.app_paths(view, record, at)
        view.meta.current = max(view.meta.current, record.number)

    return _instead(AppPaths, paths)


def cancel_of_an_unknown_run_is_ignored() -> AbstractContextManager[None]:
    def cancel(view: View, record: RunCancelRequested, at: int) -> None:
        if view.runs.get(record.run) is not None:
            runs.run_cancel_requested(view, record, at)

    return _instead(RunCancelRequested, cancel)


@contextmanager
def ended_runs_are_forgotten() -> Iterator[None]:
    def forget(view: View, run: RunState, at: int) -> None:
        view.runs.delete(run.id)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ending, "forget_later", forget)
        yield


@pytest.mark.parametrize("rule_left_out", [in_one_phase, cancel_of_an_unknown_run_is_ignored, ended_runs_are_forgotten])
def test_a_rule_left_out_is_noticed(rule_left_out: Callable[[], AbstractContextManager[None]]) -> None:
    with rule_left_out():
        assert any(faults_of(played(seed)) for seed in range(20))
