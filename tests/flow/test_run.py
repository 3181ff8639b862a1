"""A run from its request on: started now or when due, cancelled, parked, retried whole, watched."""

import msgspec
import pytest

from perdure.flow.effects import Deliver, Ended, Opened, Parked, Start
from perdure.flow.routing import run_id
from perdure.flow.states import COMMANDS_KEPT
from perdure_schemas.definition import FunctionDefined
from perdure_schemas.payload import INLINE_LIMIT_BYTES
from perdure_schemas.records import (
    AppActivated,
    AppPaths,
    CancelRule,
    Heritage,
    KeyCursor,
    MatchSubscribed,
    Owner,
    Parent,
    RunAnswered,
    RunCancelRequested,
    RunErrored,
    RunFinished,
    RunParked,
    RunRequested,
    RunRerunRequested,
    RunUnparked,
    RunWatched,
    V,
)
from tests.flow.world import (
    ERROR,
    World,
    called,
    completed,
    definition_of,
    event,
    key_of,
    of_kind,
    on,
    payload,
    run_of,
    slept,
)

KEY = key_of("paid", "data.cart", "c")


def work(timeout_ms: int | None = None) -> FunctionDefined:
    return FunctionDefined("work", "background", timeout_ms=timeout_ms)


def test_a_requested_run_starts_once(world: World) -> None:
    request = RunRequested(run_id("r"), "work", "enqueue", arguments=payload([[1], {}]), metadata={"a": "b"}, v=V)
    acts = world.to_run(request.run, request, request)
    assert acts == [Start(request.run)]
    run = world.run(request.run)
    assert (run.status, run.function, run.cause, run.metadata) == ("running", "work", "enqueue", {"a": "b"})
    assert run.requested_at == run.started_at == run.since == world.now
    assert run.arguments == request.arguments


def test_a_run_has_the_newest_code_that_is_active_where_it_was_asked_for_or_begins(world: World) -> None:
    """A child's function may be new, and its partition the last to activate it: its timeout must not get lost."""
    world.define(work())
    newer = definition_of(work(timeout_ms=5_000))
    parent, child = world.request("parent"), run_id("child")
    assert world.of_run(parent) != world.of_run(child)
    for owner in world.owners:
        world.append(owner.partition, AppPaths(2, newer, v=V))
    world.to_run(parent, AppActivated(2, v=V))
    world.to_run(parent, called(parent, "0/c#0", child, function="work"))
    assert world.run(parent).number == 1
    assert world.run(child).number == 2
    assert world.run(child).timers["timeout"].due == world.now + 5_000
    world.to_run(parent, RunRerunRequested(parent, run_id("again"), v=V))
    world.to_run(parent, RunFinished(parent, "continued", successor=event("next"), v=V))
    assert world.run(run_id("again")).number == world.run(run_id(parent, "continue")).number == 2
    world.to_run(child, AppActivated(2, v=V))
    late = run_id("late")
    world.to_run(late, RunRequested(late, "work", "event", number=1, v=V))
    assert world.run(late).number == world.view_of(late).meta.current


def test_a_delayed_run_starts_when_it_is_due(world: World) -> None:
    delayed = world.request("delayed", delay_ms=5_000)
    dated = world.request("dated", due=world.now + 6_000)
    past = world.request("past", due=world.now)
    assert world.run(delayed).status == world.run(dated).status == "queued"
    assert world.run(past).status == "running"
    assert of_kind(world.advance(5_000), Start) == [Start(delayed)]
    assert world.run(delayed).started_at == world.now
    assert of_kind(world.advance(1_000), Start) == [Start(dated)]


@pytest.mark.parametrize(("late_ms", "status"), [(1_000, "running"), (1_001, "discarded")])
def test_a_run_that_could_not_start_in_time_is_discarded(world: World, late_ms: int, status: str) -> None:
    parent = world.request("parent")
    child = run_id("child")
    world.to_run(parent, called(parent, "0/c#0", child, delay_ms=5_000, discard_after_ms=1_000))
    world.now += 5_000 + late_ms
    acts = world.advance(0)
    assert world.run(child).status == status
    if status == "discarded":
        (answered,) = of_kind(acts, Deliver)
        assert isinstance(answered.outcome, RunAnswered)
        assert answered.outcome.error is not None
        assert "could not start in time" in answered.outcome.error.message


def test_a_run_ends_at_its_own_timeout(world: World) -> None:
    world.define(work(timeout_ms=5_000))
    run = world.request(delay_ms=1_000)
    world.advance(5_999)
    assert world.run(run).status == "running"
    world.advance(1)
    state = world.run(run)
    assert (state.status, state.error and state.error.type) == ("failed", "TimeoutError")


