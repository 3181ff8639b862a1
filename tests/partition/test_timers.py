"""When the owner of a partition appends fires, and what it appends for schedules that were missed."""

import pytest

from perdure.flow.definitions import CRON
from perdure.flow.routing import partition_of
from perdure.partition.timers import TimerDriver
from perdure_schemas.definition import CronDefined, FunctionDefined
from perdure_schemas.records import CronScheduled, Record, TimerFired, V
from tests.flow.world import World, slept

HOUR_MS = 3_600_000


class Shared:
    """The only partition of a log on a broker, whose clock is `world.now`, and its owner, whose own clock is `own`."""

    def __init__(self, ahead_ms: int = 0) -> None:
        self.world = World(1)
        self.own = self.world.now + ahead_ms
        self.appended = 0
        self.timers = TimerDriver(self.world.owners[0].view, self._append, lambda: self.own, shared=True)

    def _append(self, record: Record) -> int:
        self.appended += 1
        return self.world.append(0, record)

    def sleeper(self, ms: int) -> str:
        """A run that sleeps so long; it is not read yet."""
        self.world.define()
        run = self.world.request(f"run {ms}")
        self.world.append(0, slept(run, "0/s#0", ms))
        return run

    def pass_time(self, ms: int) -> None:
        self.world.now += ms
        self.own += ms

    def read(self) -> None:
        self.world.settle()
        self.timers.read_back()

    def open_ops(self, *runs: str) -> int:
        return sum(len(self.world.run(run).open) for run in runs)


def test_a_machine_sleeps_while_a_record_is_on_its_way() -> None:
    """Its stamp says nothing of that, and no other record comes: timers are due all the same."""
    shared = Shared()
    run = shared.sleeper(HOUR_MS // 2)
    shared.pass_time(HOUR_MS)
    shared.read()
    shared.timers.tick()
    shared.read()
    assert shared.open_ops(run) == 0


def test_a_machine_sleeps_while_its_fire_is_on_its_way() -> None:
    shared = Shared()
    runs = [shared.sleeper(ms) for ms in (60_000, HOUR_MS // 2)]
    shared.read()
    shared.pass_time(60_000)
    shared.timers.tick()
    shared.pass_time(HOUR_MS)
    shared.read()
    assert shared.open_ops(*runs) == 1
    shared.timers.tick()
    shared.read()
    assert shared.open_ops(*runs) == 0


def test_it_is_asked_by_one_fire_alone() -> None:
    shared = Shared()
    runs = [shared.sleeper(60_000 + n) for n in range(10)]
    shared.pass_time(HOUR_MS)
    shared.read()
    for _ in range(3):
        shared.timers.tick()
    assert shared.appended == 1
    shared.read()
    shared.timers.tick()
    shared.read()
    assert shared.open_ops(*runs) == 0


def test_a_clock_that_is_ahead_for_good_costs_one_refused_fire() -> None:
    shared = Shared(ahead_ms=HOUR_MS // 2)
    runs = [shared.sleeper(n * 60_000) for n in range(1, 11)]
    shared.read()
    for _ in range(6_000):
        shared.pass_time(100)
        before = shared.appended
        shared.timers.tick()
        if shared.appended > before:
            shared.read()
    assert shared.open_ops(*runs) == 0
    assert shared.appended <= len(runs) + 1


def test_a_clock_that_is_behind_is_no_later_than_what_was_read() -> None:
    shared = Shared(ahead_ms=-HOUR_MS)
    run = shared.sleeper(60_000)
    shared.read()
    shared.pass_time(59_999)
    shared.timers.tick()
    assert shared.appended == 0
    shared.pass_time(1)
    shared.timers.tick()
    shared.read()
    assert shared.open_ops(run) == 0


@pytest.mark.parametrize(
    ("hours", "catchup", "scheduled", "following"),
    [
        pytest.param(1, False, None, 2, id="in time"),
        pytest.param(1.5, False, None, 2, id="late"),
        pytest.param(3.5, False, 3, 4, id="the latest of three"),
        pytest.param(3.5, True, None, 2, id="each of three"),
    ],
)
def test_missed_fires(hours: float, catchup: bool, scheduled: int | None, following: int) -> None:
    """Times are in hours since the world began."""
    world = World(1)
    begun = world.now - world.now % HOUR_MS
    world.define(FunctionDefined("tick", "cron", cron=CronDefined("0 * * * *", catchup=catchup)))
    partition = partition_of(CRON + "tick", 1)
    world.append(partition, CronScheduled("tick", "0 * * * *", "UTC", begun + HOUR_MS, v=V))
    world.settle()
    appended: list[Record] = []

    def append(record: Record) -> int:
        appended.append(record)
        return len(appended)

    now = begun + int(hours * HOUR_MS)
    TimerDriver(world.owners[partition].view, append, lambda: now).tick()
    (fired,) = appended
    assert isinstance(fired, TimerFired)
    assert fired.scheduled == (None if scheduled is None else begun + scheduled * HOUR_MS)
    assert fired.next == begun + following * HOUR_MS
