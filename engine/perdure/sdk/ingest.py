"""Events that any service wrote to the topic of events: read, checked, and taken into the journal.

    topic of events ─► read ─► event.received, in the journal partition of the event's id ─► durable: done
                          └──► what cannot be read: dead-letters, with the reason        ─► durable: done

What was read and is not done is read again, and its id makes it the same event: intake takes it once.

A record is one event, in one of three shapes, with or without a key:

- plain JSON, as Inngest's clients send it: `{"name": "cart/added", "data": {…}, "id": …, "user": …, "ts": …}`
- a CloudEvent, structured: content type `application/cloudevents+json`, or a body with `specversion`
- a CloudEvent, binary: headers `ce_specversion`, `ce_type`, `ce_id`, `ce_source`, … and the data as the body

The trace that it is of: its own `traceparent`, an attribute of CloudEvents, else the record's header of that name.

An event without an id gets its place as one (topic, partition, offset), so that a second reading is the same event. A
CloudEvent is known by source and id together, as its specification has it.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import msgspec
from msgspec import Raw

from perdure.errors import PayloadError
from perdure.flow import decode
from perdure.flow.routing import partition_of
from perdure.log.protocol import Arrived, Log
from perdure.sdk.event_input import ID_LIMIT, event_from_json
from perdure.sdk.json_guard import EVENT_LIMIT_BYTES, guard
from perdure.worker.tracing import checked
from perdure_schemas.event import EventBody
from perdure_schemas.records import AppDefined, Came, EventReceived, V

_ENCODE = msgspec.json.Encoder().encode
_STRUCTURED = "application/cloudevents+json"
_BATCHED = "application/cloudevents-batch+json"
_HEADER = "ce_"


class Born(NamedTuple):
    """When an app's first pod began: log time, and the ends of the topic's partitions."""

    at: int
    ends: Sequence[int]

    def is_after(self, arrived: Arrived) -> bool:
        """By both: brokers' clocks differ, and a topic that was deleted and made again counts from 0."""
        _, partition, offset = arrived.origin
        return partition < len(self.ends) and offset < self.ends[partition] and arrived.timestamp_ms < self.at


class Ingest:
    """Takes what arrives into the journal; not what came before the app was `born`."""

    def __init__(self, log: Log, born: Born | None) -> None:
        self._log = log
        self._born = born

    def take(self, arrived: Arrived) -> None:
        """For `Events.subscribe`."""
        if self._born is not None and self._born.is_after(arrived):
            arrived.done()
            return
        try:
            take_in(self._log, arrived)
        except PayloadError as error:
            assert self._log.events is not None, "it came from there"
            self._log.events.refuse(arrived, str(error))
            return
        arrived.done()


def take_in(log: Log, arrived: Arrived) -> EventBody:
    """Append it to the journal. Raises `PayloadError` for what is no event."""
    event = event_of(arrived)
    _, partition, offset = arrived.origin
    record = EventReceived(event, Came(partition, offset, arrived.timestamp_ms), v=V)
    log.append(partition_of(event.id, log.partitions), _ENCODE(record))
    return event


async def ends_of_events(log: Log) -> tuple[int, ...]:
    """For `app.defined`: what its first one says is what `born` finds. Nothing where it stood long ago."""
    return () if log.events is None or log.start(0) > 0 else tuple(await log.events.ends())


async def born(log: Log) -> Born | None:
    """None if that is too long ago to be kept, or in another log, of which this one is a copy."""
    offset = 0
    while log.start(0) == 0:
        try:
            batches = await log.fetch(0, offset, limit_bytes=1)
        except IndexError:
            return None  # trimmed since we heard of where it begins
        if not batches:
            return None
        for batch in batches:
            for raw in batch.values:
                record = decode(raw)
                if record.orig is not None:
                    return None
                if isinstance(record, AppDefined):
                    return Born(batch.timestamp_ms, record.events)
            offset = batch.offset + len(batch.values)
    return None


def event_of(arrived: Arrived) -> EventBody:
    """Raises `PayloadError` for what is no event."""
    headers = {name.lower(): value.decode("utf-8", "replace") for name, value in arrived.headers}
    place = "/".join(map(str, arrived.origin))
    traceparent = checked(headers.get("traceparent"))
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == _BATCHED:
        raise PayloadError(f"a batch of CloudEvents ({_BATCHED}): send each event as a record of its own")
    if f"{_HEADER}specversion" in headers and kind != _STRUCTURED:
        attributes = {name.removeprefix(_HEADER): text for name, text in headers.items() if name.startswith(_HEADER)}
        return _cloud_event(attributes, arrived.value, place, traceparent)
    raw = arrived.value
    guard(raw, limit=EVENT_LIMIT_BYTES, what="the event")
    if kind == _STRUCTURED or (b'"specversion"' in raw and not headers.get("content-type")):
        fields = _fields(raw)
        if kind == _STRUCTURED or "specversion" in fields:
            data = fields.pop("data", Raw(b""))
            return _cloud_event({name: _text(value) for name, value in fields.items()}, bytes(data), place, traceparent)
    return event_from_json(raw, place, traceparent)


def _cloud_event(attributes: Mapping[str, str], data: bytes, place: str, traceparent: str) -> EventBody:
    version = attributes.get("specversion", "")
    if not version.startswith("1."):
        raise PayloadError(f"a CloudEvent of version {version or 'none'}: version 1.0 is read here")
    if "data_base64" in attributes:
        raise PayloadError("the CloudEvent's data is binary (data_base64): JSON is needed")
    if data:
        guard(data, limit=EVENT_LIMIT_BYTES, what="the data of the CloudEvent")
    plain: dict[str, Any] = {
        "name": attributes.get("type", ""),
        "id": _identity(attributes),
        "data": Raw(data or b"{}"),
    }
    if "time" in attributes:
        plain["ts"] = _milliseconds(attributes["time"])
    return event_from_json(_ENCODE(plain), place, checked(attributes.get("traceparent")) or traceparent)


def _identity(attributes: Mapping[str, str]) -> str:
    """Source and id: two services may count alike."""
    found = [attributes[name] for name in ("source", "id") if attributes.get(name)]
    whole = "/".join(found)
    return whole if len(whole) <= ID_LIMIT or not found else found[-1]


def _milliseconds(time: str) -> int:
    try:
        moment = datetime.fromisoformat(time)
    except ValueError:
        raise PayloadError(
            f"the CloudEvent's time {time[:40]!r} is none: RFC 3339 is needed, 2026-01-31T12:00:00Z"
        ) from None
    return int(moment.timestamp() * 1000)


def _fields(raw: bytes) -> dict[str, Raw]:
    try:
        return msgspec.json.decode(raw, type=dict[str, Raw])
    except msgspec.ValidationError:
        return {}


def _text(value: Raw) -> str:
    found = msgspec.json.decode(value)
    return found if isinstance(found, str) else str(found)
