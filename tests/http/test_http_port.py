"""`HttpPort` and `SyncHttpPort` against a gateway on a socket: what the port says, they say."""

import asyncio
import inspect
import os
import socket
import threading
from collections.abc import AsyncGenerator, Awaitable
from typing import Any

import pytest
from msgspec import Raw

from perdure.errors import (
    DefinitionError,
    LogError,
    LogFull,
    NotParked,
    PayloadError,
    PayloadTooLarge,
    UnknownFunction,
    UnknownRun,
)
from perdure.sdk.http_port import HttpPort, SyncHttpPort
from perdure.sdk.http_wire import EngineUnreachable
from perdure.sdk.port import Enqueue, ForkAsk, ForkLine, Port
from perdure_schemas.event import EventBody
from perdure_schemas.payload import ErrorInfo
from perdure_schemas.records import RunLogged, V
from tests.http.fake_port import FakePort
from tests.http.serving import served


class InThread:
    """The synchronous twin with `await` before it, so that one test speaks to both."""

    def __init__(self, url: str, reach: float = 1) -> None:
        self.port = SyncHttpPort(url, reach=reach)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.port, name)
        return lambda *args, **kwargs: asyncio.to_thread(method, *args, **kwargs)


@pytest.fixture(params=["async", "sync"])
async def ports(request: pytest.FixtureRequest, port: FakePort) -> AsyncGenerator[tuple[FakePort, Any]]:
    async with served(port) as url:
        client = HttpPort(url, reach=1) if request.param == "async" else InThread(url)
        yield port, client
        closed: Awaitable[None] = client.close()
        await closed


def event(name: str = "a", data: bytes = b"{}", id: str = "1") -> EventBody:
    return EventBody(id=id, name=name, data=Raw(data))


async def test_lines_of_a_run(ports: tuple[FakePort, Any]) -> None:
    port, client = ports
    port.add("r1")
    port.logged = [RunLogged(V, "r1", n, "info", "shop", f"line {n}") for n in range(3)]
    page = await client.lines("r1", limit=2)
    assert (page.data, page.end) == (port.logged[:2], False)
    rest = await client.lines("r1", level="info", cursor=page.cursor)
    assert (rest.data, rest.end) == (port.logged[2:], True)
    with pytest.raises(UnknownRun):
        await client.lines("r2")


async def test_events(ports: tuple[FakePort, Any]) -> None:
    port, client = ports
    sent = EventBody(id="e1", name="a", data=Raw(b'{"n":1}'), user=Raw(b'{"id":"ada"}'), ts=5, v="2")
    assert await client.send([sent, event(id="e2")]) == ["e1", "e2"]
    first = port.events[0]
    assert (first.id, bytes(first.data), bytes(first.user), first.ts, first.v) == (
        "e1",
        b'{"n":1}',
        b'{"id":"ada"}',
        5,
        "2",
    )
    assert await client.send([]) == []
    assert await client.knows_event("e1")
    assert not await client.knows_event("e3")


async def test_more_events_than_one_request_takes(ports: tuple[FakePort, Any]) -> None:
    port, client = ports
    many = [event(data=b'{"x":"' + b"x" * 900_000 + b'"}', id=str(n)) for n in range(12)]
    assert await client.send(many) == [str(n) for n in range(12)]
    assert len(port.events) == 12
    with pytest.raises(PayloadTooLarge):
        await client.send([event(data=b'{"x":"' + b"x" * 1_100_000 + b'"}')])


async def test_refused_events(ports: tuple[FakePort, Any]) -> None:
    port, client = ports
    with pytest.raises(PayloadError, match=r"1 of 2 events refused.*taken all the same: 1"):
        await client.send([event(), event("perdure/x")])
    with pytest.raises(PayloadError, match="the engine's own"):
        await client.send([event("perdure/x")])
    assert len(port.events) == 1


