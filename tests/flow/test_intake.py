"""Intake: duplicates end here; what an event starts and whom it concerns is sent on."""

import msgspec
import pytest

from perdure.flow.intake import backfill_request, cancel_rules, event_view
from perdure_schemas.definition import CancelDefined, FunctionDefined
from perdure_schemas.payload import INLINE_LIMIT_BYTES
from perdure_schemas.records import Came, CancelRule, EventKeyed, RunRequested
from tests.flow.world import World, event, key_of, on, run_of


def requested(world: World) -> list[str]:
    return sorted(one.function for one in world.records(RunRequested))


def test_an_event_starts_each_triggered_function_once(world: World) -> None:
    twice = FunctionDefined("twice", "event", (*on("added").triggers, *on("*").triggers))
    world.define(on("added", "exact"), on("add*", "wild"), on("paid", "other"), twice)
    world.send(event("e1"))
    assert requested(world) == ["exact", "twice", "wild"]
    (request,) = (one for one in world.records(RunRequested) if one.function == "exact")
    assert request.run == run_of("e1", "exact")
    assert world.run(request.run).status == "running"


def test_a_condition_decides(world: World) -> None:
    world.define(on("added", where="event.data.total > 10"))
    world.send(event("small", total=10))
    world.send(event("none"))
    world.send(event("large", total=11))
    assert [one.event_id for one in world.records(RunRequested)] == ["large"]


def test_the_same_event_again_changes_nothing(world: World) -> None:
    world.define(on("added", paths=(("added", "data.cart"),)))
    world.send(event("e1", cart="c"))
    before = [owner.view.logical() for owner in world.owners]
    world.send(event("e1", cart="d"))
    assert [owner.view.logical() for owner in world.owners] == before
    assert len(world.records(RunRequested)) == len(world.records(EventKeyed)) == 1


def test_a_copy_goes_to_the_join_key_of_each_path(world: World) -> None:
    paths = (("added", "data.cart"), ("added", "data.user"), ("added", ""), ("paid", "data.cart"))
    world.define(on("added", paths=paths))
    world.send(event("e1", cart="c", user=None))
    copies = {one.key: one for one in world.records(EventKeyed)}
    assert set(copies) == {key_of("added", "data.cart", "c"), '["added","",""]'}
    assert all(one.at == world.now for one in copies.values())


def test_the_run_is_told_where_its_own_event_stands(world: World) -> None:
    world.define(on("added", paths=(("added", "data.cart"), ("added", ""))))
    world.send(event("e0", cart="c"))
    world.send(event("e1", cart="c"))
    requests = {one.event_id: one for one in world.records(RunRequested)}
    for copy in world.records(EventKeyed):
        assert copy.from_ == (requests[copy.event.id].source, requests[copy.event.id].copies[copy.key])


def test_when_it_came_to_its_topic_goes_with_it(world: World) -> None:
    """Not when it was taken in."""
    came = Came(2, 17, world.now - 5_000)
    world.define(on("added", paths=(("added", "data.cart"),)))
    world.send(event("e1", cart="c"), came)
    (request,), (copy,) = world.records(RunRequested), world.records(EventKeyed)
    assert (request.came, request.since) == (came, came.at)
    assert (copy.came, copy.at) == (came, world.now)
    assert world.run(request.run).since == came.at


@pytest.mark.parametrize("size", [INLINE_LIMIT_BYTES // 2, 2 * INLINE_LIMIT_BYTES])
def test_a_large_event_is_kept_whole_by_its_run(world: World, size: int) -> None:
    world.define(on("added"), on("added", "also"))
    body = event("e1", text="x" * size)
    world.send(body)
    one, two = (one.event for one in world.records(RunRequested))
    assert one is not None
    assert two is not None
    assert one.inline == two.inline == msgspec.Raw(msgspec.json.encode(body))
    run = run_of("e1", "also")
    kept = world.run(run).event
    assert kept is not None
    assert (kept.ref is None) is (size < INLINE_LIMIT_BYTES)
    assert world.view_of(run).inline(kept, "event") == one


def test_a_time_in_the_future_delays_the_start(world: World) -> None:
    world.define(on("added"))
    world.send(event("later", ts=world.now + 5_000))
    world.send(event("past", ts=world.now - 5_000))
    assert world.run(run_of("past")).status == "running"
    world.advance(4_999)
    assert world.run(run_of("later")).status == "queued"
    world.advance(1)
    assert world.run(run_of("later")).status == "running"


def test_cancel_rules_take_the_triggers_values() -> None:
    defined = FunctionDefined(
        "f",
        "event",
        cancel_on=(
            CancelDefined("paid", "data.cart", "data.cart"),
            CancelDefined("paid", "data.cart", "data.nothing"),
            CancelDefined("gone", "data.id", value=7, timeout_ms=5),
            CancelDefined("gone", "data.id", value=True),
            CancelDefined("over", where="async.data.total > event.data.total"),
            CancelDefined("over", where="async.data.total > event.data.nothing"),
        ),
    )
    assert cancel_rules(defined, event_view(event("e", cart="c", total=3))) == (
        CancelRule(key_of("paid", "data.cart", "c")),
        CancelRule(key_of("gone", "data.id", 7), timeout_ms=5),
        CancelRule(key_of("gone", "data.id", True)),
        CancelRule('["over","",""]', "async.data.total > 3"),
        CancelRule('["over","",""]', "false"),
    )


def test_a_backfill_asks_for_the_run_that_intake_would_have_asked_for(world: World) -> None:
    """Where that was asked for, it changes nothing; where it was not, it is the one that there is from then on."""
    rules = (CancelDefined("gone", "data.cart", "data.cart"),)
    shipped = on("added", "ship", where="event.data.total > 10", cancel_on=rules)
    world.define(shipped)
    world.send(event("e1", total=11, cart="c"))
    (asked,) = world.records(RunRequested)
    routes = world.owners[0].view.routes()
    assert routes is not None
    again = backfill_request(routes, "ship", event("e1", total=11, cart="c"), "job")
    assert again is not None
    assert (again.run, again.event, again.rules) == (asked.run, asked.event, asked.rules)
    assert backfill_request(routes, "ship", event("e2", total=10), "job") is None
    assert backfill_request(routes, "other", event("e1", total=11), "job") is None
    before = [owner.view.logical() for owner in world.owners]
    world.to_run(again.run, again)
    assert [owner.view.logical() for owner in world.owners] == before
