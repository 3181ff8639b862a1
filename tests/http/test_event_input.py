"""Events as outsiders write them."""

import uuid

import pytest

from perdure.errors import PayloadError
from perdure.sdk.event_input import event_from_json, new_event_id, seeded_event_id
from perdure.sdk.json_guard import EVENT_LIMIT_BYTES


def test_all_fields() -> None:
    event = event_from_json(
        b'{"id":"e1","name":"cart/added","data":{"n": 1},"user":{"id":"ada"},"ts":1700000000000,"v":"1"}'
    )
    assert (event.id, event.name, event.ts, event.v) == ("e1", "cart/added", 1_700_000_000_000, "1")
    assert bytes(event.data) == b'{"n": 1}'
    assert bytes(event.user) == b'{"id":"ada"}'


@pytest.mark.parametrize(
    "raw",
    [
        b'{"name":"a"}',
        b'{"name":"a","id":"","data":null,"user":null,"ts":0,"v":""}',
        b'{"name":"a","id":null,"v":null}',
    ],
)
def test_what_is_missing_null_or_empty_is_as_if_it_were_not_there(raw: bytes) -> None:
    event = event_from_json(raw)
    assert (bytes(event.data), bytes(event.user), event.ts, event.v) == (b"{}", b"{}", None, "")
    assert uuid.UUID(event.id).version == 7


def test_payloads_stand_on_one_line() -> None:
    event = event_from_json(b'{\n "name": "a",\n "data": {\r\n  "text": "a\\nb"\n }\n}')
    assert bytes(event.data) == b'{"text":"a\\nb"}'


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"[]", "an event is a JSON object"),
        (b'"a"', "an event is a JSON object"),
        (b"{}", "the event has no name"),
        (b'{"name":null}', "a text such as"),
        (b'{"name":""}', "empty"),
        (b'{"name":"a\\u0000"}', "control"),
        (b'{"name":"cart/*"}', "'*'"),
        (b'{"name":"perdure/function.failed"}', "the engine's own"),
        (b'{"name":"a","dat":{}}', "no field 'dat': did you mean 'data'?"),
        (b'{"name":"a","cart_id":1}', "no field 'cart_id': put it in 'data'"),
        (b'{"name":"a","data":[1]}', "'data' must be a JSON object, not a list"),
        (b'{"name":"a","data":"x"}', "'data' must be a JSON object, not a text"),
        (b'{"name":"a","user":1}', "'user' must be a JSON object, not a number"),
        (b'{"name":"a","id":5}', "the event id must be a text, not a number"),
        (b'{"name":"a","id":"a\\nb"}', "control characters"),
        (b'{"name":"a","id":"' + b"x" * 257 + b'"}', "may have 256"),
        (b'{"name":"a","ts":"2024-01-01"}', "whole milliseconds since 1970, not a text"),
        (b'{"name":"a","ts":1.5}', "whole milliseconds"),
        (b'{"name":"a","ts":true}', "whole milliseconds since 1970, not true or false"),
        (b'{"name":"a","ts":-5}', "not a time"),
        (b'{"name":"a","ts":253402300800000}', "up to the year 9999"),
        (b'{"name":"a","v":1}', "'v' must be a text"),
        (b'{"name":"a","data":{"x":"' + b"x" * EVENT_LIMIT_BYTES + b'"}}', "may have 1,048,576"),
    ],
)
def test_what_is_refused(raw: bytes, words: str) -> None:
    with pytest.raises(PayloadError) as caught:
        event_from_json(raw)
    assert words in str(caught.value)


def test_ids_sort_by_time_and_seeded_ones_repeat() -> None:
    assert uuid.UUID(new_event_id()).variant == uuid.RFC_4122
    assert seeded_event_id(5, b"abc") == seeded_event_id(5, b"abc") != seeded_event_id(5, b"abd")
    assert seeded_event_id(5, b"\xff" * 10) < seeded_event_id(6, b"")
    assert new_event_id() != new_event_id()
