"""A paused function: what is requested waits, what has started goes on, and nothing is lost."""

import pytest

from perdure.flow.effects import Ended, Start
from perdure.flow.routing import run_id
from perdure.flow.states import COMMANDS_KEPT
from perdure_schemas.definition import CronDefined, FunctionDefined
from perdure_schemas.records import (
    CancelRule,
    CronScheduled,
    FunctionPaused,
    PauseRequested,
    RunCancelRequested,
    V,
)
from tests.flow.world import World, called, completed, event, key_of, of_kind, on, run_of

KEY = key_of("paid", "data.cart", "c")


def pause(world: World, function: str = "work", command: str = "c1") -> None:
    world.put(0, PauseRequested(function, True, command, v=V))


def resume(world: World, function: str = "work", command: str = "c2") -> list[object]:
    return [*world.put(0, PauseRequested(function, False, command, v=V))]


def test_runs_of_a_paused_function_wait_until_it_goes_on(world: World) -> None:
    pause(world)
    run = world.request()
    assert not of_kind(world.acts, Start)
    state = world.run(run)
    assert (state.status, state.paused, state.started_at) == ("queued", True, 0)
    world.now += 60_000
    assert resume(world) == [Start(run)]
    state = world.run(run)
    assert (state.status, state.paused, state.started_at) == ("running", False, world.now)
    world.check()


def test_every_partition_pauses_and_goes_on(world: World) -> None:
    pause(world)
    waiting = {world.request(f"run {n}") for n in range(12)}
    assert {world.of_run(run) for run in waiting} == set(range(world.partitions))
    assert {act.run for act in of_kind(world.put(0, PauseRequested("work", False, "c2", v=V)), Start)} == waiting
    assert world.put(1) == []
    assert all(not owner.view.meta.paused and not dict(owner.view.paused.items()) for owner in world.owners)
    world.check()


def test_they_start_in_the_order_in_which_they_came(world: World) -> None:
    pause(world)
    runs = [world.request(f"run {n}") for n in range(40)]
    mine = [run for run in runs if world.of_run(run) == 0]
    assert len(mine) > 5
    started = [act.run for act in of_kind(world.put(0, PauseRequested("work", False, "c2", v=V)), Start)]
    assert [run for run in started if world.of_run(run) == 0] == mine


def test_other_functions_start(world: World) -> None:
    pause(world)
    other = world.request("other", function="other")
    assert world.run(other).status == "running"


def test_what_has_started_goes_on(world: World) -> None:
    run = world.request()
    pause(world)
    assert world.to_run(run, completed(run, "0/a#0"))
    assert world.run(run).status == "running"


def test_events_and_schedules_are_not_lost(world: World) -> None:
    world.define(on("added"), FunctionDefined("nightly", "cron", cron=CronDefined("0 0 * * *", "UTC")))
    pause(world)
    pause(world, "nightly", "c2")
    world.send(event("e1"))
    assert world.run(run_of("e1")).status == "queued"
    home = next(owner for owner in world.owners if owner.view.partition_of("cron:nightly") == owner.partition)
    due = world.now + 1_000
    world.put(home.partition, CronScheduled("nightly", "0 0 * * *", "UTC", due, v=V))
    world.advance(1_000)
    fired = run_of(f"cron:{due}", "nightly")
    assert world.run(fired).status == "queued"
    resume(world, "nightly", "c3")
    assert world.run(fired).status == "running"
    assert world.run(run_of("e1")).status == "queued"
    world.check()


def test_a_delay_ends_while_the_function_is_paused(world: World) -> None:
    run = world.request(delay_ms=1_000)
    pause(world)
    world.advance(5_000)
    assert world.run(run).paused
    assert world.run(run).timers == {}
    assert resume(world) == [Start(run)]


def test_a_delay_that_goes_on_after_it_is_kept(world: World) -> None:
    pause(world)
    run = world.request(delay_ms=10_000)
    assert resume(world) == []
    assert Start(run) in world.advance(10_000)


@pytest.mark.parametrize(("waited_ms", "status"), [(1_000, "running"), (1_001, "discarded")])
def test_what_is_too_late_by_then_is_discarded(world: World, waited_ms: int, status: str) -> None:
    pause(world)
    run = world.request(discard_after_ms=1_000)
    world.advance(waited_ms)
    resume(world)
    assert world.run(run).status == status
    world.check()


def test_the_runs_own_timeout_begins_with_its_start(world: World) -> None:
    world.define(FunctionDefined("work", "background", timeout_ms=1_000))
    pause(world)
    run = world.request()
    world.advance(50_000)
    resume(world)
    assert world.run(run).timers["timeout"].due == world.now + 1_000


def test_a_run_that_waits_can_be_cancelled(world: World) -> None:
    pause(world)
    run = world.request()
    assert world.to_run(run, RunCancelRequested(run, v=V)) == [Ended(run, "cancelled")]
    assert resume(world) == []
    assert world.run(run).status == "cancelled"
    world.check()


def test_an_event_cancels_it_as_ever(world: World) -> None:
    world.define(on("paid", "other", paths=(("paid", "data.cart"),)))
    pause(world)
    run = world.request(rules=(CancelRule(KEY),))
    world.now += 5
    assert Ended(run, "cancelled") in world.send(event("e1", "paid", cart="c"))
    world.check()


def test_who_calls_it_waits(world: World) -> None:
    pause(world)
    parent, child = world.request("parent", function="parent"), run_id("child")
    world.to_run(parent, called(parent, "0/c#0", child, function="work"))
    assert world.run(child).paused
    assert world.run(parent).status == "running"
    assert Start(child) in resume(world)


def test_a_pause_or_a_resume_said_again_changes_nothing(world: World) -> None:
    pause(world)
    since = dict(world.owners[0].view.meta.paused)
    world.now += 1_000
    pause(world, command="other")
    assert world.owners[0].view.meta.paused == since
    resume(world)
    assert resume(world, command="c9") == []


def test_copies_of_a_pause_come_after_the_resume(world: World) -> None:
    pause(world)
    resume(world)
    pause(world)
    assert world.owners[0].view.meta.paused == {}
    assert len(world.records(FunctionPaused)) == 2 * world.partitions


def test_no_more_commands_are_known_than_copies_can_be_of(world: World) -> None:
    for n in range(COMMANDS_KEPT + 3):
        pause(world, command=f"c{n}")
    assert world.owners[0].view.meta.pauses == tuple(f"c{n}" for n in range(3, COMMANDS_KEPT + 3))
    assert all(not owner.view.meta.pauses for owner in world.owners[1:])


def test_it_holds_over_a_restart_and_from_the_store(world: World) -> None:
    pause(world)
    stored = world.request("stored")
    world.checkpoint()
    tail = world.request("tail")
    world.restart()
    assert world.run(stored).paused
    assert world.run(tail).paused
    assert world.run(world.request("later")).paused
    assert len(of_kind(world.put(0, PauseRequested("work", False, "c2", v=V)), Start)) == 3
    world.check()
