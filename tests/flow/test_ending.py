"""The end of a run: what it held elsewhere is given back, who waits for it is told, and its handlers start."""

import msgspec
import pytest

from perdure.flow.effects import Deliver, Ended
from perdure.flow.ending import FAILED_EVENT, PARKED_EVENT
from perdure.flow.routing import run_id
from perdure.flow.wholes import row_of
from perdure_schemas.definition import FunctionDefined
from perdure_schemas.payload import INLINE_LIMIT_BYTES, RESULTS_LIMIT_BYTES, ErrorInfo, Payload, Stored
from perdure_schemas.records import (
    EventReceived,
    MatchSubscribed,
    Parent,
    RunAnswered,
    RunCancelRequested,
    RunFinished,
    RunParked,
    RunRequested,
    RunUnparked,
    StepCompleted,
    StepFailed,
    V,
)
from tests.flow.world import (
    ERROR,
    World,
    called,
    completed,
    event,
    key_of,
    of_kind,
    on,
    payload,
    run_of,
    slept,
    waited,
)

KEY = key_of("paid", "data.cart", "c")
HANDLED = FunctionDefined("work", "background", on_failure="rescue", on_cancel="undo")


def finish(world: World, run: str, status: str = "completed", result: Payload | None = None) -> list[object]:
    error = ERROR if status == "failed" else None
    return [*world.to_run(run, RunFinished(run, status, result, error, v=V))]


def test_an_ended_run_leaves_a_stub(world: World) -> None:
    world.define(on("added", paths=(("added", "data.cart"),)))
    world.send(event("e1", cart="c"))
    run = run_of("e1")
    world.to_run(run, completed(run, "0/a#0"), slept(run, "0/s#0", 5_000), waited(run, "0/w#0", KEY))
    assert finish(world, run, result=payload(5)) == [Ended(run, "completed")]
    state = world.run(run)
    assert (state.status, state.result, state.ended_at) == ("completed", payload(5), world.now)
    assert state.event is not None
    assert (state.open, state.waits, state.keys, state.timers, state.copies) == ({}, {}, {}, {}, {})
    assert world.view_of(run).lines.runs() == []
    assert world.subscriptions() == {}
    assert world.advance(9_000) == []


def test_a_large_result_is_kept_whole_and_sent_whole(world: World) -> None:
    parent, child = world.request("parent"), run_id("child")
    world.to_run(parent, called(parent, "0/c#0", child))
    result = payload("x" * INLINE_LIMIT_BYTES)
    finish(world, child, result=result)
    (answer,) = world.records(RunAnswered)
    assert answer.result == result
    kept = world.run(child).result
    assert kept is not None
    assert kept.ref is not None
    assert world.view_of(child).inline(kept) == result
    world.checkpoint()
    world.restart()
    assert world.view_of(child).inline(kept) == result


def test_children_that_are_awaited_end_with_their_parent(world: World) -> None:
    parent, awaited, enqueued = world.request("parent"), run_id("awaited"), run_id("enqueued")
    world.to_run(parent, called(parent, "0/c#0", awaited), called(parent, "0/e#0", enqueued, awaited=False))
    finish(world, parent, "failed")
    assert world.run(awaited).status == "cancelled"
    assert world.run(enqueued).status == "running"
    error = world.run(awaited).error
    assert error is not None
    assert error.message == f"its parent {parent} ended (failed)"


def test_everybody_who_waits_is_told(world: World) -> None:
    run, one, two = world.request("run"), world.request("one"), world.request("two")
    for watcher in (one, two):
        world.to_run(watcher, called(watcher, "0/c#0", run))
    assert world.records(RunAnswered) == []
    child = run_id("child")
    world.to_run(one, called(one, "0/c#1", child))
    world.to_run(child, RunCancelRequested(child, v=V))
    (answered,) = of_kind(world.acts, Deliver)
    assert isinstance(answered.outcome, RunAnswered)
    assert answered.outcome.status == "cancelled"
    assert answered.outcome.error is not None
    assert answered.outcome.error.type == "perdure.errors.RunCancelled"