def test_large_arguments_are_kept_whole_until_the_run_is_forgotten(world: World) -> None:
    arguments = payload([["x" * INLINE_LIMIT_BYTES], {}])
    run = world.request(arguments=arguments, event=payload({}))
    state = world.run(run)
    assert state.arguments is not None
    assert state.arguments.ref is not None
    assert (state.arguments.ref.partition, state.arguments.ref.offset) == (world.of_run(run), state.requested_offset)
    assert state.event is not None
    assert state.event.ref is None
    world.define(on("added"), window_ms=50_000)
    finished = RunFinished(run, "completed", payload("y" * INLINE_LIMIT_BYTES), v=V)
    world.to_run(run, finished)
    again = run_id("again")
    world.to_run(run, RunRerunRequested(run, again, v=V))
    (asked,) = (one for one in world.records(RunRequested) if one.run == again)
    assert asked.arguments == arguments
    world.to_run(again, RunCancelRequested(again, v=V))
    world.checkpoint()
    kept = {owner.partition: list(owner.view.wholes.items()) for owner in world.owners}
    assert len(kept[world.of_run(run)]) >= 2
    world.check()
    world.advance(50_000)
    world.touch()
    world.touch()
    assert [list(owner.view.wholes.items()) for owner in world.owners] == [[], [], []]


# Cancel


def test_a_cancelled_run_never_completes(world: World) -> None:
    run = world.request()
    assert world.to_run(run, RunCancelRequested(run, reason="enough", v=V)) == [Ended(run, "cancelled")]
    later = world.to_run(run, RunFinished(run, "completed", v=V), completed(run, "0/a#0"), RunCancelRequested(run, v=V))
    assert later == []
    state = world.run(run)
    assert (state.status, state.error and state.error.message) == ("cancelled", "enough")


def test_a_cancel_that_comes_before_its_run_is_kept(world: World) -> None:
    run = run_id("early")
    world.to_run(run, RunCancelRequested(run, v=V))
    assert world.to_run(run, RunRequested(run, "work", "enqueue", v=V)) == []
    assert world.run(run).status == "cancelled"


def test_whoever_calls_a_run_that_was_cancelled_before_is_told(world: World) -> None:
    parent, child = world.request("parent"), run_id("child")
    world.to_run(child, RunCancelRequested(child, reason="early", v=V))
    acts = world.to_run(parent, called(parent, "0/c#0", child))
    (answered,) = of_kind(acts, Deliver)
    assert isinstance(answered.outcome, RunAnswered)
    assert (answered.outcome.status, answered.outcome.error and answered.outcome.error.message) == (
        "cancelled",
        "early",
    )


def test_a_second_request_of_a_living_run_changes_nothing(world: World) -> None:
    parent, child = world.request("parent"), world.request("child")
    acts = world.to_run(parent, called(parent, "0/c#0", child))
    assert [type(act) for act in acts] == [Opened], "of the parent: the child is not begun again"
    assert world.run(child).parent is None


def test_an_event_cancels_by_a_rule(world: World) -> None:
    world.define(on("paid", "other", paths=(("paid", "data.cart"),)))
    run = world.request(rules=(CancelRule(KEY), CancelRule(KEY, "async.data.x == 1")))
    assert len(world.subscriptions()[KEY]) == 2
    world.now += 5
    acts = world.send(event("e1", "paid", cart="c"))
    assert Ended(run, "cancelled") in acts
    state = world.run(run)
    assert state.error is not None
    assert "event e1 matched its cancel_on" in state.error.message
    assert world.subscriptions() == {}


def test_a_rule_with_a_time_ends_with_it(world: World) -> None:
    world.define(on("paid", "other", paths=(("paid", "data.cart"),)))
    run = world.request(rules=(CancelRule(KEY, timeout_ms=1_000),))
    world.now += 1_001
    world.send(event("late", "paid", cart="c"))
    assert world.run(run).status == "running"


# Parked, errored


def test_a_parked_run_goes_on_by_command(world: World) -> None:
    run = world.request()
    owner = world.start_owner(world.of_run(run))
    park = RunParked(run, owner, "code", "differs", v=V)
    assert world.to_run(run, park, park) == [Parked(run)]
    state = world.run(run)
    assert state.status == "parked"
    assert state.parked is not None
    assert (state.parked.code, state.parked.message) == ("code", "differs")
    unpark = RunUnparked(run, "c1", v=V)
    assert world.to_run(run, unpark, unpark) == [Start(run)]
    assert world.run(run).parked is None


