"""Timers under skewed clocks: the model `timers` on the real folds. Zombies, and a broker that leaps.

Sleeps are opened and closed, schedules are set anew before they fire. Every fire of an owner is an estimate; the fold
alone decides whether it counts.
"""

from random import Random
from typing import Any

import msgspec
import pytest

from perdure.flow import FOLDS, decode, fold, timer
from perdure.flow.definitions import CRON, parse_timer_key
from perdure.flow.effects import Deliver, Refused, Schedule
from perdure.flow.routing import run_id
from perdure.flow.view import View
from perdure_schemas.definition import CronDefined, FunctionDefined
from perdure_schemas.records import (
    AppDefined,
    CronScheduled,
    OpClosed,
    OpOpened,
    Record,
    RunRequested,
    Sleep,
    TimerFired,
    V,
)
from tests.flow.storm import seeds
from tests.flow.world import DictStore, Journal, OwnerOf, check_timers, definition_of

Identity = tuple[str, str, int]
SLEEPER = run_id("sleeper")
CRONS = [FunctionDefined(f"d{n}", "cron", cron=CronDefined("* * * * *")) for n in range(3)]
TURNS, CALM_FROM = 6_000, 3_000
LOST_AFTER = 300
_ENCODE = msgspec.json.Encoder().encode


class Keeper(OwnerOf):
    """An owner that fires: by the log's time since it last read, or (`wall`) by a clock of its own."""

    def __init__(self, story: "Timers") -> None:
        super().__init__(0, 1, story.journal, DictStore())
        self._story = story
        self._skew = story.random.choice([0, 0, 40, -40, 500])
        self._read = story.time
        self.pending: dict[Identity, int] = {}
        self.ttl = TURNS * 2

    def now(self) -> int:
        story = self._story
        return story.time + self._skew if story.wall else self.view.at + story.time - self._read

    def act(self) -> None:
        if self.behind() and self._story.random.random() < 0.7:
            for _ in range(min(3, self.behind())):
                self._take()
        elif not self.behind():
            for _, key in self.view.timers.due(self.now(), 100):
                self._fire(parse_timer_key(key))

    def _take(self) -> None:
        for act in self.fold_one():
            if isinstance(act, Refused):
                self.pending.pop((act.entity, act.timer, act.setter), None)
        if not self.behind():
            self._read = self._story.time

    def _fire(self, identity: Identity) -> None:
        story = self._story
        if story.time - self.pending.get(identity, -LOST_AFTER) < LOST_AFTER:
            return
        draw = story.random.random() if story.faults else 1.0
        record = TimerFired(*identity, v=V)
        if draw < 0.1:
            story.late.append(record)
        if draw > 0.05:
            story.append(record)
        self.pending[identity] = story.time


class Timers:
    def __init__(self, seed: int, *, wall: bool, leaps: bool) -> None:
        self.random = Random(seed)
        self.wall = wall
        self.time = 1_000
        self.journal = Journal()
        self.late: list[Record] = []
        self.faults = True
        self.keeper = Keeper(self)
        self._zombies: list[Keeper] = []
        self._broker = 0
        self._clocks = [0, 0, 0, 50, -50, *([600] if leaps else [])]
        self._sleeps = 0
        self.append(AppDefined(definition_of(*CRONS), v=V))
        self.append(RunRequested(SLEEPER, "work", "enqueue", v=V))

    def append(self, record: Record) -> None:
        self._route()
        self.journal.records.append((self.time + self._broker, _ENCODE(record)))

    def _route(self) -> None:
        """What the living owner's folds send comes back to this one partition."""
        for sending in self.keeper.out:
            self.journal.records.append((self.time + self._broker, sending.raw))
        self.keeper.out = []

    def play(self) -> None:
        for turn in range(TURNS):
            self.time += self.random.choice([0, 1, 2])
            self.faults = turn <= CALM_FROM
            draw = self.random.random()
            if self.faults and draw < 0.054:
                self._disturb(draw)
            elif draw < 0.06 and self.late:
                self.append(self.late.pop())
            if not self.faults:
                self._broker = 0
            self._zombies = [zombie for zombie in self._zombies if zombie.ttl > self.time]
            self.random.choice([self.keeper, self.keeper, *self._zombies]).act()
            self._route()

    def _disturb(self, draw: float) -> None:
        rng = self.random
        if draw < 0.01:
            sleep = Sleep(for_ms=rng.choice([5, 60, 300, 900]))
            self.append(OpOpened(SLEEPER, f"0/s{self._sleeps}#0", "d", sleep, v=V))
            self._sleeps += 1
        elif draw < 0.04:
            due = self.time + self._broker + 60
            self.append(CronScheduled(f"d{rng.randrange(3)}", "* * * * *", "UTC", due, v=V))
        elif draw < 0.043 and self._sleeps:
            self.append(OpClosed(SLEEPER, f"0/s{rng.randrange(self._sleeps)}#0", v=V))
        elif draw < 0.05:
            self._broker = rng.choice(self._clocks)
        else:
            self._succeed()

    def _succeed(self) -> None:
        old = self.keeper
        if self.random.random() < 0.6:
            old.ttl = self.time + self.random.randrange(50, 600)
            self._zombies.append(old)
        self.keeper = Keeper(self)


def faults_of(story: Timers) -> list[str]:
    """Every timer fires once, not before its time by the log, unless it was unset or set anew."""
    due: dict[Identity, int] = {}
    fired: list[Identity] = []
    faults: list[str] = []
    view = View(0, 1)
    for offset, (stamp, raw) in enumerate(story.journal.records):
        record = decode(raw)
        fold(view, record, raw, offset, stamp)
        if isinstance(record, OpOpened) and isinstance(record.opening, Sleep):
            due[record.run, record.op, offset] = view.at + (record.opening.for_ms or 0)
        elif isinstance(record, CronScheduled):
            due[CRON + record.function, "", offset] = record.due
        elif isinstance(record, TimerFired) and any(isinstance(act, Deliver | Schedule) for act in view.effects.acts):
            identity = record.entity, record.timer, record.setter
            fired.append(identity)
            if view.at < due[identity]:
                faults.append(f"{identity} fired {due[identity] - view.at} early")
        view.effects.acts = []
    check_timers(view)
    faults += [f"{identity} fired twice" for identity in set(fired) if fired.count(identity) > 1]
    faults += [f"{row!r} never fired" for row in view.timers.rows()]
    story.keeper.recover()
    assert view.logical() == story.keeper.view.logical(), "I2"
    assert len(fired) > 10, "a story in which nothing fires shows nothing"
    return faults


@pytest.mark.parametrize(("wall", "leaps"), [(False, False), (False, True), (True, False)])
@pytest.mark.parametrize("seed", seeds(12))
def test_a_timer_fires_once_and_never_early(seed: int, wall: bool, leaps: bool) -> None:
    story = Timers(seed, wall=wall, leaps=leaps)
    story.play()
    assert faults_of(story) == []


def test_a_fold_that_believes_the_owner_is_noticed() -> None:
    def credulous(view: View, record: TimerFired, at: int) -> None:
        timer.timer_fired(view, record, at + 10_000)

    folds: dict[Any, Any] = FOLDS
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(folds, TimerFired, credulous)
        story = Timers(0, wall=True, leaps=False)
        story.play()
        assert any("early" in fault for fault in faults_of(story))