async def test_enqueue(ports: tuple[FakePort, Any]) -> None:
    port, client = ports
    request = Enqueue("mail", Raw(b'[["ada"],{"n":1}]'), "k", 5, 7, {"a": "b"}, "r1")
    assert await client.enqueue(request) == "run-k"
    (asked,) = port.enqueued
    assert bytes(asked.arguments) == b'[["ada"],{"n":1}]'
    assert asked.rerun_of == "r1"
    assert (asked.idempotency_key, asked.delay_ms, asked.discard_after_ms, asked.metadata) == ("k", 5, 7, {"a": "b"})
    assert await client.enqueue(Enqueue("api/mail", Raw(b"[[],{}]"))) != await client.enqueue(
        Enqueue("mail", Raw(b"[[],{}]"))
    )
    with pytest.raises(UnknownFunction, match="did you mean 'mail'"):
        await client.enqueue(Enqueue("male", Raw(b"[[],{}]")))


async def test_runs(ports: tuple[FakePort, Any]) -> None:
    port, client = ports
    for n in range(3):
        port.add(f"r{n}", event_id="e1")
    page, cursor = await client.runs(function="order", status="running", event_id="e1", limit=2)
    rest, end = await client.runs(limit=2, cursor=cursor)
    assert ([run.id for run in page + rest], end) == (["r0", "r1", "r2"], "")
    assert (await client.run("r1")).run == page[1]
    assert await client.status("r1") == "running"
    assert await client.cancel("r1", "why / not?") is None
    assert port.cancelled == [("r1", "why / not?")]
    assert await client.rerun("r1") == "r1-again"
    ask = ForkAsk(
        "order", "k1", "r1", "r0", 5, 3, (ForkLine(7, '{"kind": "x"}'),), 1, event=EventBody("e", "n", Raw(b"1"))
    )
    assert await client.fork(ask) == "fork-k1"
    assert port.forks == [ask]
    port.add("r4", status="parked")
    assert await client.unpark("r4") is None
    with pytest.raises(NotParked, match="run 'r1' is not parked: it is running"):
        await client.unpark("r1")
    assert port.unparked == ["r4"]
    assert [view.id for view in await client.functions()] == ["order", "mail"]
    assert (await client.pause("mail"), await client.resume("mail")) == (None, None)
    assert port.pauses == [("mail", True), ("mail", False)]
    with pytest.raises(UnknownFunction):
        await client.pause("no/body")
    with pytest.raises(UnknownRun, match="no run 'a/b' is known"):
        await client.run("a/b")


async def test_results(ports: tuple[FakePort, Any]) -> None:
    port, client = ports
    port.add("r1")
    port.add("r2")
    with pytest.raises(TimeoutError, match="r1 has not ended"):
        await client.result("r1", 30)
    waiting = asyncio.create_task(client.result("r1"))
    await asyncio.sleep(0.05)
    port.end("r1", b'{"a":null}')
    outcome = await waiting
    assert (outcome.status, bytes(outcome.result)) == ("completed", b'{"a":null}')
    port.end("r2", error=ErrorInfo("ValueError", "no"))
    assert (await client.result("r2", 100)).error == ErrorInfo("ValueError", "no")
    with pytest.raises(UnknownRun):
        await client.result("r3", 100)