def test_copies_of_a_command_do_not_lift_a_later_parking(world: World) -> None:
    run = world.request()
    park = RunParked(run, world.start_owner(world.of_run(run)), "code", "differs", v=V)
    first, too_early = RunUnparked(run, "c1", v=V), RunUnparked(run, "c2", v=V)
    world.to_run(run, park, first, too_early, park)
    assert world.to_run(run, first, too_early) == []
    assert world.run(run).status == "parked"
    assert world.to_run(run, RunUnparked(run, "c3", v=V)) == [Start(run)]


def test_no_more_commands_are_known_than_copies_can_be_of(world: World) -> None:
    run = world.request()
    world.to_run(run, *(RunUnparked(run, f"c{n}", v=V) for n in range(COMMANDS_KEPT + 3)))
    assert world.run(run).unparked == tuple(f"c{n}" for n in range(3, COMMANDS_KEPT + 3))
    world.to_run(run, RunCancelRequested(run, v=V))
    assert world.run(run).unparked == ()


def test_a_zombie_parks_nothing(world: World) -> None:
    run = world.request()
    zombie = world.start_owner(world.of_run(run), 1)
    world.start_owner(world.of_run(run), 2)
    assert world.to_run(run, RunParked(run, zombie, "code", "differs", v=V)) == []
    assert world.run(run).status == "running"


def test_a_run_that_is_parked_takes_outcomes_and_can_be_cancelled(world: World) -> None:
    run = world.request()
    owner = world.start_owner(world.of_run(run))
    world.to_run(run, slept(run, "0/s#0", 5), RunParked(run, owner, "code", "differs", v=V))
    assert of_kind(world.advance(5), Deliver)
    world.to_run(run, RunCancelRequested(run, v=V))
    assert world.run(run).status == "cancelled"
    assert not dict(world.view_of(run).parked.items())


def test_a_function_that_raised_runs_again_after_its_backoff(world: World) -> None:
    run = world.request()
    failure = RunErrored(run, 1, ERROR, 5_000, v=V)
    assert world.to_run(run, failure, failure) == []
    assert world.run(run).attempt == 2
    assert of_kind(world.advance(4_999), Start) == []
    assert of_kind(world.advance(1), Start) == [Start(run)]
    world.to_run(run, RunErrored(run, 2, ERROR, 5_000, v=V))
    again = world.now
    world.now += 1_000
    world.to_run(run, RunErrored(run, 3, ERROR, 5_000, v=V))
    assert world.run(run).timers["retry"].due == again + 6_000


def test_a_parked_run_is_not_retried(world: World) -> None:
    run = world.request()
    owner = world.start_owner(world.of_run(run))
    world.to_run(run, RunParked(run, owner, "code", "differs", v=V), RunErrored(run, 1, ERROR, 5, v=V))
    assert world.run(run).timers == {}


@pytest.mark.parametrize("status", ["completed", "failed"])
def test_an_ended_run_is_deaf(world: World, status: str) -> None:
    run = world.request()
    owner = world.start_owner(world.of_run(run))
    world.to_run(run, RunFinished(run, status, v=V))
    before = msgspec.json.encode(world.run(run))
    acts = world.to_run(
        run,
        RunFinished(run, "completed", payload(2), v=V),
        RunCancelRequested(run, v=V),
        RunParked(run, owner, "code", "differs", v=V),
        RunUnparked(run, v=V),
        RunErrored(run, 1, ERROR, 5, v=V),
        completed(run, "0/a#0"),
        slept(run, "0/s#0", 5),
    )
    assert acts == []
    assert msgspec.json.encode(world.run(run)) == before


# Rerun, continue, watch


def test_a_rerun_has_the_same_trigger_and_looks_at_what_comes_after_the_command(world: World) -> None:
    world.define(on("added", paths=(("added", "data.cart"),)))
    world.send(event("e1", cart="c"))
    old, new = run_of("e1"), run_id("new")
    world.to_run(old, RunFinished(old, "completed", payload(1), v=V))
    world.now += 1_000
    world.to_run(old, RunRerunRequested(old, new, command="again", v=V))
    one, other = world.run(old), world.run(new)
    assert (other.event, other.event_id, other.rerun_of, other.cause) == (one.event, "e1", old, "rerun")
    assert (other.since, other.copies, other.source) == (world.now, {}, -1)
    assert other.status == "running"


@pytest.mark.parametrize("known", [False, True])
def test_what_was_never_a_run_is_not_run_again(world: World, known: bool) -> None:
    run = run_id("unheard of")
    if known:
        world.to_run(run, RunCancelRequested(run, v=V))
    world.to_run(run, RunRerunRequested(run, run_id("new"), v=V))
    assert world.records(RunRequested) == []