@pytest.mark.parametrize(("how", "handler"), [("failed", "rescue"), ("cancelled", "undo"), ("completed", "")])
def test_a_handler_is_a_run_of_its_own(world: World, how: str, handler: str) -> None:
    world.define(HANDLED)
    run = world.request(metadata={"a": "b"}, event=payload({"id": "e"}), event_id="e")
    if how == "cancelled":
        world.to_run(run, RunCancelRequested(run, v=V))
    else:
        finish(world, run, how)
    handlers = [one for one in world.records(RunRequested) if one.cause == "handler"]
    assert [one.function for one in handlers] == ([handler] if handler else [])
    for request in handlers:
        state = world.run(request.run)
        assert state.ending is not None
        assert (state.ending.run, state.ending.function, state.ending.status) == (run, "work", how)
        assert state.ending.error == world.run(run).error
        assert (state.ending.event, state.event_id, state.metadata) == (payload({"id": "e"}), "e", {"a": "b"})
        assert (state.status, state.number) == ("running", 1)


def test_without_a_handler_none_starts(world: World) -> None:
    world.define(FunctionDefined("work", "background"))
    run, unknown = world.request("run"), world.request("unknown", function="unknown")
    world.to_run(run, RunCancelRequested(run, v=V))
    finish(world, unknown, "failed")
    assert [one for one in world.records(RunRequested) if one.cause == "handler"] == []


def test_a_handler_gets_the_last_result_of_each_step_and_call_by_name(world: World) -> None:
    world.define(HANDLED)
    run = world.request()
    child, silent, broken = (run_id(name) for name in ("child", "silent", "broken"))
    world.to_run(
        run,
        completed(run, "0/charge#0", 1),
        completed(run, "0/charge#1", 2),
        completed(run, "0.1/reserve#0", 3),
        StepFailed(run, "0/ship#0", 1, "d", ERROR, v=V),
        slept(run, "0/pause#0", 0),
        called(run, "0/calling#0", child),
        called(run, "0/silent#0", silent),
        called(run, "0/broken#0", broken),
    )
    finish(world, child, result=payload(4))
    finish(world, silent)
    finish(world, broken, "failed")
    world.advance(0)
    finish(world, run, "failed")
    assert results_of(world, run) == {
        "charge": payload(2), "reserve": payload(3), "child": payload(4),
    }  # fmt: skip


@pytest.mark.parametrize("restarted", [False, True])
def test_results_of_any_size_are_handed_on(world: World, restarted: bool) -> None:
    """The handler has a partition of its own: what it may ask for must not be in the journal of another one alone."""
    world.define(HANDLED)
    run = world.request()
    world.to_run(run, *(completed(run, f"0/step{n}#0", "x" * 900) for n in range(6)))
    world.to_run(run, completed(run, "0/huge#0", "x" * 9_000), StepFailed(run, "0/f#0", 1, "d", _long_error(), v=V))
    if restarted:
        world.checkpoint()
        world.restart()
    finish(world, run, "failed")
    results = results_of(world, run)
    assert results == {**{f"step{n}": payload("x" * 900) for n in range(6)}, "huge": payload("x" * 9_000)}
    (handler,) = (one.run for one in world.records(RunRequested) if one.ending is not None)
    state = world.run(handler)
    assert state.ending is None
    view = world.view_of(handler)
    assert view.ending_of(state) == next(one.ending for one in world.records(RunRequested) if one.run == handler)
    assert set(dict(view.wholes.items())) == {row_of(state.ending_at)}


