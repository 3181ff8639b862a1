"""Definitions: numbered by partition 0, current everywhere in two phases; schedules, parked runs and owners follow."""

import pytest

from perdure.flow.definitions import CRON, parse_timer_key, timer_key
from perdure.flow.effects import Activated, OwnerKnown, Schedule, Start
from perdure.flow.routing import partition_of
from perdure_schemas.definition import CronDefined, FunctionDefined
from perdure_schemas.records import (
    AppActivated,
    AppDefined,
    AppPaths,
    AppReady,
    CronScheduled,
    Owner,
    OwnerReleased,
    OwnerStarted,
    RunParked,
    V,
)
from tests.flow.world import World, definition_of, of_kind, on

LINE = "0 9 * * *"


def daily(line: str = LINE, tz: str = "UTC") -> FunctionDefined:
    return FunctionDefined("daily", "cron", cron=CronDefined(line, tz))


class Scheduled:
    """The partition of the schedule `daily`."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.partition = partition_of(CRON + "daily", world.partitions)

    def due(self) -> int | None:
        state = self.world.owners[self.partition].view.crons.get("daily")
        return state.due if state else None

    def set(self, due: int, line: str = LINE, tz: str = "UTC") -> None:
        self.world.put(self.partition, CronScheduled("daily", line, tz, due, v=V))


def test_code_becomes_current_in_all_partitions_after_all_know_its_paths(world: World) -> None:
    definition = definition_of(on("added", paths=(("added", "data.cart"),)))
    acts = world.put(0, AppDefined(definition, v=V))
    assert len(world.records(AppPaths)) == len(world.records(AppReady)) == world.partitions
    assert of_kind(acts, Activated) == [Activated(1)] * world.partitions
    for owner in world.owners:
        assert owner.view.meta.current == 1
        assert owner.view.meta.paths == {"added": {"data.cart": 86_400_000}}
        routes = owner.view.routes()
        assert routes is not None
        assert routes.definition == definition
    assert world.owners[0].view.meta.ready == {}


def test_it_is_not_current_while_a_partition_has_not_answered(world: World) -> None:
    """Model `control`: in one phase an event could pass a partition that does not copy it yet."""
    slow = world.owners.pop()
    world.put(0, AppDefined(definition_of(on("added")), v=V))
    assert all(owner.view.meta.current == 0 for owner in world.owners)
    world.owners.append(slow)
    world.settle()
    assert all(owner.view.meta.current == 1 for owner in world.owners)


def test_known_code_is_numbered_again_only_when_asked(world: World) -> None:
    old, new = on("added"), on("added", where="true")
    world.define(old)
    world.define(old)
    world.define(new)
    world.define(old)
    assert [owner.view.meta.current for owner in world.owners] == [2] * world.partitions
    world.define(old, activate=True)
    world.define(old, activate=True)
    assert [owner.view.meta.current for owner in world.owners] == [3] * world.partitions
    routes = world.owners[1].view.routes()
    assert routes is not None
    assert routes.definition == definition_of(old)


def test_an_activation_that_comes_late_changes_nothing(world: World) -> None:
    world.define(on("added"))
    world.define(on("added", where="true"))
    acts = world.put(1, AppActivated(1, v=V), AppReady(1, v=V))
    assert acts == []
    world.put(0, AppReady(1, v=V))
    assert [owner.view.meta.current for owner in world.owners] == [2] * world.partitions


def test_paths_are_only_added_with_their_longest_look_back(world: World) -> None:
    paths = (("added", "data.cart"),)
    world.define(on("added", paths=paths, lookback_ms=5), on("added", "other", paths=paths, lookback_ms=7))
    world.define(on("added", paths=(("added", "data.cart"), ("paid", "")), lookback_ms=6))
    world.define(on("added"))
    for owner in world.owners:
        assert owner.view.meta.paths == {"added": {"data.cart": 7}, "paid": {"": 6}}


def test_a_new_schedule_asks_its_own_partition_for_its_first_fire(world: World) -> None:
    world.define(daily(), on("added"))
    assert world.acts.count(Schedule("daily")) == 1
    Scheduled(world).set(world.now + 60_000)
    world.define(daily(), on("added", where="true"))
    assert world.acts.count(Schedule("daily")) == 1, "it goes on under other code with the same line"
    assert Scheduled(world).due() == world.now + 60_000


@pytest.mark.parametrize(
    "changed", [daily("5 9 * * *"), daily(tz="Europe/Berlin"), FunctionDefined("daily", "cron"), None]
)
def test_a_schedule_that_is_changed_or_gone_fires_no_more(world: World, changed: FunctionDefined | None) -> None:
    """Also if the owner dies before it can say when the changed one fires: it finds it missing at its next start."""
    world.define(daily(), on("added"))
    schedule = Scheduled(world)
    schedule.set(world.now + 60_000)
    acts = len(world.acts)
    world.define(*([changed] if changed else []), on("added"))
    assert schedule.due() is None
    asked = [Schedule("daily")] if changed is not None and changed.cron else []
    assert of_kind(world.acts[acts:], Schedule) == asked


def test_a_fire_counts_only_for_the_schedule_that_is_active(world: World) -> None:
    schedule = Scheduled(world)
    schedule.set(5)
    world.define(daily())
    schedule.set(world.now + 5, "5 9 * * *")
    schedule.set(world.now + 5, tz="Europe/Berlin")
    world.put(0, CronScheduled("unheard of", LINE, "UTC", 5, v=V))
    assert schedule.due() is None
    schedule.set(world.now + 5)
    schedule.set(world.now + 9)
    assert schedule.due() == world.now + 9


def test_parked_runs_are_tried_under_other_code(world: World) -> None:
    definition = world.define(on("added"))
    runs = [world.request("one"), world.request("two")]
    for run in runs:
        owner = world.start_owner(world.of_run(run), number=2 + runs.index(run))
        world.to_run(run, RunParked(run, owner, definition.digest, "differs", v=V))
    acts = len(world.acts)
    world.define(on("added"), on("paid", "more"))
    assert {act.run for act in of_kind(world.acts[acts:], Start)} == set(runs)
    assert all(world.run(run).status == "running" and world.run(run).parked is None for run in runs)
    assert all(not dict(owner.view.parked.items()) for owner in world.owners)


def test_a_run_parked_by_the_code_that_comes_stays_parked(world: World) -> None:
    """A pod may run newer code than is active: what that code parked it need not try again."""
    world.define(on("added"))
    newer = on("added", where="true")
    run = world.request()
    owner = world.start_owner(world.of_run(run), code=definition_of(newer).digest)
    world.to_run(run, RunParked(run, owner, definition_of(newer).digest, "differs", v=V))
    world.define(newer)
    assert world.run(run).status == "parked"


def test_the_first_owner_of_a_number_wins(world: World) -> None:
    first, second, zombie = Owner(2, "a"), Owner(2, "b"), Owner(1, "c")
    acts = world.put(0, *(OwnerStarted(one, "code", 1, v=V) for one in (first, second, zombie)))
    assert acts == [OwnerKnown(2, "a")]
    meta = world.owners[0].view.meta
    assert meta.owner == first
    assert not meta.released
    world.put(0, OwnerReleased(second, v=V))
    assert not meta.released
    world.put(0, OwnerReleased(first, v=V))
    assert meta.released


def test_an_owner_that_left_before_its_start_came_has_left(world: World) -> None:
    """Its `owner.started` was long on its way. What comes again changes nothing (I3)."""
    view = world.owners[0].view
    one, other, next_ = Owner(1, "a"), Owner(1, "b"), Owner(2, "c")
    world.put(0, *(OwnerReleased(who, v=V) for who in (one, next_, other, one)))
    assert view.meta.owner is None
    world.put(0, OwnerStarted(one, "code", 1, v=V))
    assert view.meta.owner == one
    assert view.meta.released
    before = view.logical()
    world.put(0, *(OwnerReleased(who, v=V) for who in (one, other, next_)))
    assert view.logical() == before
    world.put(0, OwnerStarted(other, "code", 1, v=V), OwnerStarted(next_, "code", 1, v=V))
    assert view.meta.owner == next_
    assert view.meta.released
    assert view.meta.left == []
    world.put(0, OwnerStarted(Owner(3, "d"), "code", 1, v=V))
    assert not view.meta.released


@pytest.mark.parametrize("timer", ["", "start", "0/a#0", "0/with\0nul#0"])
def test_a_timers_key_can_be_read(timer: str) -> None:
    assert parse_timer_key(timer_key("entity", timer, 17)) == ("entity", timer, 17)
