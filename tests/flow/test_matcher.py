"""The matcher: one answer to a subscription, the earliest event after the trigger that a listed wait takes."""

from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from perdure.flow import matcher
from perdure.flow.intake import event_view
from perdure.flow.routing import partition_of, run_id
from perdure.flow.view import View
from perdure_schemas.event import EventBody
from perdure_schemas.payload import INLINE_LIMIT_BYTES
from perdure_schemas.records import Came, EventKeyed, ListedWait, MatchOffered, MatchSubscribed, V
from tests.flow.world import World, event, key_of, on

RUN = run_id("r")
KEY = key_of("paid", "data.cart", "c")
ANY = (ListedWait("w"),)


class Matched:
    """One key of a world without runs: what is subscribed and offered there."""

    def __init__(self, world: World, lookback_ms: int = 10_000) -> None:
        self.world = world
        world.define(on("paid", paths=(("paid", "data.cart"),), lookback_ms=lookback_ms))
        self.partition = partition_of(KEY, world.partitions)
        self.since = world.now

    @property
    def view(self) -> View:
        return self.world.owners[self.partition].view

    def copy(self, event_id: str, at: int | None = None, **fields: Any) -> int:
        """Returns its position."""
        data = {"cart": "c", **fields.pop("data", {})}
        record = EventKeyed(KEY, event(event_id, "paid", **data), self.world.now if at is None else at, v=V, **fields)
        position = self.world.append(self.partition, record)
        self.world.settle()
        return position

    def subscribe(self, g: int = 1, waits: tuple[ListedWait, ...] = ANY, run: str = RUN, **fields: Any) -> None:
        fields = {"since": self.since, "lookback_ms": 10_000, **fields}
        self.world.put(self.partition, MatchSubscribed(run, KEY, g, waits, v=V, **fields))

    def offered(self) -> list[str]:
        return [one.event_id for one in self.offers()]

    def offers(self) -> list[MatchOffered]:
        return self.world.records(MatchOffered)

    def standing(self) -> list[str]:
        return self.world.subscriptions().get(KEY, [])


@pytest.fixture
def matched(world: World) -> Matched:
    return Matched(world)


def test_an_event_that_is_there_is_offered_at_once(matched: Matched) -> None:
    position = matched.copy("e1")
    matched.copy("e2")
    matched.subscribe(g=7)
    (offer,) = matched.offers()
    assert (offer.run, offer.key, offer.g, offer.op, offer.rule) == (RUN, KEY, 7, "w", -1)
    assert (offer.event_id, offer.position, offer.hole) == ("e1", position, None)
    assert msgspec.json.decode(bytes(offer.event.inline))["id"] == "e1"  # type: ignore[arg-type]
    assert matched.standing() == []


def test_a_subscription_waits_and_is_answered_once(matched: Matched) -> None:
    matched.subscribe()
    assert matched.standing() == [RUN]
    matched.copy("e1")
    matched.copy("e2")
    assert matched.offered() == ["e1"]
    assert matched.standing() == []


def test_an_empty_list_ends_a_subscription(matched: Matched) -> None:
    matched.subscribe()
    matched.subscribe(g=2, waits=())
    matched.copy("e1")
    matched.subscribe(g=3, waits=())
    assert matched.offered() == matched.standing() == []


def test_several_runs_wait_in_order_of_their_coming(matched: Matched) -> None:
    first, second = run_id("first"), run_id("second")
    matched.subscribe(run=first)
    matched.subscribe(run=second)
    matched.subscribe(run=first, waits=(), rule=0)
    assert matched.standing() == [first, second]
    matched.copy("e1")
    assert {one.run for one in matched.offers()} == {first, second}


def test_the_first_opened_wait_that_takes_the_event_gets_it(matched: Matched) -> None:
    waits = (ListedWait("one", "async.data.x == 1"), ListedWait("two", "async.data.x == 2"), ListedWait("all"))
    matched.subscribe(waits=waits)
    matched.copy("e2", data={"x": 2})
    matched.subscribe(g=2, waits=waits[:1])
    matched.copy("e3", data={"x": 3})
    assert [(one.event_id, one.op) for one in matched.offers()] == [("e2", "two")]


def test_the_earliest_event_passed_over_is_told(matched: Matched) -> None:
    waits = (ListedWait("one", "async.data.x == 1"),)
    hole = matched.copy("e1", data={"x": 2})
    matched.copy("e2", data={"x": 2})
    matched.subscribe(waits=waits)
    matched.copy("e3", data={"x": 2})
    matched.copy("e4", data={"x": 1})
    matched.subscribe(g=2, waits=waits)
    assert [(one.event_id, one.hole) for one in matched.offers()] == [("e4", hole), ("e4", hole)]


def test_what_was_consumed_is_not_offered_again(matched: Matched) -> None:
    positions = [matched.copy(f"e{n}") for n in range(5)]
    matched.subscribe(upto=positions[1], also=(positions[2],))
    matched.subscribe(g=2, upto=positions[3], but=(positions[1],))
    matched.subscribe(g=3, upto=positions[4])
    assert matched.offered() == ["e3", "e1"]
    assert matched.standing() == [RUN]


