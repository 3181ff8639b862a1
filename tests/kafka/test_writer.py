"""The writer alone, with a client that does as it is told."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from perdure.errors import LogError
from perdure.log.kafka import writer
from perdure.log.kafka.client import Client, partition_in
from perdure.log.kafka.lanes import Lane, Lanes
from perdure.log.kafka.writer import Writer


class Brokers:
    """`away`: so many sends fail from here on. `silent`: so many are not answered."""

    def __init__(self) -> None:
        self.away = 0
        self.silent = 0
        self.producers = 0
        self.sent: list[str] = []

    def producer(self) -> Any:
        self.producers += 1
        return SimpleNamespace(start=self._well, stop=self._well, create_batch=self._batch, send_batch=self._send)

    async def _well(self) -> None:
        return

    def _batch(self) -> Any:
        return SimpleNamespace(_builder=SimpleNamespace(append=lambda *_: True))

    async def _send(self, batch: object, topic: str, *, partition: int) -> "asyncio.Future[Any]":
        if self.away:
            self.away -= 1
            raise ConnectionError("away")
        self.sent.append(topic)
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if self.silent:
            self.silent -= 1
        else:
            answer.set_result(SimpleNamespace(offset=0, timestamp=1))
        return answer


class Desk:
    """What the writer tells its log."""

    def __init__(self) -> None:
        self.brokers = Brokers()
        self.lanes = Lanes()
        self.failures: list[LogError] = []
        self.landed = asyncio.Event()
        client = cast("Client", self.brokers)
        self.writer = Writer(client, self.lanes, self._ensure, self._landed, self.failures.append)

    async def _ensure(self, topic: str) -> None:
        return

    def _landed(self, lane: Lane, offset: int, count: int, stamp_ms: int) -> None:
        self.landed.set()


@pytest.fixture
async def desk() -> Any:
    desk = Desk()
    await desk.writer.open()
    yield desk
    await desk.writer.close()


async def test_best_effort_that_fails_refuses_nobody(desk: Desk) -> None:
    desk.brokers.away = 1
    desk.writer.say(partition_in("logs", 0), b"x")
    async with asyncio.timeout(60):
        while desk.brokers.producers < 2:
            await asyncio.sleep(0)
    assert not desk.failures, "nothing waits, so nothing would ever say that all is well again"


async def test_what_waits_is_told_of_failures_and_sent_again(desk: Desk) -> None:
    desk.brokers.away = 1
    ticket = desk.lanes.lane(partition_in("journal", 0)).put(b"x")
    async with asyncio.timeout(60):
        await desk.landed.wait()
    assert len(desk.failures) == 1
    assert desk.lanes.acknowledged == ticket
    assert desk.brokers.sent == ["journal"]


async def test_what_is_not_answered_is_sent_again_by_another_producer(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "ANSWER_SECONDS", 0.05)
    lanes = [desk.lanes.lane(partition_in("journal", number)) for number in range(2)]
    lanes[0].put(b"a")
    async with asyncio.timeout(60):
        await desk.landed.wait()
        desk.landed.clear()
        desk.brokers.silent = 1
        lanes[1].put(b"b")
        lanes[0].put(b"c")
        while desk.lanes.acknowledged < desk.lanes.ticket:
            await desk.landed.wait()
            desk.landed.clear()
    assert desk.brokers.producers == 2
    assert len(desk.failures) == 1
