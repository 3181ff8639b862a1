"""Events from outside, in the shape that Inngest's clients send: `{name, data, id?, user?, ts?, v?}`.

And `traceparent?`, which tells of the trace that an event is of, and is never a reason to refuse it.
"""

import secrets
import time
from difflib import get_close_matches
from typing import Any

import msgspec
from msgspec import Raw

from perdure.errors import DefinitionError, PayloadError, PayloadTooLarge
from perdure.flow.patterns import RESERVED, check_event_name
from perdure.sdk.json_guard import EVENT_LIMIT_BYTES, compact
from perdure.worker.tracing import checked
from perdure_schemas.event import EventBody

ID_LIMIT = 256
"""Characters of the longest event id."""

LATEST_MS = 253_402_300_799_999
"""The last millisecond of the year 9999, and so of what Python's datetime can tell."""

_FIELDS = ("name", "data", "id", "user", "ts", "v", "traceparent")
_EMPTY = Raw(b"{}")
_decode_fields = msgspec.json.Decoder(dict[str, Raw]).decode


def new_event_id() -> str:
    """A UUID of version 7: sortable by the time it was made, to the millisecond."""
    return _uuid7(time.time_ns() // 1_000_000, secrets.token_bytes(10))


def seeded_event_id(ms: int, entropy: bytes) -> str:
    """The same id for the same seed, so that a client that sends a request again makes no second event."""
    return _uuid7(ms, entropy[:10].ljust(10, b"\0"))


def event_from_json(item: Raw | bytes, fallback_id: str = "", traceparent: str = "") -> EventBody:
    """An event from JSON that `guard` has let pass. One without an id gets `fallback_id`, or a new one.

    `traceparent`: that of whatever brought it, for one that has none of its own.

    Raises `PayloadError` that says what to change. Unknown fields are refused: a misspelt `data` would be lost.
    """
    if len(item) > EVENT_LIMIT_BYTES:
        raise PayloadTooLarge(
            f"the event has {len(item):,} bytes and may have {EVENT_LIMIT_BYTES:,}: "
            "keep large data elsewhere and send its key"
        )
    try:
        fields = _decode_fields(item)
    except msgspec.ValidationError:
        raise PayloadError('an event is a JSON object such as {"name": "cart/added", "data": {}}') from None
    for unknown in fields.keys() - set(_FIELDS):
        close = get_close_matches(unknown, _FIELDS, 1)
        instead = f"did you mean {close[0]!r}?" if close else f"put it in 'data'; an event has {', '.join(_FIELDS)}"
        raise PayloadError(f"an event has no field {unknown[:40]!r}: {instead}")
    return EventBody(
        id=_id(fields.get("id")) or fallback_id or new_event_id(),
        name=_name(fields.get("name")),
        data=_object(fields.get("data"), "data"),
        user=_object(fields.get("user"), "user"),
        ts=_ts(fields.get("ts")),
        v=_version(fields.get("v")),
        traceparent=_traceparent(fields.get("traceparent")) or traceparent,
    )


def check_event_id(text: str, what: str = "the event id") -> str:
    """The id, if an event can have it: it stands in URLs, in lists, and on terminals."""
    if len(text) > ID_LIMIT:
        raise PayloadError(f"{what} has {len(text)} characters and may have {ID_LIMIT}")
    if not text.isprintable() or text != text.strip():
        raise PayloadError(f"{what} {text[:40]!r} has control characters, or blanks at its ends: take them out")
    return text


def _name(raw: Raw | None) -> str:
    if raw is None:
        raise PayloadError("the event has no name: say for example 'cart/added'")
    try:
        name = check_event_name(_value(raw))
    except DefinitionError as error:
        raise PayloadError(str(error)) from None
    if name.startswith(RESERVED):
        raise PayloadError(f"event name {name!r}: names in {RESERVED!r} are the engine's own; choose another")
    return name


def _id(raw: Raw | None) -> str:
    # Inngest's Python client leaves an unset id empty, others send null.
    return check_event_id(_string(raw, "the event id"))


def _object(raw: Raw | None, field: str) -> Raw:
    content = b"null" if raw is None else bytes(raw)
    if content == b"null":
        return _EMPTY
    if not content.startswith(b"{"):
        raise PayloadError(f'{field!r} must be a JSON object, not {_kind(_value(content))}: {{"value": …}} would do')
    return compact(content)


def _ts(raw: Raw | None) -> int | None:
    # 0 is how the Go and Python clients spell a missing time.
    value = None if raw is None else _value(raw)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool):
        raise PayloadError(f"'ts' must be whole milliseconds since 1970, not {_kind(value)}")
    if value == 0:
        return None
    if not 0 < value <= LATEST_MS:
        raise PayloadError(f"'ts' {value} is not a time: send milliseconds since 1970, up to the year 9999")
    return value


def _version(raw: Raw | None) -> str:
    return check_event_id(_string(raw, "'v'"), "'v'")


def _traceparent(raw: Raw | None) -> str:
    return "" if raw is None else checked(_value(raw))


def _string(raw: Raw | None, what: str) -> str:
    value = None if raw is None else _value(raw)
    if value is None or isinstance(value, str):
        return value or ""
    raise PayloadError(f"{what} must be a text, not {_kind(value)}")


def _value(raw: Raw | bytes) -> Any:
    return msgspec.json.decode(raw)


def _kind(value: object) -> str:
    if value is None:
        return "null"
    names: dict[type, str] = {bool: "true or false", str: "a text", list: "a list", dict: "an object"}
    return names.get(type(value), "a number")


def _uuid7(ms: int, entropy: bytes) -> str:
    number = (ms & (1 << 48) - 1) << 80 | int.from_bytes(entropy)
    number = number & ~(0xF << 76) | 0x7 << 76
    number = number & ~(0x3 << 62) | 0x2 << 62
    text = f"{number:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