def test_by_log_time_what_came_before_the_trigger_does_not_count(matched: Matched) -> None:
    matched.copy("before", at=matched.since - 1)
    matched.copy("with it", at=matched.since)
    matched.subscribe()
    assert matched.offered() == ["with it"]
    matched.subscribe(g=2, upto=1 << 30)
    matched.copy("an early clock's", at=matched.since - 1)
    assert len(matched.offers()) == 1


def test_on_its_own_key_the_copies_order_decides_not_their_times(matched: Matched) -> None:
    world, source = matched.world, 0
    before, trigger = [f"{n}" for n in range(50) if partition_of(f"{n}", world.partitions) == source][:2]
    sent = world.owners[source].view.meta.outseq.get(matched.partition, 0)
    own: dict[str, Any] = {"own": sent + 2, "source": source, "event_id": trigger}
    matched.subscribe(**own)
    world.now += 50
    world.send(event(before, "paid", cart="c"))
    assert matched.offered() == [], "the trigger's own copy has not come"
    world.now -= 50
    world.send(event(trigger, "paid", cart="c"))
    assert matched.standing() == [RUN]
    matched.copy("after", at=matched.since - 50)
    assert matched.offered() == ["after"]
    matched.subscribe(g=2, **own)
    assert matched.offered() == ["after", "after"]
    matched.subscribe(g=3, upto=matched.offers()[0].position, **own)
    assert matched.standing() == [RUN]


def test_a_trigger_is_not_its_own_event(matched: Matched) -> None:
    matched.copy("trigger")
    matched.subscribe(event_id="trigger")
    assert matched.offered() == []


def test_own_copy_past_the_look_back_is_known_to_have_come(world: World) -> None:
    """All that is kept came later, then: a wait opened after a day misses nothing."""
    matched = Matched(world, lookback_ms=1_000)
    sent = world.owners[0].view.meta.outseq.get(matched.partition, 0)
    (trigger,) = [f"{n}" for n in range(50) if partition_of(f"{n}", world.partitions) == 0][:1]
    world.send(event(trigger, "paid", cart="c"))
    world.now += 2_000
    world.touch()
    matched.copy("later")
    assert [copy.event.id for _, copy in matched.view.kept.items()] == ["later"]
    matched.subscribe(own=sent + 1, source=0, event_id=trigger)
    assert matched.offered() == ["later"]


def test_a_rule_ends_at_its_time(matched: Matched) -> None:
    matched.subscribe(until=matched.since + 100, rule=0)
    matched.copy("late", at=matched.since + 101)
    matched.copy("in time", at=matched.since + 100)
    assert [(one.event_id, one.rule) for one in matched.offers()] == [("in time", 0)]


def test_the_look_back_is_each_subscriptions_own(matched: Matched) -> None:
    matched.copy("e1")
    matched.world.now += 5_000
    matched.subscribe(lookback_ms=5_000)
    assert matched.offered() == []
    matched.subscribe(g=2, lookback_ms=5_001)
    assert matched.offered() == ["e1"]


def test_copies_go_after_the_longest_look_back(matched: Matched) -> None:
    matched.copy("e1")
    matched.world.now += 10_000
    matched.world.touch()
    assert len(list(matched.view.kept.items())) == 1
    matched.world.now += 1
    matched.world.touch()
    assert list(matched.view.kept.items()) == []


def test_a_copy_for_a_path_nobody_waits_on_any_more_is_kept_for_a_day(matched: Matched) -> None:
    key = key_of("unheard of", "data.cart", "c")
    matched.world.put(matched.partition, EventKeyed(key, event("e", "unheard of", cart="c"), matched.world.now, v=V))
    (row,) = matched.view.expiries.rows()
    assert int.from_bytes(row[2:10], "big") == matched.world.now + 86_400_000 + 1


def test_a_large_event_is_offered_whole(matched: Matched) -> None:
    matched.copy("e1", data={"text": "x" * INLINE_LIMIT_BYTES})
    matched.subscribe()
    (offer,) = matched.offers()
    assert isinstance(offer.event.inline, msgspec.Raw)
    assert len(bytes(offer.event.inline)) > INLINE_LIMIT_BYTES


def test_a_subscription_outlives_restarts(matched: Matched) -> None:
    waits = (ListedWait("one", "async.data.x == 1"),)
    matched.copy("e1", data={"x": 2})
    matched.subscribe(waits=waits)
    matched.world.checkpoint()
    matched.world.restart()
    matched.copy("e2", data={"x": 1})
    assert matched.offered() == ["e2"]


