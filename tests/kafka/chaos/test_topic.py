"""The driver's own clients leave no connection behind, whatever cuts them off."""

import asyncio
import gc
import struct
import warnings
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import cast

import pytest

from tests.kafka.chaos import topic
from tests.kafka.chaos.topic import Tail, Writing

VERSIONS = struct.pack(">hihhhhhh", 0, 2, 18, 0, 0, 3, 0, 1)
"""Of a broker that knows questions for versions and for metadata."""


class Stalling(asyncio.Protocol):
    """A broker that says on each connection what it knows, and nothing after that."""

    def __init__(self, open_ones: list[asyncio.Transport]) -> None:
        self._open = open_ones
        self._asked = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._open.append(self._transport)

    def data_received(self, data: bytes) -> None:
        answered = len(self._asked) >= 12
        self._asked += data
        if not answered and len(self._asked) >= 12:
            correlation = self._asked[8:12]
            self._transport.write(struct.pack(">i", 4 + len(VERSIONS)) + correlation + VERSIONS)


@asynccontextmanager
async def stalling_broker() -> AsyncGenerator[str]:
    made: list[asyncio.Transport] = []
    server = await asyncio.get_running_loop().create_server(lambda: Stalling(made), "127.0.0.1", 0)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        for transport in made:
            transport.close()


@contextmanager
def nothing_left() -> Generator[None]:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        yield
        gc.collect()
    assert [str(one.message) for one in said] == []


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topic, "REQUEST_MS", 1_000)


async def test_a_service_that_is_cut_off_amid_its_start_leaves_no_connection() -> None:
    async with stalling_broker() as address:
        with nothing_left():
            sending = asyncio.ensure_future(Writing(address, "events").send({"id": "e1"}))
            await asyncio.sleep(0.2)
            sending.cancel()
            await asyncio.wait({sending})
            assert sending.cancelled()
            del sending


async def test_the_reader_that_is_cut_off_amid_its_start_leaves_no_connection() -> None:
    async with stalling_broker() as address:
        with nothing_left():
            tail = Tail(address, "journal", 1)
            await asyncio.sleep(0.2)
            await tail.close()
            del tail


async def test_events_on_their_way_side_by_side_have_one_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[object] = []

    class Producer:
        def __init__(self, **settings: object) -> None:
            begun.append(self)

        async def start(self) -> None:
            await asyncio.sleep(0)

        async def send_and_wait(self, topic: str, value: bytes, *, key: bytes) -> None: ...

    monkeypatch.setattr(topic, "AIOKafkaProducer", Producer)
    writing = Writing("nobody:9092", "events")
    await asyncio.gather(*(writing.send({"id": f"e{n}"}) for n in range(3)))
    assert len(begun) == 1
