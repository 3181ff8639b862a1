"""See `Log`. What each part does stands in the parts; here they are put together."""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from perdure.errors import LogError
from perdure.log.clock import Clock
from perdure.log.kafka.address import Address
from perdure.log.kafka.client import (
    RECORD_BYTES,
    Client,
    Consumer,
    Partition,
    Record,
    begin,
    explained,
    partition_in,
    stop,
)
from perdure.log.kafka.commands import PARTITIONS as QUEUE_PARTITIONS
from perdure.log.kafka.commands import KafkaCommands
from perdure.log.kafka.events import KafkaEvents
from perdure.log.kafka.feed import Feed, end_of
from perdure.log.kafka.group import Group
from perdure.log.kafka.hands import Members
from perdure.log.kafka.lanes import Lane, Lanes
from perdure.log.kafka.packing import batches_of
from perdure.log.kafka.snapshots import KafkaSnapshots
from perdure.log.kafka.state import StateDisk
from perdure.log.kafka.topics import Topics, half_of, wanted_of
from perdure.log.kafka.writer import Writer
from perdure.log.protocol import SIDES, Batch, Commands, Failed, Member, Reader, Sink, Snapshots, Store
from perdure.log.tickets import Waiters

log = logging.getLogger("perdure.log.kafka")
_FETCH_MS = 1_000
_ANSWER_BYTES = 1 << 20
"""Of one partition, for who asks; brokers give a larger record whole all the same."""
_SMALL_BYTES = 128
"""Few records are smaller."""
_FETCH_SECONDS = 15.0
_LAST_SECONDS = 20.0
"""How long a close waits for the brokers to take what was appended."""


