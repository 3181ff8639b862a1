"""Fires: each takes effect once, if it names the timer that is there, and never early (I9)."""

import pytest

from perdure.flow.definitions import CRON
from perdure.flow.effects import Deliver, Refused, Schedule
from perdure.flow.routing import partition_of, run_id
from perdure_schemas.definition import CronDefined, FunctionDefined
from perdure_schemas.records import CronScheduled, RunFinished, RunRequested, TimerFired, V
from tests.flow.world import APP, World, of_kind, slept

LINE = "0 9 * * *"


def setter_of(world: World, run: str, op: str = "0/s#0") -> int:
    return world.run(run).open[op].setter


def test_a_fire_before_its_time_is_refused_and_one_after_it_counts(world: World) -> None:
    run = world.request()
    world.to_run(run, slept(run, "0/s#0", 5_000))
    fire = TimerFired(run, "0/s#0", setter_of(world, run), v=V)
    world.now += 4_999
    assert world.to_run(run, fire) == [Refused(run, "0/s#0", fire.setter)]
    world.now += 1
    assert len(of_kind(world.to_run(run, fire, fire), Deliver)) == 1


def test_log_time_decides_not_the_records_own(world: World) -> None:
    run = world.request()
    world.to_run(run, slept(run, "0/s#0", 5_000))
    fire = TimerFired(run, "0/s#0", setter_of(world, run), v=V)
    world.now += 6_000
    world.touch()
    world.now -= 3_000
    assert of_kind(world.to_run(run, fire), Deliver)


def test_a_fire_for_another_setting_changes_nothing(world: World) -> None:
    run = world.request()
    world.to_run(run, slept(run, "0/s#0", 5_000))
    world.now += 9_000
    setter = setter_of(world, run)
    strays = [
        TimerFired(run, "0/s#0", setter - 1, v=V),
        TimerFired(run, "0/s#1", setter, v=V),
        TimerFired(run, "start", setter, v=V),
        TimerFired(run_id("unknown"), "0/s#0", setter, v=V),
    ]
    assert world.to_run(run, *strays) == []
    world.to_run(run, RunFinished(run, "completed", v=V))
    assert world.to_run(run, TimerFired(run, "0/s#0", setter, v=V)) == []


def test_every_fire_is_told_to_its_owner_as_read(world: World) -> None:
    """Whether it acted or not: until then it is not appended again."""
    run = world.request()
    fired = world.view_of(run).effects.fired
    fired.clear()
    world.to_run(run, TimerFired(run, "0/s#0", 5, v=V), TimerFired(CRON + "daily", "", 6, v=V))
    assert fired == [(run, "0/s#0", 5), (CRON + "daily", "", 6)]


# Schedules


class Daily:
    """A schedule that is due a minute after the world began."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.partition = partition_of(CRON + "daily", world.partitions)
        world.define(FunctionDefined("daily", "cron", cron=CronDefined(LINE)))
        self.due = world.now + 60_000
        self.setter = world.append(self.partition, CronScheduled("daily", LINE, "UTC", self.due, v=V))
        world.settle()

    def fire(self, setter: int, following: int | None = None) -> list[object]:
        return [*self.world.put(self.partition, TimerFired(CRON + "daily", "", setter, following, v=V))]

    def runs(self) -> list[RunRequested]:
        return [one for one in self.world.records(RunRequested) if one.cause == "cron"]


@pytest.fixture
def daily(world: World) -> Daily:
    return Daily(world)


def test_a_schedule_starts_a_run_and_is_set_to_its_next_fire(daily: Daily) -> None:
    world = daily.world
    world.now = daily.due
    following = daily.due + 86_400_000
    daily.fire(daily.setter, following)
    (run,) = daily.runs()
    assert (run.run, run.number, run.since) == (run_id(APP, "daily", f"cron:{daily.due}"), 1, world.now)
    assert world.run(run.run).status == "running"
    assert world.run(run.run).scheduled == daily.due
    state = world.owners[daily.partition].view.crons.get("daily")
    assert state is not None
    assert (state.due, state.line) == (following, LINE)


def test_a_fire_that_makes_up_for_others_is_of_the_latest_of_them(daily: Daily) -> None:
    world = daily.world
    latest = daily.due + 3_600_000
    world.now = latest + 5
    fired = TimerFired(CRON + "daily", "", daily.setter, latest + 60_000, latest, v=V)
    world.put(daily.partition, fired)
    (run,) = daily.runs()
    assert run.run == run_id(APP, "daily", f"cron:{daily.due}"), "an owner who counts otherwise starts no second"
    assert world.run(run.run).scheduled == latest


def test_a_schedule_fires_once_and_not_early(daily: Daily) -> None:
    world = daily.world
    world.now = daily.due - 1
    assert daily.fire(daily.setter, daily.due + 5) == [Refused(CRON + "daily", "", daily.setter)]
    world.now += 1
    daily.fire(daily.setter, daily.due + 60_000)
    daily.fire(daily.setter, daily.due + 60_000)
    daily.fire(daily.setter - 1, daily.due + 60_000)
    assert len(daily.runs()) == 1


def test_two_settings_of_one_time_start_one_run(daily: Daily) -> None:
    """Two owners may both have said when it fires; the second is read when the first has fired."""
    world = daily.world
    world.now = daily.due
    daily.fire(daily.setter, daily.due + 60_000)
    again = world.append(daily.partition, CronScheduled("daily", LINE, "UTC", daily.due, v=V))
    world.settle()
    daily.fire(again, daily.due + 60_000)
    assert len({one.run for one in daily.runs()}) == 1


def test_a_fire_that_names_no_next_one_asks_for_it(daily: Daily) -> None:
    world = daily.world
    world.now = daily.due
    assert Schedule("daily") in daily.fire(daily.setter)
    assert world.owners[daily.partition].view.crons.get("daily") is None
    assert len(daily.runs()) == 1


def test_a_fire_for_no_schedule_changes_nothing(world: World) -> None:
    assert world.put(0, TimerFired(CRON + "daily", "", 5, v=V)) == []
