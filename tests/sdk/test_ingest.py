"""What a record of the topic of events is taken for."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from perdure.errors import PayloadError
from perdure.flow import decode
from perdure.log.memory import MemoryLog
from perdure.sdk.ingest import Born, Ingest, born, event_of, take_in
from perdure.sdk.json_guard import EVENT_LIMIT_BYTES
from perdure_schemas.records import AppDefined, Came, EventReceived, Orig, Owner, OwnerStarted, V
from tests.flow.world import definition_of

BINARY = {"ce_specversion": "1.0", "ce_type": "cart/added", "ce_id": "7", "ce_source": "/shop"}
STRUCTURED = {"specversion": "1.0", "type": "cart/added", "id": "7", "source": "/shop"}
JSON = "application/cloudevents+json"


class Record:
    """As a log gives it."""

    def __init__(
        self, value: object, headers: dict[str, str] | None = None, *, partition: int = 3, offset: int = 14, at: int = 0
    ) -> None:
        self.value = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.headers: Sequence[tuple[str, bytes]] = [(name, text.encode()) for name, text in (headers or {}).items()]
        self.origin = ("events", partition, offset)
        self.timestamp_ms = at

    def done(self) -> None: ...


def read(value: object, **headers: str) -> tuple[str, str, Any, int | None]:
    """Name, id, data, time."""
    event = event_of(Record(value, {name.replace("_type", "-type"): text for name, text in headers.items()}))
    return event.name, event.id, json.loads(bytes(event.data)), event.ts


def test_plain_json() -> None:
    event = event_of(Record({"name": "cart/added", "id": "a", "data": {"n": 1}, "user": {"id": "ada"}, "ts": 5}))
    assert (event.name, event.id, event.ts) == ("cart/added", "a", 5)
    assert (bytes(event.data), bytes(event.user)) == (b'{"n": 1}', b'{"id": "ada"}')


def test_an_event_without_an_id_has_its_place_as_one() -> None:
    """However often it is read."""
    assert read({"name": "cart/added"}) == ("cart/added", "events/3/14", {}, None)


def test_a_structured_cloud_event() -> None:
    later = STRUCTURED | {"data": {"n": 1}, "time": "2026-01-31T12:00:00.5Z", "subject": "c1", "tries": 2}
    expected = ("cart/added", "/shop/7", {"n": 1}, 1_769_860_800_500)
    assert read(later) == expected
    assert event_of(Record(later, {"content-type": f"{JSON}; charset=utf-8"})).id == "/shop/7"


def test_a_binary_cloud_event() -> None:
    headers = BINARY | {"ce_time": "2026-01-31T12:00:00Z", "content-type": "application/json"}
    event = event_of(Record({"n": 1}, headers))
    assert (event.name, event.id, event.ts) == ("cart/added", "/shop/7", 1_769_860_800_000)
    assert [bytes(event_of(Record(value, BINARY)).data) for value in ({"n": 1}, b"")] == [b'{"n": 1}', b"{}"]


def test_an_event_that_only_speaks_of_specversions_is_plain() -> None:
    assert read({"name": "cart/added", "data": {"specversion": "1.0"}})[2] == {"specversion": "1.0"}


def test_a_long_source_leaves_the_id() -> None:
    assert event_of(Record(b"", BINARY | {"ce_source": "/" + "x" * 300})).id == "7"


@pytest.mark.parametrize(
    ("value", "headers", "reason"),
    [
        (b"", {}, "is empty"),
        (b"nonsense", {}, "not JSON"),
        (b"[1]", {}, "JSON object"),
        ({"data": {}}, {}, "has no name"),
        ({"name": "x", "dta": {}}, {}, "did you mean 'data'"),
        ({"name": "perdure/x"}, {}, "the engine's own"),
        (b'{"name": "x", "name": "y"}', {}, "twice"),
        (b'{"name": "x", "data": {"n": NaN}}', {}, "NaN"),
        (b"[" * 65 + b"]" * 65, {}, "deep"),
        (b'{"name": "x", "data": "' + b"x" * EVENT_LIMIT_BYTES + b'"}', {}, "bytes and may have"),
        (b"{}", {"content-type": "application/cloudevents-batch+json"}, "a record of its own"),
        (STRUCTURED | {"specversion": "0.3"}, {}, "version 0.3"),
        (STRUCTURED | {"time": "yesterday"}, {}, "RFC 3339|2026-01-31"),
        (STRUCTURED | {"data_base64": "AA=="}, {}, "data_base64"),
        (STRUCTURED | {"data": [1]}, {}, "must be a JSON object"),
        ({}, {"content-type": JSON}, "version none"),
        (b"\xff", BINARY, "UTF-8"),
        (b"{}", BINARY | {"ce_type": ""}, "name"),
    ],
)
def test_what_is_no_event_says_why(value: object, headers: dict[str, str], reason: str) -> None:
    with pytest.raises(PayloadError, match=reason):
        event_of(Record(value, headers))


async def received(log: MemoryLog) -> list[EventReceived]:
    await asyncio.sleep(0)
    records = [decode(raw) for batch in await log.fetch(0, 0) for raw in batch.values]
    return [record for record in records if isinstance(record, EventReceived)]


async def test_it_says_where_and_when_it_came() -> None:
    log = MemoryLog(1, lambda: 9_000)
    await log.open()
    take_in(log, Record({"name": "a", "id": "e"}, partition=2, offset=17, at=5_000))
    (record,) = await received(log)
    assert record.came == Came(2, 17, 5_000)
    await log.close()


def defined(*ends: int, orig: Orig | None = None) -> bytes:
    return msgspec.json.encode(AppDefined(definition_of(), events=ends, orig=orig, v=V))


STARTED = msgspec.json.encode(OwnerStarted(Owner(1, "t"), "code", 1, v=V))


async def born_of(*journal: bytes) -> Born | None:
    log = MemoryLog(1, lambda: 9_000)
    await log.open()
    for raw in journal:
        log.append(0, raw)
        await asyncio.sleep(0)
    found = await born(log)
    await log.close()
    return found


async def test_an_app_is_born_where_its_first_code_found_the_topic_to_end() -> None:
    found = await born_of(STARTED, defined(7, 9), defined(70, 90))
    assert found is not None
    assert found == Born(9_000, (7, 9))
    assert found.is_after(Record({}, partition=1, offset=8, at=8_999))
    assert not found.is_after(Record({}, partition=1, offset=9, at=1)), "a clock that is behind"
    assert not found.is_after(Record({}, partition=1, offset=0, at=9_000)), "a topic that was made again"
    assert not found.is_after(Record({}, partition=2, offset=0, at=1)), "a partition that was added"


async def test_the_birth_of_an_app_may_be_out_of_sight() -> None:
    assert await born_of() is None
    assert await born_of(STARTED) is None
    assert await born_of(defined(7, orig=Orig(0, 5))) is None, "that was in another log"


async def test_what_came_before_the_app_is_none_of_its() -> None:
    log = MemoryLog(1, lambda: 9_000)
    await log.open()
    ingest = Ingest(log, Born(9_000, (7,)))
    ingest.take(Record({"name": "before"}, partition=0, offset=6, at=8_000))
    ingest.take(Record({"name": "after"}, partition=0, offset=7, at=8_001))
    assert [record.event.name for record in await received(log)] == ["after"]
    await log.close()
