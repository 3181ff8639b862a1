"""Waits under faults: the model `waits` on the real folds. Rules left out must be noticed: see the last test."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

import msgspec
import pytest

from perdure.flow import FOLDS, decode, fold, intake, ops
from perdure.flow import run as runs
from perdure.flow.effects import Deliver
from perdure.flow.states import RunState
from perdure.flow.view import View
from perdure_schemas.records import (
    Came,
    EventKeyed,
    EventReceived,
    KeyCursor,
    MatchOffered,
    OpOpened,
    RunRequested,
    V,
    Wait,
)
from tests.flow.storm import seeds, small_constants
from tests.flow.waits_story import Outcome, Trigger, Waits, outcome_of, script
from tests.flow.world import Journal, subscriptions


class Copy(NamedTuple):
    position: int
    event_id: str
    x: int
    at: int


class Told:
    """What the journals tell when they are folded from their beginning."""

    def __init__(self, story: Waits) -> None:
        self.copies: dict[str, list[Copy]] = defaultdict(list)
        self.outcomes: dict[str, list[Outcome]] = defaultdict(list)
        self.requests: dict[str, RunRequested] = {}
        self.offers: list[tuple[RunRequested, MatchOffered, frozenset[str], str]] = []
        """Each consumption: the run's request, the offer, what was consumed before, and the wait's condition."""
        self.statuses: dict[str, str] = {}
        self.came: dict[str, Came | None] = {}
        for partition, journal in enumerate(story.journals):
            self._fold(View(partition, story.partitions), journal)

    def _fold(self, view: View, journal: Journal) -> None:
        wheres: dict[tuple[str, str], str] = {}
        for offset, (stamp, raw) in enumerate(journal.records):
            record = decode(raw)
            taken: frozenset[str] = frozenset()
            if isinstance(record, MatchOffered) and (run := view.live(record.run)) is not None:
                taken = frozenset(run.taken)
            if not fold(view, record, raw, offset, stamp):
                continue
            if isinstance(record, EventKeyed):
                x = msgspec.json.decode(record.event.data)["x"]
                self.copies[record.key].append(Copy(offset, record.event.id, x, record.at))
            elif isinstance(record, EventReceived):
                self.came[record.event.id] = record.came
            elif isinstance(record, RunRequested):
                self.requests.setdefault(record.run, record)
            elif isinstance(record, OpOpened) and isinstance(record.opening, Wait):
                wheres.setdefault((record.run, record.op), record.opening.where)
            for act in view.effects.acts:
                if isinstance(act, Deliver):
                    self.outcomes[act.run].append(outcome_of(act.op, act.outcome))
                    if isinstance(act.outcome, MatchOffered):
                        where = wheres[act.run, act.op]
                        self.offers.append((self.requests[act.run], act.outcome, taken, where))
            view.effects.acts = []
        self.statuses |= {run: state.status for run, state in view.runs.items()}

    def after_trigger(self, run: str, key: str) -> list[Copy]:
        """What the topic of events says. Where it does not: on the trigger's own key what its copy precedes here, else
        what log time says came no earlier."""
        request, copies = self.requests[run], self.copies[key]
        own = next((copy for copy in copies if copy.event_id == request.event_id), None)
        return [copy for copy in copies if copy is not own and self._is_after(copy, request, own)]

    def _is_after(self, copy: Copy, request: RunRequested, own: Copy | None) -> bool:
        trigger, came = self.came[request.event_id], self.came[copy.event_id]
        if trigger is not None and came is not None:
            if trigger.partition == came.partition:
                return came.offset > trigger.offset
            if trigger.at != came.at:
                return came.at > trigger.at
        if own is not None:
            return copy.position > own.position
        assert request.since is not None
        return (came.at if came else copy.at) >= (trigger.at if trigger else request.since)

    def seen(self, run: str, trigger: Trigger, heir: int) -> list[str]:
        """Events that user code got, in order: not what came for a wait that it had closed."""
        outcomes = self.outcomes[run]
        return [
            got
            for n, (op, got) in enumerate(outcomes)
            if got is not None and op not in script(run, trigger, heir, outcomes[:n]).closed()
        ]


def faults_of(story: Waits) -> list[str]:
    told = Told(story)
    faults = [f"run {run} is stuck: its wait misses a kept event" for run in story.living()]
    if subscriptions([owner.view for owner in story.owners]):
        faults.append("a subscription leaked")
    seen: list[str] = []
    for run, (trigger, heir) in story.heirs.items():
        if run not in told.requests:
            faults += [f"run {run} is lost"] if heir == 0 and run != story.killed else []
            continue
        seen = [*seen, *told.seen(run, trigger, heir)] if heir else told.seen(run, trigger, heir)
        if told.statuses[run] == "completed":
            faults += _judge(told, run, trigger, seen, all_of_them=not story.lookback)
    if not story.lookback:
        faults += [f"I12: {fault}" for fault in _later_than_earliest(told)]
    return faults


def _judge(told: Told, run: str, trigger: Trigger, seen: list[str], *, all_of_them: bool) -> list[str]:
    faults: list[str] = []
    if len(seen) != len(set(seen)):
        faults.append(f"an event was delivered twice to {run}")
    due = {copy.event_id for key in trigger.keys() for copy in told.after_trigger(run, key)}  # noqa: SIM118
    if all_of_them and due - set(seen):
        faults.append(f"{run} never got {due - set(seen)}")
    if all_of_them and set(seen) - due:
        faults.append(f"{run} got {set(seen) - due} of before its trigger")
    return faults


def _later_than_earliest(told: Told) -> Iterator[str]:
    for request, offer, taken, where in told.offers:
        for copy in told.after_trigger(request.run, offer.key):
            if copy.event_id == offer.event_id:
                break
            if copy.event_id not in taken and (not where or str(copy.x) in where):
                yield f"{request.run} took {offer.event_id} before {copy.event_id}"


def played(seed: int, lookback: int = 0, *, topic: bool = False) -> Waits:
    story = Waits(seed, lookback, topic=topic)
    story.play()
    return story


@pytest.mark.parametrize("seed", seeds(24))
def test_every_event_since_the_trigger_reaches_the_run_once(seed: int) -> None:
    story = played(seed)
    assert faults_of(story) == []
    story.check()


@pytest.mark.parametrize("seed", seeds(24))
def test_in_the_order_in_which_they_came_however_they_are_taken_in(seed: int) -> None:
    story = played(seed, topic=True)
    assert faults_of(story) == []
    story.check()


@pytest.mark.parametrize("lookback", [120, 25])
@pytest.mark.parametrize("seed", seeds(8))
def test_a_look_back_shorter_than_the_story_leaves_nothing_behind(
    seed: int, lookback: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_constants(monkeypatch)
    story = played(seed, lookback)
    assert faults_of(story) == []
    story.check()


# Each rule left out, and the check that notices


@contextmanager
def without_holes() -> Iterator[None]:
    """One position for all that was consumed, whatever was passed over."""

    def mark(cursor: KeyCursor, position: int, hole: int | None) -> None:
        cursor.upto = max(cursor.upto, position)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ops, "_mark", mark)
        yield


@contextmanager
def closed_keeps_its_event() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ops, "_give_back", lambda view, run, op: False)
        yield


@contextmanager
def once_per_key_only() -> Iterator[None]:
    def offered(view: View, record: MatchOffered, at: int) -> None:
        run = view.live(record.run)
        if run is not None:
            run.taken = {}
        ops.match_offered(view, record, at)

    with _instead_of_offered(offered):
        yield


@contextmanager
def offers_without_number() -> Iterator[None]:
    """Any offer counts, for the first open wait that takes it."""

    def offered(view: View, record: MatchOffered, at: int) -> None:
        run = view.live(record.run)
        x = msgspec.json.decode(bytes(record.event.inline))["data"]["x"]  # type: ignore[arg-type]
        for op, where in run.waits.get(record.key, {}).items() if run else ():
            if run is not None and (not where or str(x) in where):
                answer = msgspec.structs.replace(record, g=run.keys[record.key].g, op=op)
                ops.match_offered(view, answer, at)
                return

    with _instead_of_offered(offered):
        yield


@contextmanager
def heirs_begin_anew() -> Iterator[None]:
    new_run = runs._new_run  # pyright: ignore[reportPrivateUsage]

    def without_heritage(view: View, record: RunRequested, at: int) -> RunState:
        run = new_run(view, record, at)
        if record.cause == "continue":
            run.keys, run.taken, run.since, run.copies = {}, {}, view.stamp, {}
        return run

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "_new_run", without_heritage)
        yield


@contextmanager
def when_taken_in() -> Iterator[None]:
    """As if there were no topic of events."""

    def received(view: View, record: EventReceived, at: int) -> None:
        intake.event_received(view, EventReceived(record.event, v=V), at)

    folds: dict[Any, Any] = FOLDS
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(folds, EventReceived, received)
        yield


@contextmanager
def _instead_of_offered(offered: Callable[[View, MatchOffered, int], None]) -> Iterator[None]:
    folds: dict[Any, Any] = FOLDS
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(folds, MatchOffered, offered)
        yield


@pytest.mark.parametrize(
    "rule_left_out",
    [without_holes, closed_keeps_its_event, once_per_key_only, offers_without_number, heirs_begin_anew],
)
def test_a_rule_left_out_is_noticed(rule_left_out: Callable[[], AbstractContextManager[None]]) -> None:
    with rule_left_out():
        assert any(faults_of(played(seed)) for seed in range(30))


def test_the_order_of_the_topic_left_out_is_noticed() -> None:
    with when_taken_in():
        story = played(3, topic=True)
    assert faults_of(story)