async def test_polls_go_on_until_the_deadline(ports: tuple[FakePort, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    port, client = ports
    monkeypatch.setattr("perdure.sdk.http_wire.POLL_MS", 20)
    port.add("r1")
    waiting = asyncio.create_task(client.result("r1", 5_000))
    await asyncio.sleep(0.2)
    port.end("r1")
    assert (await waiting).status == "completed"


@pytest.mark.parametrize("error", [LogFull("the disk is full"), LogError("halted"), PayloadError("bad cursor")])
async def test_errors_cross_as_themselves(ports: tuple[FakePort, Any], error: Exception) -> None:
    port, client = ports
    port.fail = error
    with pytest.raises(type(error), match=str(error)) as caught:
        await client.runs()
    assert type(caught.value) is type(error)


async def test_a_closing_server_answers_long_polls_and_the_next_one_goes_on(port: FakePort) -> None:
    port.add("r1")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number = free.getsockname()[1]
    async with served(port, number) as url:
        client = HttpPort(url)
        waiting = asyncio.create_task(client.result("r1"))
        await asyncio.sleep(0.1)
        began = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - began < 0.9
    await asyncio.sleep(0.3)
    async with served(port, number):
        port.end("r1")
        assert (await waiting).status == "completed"
        await client.close()


@pytest.mark.parametrize("kind", [HttpPort, InThread])
async def test_nobody_there(kind: Any) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        client = kind(f"http://127.0.0.1:{free.getsockname()[1]}", reach=0.2)
        with pytest.raises(EngineUnreachable, match=r"no engine answers at http://127.*perdure dev"):
            await client.functions()
    await client.close()


async def test_something_else_there(port: FakePort) -> None:
    async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 4\r\n\r\nlost")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(other, "127.0.0.1", 0) as server:
        client = SyncHttpPort(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        with pytest.raises(EngineUnreachable, match="is no engine"):
            await asyncio.to_thread(client.functions)
        await asyncio.to_thread(client.close)


class Cutting:
    """Takes requests and cuts the connection without an answer, the first `cuts` times."""

    def __init__(self, target: str, cuts: int) -> None:
        self.target = target.removeprefix("http://").split(":")
        self.cuts = cuts
        self.requests = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.requests += 1
        if self.cuts:
            self.cuts -= 1
            writer.close()
            return
        there, back = await asyncio.open_connection(*self.target)
        back.write(head.replace(b"keep-alive", b"close").replace(b"\r\n", b"\r\nconnection: close\r\n", 1))
        await back.drain()
        body = asyncio.create_task(_pump(reader, back))
        await _pump(there, writer)
        body.cancel()
        back.close()
        writer.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(65_536):
        writer.write(chunk)
        await writer.drain()


@pytest.mark.parametrize("kind", [HttpPort, InThread])
async def test_only_what_changes_nothing_twice_is_sent_again(port: FakePort, kind: Any) -> None:
    port.add("r1")
    async with served(port) as url:
        cutting = Cutting(url, 1)
        async with await asyncio.start_server(cutting, "127.0.0.1", 0) as server:
            client = kind(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
            assert await client.send([event()]) == ["1"]
            assert cutting.requests == 2
            cutting.cuts = 1
            with pytest.raises(EngineUnreachable):
                await client.rerun("r1")
            assert cutting.requests == 3
            await client.close()


async def test_threads_share_a_synchronous_port(port: FakePort) -> None:
    async with served(port) as url:
        client = SyncHttpPort(url)

        def sends(n: int) -> None:
            for m in range(20):
                assert client.send([event(id=f"{n}-{m}")]) == [f"{n}-{m}"]

        threads = [threading.Thread(target=sends, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            await asyncio.to_thread(thread.join)
        client.close()
    assert {sent.id for sent in port.events} == {f"{n}-{m}" for n in range(8) for m in range(20)}


async def test_a_forked_worker_opens_connections_of_its_own(port: FakePort, monkeypatch: pytest.MonkeyPatch) -> None:
    async with served(port) as url:
        client = SyncHttpPort(url)
        await asyncio.to_thread(client.functions)
        (mine,) = client._idle
        monkeypatch.setattr(os, "getpid", lambda: -1)
        await asyncio.to_thread(client.functions)
        assert mine not in client._idle
        mine.close()
        client.close()


@pytest.mark.parametrize(
    "url", ["127.0.0.1:8288", "ftp://localhost", "http://", "http://localhost:99999", "http://localhost/?a=b"]
)
def test_addresses_that_cannot_be_right(url: str) -> None:
    with pytest.raises(DefinitionError):
        SyncHttpPort(url)


def test_the_twins_have_all_that_a_port_has() -> None:
    _: Port = HttpPort("http://localhost:8288")
    for name, method in inspect.getmembers(Port, inspect.isfunction):
        if not name.startswith("_"):
            wanted = [*inspect.signature(method).parameters.items()]
            assert [*inspect.signature(getattr(SyncHttpPort, name)).parameters.items()] == wanted
