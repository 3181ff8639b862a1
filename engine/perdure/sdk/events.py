"""Events as user code sees them, their types, and what reacts to them."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Generic, TypeGuard, cast

import msgspec
from msgspec import Raw, Struct, field
from typing_extensions import TypeVar

from perdure.errors import DefinitionError, Duration, PayloadError
from perdure.flow.patterns import check_event_name
from perdure.worker.payloads import decoder_for, show

Scalar = str | int | bool
Json = dict[str, Any]
Match = str | Mapping[str, Scalar]
"""`"data.x"`: equal on the trigger and the incoming event; `{"data.id": value}`: equal to a value."""

A = TypeVar("A")
B = TypeVar("B")
D_co = TypeVar("D_co", covariant=True, default=dict[str, Any])


class Event(Struct, Generic[D_co], frozen=True):
    """A fact from outside. `id` makes it count once; an empty one is given when the event is sent."""

    name: str
    data: D_co
    id: str = ""
    user: Json = field(default_factory=dict[str, Any])
    ts: datetime | None = None
    """When it happened, for whoever sends it. In the future, it delays what the event starts."""
    v: str = ""

    def __post_init__(self) -> None:
        if self.ts is not None and self.ts.utcoffset() is None:
            raise PayloadError(f"event {self.name!r}, ts={self.ts.isoformat()}: naive datetime: give it a time zone")


class EventType(Generic[A]):
    """A name with the type of its data: `ADDED = EventType("cart/added", Cart)`.

    Calling it makes an event: `ADDED(Cart("c1"))`. `ADDED | REMOVED` stands for both: `on=ADDED | REMOVED`.
    """

    types: Mapping[str, Any]
    """Event name → type of its data; one entry, but for a union."""

    def __init__(self, name: str, data: type[A]) -> None:
        self.types = {check_event_name(name, what="EventType"): data}

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.types)

    @property
    def name(self) -> str:
        """The event's name; of a union, all of them."""
        return " | ".join(self.types)

    def __call__(self, data: A, *, id: str = "", user: Json | None = None, ts: datetime | None = None) -> Event[A]:
        """An event of this type. `ts` in the future delays what it starts."""
        if len(self.types) != 1:
            raise DefinitionError(f"{self!r} is a union: an event has one type; call that one")
        name, expected = next(iter(self.types.items()))
        if _checkable(expected) and not isinstance(data, expected):
            raise PayloadError(f"event {name!r} carries {show(expected)}, not {type(data).__name__}")
        return Event(name, data, id, user if user is not None else {}, ts)

    def __or__(self, other: "EventType[B]") -> "EventType[A | B]":
        for name in self.types.keys() & other.types.keys():
            if self.types[name] is not other.types[name]:
                raise DefinitionError(f"{self!r} | {other!r}: {name!r} cannot carry two types")
        union = cast("EventType[A | B]", object.__new__(EventType))
        union.types = {**self.types, **other.types}
        return union

    def __repr__(self) -> str:
        return " | ".join(f"EventType({name!r}, {show(data)})" for name, data in self.types.items())


def is_event_type(value: object) -> TypeGuard[EventType[Any]]:
    """isinstance, in words that say to type checkers that the data may be anything."""
    return isinstance(value, EventType)


def _checkable(expected: Any) -> bool:
    """Only classes of the user's own: typed dicts and generics know no instances, and `float` takes an int."""
    named = hasattr(expected, "__struct_fields__") or hasattr(expected, "__dataclass_fields__")
    return isinstance(expected, type) and (named or hasattr(expected, "model_validate_json"))


class Trigger(Struct, Generic[A], frozen=True):
    """An event that starts the function only if a condition holds: `Trigger(ADDED, where="event.data.total > 100")`."""

    event: EventType[A] | str
    where: str


class CancelOn(Struct, frozen=True):
    """A later event that cancels the run: `CancelOn(REMOVED, match="data.cart_id")`.

    `match` compares that path of both events; a mapping compares paths of the later one with values. In `where`, the
    trigger is `event` and the later event is `async`. Counts for `timeout` after the run began, or for all its life.
    """

    event: EventType[Any] | str
    match: Match = ""
    where: str = ""
    timeout: Duration | None = None


class _Wire(Struct, frozen=True):
    name: str
    data: Raw
    id: str = ""
    user: Json = field(default_factory=dict[str, Any])
    ts: int | datetime | None = None
    v: str = ""


class EventReader:
    """Stands where an annotation would: reads an event from JSON, its data into the type of its name.

    Reads both an `Event` among arguments and the log's own `EventBody`, whose `ts` is in milliseconds.
    """

    def __init__(self, types: Mapping[str, Any]) -> None:
        self.types = types

    def __perdure_decode__(self, raw: bytes | Raw) -> Event[Any]:
        wire = _decode_wire(raw)
        try:
            data = decoder_for(self.types.get(wire.name, Any))(wire.data)
        except msgspec.ValidationError as error:
            raise msgspec.ValidationError(f"data of {wire.name!r}: {error}") from error
        ts = _EPOCH + timedelta(milliseconds=wire.ts) if isinstance(wire.ts, int) else wire.ts
        return Event(wire.name, data, wire.id, wire.user, ts, wire.v)

    def __repr__(self) -> str:
        return "Event"


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_decode_wire = msgspec.json.Decoder(_Wire).decode