def test_a_busy_key_costs_a_new_subscription_what_came_since(matched: Matched, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wait by name alone shares its key with all events of that name."""
    for n in range(1_000):
        matched.world.append(matched.partition, EventKeyed(KEY, event(f"e{n}", "paid"), matched.since - 5_000 + n, v=V))
    matched.world.settle()
    matched.world.checkpoint()
    read = 0
    scan = matched.world.stores[matched.partition].scan

    def counting(prefix: bytes, /, start: bytes = b"", limit: int = 0) -> list[tuple[bytes, bytes]]:
        nonlocal read
        rows = scan(prefix, start, limit)
        read += len(rows)
        return rows

    monkeypatch.setattr(matched.world.stores[matched.partition], "scan", counting)
    matched.subscribe(since=matched.since - 4_010)
    assert matched.offered() == ["e990"]
    assert read < 200
    read = 0
    matched.subscribe(g=2, since=0, upto=matched.offers()[0].position)
    assert matched.offered()[1:] == ["e991"]
    assert read < 20


def test_an_event_is_decoded_once_for_all_who_wait(matched: Matched, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[str] = []

    def counting(body: EventBody) -> Mapping[str, Any]:
        decoded.append(body.id)
        return event_view(body)

    monkeypatch.setattr(matcher, "event_view", counting)
    for n in range(10):
        waits = (ListedWait("never", "async.data.x == 0"), ListedWait("mine", f"async.data.x == {n + 1}"))
        matched.subscribe(run=run_id(str(n)), waits=waits)
    matched.copy("e1", data={"x": 3})
    assert [one.run for one in matched.offers()] == [run_id("2")]
    assert decoded == ["e1"]


def test_what_came_later_is_after_the_trigger_though_it_was_taken_in_first(matched: Matched) -> None:
    """The topic of events has its own order, and pods take its partitions in side by side."""
    trigger = Came(0, 70, 2_000)
    matched.copy("later", matched.since - 5, came=Came(1, 3, 2_001))
    matched.copy("earlier", matched.since + 5, came=Came(1, 2, 1_999))
    matched.subscribe(since=2_000, came=trigger)
    assert matched.offered() == ["later"]


def test_on_the_trigger_s_own_key_too_whichever_copy_came_here_first(matched: Matched) -> None:
    world, source = matched.world, 0
    later, trigger, earlier = [f"{n}" for n in range(50) if partition_of(f"{n}", world.partitions) == source][:3]
    world.send(event(later, "paid", cart="c"), Came(1, 3, 2_001))
    sent = world.owners[source].view.meta.outseq.get(matched.partition, 0)
    own: dict[str, Any] = {"since": 2_000, "came": Came(0, 70, 2_000), "own": sent + 1, "source": source}
    matched.subscribe(event_id=trigger, **own)
    assert matched.offered() == [], "the trigger's own copy has not come"
    world.send(event(trigger, "paid", cart="c"), Came(0, 70, 2_000))
    assert matched.offered() == [later]
    matched.subscribe(g=2, event_id=trigger, upto=matched.offers()[0].position, **own)
    world.send(event(earlier, "paid", cart="c"), Came(1, 2, 1_999))
    assert matched.offered() == [later]
    assert matched.standing() == [RUN]


def test_of_one_millisecond_of_two_partitions_the_own_copies_order_decides(matched: Matched) -> None:
    world, source = matched.world, 0
    before, trigger, after = [f"{n}" for n in range(50) if partition_of(f"{n}", world.partitions) == source][:3]
    world.send(event(before, "paid", cart="c"), Came(1, 70, 2_000))
    sent = world.owners[source].view.meta.outseq.get(matched.partition, 0)
    world.send(event(trigger, "paid", cart="c"), Came(0, 70, 2_000))
    world.send(event(after, "paid", cart="c"), Came(1, 71, 2_000))
    matched.subscribe(since=2_000, came=Came(0, 70, 2_000), own=sent + 1, source=source, event_id=trigger)
    assert matched.offered() == [after]


@pytest.mark.parametrize(("offset", "after"), [(69, False), (71, True)])
def test_of_one_millisecond_the_offset_decides(matched: Matched, offset: int, after: bool) -> None:
    matched.copy("e1", came=Came(0, offset, 2_000))
    matched.subscribe(since=2_000, came=Came(0, 70, 2_000))
    assert matched.offered() == ["e1"] * after


def test_of_one_millisecond_of_two_partitions_either_may_be_after(matched: Matched) -> None:
    matched.copy("e1", came=Came(1, 3, 2_000))
    matched.subscribe(since=2_000, came=Came(0, 70, 2_000))
    assert matched.offered() == ["e1"]


def test_what_came_by_no_topic_is_after_by_its_time(matched: Matched) -> None:
    """What a run sent itself, or a command to run again."""
    since = matched.since
    matched.copy("before", since - 1)
    matched.copy("after", since)
    matched.subscribe(came=Came(0, 70, since))
    assert matched.offered() == ["after"]
    matched.copy("before the command", came=Came(0, 71, since + 9))
    matched.subscribe(g=2, since=since + 10, upto=matched.offers()[0].position)
    assert matched.offered() == ["after"]


def test_a_rule_s_time_goes_by_when_events_came(matched: Matched) -> None:
    """A pod that was away for long takes in late what came in time."""
    matched.copy("late", came=Came(0, 72, 2_011))
    matched.copy("in time", came=Came(0, 71, 2_010))
    matched.subscribe(since=2_000, came=Came(0, 70, 2_000), until=2_010, rule=0)
    assert matched.offered() == ["in time"]