def test_an_heir_has_the_triggers_place_and_knows_what_was_consumed(world: World) -> None:
    heritage = Heritage({KEY: KeyCursor(g=5, upto=7, also=[9], but=[3], elsewhere={"e1": 7})}, {"e1": ["1234"]})
    run = world.request(heritage=heritage, event_id="e0", since=5, copies={KEY: 2}, source=1)
    state = world.run(run)
    assert state.keys == {KEY: KeyCursor(g=0, upto=7, also=[9], but=[3], elsewhere={"e1": 7})}
    assert (state.taken, state.since, state.copies, state.source) == ({"e1": 1234}, 5, {KEY: 2}, 1)


def test_a_watcher_is_told_the_result_when_there_is_one(world: World) -> None:
    watcher, run = world.request("watcher"), world.request("run")
    world.to_run(run, RunWatched(run, Parent(watcher, "0/w#0"), "result", v=V))
    assert world.records(RunAnswered) == []
    world.to_run(run, RunFinished(run, "completed", payload(5), v=V))
    world.to_run(run, RunWatched(run, Parent(watcher, "0/w#1"), "result", v=V))
    answers = world.records(RunAnswered)
    assert [(one.op, one.of, one.status, one.result) for one in answers] == [
        ("0/w#0", run, "completed", payload(5)),
        ("0/w#1", run, "completed", payload(5)),
    ]


def test_whoever_awaits_a_run_that_continues_awaits_its_successor(world: World) -> None:
    parent, early, late = world.request("parent"), world.request("early"), world.request("late")
    run = run_id("run")
    heir = run_id(run, "continue")
    world.to_run(parent, called(parent, "0/c#0", run))
    world.to_run(run, RunWatched(run, Parent(early, "0/w#0"), "result", v=V))
    world.to_run(run, RunFinished(run, "continued", successor=event("next"), v=V))
    world.to_run(run, RunWatched(run, Parent(late, "0/w#0"), "result", v=V))
    assert world.records(RunAnswered) == []
    world.to_run(heir, RunFinished(heir, "completed", payload(5), v=V))
    answers = {one.run: (one.op, one.of, one.result) for one in world.records(RunAnswered)}
    assert answers == {
        parent: ("0/c#0", heir, payload(5)), early: ("0/w#0", heir, payload(5)), late: ("0/w#0", heir, payload(5)),
    }  # fmt: skip


def test_a_cancel_of_a_run_that_continued_reaches_its_successor(world: World) -> None:
    run = world.request()
    heir = run_id(run, "continue")
    world.to_run(run, RunFinished(run, "continued", successor=event("next"), v=V))
    world.to_run(run, RunCancelRequested(run, reason="enough", v=V))
    assert world.run(run).status == "continued"
    assert world.run(heir).status == "cancelled"
    error = world.run(heir).error
    assert error is not None
    assert error.message == "enough"


def test_a_status_is_told_at_once(world: World) -> None:
    watcher, run, unknown = world.request("watcher"), world.request("run"), run_id("unknown")
    for of in (run, unknown):
        world.to_run(of, RunWatched(of, Parent(watcher, "0/w#0"), "status", v=V))
    answers = {one.of: (one.status, one.result, one.error) for one in world.records(RunAnswered)}
    assert answers == {run: ("running", None, None), unknown: ("unknown", None, None)}


def test_a_runs_subscriptions_for_its_rules_are_taken_back_at_its_end(world: World) -> None:
    run = world.request(rules=(CancelRule(KEY), CancelRule('["gone","",""]')))
    world.to_run(run, RunFinished(run, "completed", v=V))
    assert [(one.rule, len(one.waits)) for one in world.records(MatchSubscribed) if one.key == KEY] == [(0, 1), (0, 0)]
    assert world.subscriptions() == {}


def test_an_opinion_needs_an_owner(world: World) -> None:
    run = world.request()
    assert world.to_run(run, RunParked(run, Owner(1, "t"), "code", "differs", v=V)) == []


def test_who_asks_again_for_a_result_is_answered_once(world: World) -> None:
    """A pod asks for runs that are owned elsewhere, and may ask again."""
    world.define(on("added"))
    run, asker = world.request(), run_id("a pod")
    for _ in range(3):
        world.to_run(run, RunWatched(run, Parent(asker, "result"), "result", v=V))
    world.to_run(run, RunFinished(run, "completed", v=V))
    assert [(answer.run, answer.status) for answer in world.records(RunAnswered)] == [(asker, "completed")]
    world.check()
