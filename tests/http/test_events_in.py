"""`POST /e/{key}`: what is taken is told, what is refused is told, and nothing is between."""

import gzip
import json
import resource
import zlib
from typing import Any

import pytest

from perdure.errors import LogError, LogFull
from perdure.sdk.json_guard import REQUEST_LIMIT_BYTES
from tests.http.fake_port import FakePort
from tests.http.serving import client_of


async def post(port: FakePort, body: bytes, **headers: str) -> tuple[int, Any]:
    async with client_of(port) as client:
        answer = await client.post("/e/key", content=body, headers={k.replace("_", "-"): v for k, v in headers.items()})
    return answer.status_code, answer.json()


async def test_one_event(port: FakePort) -> None:
    status, answer = await post(port, b'{"name":"cart/added","data":{"n":1},"id":"e1"}')
    assert (status, answer) == (200, {"ids": ["e1"], "status": 200})
    assert [(event.id, bytes(event.data)) for event in port.events] == [("e1", b'{"n":1}')]


async def test_a_list_keeps_its_order(port: FakePort) -> None:
    body = json.dumps([{"name": "a", "id": str(n)} for n in range(100)]).encode()
    status, answer = await post(port, body)
    assert (status, answer["ids"]) == (200, [str(n) for n in range(100)])
    assert [event.id for event in port.events] == answer["ids"]


async def test_an_empty_list_is_nothing_to_do(port: FakePort) -> None:
    assert await post(port, b"[]") == (200, {"ids": [], "status": 200})


async def test_one_bad_event_in_a_list_is_named_and_the_others_are_taken(port: FakePort) -> None:
    status, answer = await post(port, b'[{"name":"a","id":"1"},{"name":"a","dat":{}},{"name":"b","id":"3"}]')
    assert status == 207
    assert answer["ids"] == ["1", "3"]
    assert answer["status"] == 207
    assert [refusal["index"] for refusal in answer["errors"]] == [1]
    assert "did you mean 'data'" in answer["errors"][0]["error"]
    assert answer["error"].startswith("1 of 3 events refused, the first at index 1: ")
    assert [event.id for event in port.events] == ["1", "3"]


async def test_a_list_of_bad_events_alone_is_an_error(port: FakePort) -> None:
    status, answer = await post(port, b'[{"name":""},5]')
    assert (status, answer["ids"], len(answer["errors"])) == (400, [], 2)
    assert answer["error"].startswith("2 of 2 events refused")
    assert port.events == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"5",
        b'{"name":"a"} x',
        b"[" * 100_000,
        b'{"name":"a","data":' + b'{"a":' * 70 + b"1" + b"}" * 71,
        b'{"name":"a","data":{"x":"\xff"}}',
        b'{"name":"a","data":{"x":NaN}}',
        b'{"name":"a","data":{"x":1,"x":2}}',
        b'{"name":"a","data":{"x":99999999999999999999}}',
        b'[{"name":"a"},{"name":"a","data":{"x":1,"x":2}}]',
    ],
)
async def test_malformed_bodies_append_nothing(port: FakePort, body: bytes) -> None:
    status, answer = await post(port, body)
    assert (status, answer["status"], answer["type"]) == (400, 400, "urn:perdure:error:PayloadError")
    assert answer["detail"] == answer["error"]
    assert port.events == []


async def test_oversized_bodies_append_nothing(port: FakePort) -> None:
    event = b'{"name":"a","data":{"x":"' + b"x" * 400_000 + b'"}},'
    status, answer = await post(port, b"[" + event * (REQUEST_LIMIT_BYTES // len(event) + 1) + event[:-1] + b"]")
    assert (status, answer["type"]) == (413, "urn:perdure:error:PayloadTooLarge")
    assert "8,388,608" in answer["detail"]
    assert port.events == []


async def test_an_oversized_event_is_one_bad_event(port: FakePort) -> None:
    large = b'{"name":"a","data":{"x":"' + b"x" * 1_100_000 + b'"}}'
    status, answer = await post(port, large)
    assert (status, port.events) == (400, [])
    assert "may have 1,048,576" in answer["detail"]
    status, answer = await post(port, b"[" + large + b',{"name":"a","id":"2"}]')
    assert (status, answer["ids"]) == (207, ["2"])


async def test_gzip_is_taken(port: FakePort) -> None:
    status, _ = await post(port, gzip.compress(b'{"name":"a"}'), content_encoding="gzip")
    assert (status, [event.name for event in port.events]) == (200, ["a"])


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"name":"a"}', "is not"),
        (gzip.compress(b'{"name":"a"}', mtime=0)[:-4], "one whole gzip stream"),
        (gzip.compress(b'{"name":"a"}', mtime=0) * 2, "one whole gzip stream"),
        (gzip.compress(b"not JSON", mtime=0), "not JSON"),
        (gzip.compress(gzip.compress(b'{"name":"a"}', mtime=0), mtime=0), "not UTF-8"),
    ],
)
async def test_gzip_that_is_broken_appends_nothing(port: FakePort, body: bytes, words: str) -> None:
    status, answer = await post(port, body, content_encoding="gzip")
    assert (status, port.events) == (400, [])
    assert words in answer["detail"]