def test_results_that_one_record_has_no_room_for_are_left_out_by_size(world: World) -> None:
    """A record that no log takes would halt the partition."""
    world.define(HANDLED)
    run = world.request()
    stored = Payload(stored=Stored("b2-0", 20 << 20))
    third = "x" * (RESULTS_LIMIT_BYTES // 3)
    world.to_run(run, *(completed(run, f"0/step{n}#0", third + "x" * n) for n in range(4)))
    world.to_run(run, StepCompleted(run, "0/far#0", 1, "d", stored, v=V), completed(run, "0/small#0", 1))
    finish(world, run, "failed")
    results = results_of(world, run)
    assert {name for name, one in results.items() if one == Payload()} == {"step2", "step3"}
    assert (results["step0"], results["far"], results["small"]) == (payload(third), stored, payload(1))


def _long_error() -> ErrorInfo:
    return ErrorInfo("E", "x" * 9_000)


def results_of(world: World, run: str) -> dict[str, Payload]:
    (request,) = (one for one in world.records(RunRequested) if one.ending is not None and one.ending.run == run)
    assert request.ending is not None
    return request.ending.results


def failures(world: World) -> list[dict[str, object]]:
    received = [one.event for one in world.records(EventReceived) if one.event.name == FAILED_EVENT]
    return [msgspec.json.decode(one.data) for one in received]


def test_a_failure_is_an_event(world: World) -> None:
    run = world.request(event_id="e1")
    finish(world, run, "failed")
    (data,) = failures(world)
    error = {"type": ERROR.type, "message": ERROR.message, "attempts": 1}
    assert data == {"run_id": run, "function_id": "work", "error": error, "event_id": "e1"}


def test_other_ends_are_no_failure(world: World) -> None:
    run, cancelled, silent = (world.request(name) for name in ("run", "cancelled", "silent"))
    finish(world, run)
    world.to_run(cancelled, RunCancelRequested(cancelled, v=V))
    world.to_run(silent, RunFinished(silent, "failed", v=V))
    assert [one["run_id"] for one in failures(world)] == [silent]


def test_what_a_failure_started_may_fail_without_end(world: World) -> None:
    """Its own failure tells nobody, nor do those of its handler, its rerun and its successor."""
    world.define(on(FAILED_EVENT, "mourn", on_failure="rescue"))
    run = world.request()
    finish(world, run, "failed")
    mourning = run_of(f"{run}:failed", "mourn")
    world.to_run(mourning, RunFinished(mourning, "continued", successor=event("next", FAILED_EVENT), v=V))
    heir = run_id(mourning, "continue")
    finish(world, heir, "failed")
    rescue = run_id(heir, "rescue")
    assert world.run(rescue).function == "rescue"
    finish(world, rescue, "failed")
    assert len(failures(world)) == 1


def test_any_other_events_failure_is_told(world: World) -> None:
    world.define(on("payment"))
    world.send(event("order-1:failed", "payment"))
    finish(world, run_of("order-1:failed"), "failed")
    assert len(failures(world)) == 1


def parked(world: World, run: str) -> list[dict[str, object]]:
    """Parks it, and gives what was told of that by now."""
    partition = world.of_run(run)
    known = world.owners[partition].view.meta.owner
    owner = world.start_owner(partition, (known.number if known else 0) + 1)
    world.to_run(run, RunParked(run, owner, "x3:1", "differs", v=V))
    assert world.run(run).status == "parked"
    received = [one.event for one in world.records(EventReceived) if one.event.name == PARKED_EVENT]
    return [msgspec.json.decode(one.data) for one in received]


def test_a_parked_run_is_an_event_each_time_where_somebody_listens(world: World) -> None:
    assert parked(world, world.request("before")) == []
    world.define(on(PARKED_EVENT, "mourn"))
    run = world.request("run", event_id="e1")
    told = {"run_id": run, "function_id": "work", "reason": "differs", "event_id": "e1"}
    assert parked(world, run) == [told]
    world.to_run(run, RunUnparked(run, v=V))
    assert parked(world, run) == [told, told]


def test_what_was_started_by_it_may_be_parked_without_end(world: World) -> None:
    world.define(on(PARKED_EVENT, "mourn"))
    run = world.request()
    assert len(parked(world, run)) == 1
    (event_id,) = {one.event.id for one in world.records(EventReceived)}
    mourning = run_of(event_id, "mourn")
    assert len(parked(world, mourning)) == 1
    finish(world, mourning, "failed")
    assert failures(world) == []


def test_the_engines_own_functions_tell_nobody_of_themselves(world: World) -> None:
    world.define(on(PARKED_EVENT, "perdure/notice"), on("other", "perdure/tell"))
    world.send(event("e1", "other"))
    own = run_of("e1", "perdure/tell")
    assert parked(world, own) == []
    finish(world, own, "failed")
    assert failures(world) == []


def test_a_list_of_waits_is_taken_back_once_a_key(world: World) -> None:
    world.define(on("paid", "other", paths=(("paid", "data.cart"),)))
    run = world.request()
    world.to_run(run, waited(run, "0/w#0", KEY), waited(run, "0/w#1", KEY))
    finish(world, run)
    assert [(one.g, len(one.waits)) for one in world.records(MatchSubscribed)] == [(1, 1), (2, 2), (3, 0)]


def test_a_queued_run_can_end(world: World) -> None:
    run = world.request(delay_ms=5_000, parent=Parent(run_id("parent"), "0/c#0"))
    world.to_run(run, RunCancelRequested(run, v=V))
    assert world.advance(5_000) == []
    assert [one.status for one in world.records(RunAnswered)] == ["cancelled"]
