"""Ops: opened, settled, closed; one outcome each, the first in log order (I4)."""

import pytest

from perdure.flow import ops
from perdure.flow.effects import Attempted, Closed, Deliver, Faltered, Retry
from perdure.flow.routing import partition_of_run, run_id
from perdure_schemas.records import (
    CancelRun,
    EventReceived,
    MatchOffered,
    MatchSubscribed,
    OpClosed,
    Opening,
    OpOpened,
    Owner,
    RerunRun,
    RunAnswered,
    RunCancelRequested,
    RunFinished,
    RunRequested,
    RunRerunRequested,
    RunWatched,
    Send,
    Sleep,
    StepAttempted,
    StepFailed,
    TimerFired,
    V,
    Watch,
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
OTHER = key_of("paid", "data.user", "u")
PATHS = (("paid", "data.cart"), ("paid", "data.user"))


def failed(run: str, op: str, attempt: int = 1, retry_in_ms: int | None = None) -> StepFailed:
    return StepFailed(run, op, attempt, "d", ERROR, retry_in_ms, v=V)


def opened(run: str, op: str, opening: Opening) -> OpOpened:
    return OpOpened(run, op, "d", opening, v=V)


# Steps


def test_a_steps_first_outcome_stays(world: World) -> None:
    run = world.request()
    first = completed(run, "0/a#0", 1)
    (deliver,) = of_kind(world.to_run(run, first), Deliver)
    assert (deliver.op, deliver.outcome, deliver.at) == ("0/a#0", first, world.now)
    assert world.to_run(run, completed(run, "0/a#0", 2), failed(run, "0/a#0"), OpClosed(run, "0/a#0", v=V)) == []
    assert [line.record for line in world.view_of(run).lines.load(run)] == [first]


def test_a_failed_attempt_is_tried_again_when_its_time_comes(world: World) -> None:
    run = world.request()
    first = failed(run, "0/a#0", 1, 5_000)
    assert world.to_run(run, first, failed(run, "0/a#0", 1, 9_000)) == [Faltered(run, first, world.now)]
    assert world.run(run).open["0/a#0"].attempt == 2
    assert world.advance(4_999) == []
    assert world.advance(1) == [Retry(run, "0/a#0", 2)]
    world.to_run(run, failed(run, "0/a#0", 2, 5_000), failed(run, "0/a#0", 3, 1_000))
    assert world.advance(1_000) == [Retry(run, "0/a#0", 4)], "its earlier time is forgotten"
    assert of_kind(world.to_run(run, failed(run, "0/a#0", 4)), Deliver)
    assert world.run(run).open == {}


def test_only_the_current_attempt_fails(world: World) -> None:
    run = world.request()
    assert world.to_run(run, failed(run, "0/a#0", 2)) == []
    world.to_run(run, failed(run, "0/a#0", 1, 5_000))
    assert world.to_run(run, failed(run, "0/a#0", 1)) == []
    assert of_kind(world.to_run(run, completed(run, "0/a#0", attempt=1)), Deliver), "but any may succeed"
    assert world.advance(9_000) == []


def test_a_step_closed_before_its_outcome_has_none(world: World) -> None:
    run = world.request()
    close = OpClosed(run, "0/a#0", v=V)
    acts = world.to_run(run, close, completed(run, "0/a#0"), failed(run, "0/a#0"), close)
    assert acts == [Closed(run, "0/a#0", taken=False)]
    assert [line.record for line in world.view_of(run).lines.load(run)] == [close]


def test_crashes_are_counted_until_the_step_has_its_outcome(world: World) -> None:
    run = world.request()
    owner = world.start_owner(world.of_run(run))
    attempted = StepAttempted(run, "0/a#0", owner, v=V)
    assert world.to_run(run, attempted) == [Attempted(run, "0/a#0")]
    assert world.to_run(run, StepAttempted(run, "0/a#0", Owner(0, "zombie"), v=V)) == []
    world.to_run(run, StepAttempted(run, "0/a#0", owner, alone=True, v=V))
    crashes = world.run(run).crashes["0/a#0"]
    assert (crashes.count, crashes.alone, crashes.last_alone) == (2, 0, True)
    world.to_run(run, StepAttempted(run, "0/a#0", owner, alone=True, v=V))
    assert (crashes.count, crashes.alone) == (3, 1)
    world.to_run(run, completed(run, "0/a#0"))
    assert world.run(run).crashes == {}
    assert world.to_run(run, attempted) == []


# Sleeps


@pytest.mark.parametrize("sleep", [Sleep(for_ms=5_000), Sleep(until=1_005_000)])
def test_a_sleep_is_over_when_its_time_has_come(world: World, sleep: Sleep) -> None:
    run = world.request()
    world.to_run(run, opened(run, "0/s#0", sleep), opened(run, "0/s#0", sleep))
    assert world.advance(4_999) == []
    (deliver,) = of_kind(world.advance(1), Deliver)
    assert isinstance(deliver.outcome, TimerFired)
    assert (deliver.op, deliver.at) == ("0/s#0", 1_005_000)


@pytest.mark.parametrize("until", [-5, 0, 999_999])
def test_a_sleep_until_the_past_is_over_at_once(world: World, until: int) -> None:
    run = world.request()
    world.to_run(run, opened(run, "0/s#0", Sleep(until=until)))
    assert world.run(run).open["0/s#0"].due == world.now
    assert of_kind(world.advance(0), Deliver)


def test_a_closed_sleep_never_fires(world: World) -> None:
    run = world.request()
    world.to_run(run, slept(run, "0/s#0", 5), OpClosed(run, "0/s#0", v=V))
    assert world.advance(10) == []
    assert world.to_run(run, slept(run, "0/s#0", 5)) == [], "an op is opened once"


# Calls, watches and what needs no wait


def test_a_call_brings_the_childs_result(world: World) -> None:
    run, child = world.request(), run_id("child")
    world.to_run(run, called(run, "0/c#0", child, metadata={"a": "b"}))
    assert world.run(child).status == "running"
    assert world.run(child).metadata == {"a": "b"}
    acts = world.to_run(child, RunFinished(child, "completed", payload(5), v=V))
    (deliver,) = of_kind(acts, Deliver)
    assert isinstance(deliver.outcome, RunAnswered)
    assert (deliver.op, deliver.outcome.of, deliver.outcome.result) == ("0/c#0", child, payload(5))
    assert world.to_run(run, RunAnswered(run, "0/c#0", child, "failed", v=V)) == []


def test_a_closed_call_cancels_the_child(world: World) -> None:
    run, child = world.request(), run_id("child")
    world.to_run(run, called(run, "0/c#0", child), OpClosed(run, "0/c#0", v=V))
    assert world.run(child).status == "cancelled"
    assert of_kind(world.acts, Deliver) == []


def test_an_answer_is_for_who_asked(world: World) -> None:
    run = world.request()
    world.to_run(run, slept(run, "0/s#0", 5))
    assert world.to_run(run, RunAnswered(run, "0/s#0", run_id("other"), "completed", v=V)) == []
    assert "0/s#0" in world.run(run).open


def test_an_enqueued_run_is_on_its_own(world: World) -> None:
    run, child = world.request(), run_id("child")
    open_it = called(run, "0/e#0", child, awaited=False, delay_ms=5_000)
    assert of_kind(world.to_run(run, open_it, open_it), Deliver)[0].outcome == open_it
    assert len(of_kind(world.acts, Deliver)) == 1
    state = world.run(child)
    assert (state.status, state.cause, state.parent) == ("queued", "enqueue", None)
    world.to_run(run, RunCancelRequested(run, v=V))
    world.advance(5_000)
    assert world.run(child).status == "running"


def test_sent_events_are_received(world: World) -> None:
    world.define(on("paid"))
    run = world.request()
    sent = (event("e1", "paid"), event("e2", "paid"))
    (deliver, *_) = of_kind(world.to_run(run, opened(run, "0/send#0", Send(sent))), Deliver)
    assert deliver.op == "0/send#0"
    assert {one.event.id for one in world.records(EventReceived)} == {"e1", "e2"}
    assert world.run(run_of("e1")).status == world.run(run_of("e2")).status == "running"


def test_a_run_watches_another(world: World) -> None:
    run, other = world.request("run"), world.request("other")
    world.to_run(run, opened(run, "0/w#0", Watch(other, "result")), opened(run, "0/w#1", Watch(other, "status")))
    (deliver,) = of_kind(world.acts, Deliver)
    assert deliver.op == "0/w#1"
    world.to_run(other, RunFinished(other, "failed", error=ERROR, v=V))
    (_, deliver) = of_kind(world.acts, Deliver)
    assert isinstance(deliver.outcome, RunAnswered)
    assert (deliver.op, deliver.outcome.status, deliver.outcome.error) == ("0/w#0", "failed", ERROR)


def test_a_run_cancels_and_reruns_others(world: World) -> None:
    run, other, new = world.request("run"), world.request("other"), run_id("new")
    world.to_run(run, opened(run, "0/c#0", CancelRun(other, "why")), opened(run, "0/r#0", RerunRun(other, new)))
    assert len(of_kind(world.acts, Deliver)) == 2
    assert world.run(other).status == "cancelled"
    assert world.run(new).rerun_of == other


def test_what_is_asked_of_a_run_that_was_run_again_does_not_overtake_its_request(world: World) -> None:
    """It goes by way of the partitions that request it, however many stand between."""
    run, other = world.request("run"), world.request(_name_at(2))
    again, third = run_id(_name_at(1)), run_id(_name_at(0))
    world.to_run(
        run,
        opened(run, "0/r#0", RerunRun(other, again)),
        opened(run, "0/r#1", RerunRun(again, third, via=(other,))),
        opened(run, "0/w#0", Watch(third, "status", via=(other, again))),
    )
    *_, deliver = of_kind(world.acts, Deliver)
    assert isinstance(deliver.outcome, RunAnswered)
    assert (deliver.outcome.of, deliver.outcome.status) == (third, "running")
    assert world.run(third).rerun_of == again
    assert [watched.via for watched in world.records(RunWatched)] == [(), (third,), (again, third)]


def _name_at(partition: int) -> str:
    """A name whose run is in this partition of three."""
    return next(name for name in map(str, range(99)) if partition_of_run(run_id(name), 3) == partition)


def test_what_is_no_run_id_is_unknown_and_halts_nothing(world: World) -> None:
    run = world.request()
    openings: tuple[Opening, ...] = (CancelRun("x"), RerunRun("x", run_id("new")), Watch("x", "result"))
    for number, opening in enumerate(openings):
        world.to_run(run, opened(run, f"0/o#{number}", opening))
    assert len(of_kind(world.acts, Deliver)) == 3
    (answer,) = world.records(RunAnswered)
    assert (answer.op, answer.status) == ("0/o#2", "unknown")
    assert not world.records(RunCancelRequested)
    assert not world.records(RunRerunRequested)


# Waits


@pytest.fixture
def run(world: World) -> str:
    world.define(on("paid", "other", paths=PATHS))
    return world.request()


def subscribed(world: World, key: str = KEY) -> list[MatchSubscribed]:
    return [one for one in world.records(MatchSubscribed) if one.key == key]


def got(world: World) -> list[tuple[str, str | None]]:
    """Outcomes of waits: the op and its event, or None for a timeout."""
    outcomes = [(act.op, act.outcome) for act in of_kind(world.acts, Deliver)]
    return [(op, outcome.event_id if isinstance(outcome, MatchOffered) else None) for op, outcome in outcomes]


def test_a_wait_takes_an_event_and_takes_its_name_off_the_list(world: World, run: str) -> None:
    world.to_run(run, waited(run, "0/w#0", KEY), waited(run, "0/w#1", KEY))
    world.send(event("e1", "paid", cart="c"))
    world.send(event("e2", "paid", cart="c"))
    assert got(world) == [("0/w#0", "e1"), ("0/w#1", "e2")]
    assert [(one.g, [wait.op for wait in one.waits]) for one in subscribed(world)] == [
        (1, ["0/w#0"]),
        (2, ["0/w#0", "0/w#1"]),
        (3, ["0/w#1"]),
    ]
    assert world.run(run).waits == {}


def test_a_wait_that_times_out_leaves_the_list(world: World, run: str) -> None:
    world.to_run(run, waited(run, "0/w#0", KEY, timeout_ms=5_000))
    world.advance(5_000)
    world.send(event("e1", "paid", cart="c"))
    assert got(world) == [("0/w#0", None)]
    assert subscribed(world)[-1].waits == ()
    assert world.subscriptions() == {}


def test_an_event_in_time_stops_the_timeout(world: World, run: str) -> None:
    world.to_run(run, waited(run, "0/w#0", KEY, timeout_ms=5_000))
    world.send(event("e1", "paid", cart="c"))
    world.advance(9_000)
    assert got(world) == [("0/w#0", "e1")]


def test_an_event_is_consumed_once_whatever_the_key(world: World, run: str) -> None:
    world.to_run(run, waited(run, "0/w#0", KEY), waited(run, "0/w#1", OTHER))
    world.send(event("both", "paid", cart="c", user="u"))
    assert len(got(world)) == 1
    world.send(event("cart", "paid", cart="c"))
    world.send(event("user", "paid", user="u"))
    taken = {event_id for _, event_id in got(world)}
    assert len(got(world)) == 2
    assert "both" in taken


def test_an_offer_of_an_earlier_list_is_ignored(world: World, run: str) -> None:
    world.to_run(run, waited(run, "0/w#0", KEY), waited(run, "0/w#1", KEY))
    offer = MatchOffered(run, KEY, 1, "e1", 5, payload({}), op="0/w#0", v=V)
    assert world.to_run(run, offer, MatchOffered(run, "no such key", 1, "e1", 5, payload({}), op="0/w#0", v=V)) == []
    assert set(world.run(run).open) == {"0/w#0", "0/w#1"}


def test_closing_a_wait_gives_its_event_back(world: World, run: str) -> None:
    world.to_run(run, waited(run, "0/w#0", KEY))
    world.send(event("e1", "paid", cart="c"))
    world.to_run(run, waited(run, "0/w#1", KEY), OpClosed(run, "0/w#0", v=V))
    assert got(world) == [("0/w#0", "e1"), ("0/w#1", "e1")]
    world.to_run(run, waited(run, "0/w#2", KEY), OpClosed(run, "0/w#0", v=V))
    assert len(got(world)) == 2, "it is given back once"


def test_an_event_given_back_is_free_under_its_other_keys_too(world: World, run: str) -> None:
    world.to_run(run, waited(run, "0/w#0", KEY))
    world.send(event("both", "paid", cart="c", user="u"))
    world.to_run(run, waited(run, "0/w#1", OTHER))
    assert got(world) == [("0/w#0", "both")]
    assert world.run(run).keys[OTHER].elsewhere.keys() == {"both"}
    world.to_run(run, OpClosed(run, "0/w#0", v=V))
    assert got(world) == [("0/w#0", "both"), ("0/w#1", "both")]


def test_an_event_taken_beyond_another_can_be_given_back(world: World, run: str) -> None:
    world.to_run(run, waited(run, "0/other#0", OTHER), waited(run, "0/w#0", KEY, "async.data.x == 2"))
    world.send(event("passed over", "paid", cart="c", x=1))
    world.send(event("taken", "paid", cart="c", x=2))
    assert len(world.run(run).keys[KEY].also) == 1
    world.to_run(run, OpClosed(run, "0/w#0", v=V))
    assert world.run(run).keys[KEY].also == []
    world.to_run(run, waited(run, "0/w#1", KEY, "async.data.x == 2"))
    assert got(world) == [("0/w#0", "taken"), ("0/w#1", "taken")]


def test_what_was_passed_over_is_offered_to_a_later_wait(world: World, run: str) -> None:
    world.to_run(run, waited(run, "0/w#0", KEY, "async.data.x == 2"))
    for x in (1, 2, 3, 2):
        world.send(event(f"{x}.{len(got(world))}", "paid", cart="c", x=x))
    world.to_run(run, waited(run, "0/w#1", KEY, "async.data.x == 3"), waited(run, "0/w#2", KEY))
    world.to_run(run, waited(run, "0/w#3", KEY), waited(run, "0/w#4", KEY))
    assert got(world) == [("0/w#0", "2.0"), ("0/w#2", "1.0"), ("0/w#1", "3.1"), ("0/w#3", "2.1")]
    cursor = world.run(run).keys[KEY]
    assert (cursor.also, cursor.but) == ([], []), "all is consumed: one position says so"


def test_what_was_consumed_below_a_hole_is_one_position(world: World, run: str) -> None:
    """A run that takes every event but one again and again does not list them for ever."""
    world.to_run(run, waited(run, "0/all#0", KEY), waited(run, "0/all#1", KEY))
    for n in range(12):
        world.send(event(f"e{n}", "paid", cart="c", n=n))
        if n > 1:
            world.to_run(run, waited(run, f"0/w#{n}", KEY, "async.data.n != 4"))
    cursor = world.run(run).keys[KEY]
    assert len(got(world)) == 11
    assert len(cursor.also) == 7
    assert cursor.upto < min(cursor.also)


def test_what_was_consumed_before_the_look_back_is_forgotten(monkeypatch: pytest.MonkeyPatch, world: World) -> None:
    monkeypatch.setattr(ops, "SKEW_MS", 500)
    world.define(on("paid", "work", "false", paths=PATHS, lookback_ms=1_000))
    run = world.request()
    for n in range(5):
        world.to_run(run, waited(run, f"0/w#{n}", KEY), waited(run, f"0/u#{n}", OTHER))
        world.send(event(f"both{n}", "paid", cart="c", user="u"))
        world.send(event(f"cart{n}", "paid", cart="c"))
        world.send(event(f"user{n}", "paid", user="u"))
        world.now += 1_000
    state = world.run(run)
    assert len(got(world)) == 10
    assert set(state.taken) == {event_id for _, event_id in got(world)[-4:]}
    assert len(state.got) == 4
    assert set().union(*(cursor.elsewhere for cursor in state.keys.values())) <= set(state.taken)


def test_a_run_with_many_waits_says_of_each_key_only_its_own(world: World, run: str) -> None:
    keys = [key_of("paid", "data.cart", n) for n in range(50)]
    world.to_run(run, *(waited(run, f"0/w#{n}", key) for n, key in enumerate(keys)))
    assert all(len(one.waits) == 1 for one in world.records(MatchSubscribed))
    world.send(event("e", "paid", cart=7))
    assert got(world) == [("0/w#7", "e")]
    assert len(world.run(run).waits) == 49


# Continue


def test_a_successor_goes_on_where_the_run_left(world: World) -> None:
    world.define(on("paid", paths=PATHS))
    world.send(event("e0", "paid", cart="c"))
    run = run_of("e0")
    world.to_run(run, waited(run, "0/w#0", KEY), waited(run, "0/w#1", KEY), waited(run, "0/w#2", KEY))
    for n in (1, 2):
        world.send(event(f"e{n}", "paid", cart="c"))
    closes = ("0/w#1", "0/w#2")
    world.to_run(run, RunFinished(run, "continued", closes=closes, successor=event("next", "paid", turn=2), v=V))
    new = run_id(run, "continue")
    state = world.run(new)
    assert (state.cause, state.event_id, state.copies) == ("continue", "e0", world.records(RunRequested)[0].copies)
    assert set(state.taken) == {"e1"}
    world.to_run(new, waited(new, "0/w#0", KEY))
    assert got(world) == [("0/w#0", "e1"), ("0/w#1", "e2"), ("0/w#0", "e2")]


def test_loops_without_end_hand_on_only_what_the_look_back_holds(monkeypatch: pytest.MonkeyPatch, world: World) -> None:
    monkeypatch.setattr(ops, "SKEW_MS", 0)
    world.define(on("begin", "work", paths=PATHS, lookback_ms=2_500))
    world.send(event("e0", "begin"))
    run = run_of("e0")
    for n in range(10):
        world.to_run(run, waited(run, "0/w#0", KEY))
        world.send(event(f"e{n + 1}", "paid", cart="c"))
        world.to_run(run, RunFinished(run, "continued", successor=event(f"next{n}", "begin"), v=V))
        run = run_id(run, "continue")
        world.now += 1_000
    assert len(got(world)) == 10
    assert list(world.run(run).taken) == ["e8", "e9", "e10"]
