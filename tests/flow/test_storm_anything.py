"""Whatever is written: any record at any time, by zombies too, with checkpoints and restarts between.

Folds are total: the journals need make no sense. Whatever they say: I2, I3, I4, I5, I9, I10, and nothing leaks.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from msgspec import Raw

from perdure.flow import decode, ending, fold
from perdure.flow.definitions import CRON, parse_timer_key
from perdure.flow.due import DueIndex
from perdure.flow.effects import Attempted, Deliver, Ended, Parked, Retry, Schedule, Start
from perdure.flow.lines import Lines
from perdure.flow.routing import partition_of, run_id
from perdure.flow.states import RunState
from perdure.flow.tables import Table
from perdure.flow.view import View
from perdure_schemas.definition import CancelDefined, CronDefined, Definition, FunctionDefined
from perdure_schemas.event import EventBody
from perdure_schemas.records import (
    AppDefined,
    CancelRun,
    CronScheduled,
    EventReceived,
    Fork,
    OpClosed,
    Opening,
    OpOpened,
    Owner,
    OwnerReleased,
    OwnerStarted,
    Parent,
    PauseRequested,
    Record,
    RerunRun,
    RunCancelRequested,
    RunErrored,
    RunFinished,
    RunParked,
    RunRecalled,
    RunRequested,
    RunRerunRequested,
    RunUnparked,
    RunWatched,
    Send,
    Sleep,
    StepAttempted,
    StepCompleted,
    StepFailed,
    TimerFired,
    V,
    Wait,
    Watch,
)
from tests.flow.storm import UNIT_MS, Storm, StormOwner, seeds, small_constants
from tests.flow.world import ERROR, called, definition_of, event, key_of, on, payload, records_in, refold, subscriptions

OPS = ["0/a#0", "0/a#1", "0.1/b c#0", '0/"d"\n#0', "0/e\0f#0"]
NAMES = ["cart/added", "cart/paid", "other"]
BUSY_TURNS = 2_000
LINE = "0 9 * * *"


def code(number: int, *, forgetful: bool) -> Definition:
    """Some versions of an app, with everything that a definition can say."""
    gone = CancelDefined("cart/paid", "data.cart", "data.cart", timeout_ms=40_000 if number else None)
    paths = tuple((name, path) for name in NAMES for path in ("data.cart", "")[: number + 1])
    return definition_of(
        on("cart/*", "any", lookback_ms=30_000, timeout_ms=90_000, paths=paths, on_failure="rescue"),
        on("cart/added", "one", 'event.data.cart != "c2"', cancel_on=(gone,), on_cancel="rescue", paths=paths),
        on("perdure/function.failed", "mourn"),
        FunctionDefined("work", "background", timeout_ms=50_000 if number else None, paths=paths),
        FunctionDefined("rescue", "handler"),
        *(FunctionDefined(f"tick{n}", "cron", cron=CronDefined(LINE, "UTC")) for n in range(2 * number)),
        window_ms=(60_000, 200_000, 10_000_000)[number if forgetful else 2],
    )


class Anything(Storm):
    def __init__(self, seed: int, *, forgetful: bool = True) -> None:
        super().__init__(seed, partitions=3, skewed=True)
        self.busy = True
        self._forgetful = forgetful
        self.define(self._code(0))

    def _code(self, number: int) -> Definition:
        return code(number, forgetful=self._forgetful)

    def play(self) -> None:
        for turn in range(40_000):
            self.time += self.random.random() < 0.5
            if self.random.random() < 0.0005:
                self.time += self.random.choice([100, 1_000])
            self.busy = turn < BUSY_TURNS
            self.faults = turn < BUSY_TURNS + 500
            self.turn()
            if not self.busy and turn % 50 == 0 and self.quiet():
                return
        raise AssertionError("I14: something goes on for ever")

    def _crash(self, partition: int) -> None:
        super()._crash(partition)
        if self.random.random() < 0.2:
            again, _ = refold(self.journals[partition], partition, self.partitions)
            assert self.owners[partition].view.logical() == again.logical(), "I2: checkpoint + tail differs"

    # What owners write: anything while busy, then the end of every run

    def users(self, owner: StormOwner) -> list[Record]:
        fires = [parse_timer_key(key) for _, key in owner.view.timers.due(self.now(), 100)]
        todo: list[Record] = [TimerFired(*fire, v=V) for fire in fires]
        if not self.busy:
            live = [state for run, state in owner.view.runs.items() if owner.view.live(run) is not None]
            todo += [RunFinished(run.id, "completed", payload(run.requested_offset), v=V) for run in live]
        return todo

    def _write_own(self, owner: StormOwner) -> None:
        if not self.busy or self.random.random() < 0.2:
            super()._write_own(owner)
            return
        if self.random.random() < 0.3:
            partition, record = self._from_outside()
            self.write(partition, record, copied=0.1)
        else:
            self.write(owner.partition, self._from_owner(owner), copied=0.1)

    def _from_outside(self) -> tuple[int, Record]:
        rng = self.random
        if rng.random() < 0.1:
            return 0, AppDefined(self._code(rng.randrange(3)), rng.random() < 0.3, v=V)
        if rng.random() < 0.05:
            function = rng.choice(["any", "one", "work", "rescue", "tick0"])
            return 0, PauseRequested(function, rng.random() < 0.5, f"c{rng.randrange(50)}", v=V)
        if rng.random() < 0.7:
            body = self._event()
            return partition_of(body.id, self.partitions), EventReceived(body, v=V)
        run = self._any_run()
        delay = rng.choice([None, None, 5_000])
        state = self.owners[int(run[:4], 16) % self.partitions].view.runs.get(run)
        # Lines of a history are written in order; copies of them may come at any time.
        n = rng.randrange(1 if state is None else state.recalled + 1)
        record: Record = rng.choice(
            [
                RunRequested(run, "work", "enqueue", delay_ms=delay, discard_after_ms=rng.choice([None, 0]), v=V),
                RunCancelRequested(run, v=V),
                RunRerunRequested(run, run_id("again", str(rng.randrange(5))), v=V),
                RunUnparked(run, v=V),
                RunRequested(run, "work", "fork", fork=Fork(run_id("first"), 1, rng.randrange(4)), v=V),
                RunRecalled(run, n, self.now() - 9_000, self._line(run), v=V),
            ]
        )
        return int(run[:4], 16) % self.partitions, record

    def _line(self, run: str) -> Raw:
        rng = self.random
        op = rng.choice(OPS)
        result = payload(rng.choice([1, "x" * 5_000]))
        lines: list[Record] = [
            StepCompleted(run, op, 1, "", result, v=V),
            OpClosed(run, op, v=V),
            OpOpened(run, op, "", CancelRun(self._any_run()), v=V),
            TimerFired(run, op, 3, v=V),
        ]
        return Raw(msgspec.json.encode(rng.choice(lines)))

    def _event(self) -> EventBody:
        rng = self.random
        data: dict[str, Any] = {"cart": rng.choice(["c0", "c1", "c2", None, 1.0]), "x": rng.randrange(3)}
        if rng.random() < 0.05:
            data["long"] = "x" * 5_000
        ts = self.now() + 20_000 if rng.random() < 0.1 else None
        return event(f"{rng.randrange(60)}", rng.choice(NAMES), ts, **data)

    def _any_run(self) -> str:
        rng = self.random
        known = [run for owner in self.owners for run in owner.view.runs.cache]
        return rng.choice(known) if known and rng.random() < 0.8 else run_id("r", str(rng.randrange(8)))

    def _from_owner(self, owner: StormOwner) -> Record:
        rng = self.random
        states = [state for _, state in owner.view.runs.items()]
        if not states or rng.random() < 0.1:
            return self._of_the_partition(owner)
        state = rng.choice(states)
        return self._of_a_run(owner, state, rng.choice(OPS))

    def _of_the_partition(self, owner: StormOwner) -> Record:
        rng = self.random
        number = rng.randrange(1, 6)
        due = self.now() + rng.choice([-5_000, 30_000])
        return rng.choice(
            [
                OwnerStarted(Owner(number, rng.choice("tu")), "code", 1, v=V),
                OwnerReleased(Owner(number, rng.choice("tu")), v=V),
                CronScheduled(f"tick{rng.randrange(3)}", LINE, "UTC", due, v=V),
                TimerFired(CRON + "tick0", "", rng.randrange(99), next=due, v=V),
            ]
        )

    def _of_a_run(self, owner: StormOwner, state: RunState, op: str) -> Record:
        rng = self.random
        run = state.id
        if rng.random() < 0.4:
            return self._opened(run, op)
        opinion = owner.view.meta.owner or Owner(rng.randrange(3), "t")
        attempt = rng.randrange(1, 4)
        retry = rng.choice([None, 0, 10_000])
        successor = event(f"{run}:continue", "cart/added", cart="c0")
        result = payload(rng.choice([1, "x" * 5_000]))
        return rng.choice(
            [
                StepCompleted(run, op, attempt, "d", result, v=V),
                StepFailed(run, op, attempt, "d", ERROR, retry, v=V),
                StepAttempted(run, op, opinion, rng.random() < 0.5, v=V),
                OpClosed(run, op, v=V),
                OpClosed(run, op, v=V),
                RunParked(run, opinion, "code", "differs", v=V),
                RunUnparked(run, v=V),
                RunErrored(run, state.attempt, ERROR, 10_000, v=V),
                RunWatched(run, Parent(self._any_run(), op), rng.choice(["result", "status"]), v=V),
                TimerFired(run, rng.choice([op, "start", "timeout", "retry", "recall"]), rng.randrange(99), v=V),
                RunFinished(run, "failed", error=ERROR, closes=(op,), v=V),
                RunFinished(run, "completed", result, closes=(op,), v=V),
                RunFinished(run, "continued", closes=(op,), successor=successor, v=V),
            ]
        )

    def _opened(self, run: str, op: str) -> OpOpened:
        rng = self.random
        if rng.random() < 0.3:
            return called(run, op, run_id(run, op), awaited=rng.random() < 0.7, delay_ms=rng.choice([None, 9_000]))
        key = key_of(rng.choice(NAMES), "data.cart", rng.choice(["c0", "c1", 1]))
        where = rng.choice(["", "async.data.x == 1"])
        openings: list[Opening] = [
            Sleep(for_ms=rng.choice([0, 5_000, 100_000])),
            Sleep(until=rng.choice([-1, self.now() + 7_000])),
            Wait(key, "cart", where),
            Wait(key, "cart", where, rng.choice([0, 20_000])),
            Wait(key, "cart", where, 100 * UNIT_MS),
            Send((self._event(), self._event())),
            Watch(rng.choice(["nonsense", self._any_run()]), "result"),
            CancelRun(rng.choice(["nonsense", self._any_run()])),
            RerunRun(rng.choice(["nonsense", self._any_run()]), run_id(run, op)),
        ]
        return OpOpened(run, op, "d", rng.choice(openings), v=V)


def played(seed: int, *, forgetful: bool = True) -> Anything:
    story = Anything(seed, forgetful=forgetful)
    story.play()
    return story


def faults_of(story: Anything) -> list[str]:
    """I4, I5, I10, by what the folds of the journals ask of an owner."""
    faults: list[str] = []
    for partition, journal in enumerate(story.journals):
        view = View(partition, story.partitions)
        ended: Counter[str] = Counter()
        delivered: Counter[tuple[str, str]] = Counter()
        for offset, (stamp, raw) in enumerate(journal.records):
            record = decode(raw)
            fold(view, record, raw, offset, stamp)
            if isinstance(record, RunRequested) and _begun_at(view, record.run) == offset:
                # New, or forgotten since its end.
                ended[record.run] = 0
                delivered = Counter({one: n for one, n in delivered.items() if one[0] != record.run})
            for act in view.effects.acts:
                if isinstance(act, Ended):
                    ended[act.run] += 1
                elif isinstance(act, Start | Deliver | Retry | Attempted | Parked) and ended[act.run]:
                    faults.append(f"I5: {act} after the run's end")
                if isinstance(act, Deliver):
                    delivered[act.run, act.op] += 1
            view.effects.acts = []
        faults += [f"I5: {run} ended {n} times" for run, n in ended.items() if n > 1]
        faults += [f"I4: {op} has {n} outcomes" for op, n in delivered.items() if n > 1]
    return faults


def _begun_at(view: View, run: str) -> int:
    state = view.runs.get(run)
    return -1 if state is None else state.requested_offset


def check(story: Anything) -> None:
    story.check()
    assert faults_of(story) == []
    views = [owner.view for owner in story.owners]
    assert subscriptions(views) == {}, "I14: a subscription leaked"
    for view in views:
        assert not dict(view.parked.items())
        assert view.lines.runs() == [], "I14: lines of ended runs"


@pytest.mark.parametrize("small", [False, True])
@pytest.mark.parametrize("seed", seeds(20))
def test_whatever_is_written_folds_to_one_state(seed: int, small: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if small:
        small_constants(monkeypatch)
    check(played(seed))


@pytest.mark.parametrize(
    "sabotage",
    [
        lambda patch: patch.setattr(Lines, "clear", lambda lines, run: None),
        lambda patch: patch.setattr(DueIndex, "remove", lambda index, due, key: None),
        lambda patch: patch.setattr(Table, "touch", lambda table, key: None),
        lambda patch: patch.setattr(ending, "_let_go", lambda view, run: None),
        lambda patch: patch.setattr(Lines, "settle", lambda lines, line: lines.add(line) or True),
    ],
)
def test_sabotage_is_noticed(sabotage: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    small_constants(monkeypatch)
    sabotage(monkeypatch)
    with pytest.raises(AssertionError):
        _check_many(20)


def _check_many(stories: int) -> None:
    for seed in range(stories):
        check(played(seed))


REPEATABLE = (
    EventReceived | RunRequested | RunFinished | RunErrored | StepCompleted | StepFailed | OpOpened
    | OpClosed | TimerFired | OwnerStarted
)  # fmt: skip


def _repeatable(view: View, record: Record) -> bool:
    if isinstance(record, RunCancelRequested):
        # The cancel of a run that continued is sent on to its successor each time; that one takes the first.
        run = view.runs.get(record.run)
        return run is not None and run.status != "continued"
    return record.from_ is not None or isinstance(record, REPEATABLE)


@pytest.mark.parametrize("seed", seeds(8))
def test_repeating_records_changes_no_state(seed: int) -> None:
    """I3: of what was sent between partitions, and of what user code, timers and clients write."""
    story = played(seed, forgetful=False)
    for owner in story.owners:
        before = owner.view.logical()
        stamp, _ = owner.journal.records[-1]
        repeated = [raw for _, raw in owner.journal.records if _repeatable(owner.view, decode(raw))]
        assert repeated
        owner.journal.records += [(stamp, raw) for raw in repeated]
        owner.recover()
        assert owner.view.logical() == before
        assert not any(isinstance(act, Schedule) for act in owner.view.effects.acts)


@pytest.mark.parametrize("seed", seeds(8))
def test_an_event_starts_one_run_of_a_function(seed: int) -> None:
    """I10, also if the event comes again from a client that lost the answer."""
    story = played(seed, forgetful=False)
    requests = [record for journal in story.journals for record in records_in(journal, RunRequested)]
    wanted = {one.run: (one.event_id, one.function) for one in requests if one.cause == "event"}
    assert len(set(wanted.values())) == len(wanted) > 10
    begun = Counter(
        state.requested_offset for owner in story.owners for run, state in owner.view.runs.items() if run in wanted
    )
    assert sum(begun.values()) == len(wanted)