class KafkaLog:
    """The journal of `app` in `address.namespace`; state lies under `address.data`, which is this pod's own.

    Without `stores` it needs no disk, and must not join the group. What is only the `half` of a copy is not opened, but
    by who makes it.
    """

    def __init__(
        self, address: Address, app: str, partitions: int = 4, *, stores: bool = True, half: bool = False
    ) -> None:
        self.address = address
        self._app = app
        self._directory = Path(address.data) / address.topic(app)
        self._partitions = partitions
        self._stores = stores
        self._half = half
        self._state: StateDisk | None = None
        self._journal = address.topic(app, "journal")
        self._places = [partition_in(self._journal, number) for number in range(partitions)]
        self._clock = Clock()
        self._opened = False
        self._failure: LogError | None = None
        self._starts = [0] * partitions
        self._ends = [0] * partitions

    @property
    def partitions(self) -> int:
        return self._partitions

    @property
    def shared(self) -> bool:
        return True

    @property
    def acknowledged(self) -> int:
        return self._lanes.acknowledged

    @property
    def failure(self) -> Exception | None:
        return self._failure

    @property
    def retention_ms(self) -> int | None:
        return self.address.retention_ms

    async def open(self) -> None:
        if self._opened:
            return
        self._client = client = Client(self.address)
        self.topics = Topics(client)
        half = "" if self._half else half_of(self.address, self._app)
        there = await self.topics.ensure(wanted_of(self.address, self._app, self._partitions), half=half)
        self._state = StateDisk(self._directory, self._partitions) if self._stores else None
        self._lanes = Lanes()
        self._own_lanes = [self._lanes.lane(place) for place in self._places]
        self._waiters = Waiters()
        self._writer = Writer(client, self._lanes, self._ensured, self._landed, self._failed)
        self._feed = Feed(client, self._journal, self._partitions, self.fetch, self.latest, self._seen)
        self._group = Group(client, self.address.topic(self._app), self._journal, self._written)
        self._snapshots = KafkaSnapshots(client, self.address.topic(self._app, "snapshots"))
        self._members = Members(client, self._lanes, self._ensured)
        self._commands = KafkaCommands(self._members, self._queue, self._put)
        self._events = KafkaEvents(self._members, self.topics, self.address, self._app, self._put)
        self._events.partitions = there[self._events.topic]
        self._asking: Consumer | None = None
        self._asked = asyncio.Lock()
        try:
            self._asking = await self._consumer()
            await self._look(range(self._partitions))
            await self._writer.open()
            await self._feed.open()
        except BaseException:
            await self._shut()
            raise
        self._opened = True

    def _queue(self, queue: str) -> str:
        return self.address.topic(self._app, "commands", queue)

    async def close(self) -> None:
        if not self._opened:
            return
        await self._group.leave()
        await self._members.close()
        with suppress(LogError, TimeoutError):
            async with asyncio.timeout(_LAST_SECONDS):
                await self.acknowledge(self._lanes.ticket)
        if not self._opened:
            return
        self._opened = False
        await self._shut()

    async def abandon(self) -> None:
        """As a process that dies: nothing more is said to anybody."""
        self._opened = False
        await self._group.abandon()
        await self._members.abandon()
        await self._shut()

    async def _shut(self) -> None:
        await self._feed.close()
        await self._writer.close()
        await self._snapshots.close()
        self._waiters.refuse(lambda: LogError("the log was closed before this was durable"))
        if self._asking is not None:
            await stop(self._asking)
        if self._state is not None:
            self._state.close()

    # Writing

    def append(self, partition: int, value: bytes) -> int:
        if not 0 <= partition < self._partitions:
            raise IndexError(f"partition {partition}: this log has {self._partitions}")
        if not self._opened or len(value) > RECORD_BYTES:
            raise self._refusal(value)
        return self._own_lanes[partition].put(value)

    def _put(self, place: Partition, value: bytes) -> int:
        """As `append`, to any topic."""
        if not self._opened or len(value) > RECORD_BYTES:
            raise self._refusal(value)
        return self._lanes.lane(place).put(value)

    def _refusal(self, value: bytes) -> LogError:
        if not self._opened:
            return LogError("the log is not open: `await log.open()` first")
        return LogError(f"a record of {len(value):,} bytes is too large for Kafka: {RECORD_BYTES:,} at most")

    async def acknowledge(self, ticket: int) -> None:
        if ticket <= self._lanes.acknowledged:
            return
        if self._failure is not None:
            raise LogError(str(self._failure))
        if not self._opened:
            raise LogError("the log is not open: `await log.open()` first")
        await self._waiters.add(ticket, asyncio.get_running_loop())

    async def _written(self) -> None:
        await self.acknowledge(self._lanes.ticket)

    def _landed(self, lane: Lane, offset: int, count: int, stamp_ms: int) -> None:
        self._failure = None
        if stamp_ms > 0:
            self._clock.at_least(stamp_ms)
        if lane.place.topic == self._journal and offset >= 0:
            partition = lane.place.partition
            self._ends[partition] = max(self._ends[partition], offset + count)
        self._waiters.release(self._lanes.acknowledged)
        self._members.advance()

    def _failed(self, error: LogError) -> None:
        self._failure = error
        self._waiters.refuse(lambda: LogError(str(error)))

    def put_side(self, topic: str, partition: int, value: bytes) -> int:
        """As `append`, to a side topic."""
        return self._put(partition_in(self.address.topic(self._app, topic), partition), value)

    def side(self, topic: str, partition: int, value: bytes) -> None:
        if self._opened and self._failure is None:
            self._writer.say(partition_in(self.address.topic(self._app, topic), partition), value)

    # Reading

    def start(self, partition: int) -> int:
        return self._starts[partition]

    def end(self, partition: int) -> int:
        return self._ends[partition]

    def now_ms(self) -> int:
        return self._clock.now_ms()

    def follow(self, partition: int, offset: int, sink: Sink, *, failed: Failed | None = None) -> Reader:
        if not self._starts[partition] <= offset <= self._ends[partition]:
            raise IndexError(
                f"offset {offset} of partition {partition} is outside its log, "
                f"{self._starts[partition]} to {self._ends[partition]}"
            )
        return self._feed.follow(partition, offset, sink, failed)

    def _seen(self, batch: Batch) -> None:
        self._ends[batch.partition] = max(self._ends[batch.partition], end_of(batch))
        self._clock.at_least(batch.timestamp_ms)

    async def latest(self, partition: int) -> int:
        await self._look([partition])
        return self._ends[partition]

    async def fetch(self, partition: int, offset: int, *, limit_bytes: int = 1 << 20) -> list[Batch]:
        await self._look([partition])
        start, end = self._starts[partition], self._ends[partition]
        if not start <= offset <= end:
            raise IndexError(f"offset {offset} of partition {partition}: it has {start} to {end}")
        return await self._fetch(self._places[partition], offset, end, limit_bytes)

    async def read_side(self, topic: str, partition: int, offset: int, *, limit_bytes: int = 1 << 20) -> list[Batch]:
        if topic not in SIDES:
            return []
        place = partition_in(self.address.topic(self._app, topic), partition)
        start, end = await self._bounds(place)
        return await self._fetch(place, max(start, offset), end, limit_bytes)

    async def _look(self, partitions: Sequence[int]) -> None:
        for partition in partitions:
            start, end = await self._bounds(self._places[partition])
            self._starts[partition] = max(start, self._starts[partition])
            self._ends[partition] = max(end, self._ends[partition])

    async def _bounds(self, place: Partition) -> tuple[int, int]:
        assert self._asking is not None
        with explained():
            starts = await self._asking.beginning_offsets([place])
            ends = await self._asking.end_offsets([place])
        return starts[place], ends[place]

    async def _fetch(self, place: Partition, offset: int, end: int, limit_bytes: int) -> list[Batch]:
        if offset >= end:
            return []
        assert self._asking is not None
        found: list[Batch] = []
        # Whoever wants the time of one record must not pay for the unpacking of thousands.
        most = max(1, limit_bytes // _SMALL_BYTES)
        async with self._asked:
            self._asking.assign([place])
            self._asking.seek(place, offset)
            try:
                with explained():
                    async with asyncio.timeout(_FETCH_SECONDS):
                        while not found:
                            answer = await self._asking.getmany(place, timeout_ms=_FETCH_MS, max_records=most)
                            records = answer.get(place, ())
                            found = batches_of(place.partition, _first(records, limit_bytes))
            except LogError:
                # aiokafka's fetcher has been seen to stand still while records are there.
                stalled, self._asking = self._asking, await self._consumer()
                await stop(stalled)
                raise
            self._asking.assign([])
        return found

    async def _consumer(self) -> Consumer:
        consumer = self._client.consumer(max_partition_fetch_bytes=_ANSWER_BYTES)
        with explained():
            await begin(consumer)
        return consumer

    # What else there is

    async def trim(self, partition: int, offset: int) -> None:
        await self._look([partition])
        offset = min(offset, self._ends[partition])
        if offset > self._starts[partition]:
            with explained():
                start = await self.topics.trim(self._places[partition], offset)
            self._starts[partition] = max(start, self._starts[partition])

    def store(self, partition: int) -> Store:
        return self._disk().stores[partition]

    def drop_store(self, partition: int) -> None:
        self._disk().stores[partition].drop()

    def _disk(self) -> StateDisk:
        if self._state is None:
            raise LogError("no state is kept here: the log is not open, or was opened without stores")
        return self._state

    def join(self, member: Member) -> None:
        if not self._opened:
            raise LogError("the log is not open: `await log.open()` first")
        self._group.join(member)

    async def leave(self) -> None:
        await self._group.leave()

    def confirmed(self, partition: int) -> bool:
        if not 0 <= partition < self._partitions:
            raise IndexError(f"partition {partition}: this log has {self._partitions}")
        return self._group.confirmed(partition)

    @property
    def snapshots(self) -> Snapshots:
        return self._snapshots

    @property
    def commands(self) -> Commands:
        return self._commands

    @property
    def events(self) -> KafkaEvents:
        return self._events

    async def _ensured(self, topic: str) -> None:
        """Of the topics that are not there from the beginning: those of queues."""
        await self.topics.ensure_one(topic, "commands", QUEUE_PARTITIONS)


def _first(records: Sequence[Record], limit_bytes: int) -> Sequence[Record]:
    """Of these, the first that reach the limit together."""
    size = 0
    for count, record in enumerate(records, 1):
        size += len(record.value or b"")
        if size >= limit_bytes:
            return records[:count]
    return records
