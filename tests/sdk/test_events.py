"""Events, their types, and the triggers made of them."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypedDict

import msgspec
import pytest
from msgspec import Raw, Struct
from pydantic import BaseModel

from perdure.errors import DefinitionError, PayloadError
from perdure.sdk.events import CancelOn, Event, EventReader, EventType, Trigger
from perdure.sdk.triggers import triggers_of
from perdure_schemas.definition import TriggerDefined
from perdure_schemas.event import EventBody


class Cart(Struct):
    cart_id: str
    total: int = 0


@dataclass
class Removed:
    cart_id: str


class Bought(BaseModel):
    order_id: str


class Left(TypedDict):
    cart_id: str


ADDED = EventType("cart/added", Cart)
REMOVED = EventType("cart/removed", Removed)
BOUGHT = EventType("cart/bought", Bought)
LEFT = EventType("cart/left", Left)


class TestEvent:
    def test_its_defaults(self):
        event = Event("cart/added", {"cart_id": "c"})
        assert (event.id, event.user, event.ts, event.v) == ("", {}, None, "")

    def test_it_cannot_be_changed(self):
        with pytest.raises(AttributeError):
            Event("a", {}).name = "b"  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]

    def test_users_are_not_shared(self):
        one: Event = Event("a", {})
        other: Event = Event("a", {})
        one.user["id"] = 1
        assert other.user == {}

    def test_a_naive_time_is_refused(self):
        with pytest.raises(PayloadError, match=r"'a', ts=2026-05-01T00:00:00: naive datetime: give it a time zone"):
            Event("a", {}, ts=datetime(2026, 5, 1))  # noqa: DTZ001

    def test_an_aware_time_is_not(self):
        assert Event("a", {}, ts=datetime(2026, 5, 1, tzinfo=UTC)).ts is not None


class TestEventType:
    def test_calling_it_makes_an_event(self):
        at = datetime(2026, 5, 1, tzinfo=UTC)
        event = ADDED(Cart("c1"), id="e1", user={"id": 7}, ts=at)
        assert event == Event("cart/added", Cart("c1"), "e1", {"id": 7}, at)

    def test_its_name_and_type(self):
        assert ADDED.name == "cart/added"
        assert ADDED.names == ("cart/added",)
        assert ADDED.types == {"cart/added": Cart}
        assert repr(ADDED) == "EventType('cart/added', Cart)"

    def test_a_union_remembers_both(self):
        either = ADDED | REMOVED | BOUGHT
        assert either.types == {"cart/added": Cart, "cart/removed": Removed, "cart/bought": Bought}
        assert either.name == "cart/added | cart/removed | cart/bought"
        assert ADDED.names == ("cart/added",)

    def test_a_union_makes_no_event(self):
        with pytest.raises(DefinitionError, match="is a union: an event has one type"):
            (ADDED | REMOVED)(Cart("c"))

    def test_one_name_carries_one_type(self):
        assert (ADDED | ADDED).types == ADDED.types
        with pytest.raises(DefinitionError, match="'cart/added' cannot carry two types"):
            _ = ADDED | EventType("cart/added", Removed)

    @pytest.mark.parametrize("kind", [ADDED, REMOVED, BOUGHT])
    def test_other_data_is_refused_where_it_is_made(self, kind: EventType[Any]):
        with pytest.raises(PayloadError, match=rf"event '{kind.name}' carries \w+, not dict"):
            kind({"cart_id": "c"})

    def test_typed_dicts_know_no_instances(self):
        assert LEFT({"cart_id": "c"}).data == {"cart_id": "c"}

    @pytest.mark.parametrize(
        ("name", "found"),
        [("", "empty"), ("cart/*", "stands for many names"), (" a", "blank"), (5, "EventType 5: a text")],
    )
    def test_bad_names(self, name: Any, found: str):
        with pytest.raises(DefinitionError, match=found):
            EventType(name, Cart)


class TestReading:
    reader = EventReader({"cart/added": Cart, "cart/bought": Bought})

    def test_data_gets_the_type_of_its_name(self):
        raw = msgspec.json.encode(ADDED(Cart("c1", 3), id="e"))
        assert self.reader.__perdure_decode__(raw) == ADDED(Cart("c1", 3), id="e")
        bought = self.reader.__perdure_decode__(b'{"name":"cart/bought","data":{"order_id":"o"}}')
        assert bought.data == Bought(order_id="o")

    def test_unknown_names_keep_plain_data(self):
        assert self.reader.__perdure_decode__(b'{"name":"x","data":{"a":[1]}}').data == {"a": [1]}

    def test_the_logs_own_form_has_its_time_in_milliseconds(self):
        body = EventBody("e", "x", Raw(b"{}"), Raw(b'{"id":1}'), 1_777_636_800_123, "2")
        event = self.reader.__perdure_decode__(Raw(msgspec.json.encode(body)))
        assert event.ts == datetime(2026, 5, 1, 12, 0, 0, 123_000, tzinfo=UTC)
        assert (event.id, event.user, event.v) == ("e", {"id": 1}, "2")

    def test_data_that_does_not_fit_names_the_event(self):
        with pytest.raises(msgspec.ValidationError, match=r"data of 'cart/added': .*missing required field `cart_id`"):
            self.reader.__perdure_decode__(b'{"name":"cart/added","data":{}}')


class TestTriggers:
    @pytest.mark.parametrize(
        ("on", "names"),
        [
            ("cart/added", ["cart/added"]),
            ("cart/*", ["cart/*"]),
            (["a", "b/*", "a"], ["a", "b/*"]),
            (ADDED, ["cart/added"]),
            (ADDED | REMOVED, ["cart/added", "cart/removed"]),
            ([ADDED, "x"], ["cart/added", "x"]),
        ],
    )
    def test_all_that_on_takes(self, on: object, names: list[str]):
        triggers, _ = triggers_of(on)
        assert [trigger.event for trigger in triggers] == names

    def test_types_are_known_where_an_event_type_says_them(self):
        assert triggers_of([ADDED | REMOVED, "x"])[1] == {"cart/added": Cart, "cart/removed": Removed}

    def test_a_condition_holds_for_every_name_of_a_union(self):
        where = "event.data.cart_id != ''"
        triggers, types = triggers_of(Trigger(ADDED | REMOVED, where=where))
        assert triggers == (TriggerDefined("cart/added", where), TriggerDefined("cart/removed", where))
        assert set(types) == {"cart/added", "cart/removed"}

    @pytest.mark.parametrize(
        ("on", "found"),
        [
            ([], "at least one event"),
            (5, "on=5: an EventType, a name"),
            ("a*b", "only once and at the end"),
            (Trigger("a", where=""), "empty"),
            (Trigger("a", where="event.data.x >"), "expected a value"),
            (Trigger("a", where="async.data.x == 1"), "async"),
            ([["a"], 5], "on=5"),
            ([ADDED, EventType("cart/added", Removed)], "cannot carry two types"),
        ],
    )
    def test_what_it_does_not_take(self, on: object, found: str):
        with pytest.raises(DefinitionError, match=found):
            triggers_of(on)


def test_cancel_on_takes_its_event_by_position():
    rule = CancelOn(REMOVED, match="data.cart_id")
    assert (rule.event, rule.match, rule.where, rule.timeout) == (REMOVED, "data.cart_id", "", None)
