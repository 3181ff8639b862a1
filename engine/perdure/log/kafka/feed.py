"""Reads the journal for all who follow it: one consumer of every partition, by `assign`, without a group.

    partition      |-------------------------------------------------|
    live followers                              o feed's position ─► getmany ─► sinks
    late follower        o ─ fetch ─ fetch ─ … ─┘ joins when it is where the feed is

A partition that nobody follows is paused. Its first follower moves the feed to where it wants to begin; one that comes
later, and wants to begin elsewhere, catches up by fetches of its own.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import Any

from perdure.errors import LogError
from perdure.log.kafka.client import Client, Consumer, Partition, begin, end, errors, partition_in, spawn, stop
from perdure.log.kafka.packing import fetched_batches, unpack_batches
from perdure.log.protocol import Batch, Failed, Sink
from perdure.log.readers import Follower

log = logging.getLogger("perdure.log.kafka")
POLL_MS = 500
MOST_BATCHES = 16
"""Unpacked at once; more of them wait for the next turn."""
MOST_RECORDS = 5_000
"""Given in one turn of the loop."""
STALLED_SECONDS = 10.0
"""What stands in the journal for so long, and is not read, is taken for the work of a fetcher that hangs."""
_AGAIN_SECONDS = 0.2

Fetch = Callable[[int, int], Coroutine[Any, Any, list[Batch]]]
"""(partition, offset) → batches, asked of the brokers."""
Look = Callable[[int], Coroutine[Any, Any, int]]
"""Learns where a partition begins and ends by now; its end."""


def end_of(batch: Batch) -> int:
    return batch.offset + len(batch.values)


def cut(batches: Sequence[Batch], start: int, end: int) -> list[Batch]:
    """What lies in [start, end)."""
    found: list[Batch] = []
    for batch in batches:
        skip, keep = max(0, start - batch.offset), max(0, end - batch.offset)
        values = batch.values[skip:keep]
        if values:
            found.append(Batch(batch.partition, batch.offset + skip, batch.timestamp_ms, values))
    return found


class Feed:
    """See the module's text. `seen` is told of each batch before its followers are."""

    def __init__(
        self, client: Client, topic: str, partitions: int, fetch: Fetch, look: Look, seen: Callable[[Batch], None]
    ) -> None:
        self._client = client
        self._places = [partition_in(topic, number) for number in range(partitions)]
        self._fetch = fetch
        self._look = look
        self._seen = seen
        self._positions = [0] * partitions
        self._moved: set[int] = set()
        """Partitions that were put elsewhere since the last fetch came: what it has of them is not what follows."""
        self._live: list[tuple[Follower, ...]] = [()] * partitions
        """Tuples are replaced, never changed: a sink may open and close readers while one is walked through."""
        self._late: dict[Follower, asyncio.Task[None]] = {}
        self._consumer: Consumer | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self) -> None:
        self._consumer = await self._made()
        self._tasks = [spawn(self._pump()), spawn(self._watch())]

    async def close(self) -> None:
        for follower in [one for live in self._live for one in live]:
            follower.close()
        for follower in list(self._late):
            follower.close()
        await asyncio.gather(*map(end, self._tasks), return_exceptions=True)
        self._tasks.clear()
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await stop(consumer)

    def follow(self, partition: int, offset: int, sink: Sink, failed: Failed | None) -> Follower:
        follower = Follower(self, partition, offset, sink, failed)
        self._join(follower)
        return follower

    def remove(self, follower: Follower) -> None:
        task = self._late.pop(follower, None)
        if task is not None and task is not asyncio.current_task():
            task.cancel()
        partition = follower.partition
        live = self._live[partition]
        if follower in live:
            self._live[partition] = tuple(other for other in live if other is not follower)
            if not self._live[partition] and self._consumer is not None:
                self._consumer.pause(self._places[partition])

    def _join(self, follower: Follower) -> None:
        """It becomes live if the feed is where it is, or can be put there; else it catches up."""
        partition, consumer = follower.partition, self._consumer
        if self._live[partition] and follower.position != self._positions[partition]:
            self._late[follower] = spawn(self._catch_up(follower))
            return
        if not self._live[partition]:
            self._positions[partition] = follower.position
            self._moved.add(partition)
            if consumer is not None:
                consumer.seek(self._places[partition], follower.position)
                consumer.resume(self._places[partition])
        self._live[partition] = (*self._live[partition], follower)

    async def _catch_up(self, follower: Follower) -> None:
        partition = follower.partition
        while not follower.closed:
            try:
                batches = await self._fetch(partition, follower.position)
            except IndexError as error:
                follower.fail(error)
                return
            except Exception as error:
                log.warning("partition %d cannot be read at present: %s", partition, error)
                await asyncio.sleep(_AGAIN_SECONDS)
                continue
            # Not beyond the feed: from there on it is given what the feed gives, and in one turn with it.
            end = self._positions[partition] if self._live[partition] else 1 << 62
            for batch in cut(batches, follower.position, end):
                follower.position = end_of(batch)
                follower.give(batch)
            if not self._live[partition] or follower.position >= self._positions[partition]:
                break
        self._late.pop(follower, None)
        if not follower.closed:
            self._join(follower)

    async def _pump(self) -> None:
        while True:
            try:
                consumer = self._consumer
                if consumer is None:
                    consumer = self._consumer = await self._made()
                found = await fetched_batches(consumer, timeout_ms=POLL_MS, most=MOST_BATCHES)
                if consumer is not self._consumer:
                    continue
            except errors().OffsetOutOfRangeError as error:
                await self._out_of_range(error)
                continue
            except Exception as error:
                log.warning("reading from Kafka failed, it is tried again: %s", error)
                await self._again()
                continue
            self._moved.clear()  # of what was moved before, aiokafka has thrown away what it had
            await self._give_all(consumer, [batch for parts in found.values() for part in parts for batch in part])
            # What is there already is given without waiting: others need their turn.
            await asyncio.sleep(0)

    async def _give_all(self, consumer: Consumer, batches: Sequence[Batch]) -> None:
        """In turns of the loop, until there is another consumer: that one reads the rest again."""
        given = 0
        for batch in batches:
            if given >= MOST_RECORDS:
                await asyncio.sleep(0)
                given = 0
                if consumer is not self._consumer:
                    return
            if batch.partition not in self._moved:
                self._give(batch)
                given += len(batch.values)

    async def _watch(self) -> None:
        """aiokafka's fetcher has been seen to stand still while records come: then a new consumer reads on."""
        behind: dict[int, int] = {}
        while True:
            await asyncio.sleep(STALLED_SECONDS)
            before, behind = behind, {}
            with suppress(LogError):
                for partition in range(len(self._places)):
                    position = self._positions[partition]
                    if self._live[partition] and position < await self._look(partition):
                        behind[partition] = position
            stalled = [one for one, position in behind.items() if before.get(one) == position == self._positions[one]]
            if stalled:
                log.warning("partition %d is read no further than offset %d", stalled[0], behind[stalled[0]])
                behind.clear()
                await self._again()

    def _give(self, batch: Batch) -> None:
        partition = batch.partition
        position = self._positions[partition]
        if batch.offset < position:  # fetched before the feed was moved
            return
        self._positions[partition] = end_of(batch)
        self._seen(batch)
        for follower in self._live[partition]:
            follower.give(batch)

    async def _out_of_range(self, error: Any) -> None:
        """What they want next is gone: they cannot go on, and nothing may be skipped."""
        gone: Mapping[Partition, int] = error.args[0]
        for place, offset in gone.items():
            partition = place.partition
            if offset != self._positions[partition] or self._consumer is None:
                continue  # of a fetch from before the feed was moved
            self._consumer.pause(place)
            live, self._live[partition] = self._live[partition], ()
            with suppress(LogError):
                await self._look(partition)
            reason = f"offset {offset} of partition {partition} is not there any more: the log was trimmed"
            for follower in live:
                follower.fail(IndexError(reason))

    async def _again(self) -> None:
        """With a new consumer, from where the feed is."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await stop(consumer)
        await asyncio.sleep(_AGAIN_SECONDS)

    async def _made(self) -> Consumer:
        consumer = self._client.consumer()
        try:
            async with asyncio.timeout(15):
                await begin(consumer)
        except BaseException:
            await stop(consumer)
            raise
        unpack_batches(consumer)
        consumer.assign(self._places)
        for number, place in enumerate(self._places):
            consumer.seek(place, self._positions[number])
            if not self._live[number]:
                consumer.pause(place)
        return consumer