@pytest.mark.parametrize("unpacked", [REQUEST_LIMIT_BYTES + 1, 1 << 30])
async def test_gzip_bombs_are_never_unpacked(port: FakePort, unpacked: int) -> None:
    """A megabyte stands for a gigabyte: memory must not grow with it, and nothing is parsed."""
    packer = zlib.compressobj(wbits=31)
    bomb = b"".join([*(packer.compress(b"[" * (1 << 20)) for _ in range(unpacked >> 20)), packer.compress(b"[")])
    bomb += packer.flush()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    status, answer = await post(port, bomb, content_encoding="gzip")
    assert (status, answer["type"]) == (413, "urn:perdure:error:PayloadTooLarge")
    assert "unpacks to more than 8,388,608" in answer["detail"]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10  # KiB
    assert port.events == []


@pytest.mark.parametrize("encoding", ["br", "deflate", "gzip, gzip", "x" * 100])
async def test_other_encodings_are_refused(port: FakePort, encoding: str) -> None:
    status, answer = await post(port, b'{"name":"a"}', content_encoding=encoding)
    assert status == 415
    assert "send it uncompressed or gzip" in answer["detail"]
    assert port.events == []


@pytest.mark.parametrize("path", ["/e/key", "/v1/functions/mail/runs", "/v1/cancellations"])
async def test_bodies_over_the_limit_are_413_before_they_are_parsed(port: FakePort, path: str) -> None:
    """Also where each byte of them would be refused: it is not looked at."""
    async with client_of(port) as client:
        answer = await client.post(path, content=b"\xff" * (REQUEST_LIMIT_BYTES + 1))
    assert (answer.status_code, answer.json()["type"]) == (413, "urn:perdure:error:PayloadTooLarge")


async def test_a_full_disk_and_a_broken_log_are_told_apart(port: FakePort) -> None:
    port.fail = LogFull("the disk is full: make room, and work resumes by itself")
    status, answer = await post(port, b'{"name":"a"}')
    assert (status, answer["type"], answer["error"]) == (507, "urn:perdure:error:LogFull", str(port.fail))
    port.fail = LogError("partition 2 has halted")
    status, answer = await post(port, b'{"name":"a"}')
    assert (status, answer["type"]) == (503, "urn:perdure:error:LogError")


async def test_a_fault_of_ours_shows_no_internals(port: FakePort) -> None:
    port.fail = ZeroDivisionError("secret")
    status, answer = await post(port, b'{"name":"a"}')
    assert status == 500
    assert "secret" not in json.dumps(answer)


async def test_a_repeated_request_of_an_inngest_client_makes_the_same_ids(port: FakePort) -> None:
    seed = "1700000000000,AAECAwQFBgcICQ=="
    _, first = await post(port, b'[{"name":"a"},{"name":"b"}]', x_inngest_event_id_seed=seed)
    _, again = await post(port, b'[{"name":"a"},{"name":"b"}]', x_inngest_event_id_seed=seed)
    assert first["ids"] == again["ids"]
    assert len(set(first["ids"])) == 2
    _, other = await post(port, b'[{"name":"a"}]', x_inngest_event_id_seed="nonsense")
    assert other["ids"][0] not in first["ids"]


async def test_runs_of_an_event(port: FakePort) -> None:
    await post(port, b'{"name":"a","id":"shop/7"}')
    async with client_of(port) as client:
        assert (await client.get("/v1/events/shop%2F7/runs")).json()["data"] == []
        port.add("r1", event_id="shop/7")
        (run,) = (await client.get("/v1/events/shop/7/runs")).json()["data"]
        assert (run["id"], run["status"]) == ("r1", "running")
        unknown = await client.get("/v1/events/nope/runs")
    assert unknown.status_code == 404
    assert "no event 'nope' is known" in unknown.json()["detail"]
