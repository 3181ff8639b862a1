"""A run that continued as another: who awaits or cancels it awaits or cancels its successor."""

from perdure.flow.ending import heir_of
from perdure_schemas.records import Parent, RunAnswered, RunCancelRequested, RunFinished, RunWatched, V
from tests.flow.world import World, event, payload


def continued(world: World, name: str = "first", **options: object) -> tuple[str, str]:
    """A run that was called or watched, and its successor."""
    run = world.request(name, **options)  # type: ignore[arg-type]
    world.to_run(run, RunWatched(run, Parent(world.request("early"), "0/w#0"), "result", v=V))
    world.to_run(run, RunFinished(run, "continued", successor=event("e1", cart="c"), v=V))
    return run, heir_of(run)


def test_who_called_it_is_answered_by_the_last_one(world: World) -> None:
    parent = Parent(world.request("parent"), "0/call#1")
    _, heir = continued(world, parent=parent)
    assert world.records(RunAnswered) == []
    world.to_run(heir, RunFinished(heir, "completed", payload(5), v=V))
    answers = {(one.run, one.op): (one.of, one.result) for one in world.records(RunAnswered)}
    assert answers[parent.run, parent.op] == (heir, payload(5))


def test_who_watched_it_is_answered_by_the_last_one(world: World) -> None:
    run, heir = continued(world)
    late = world.request("late")
    world.to_run(run, RunWatched(run, Parent(late, "0/w#0"), "result", v=V))
    assert world.records(RunAnswered) == []
    world.to_run(heir, RunFinished(heir, "completed", payload(5), v=V))
    assert sorted((one.run, one.status, one.of) for one in world.records(RunAnswered)) == sorted(
        [(world.request("early"), "completed", heir), (late, "completed", heir)]
    )


def test_its_status_is_its_own(world: World) -> None:
    run, _ = continued(world)
    world.to_run(run, RunWatched(run, Parent(world.request("late"), "0/w#0"), "status", v=V))
    assert [(one.of, one.status) for one in world.records(RunAnswered)] == [(run, "continued")]


def test_a_cancel_reaches_the_successor(world: World) -> None:
    run, heir = continued(world)
    world.to_run(run, RunCancelRequested(run, "c1", "enough", v=V))
    assert (world.run(run).status, world.run(heir).status) == ("continued", "cancelled")
    error = world.run(heir).error
    assert error is not None
    assert error.message == "enough"
