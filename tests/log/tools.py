"""What the tests of logs share: a bench to put one on, and ways to write and read."""

import asyncio
from collections.abc import Iterable
from typing import Protocol

from perdure.log.protocol import Batch, LocalLog, Log

Record = tuple[int, bytes]


class Bench(Protocol):
    """An open log with two partitions or more, and ways to end it."""

    log: Log

    async def reopen(self) -> Log:
        """Close, and open what was stored as the next process would."""
        ...

    async def crash(self) -> Log:
        """Like `reopen`, but nothing is closed: only what was acknowledged is sure to be there."""
        ...


def flat(batches: Iterable[Batch]) -> list[Record]:
    return [(batch.offset + index, value) for batch in batches for index, value in enumerate(batch.values)]


def values(batches: Iterable[Batch]) -> list[bytes]:
    return [value for batch in batches for value in batch.values]


def stamps(batches: Iterable[Batch]) -> dict[int, int]:
    """Offset → timestamp."""
    return {offset: batch.timestamp_ms for batch in batches for offset, _ in flat([batch])}


async def write(log: Log, records: Iterable[bytes], partition: int = 0) -> int:
    """Append and wait; the last ticket."""
    ticket = 0
    for record in records:
        ticket = log.append(partition, record)
    await log.acknowledge(ticket)
    return ticket


async def fetch_all(log: Log, partition: int = 0, limit_bytes: int = 1 << 20) -> list[Record]:
    found: list[Record] = []
    offset = log.start(partition)
    while batches := await log.fetch(partition, offset, limit_bytes=limit_bytes):
        found += flat(batches)
        offset = batches[-1].offset + len(batches[-1].values)
    return found


def read_all(log: LocalLog, partition: int = 0, limit_bytes: int = 1 << 20) -> list[Record]:
    found: list[Record] = []
    offset = log.start(partition)
    while batches := log.read(partition, offset, limit_bytes=limit_bytes):
        found += flat(batches)
        offset = batches[-1].offset + len(batches[-1].values)
    return found


class Reading:
    """A sink that keeps what it is given."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self._wanted: int = 0
        self._reached = asyncio.Event()

    def __call__(self, batch: Batch) -> None:
        self.batches.append(batch)
        if len(self.values) >= self._wanted:
            self._reached.set()

    @property
    def values(self) -> list[bytes]:
        return values(self.batches)

    async def until(self, count: int) -> list[bytes]:
        """Wait until `count` records have come, and give a later, wrong one the chance to come too."""
        self._wanted = count
        if len(self.values) < count:
            self._reached.clear()
            async with asyncio.timeout(60):
                await self._reached.wait()
        await asyncio.sleep(0.01)
        return self.values


async def side(log: Log, topic: str, partition: int, count: int) -> list[bytes]:
    """What the side topic holds, once `count` records are there."""
    async with asyncio.timeout(60):
        while len(found := values(await log.read_side(topic, partition, 0))) < count:
            await asyncio.sleep(0.01)
    return found
