"""The log of one process on its own machine: log and state share one disk, and so one write-ahead log.

    append ─► pending ─(the flush before it ends)─► one write ─► fsync, which takes time ─► acknowledged, read

What was written and not synced survives the process, and not the machine's power. When the disk is opened again, all
that is found there is durable, acknowledged or not. That nothing acknowledged is missing is checked then (I1).
"""

import asyncio
from collections import deque
from collections.abc import Callable
from random import Random

from perdure.errors import LogError, LogFull
from perdure.log.alone import Alone
from perdure.log.commands import Consumer, Queues, Stored
from perdure.log.encoding import decode, encode
from perdure.log.protocol import Batch, Commands, Events, Failed, Member, Reader, Sink, Snapshots, Store, Take
from perdure.log.readers import Readers
from perdure.log.tickets import Waiters
from tests.simulation.disk import SimDisk
from tests.simulation.loop import Owner, SimLoop
from tests.simulation.swarm import Swarm
from tests.simulation.topics import Journal, Topic
from tests.simulation.trace import Trace

RETRY_SECONDS = 0.2


class DiskLog:
    """See `Log`, and this module's text. One object is one life of a process."""

    def __init__(
        self,
        loop: SimLoop,
        rng: Random,
        swarm: Swarm,
        trace: Trace,
        owner: Owner,
        disk: SimDisk,
        clock_ms: Callable[[], int],
    ) -> None:
        self.loop, self.rng, self.swarm, self.trace, self.owner, self.disk = loop, rng, swarm, trace, owner, disk
        self.name = owner.name
        self.cut_until = 0.0
        self._clock_ms = clock_ms
        self.journals = [Journal(partition, 0) for partition in range(swarm.partitions)]
        self._rows = disk.store("log")
        self._opened = False
        self.ticket = self._acknowledged = 0
        self._waiters = Waiters()
        self._readers = Readers(swarm.partitions, self._read, self.end)
        self._group = Alone(swarm.partitions)
        self._pending: deque[tuple[Topic, bytes]] = deque()
        self._done: list[bytes] = []
        self._flushing = False
        self._now = 0
        self._failure: LogError | None = None
        self._place = 0
        self._queues = Queues(self._commands_from, lambda queue, place: self._done.append(_command_key(queue, place)))
        self.commands: Commands | None = _Commands(self, self._queues)
        self.events: Events | None = None
        self.snapshots: Snapshots | None = None

    @property
    def partitions(self) -> int:
        return self.swarm.partitions

    @property
    def shared(self) -> bool:
        return False

    @property
    def retention_ms(self) -> int | None:
        return self.swarm.retention_ms

    @property
    def acknowledged(self) -> int:
        return self._acknowledged

    @property
    def unacknowledged(self) -> bool:
        return self._acknowledged < self.ticket

    @property
    def failure(self) -> Exception | None:
        return self._failure

    def is_cut(self) -> bool:
        return False

    async def open(self) -> None:
        if self._opened:
            return
        self._opened = True
        self.disk.sync()
        for partition, journal in enumerate(self.journals):
            journal.trimmed = self.disk.trimmed[partition]
            prefix = _prefix(partition)
            for key, row in self._rows.scan(prefix):
                timestamp_ms, values = decode(row)
                offset = int.from_bytes(key[len(prefix) :], "big")
                journal.batches.append(Batch(partition, offset, timestamp_ms, values))
                journal.end = offset + len(values)
                self._now = max(self._now, timestamp_ms)
            start = self._rows.get(b"s" + prefix)
            if start is not None:
                journal.start = int.from_bytes(start, "big")
                journal.end = max(journal.end, journal.start)
            found = {offset: value for offset, _, value in journal.records()}
            for offset, value in self.disk.promised[partition]:
                assert offset < journal.start or found.get(offset) == value, (
                    f"I1: offset {offset} of partition {partition} was acknowledged and is not there"
                )
        self._place = max((int.from_bytes(key[-8:], "big") + 1 for key, _ in self._rows.scan(b"q")), default=0)

    async def close(self) -> None:
        if not self._opened:
            return
        await self.leave()
        while self.unacknowledged or self._done:
            if self._failure is None:
                self._wake()
                await asyncio.sleep(self.swarm.latency)
            else:
                break
        self._opened = False
        self._queues.close()
        self._readers.close()

    # The way of a record, in the order of calls: put, _wake, _flush, _synced.

    def append(self, partition: int, value: bytes) -> int:
        if not 0 <= partition < self.partitions:
            raise IndexError(f"partition {partition}: this log has {self.partitions}")
        return self.put(partition, value)

    def put(self, topic: Topic, value: bytes) -> int:
        if not self._opened:
            raise LogError("the log is not open: `await log.open()` first")
        self.ticket += 1
        self._pending.append((topic, value))
        self._wake()
        return self.ticket

    def _wake(self) -> None:
        if not self._flushing and self._failure is None and (self._pending or self._done):
            self._flushing = True
            self.loop.post(self.owner, self.rng.random() * self.swarm.latency, self._flush)

    def _flush(self) -> None:
        pending, done = list(self._pending), list(self._done)
        lists: dict[int, list[bytes]] = {}
        puts: list[tuple[bytes, bytes]] = []
        queues: dict[str, None] = {}
        place = self._place
        for topic, value in pending:
            if isinstance(topic, int):
                lists.setdefault(topic, []).append(value)
            else:
                puts.append((_command_key(topic, place), value))
                queues[topic] = None
                place += 1
        now = self.now_ms()
        batches = [Batch(partition, self.journals[partition].end, now, values) for partition, values in lists.items()]
        puts.extend((_row_key(batch), encode(now, batch.values)) for batch in batches)
        try:
            self.disk.write(self._rows, puts, done)
        except LogFull as error:
            self._fail(error)
            return
        for _ in pending:
            self._pending.popleft()
        del self._done[: len(done)]
        self._place = place
        for batch in batches:
            for index, value in enumerate(batch.values):
                self.trace.note("append", f"{self.name} {batch.partition} {batch.offset + index} {now}", value)
        took = self.rng.expovariate(1 / self.swarm.latency)
        if self.swarm.tail and self.rng.random() < self.swarm.tail:
            took *= self.rng.uniform(10, 100)
        ticket = self.ticket - len(self._pending)
        self.loop.post(self.owner, took, self._synced, ticket, batches, list(queues), self.disk.writes)

    def _fail(self, error: LogFull) -> None:
        self._failure = error
        self._waiters.refuse(lambda: LogFull(str(error)))
        self.loop.post(self.owner, RETRY_SECONDS, self._again)

    def _again(self) -> None:
        self._failure = None
        self._flush()

    def _synced(self, ticket: int, batches: list[Batch], queues: list[str], written: int) -> None:
        self.disk.sync_to(written)
        self._flushing = False
        self._acknowledged = ticket
        for batch in batches:
            journal = self.journals[batch.partition]
            journal.batches.append(batch)
            journal.end = batch.offset + len(batch.values)
            promised = self.disk.promised[batch.partition]
            promised.extend((batch.offset + index, value) for index, value in enumerate(batch.values))
        for batch in batches:
            self._readers.deliver(batch)
            self.trace.note("read", f"{self.name} {batch.partition} {batch.offset} {len(batch.values)}")
        for queue in queues:
            self._queues.came(queue)
        self._waiters.release(ticket)
        self._wake()

    async def acknowledge(self, ticket: int) -> None:
        if ticket <= self._acknowledged:
            return
        if self._failure is not None:
            raise LogFull(str(self._failure))
        await self._waiters.add(ticket, self.loop)

    # Reading

    def start(self, partition: int) -> int:
        return self.journals[partition].start

    def end(self, partition: int) -> int:
        return self.journals[partition].end

    def now_ms(self) -> int:
        self._now = max(self._now, self._clock_ms())
        return self._now

    def read(self, partition: int, offset: int, *, limit_bytes: int = 1 << 20) -> list[Batch]:
        return self._read(partition, offset, limit_bytes)

    def _read(self, partition: int, offset: int, limit_bytes: int) -> list[Batch]:
        found: list[Batch] = []
        size = 0
        for batch in self.journals[partition].read(offset, 1 << 60):
            if batch.values and size < limit_bytes:
                found.append(batch)
                size += sum(map(len, batch.values))
        return found

    async def latest(self, partition: int) -> int:
        return self.end(partition)

    async def fetch(self, partition: int, offset: int, *, limit_bytes: int = 1 << 20) -> list[Batch]:
        return self.read(partition, offset, limit_bytes=limit_bytes)

    def follow(self, partition: int, offset: int, sink: Sink, *, failed: Failed | None = None) -> Reader:
        if not self.start(partition) <= offset <= self.end(partition):
            raise IndexError(f"offset {offset} of partition {partition} is outside its log")
        with self.loop.on_behalf(self.owner):
            return self._readers.follow(partition, offset, sink, failed)

    async def trim(self, partition: int, offset: int) -> None:
        journal = self.journals[partition]
        offset = min(offset, journal.end)
        if offset > journal.start:
            gone = [_row_key(one) for one in journal.batches if one.offset + len(one.values) <= offset]
            self.disk.write(self._rows, [(b"s" + _prefix(partition), offset.to_bytes(8, "big"))], gone)
            self.disk.sync()
            journal.trim(offset)
            self.trace.note("trim", f"{self.name} {partition} {offset}")

    def side(self, topic: str, partition: int, value: bytes) -> None:
        if self._opened and not self.owner.dead and self._failure is None:
            lines = self.disk.side.setdefault((topic, partition), [])
            lines.append(Batch(partition, len(lines), self.now_ms(), [value]))

    async def read_side(self, topic: str, partition: int, offset: int, *, limit_bytes: int = 1 << 20) -> list[Batch]:
        return self.disk.side.get((topic, partition), [])[offset:]

    def store(self, partition: int) -> Store:
        return self.disk.store(str(partition))

    def drop_store(self, partition: int) -> None:
        self.disk.store(str(partition)).write((), (), clear=(b"",))

    # The group, of one

    def join(self, member: Member) -> None:
        if not self._opened:
            raise LogError("the log is not open: `await log.open()` first")
        self._group.join(member)

    async def leave(self) -> None:
        self._group.leave()

    def confirmed(self, partition: int) -> bool:
        return self._group.confirmed(partition)

    def _commands_from(self, queue: str, place: int, limit: int) -> Stored:
        prefix = b"q" + queue.encode() + b"\0"
        rows = self._rows.scan(prefix, prefix + place.to_bytes(8, "big"), limit)
        return [(int.from_bytes(key[-8:], "big"), value) for key, value in rows]


class _Commands:
    """See `Commands`. What was written and not synced is given out too: it is one process that would lose both."""

    local = True

    def __init__(self, log: DiskLog, queues: Queues) -> None:
        self._log, self._queues = log, queues

    def put(self, queue: str, key: str, value: bytes) -> int:
        return self._log.put(queue, value)

    def subscribe(self, queue: str, take: Take, *, limit: int) -> Consumer:
        return self._queues.subscribe(queue, take, limit)


def _prefix(partition: int) -> bytes:
    return b"j" + partition.to_bytes(2, "big")


def _row_key(batch: Batch) -> bytes:
    return _prefix(batch.partition) + batch.offset.to_bytes(8, "big")


def _command_key(queue: str, place: int) -> bytes:
    return b"q" + queue.encode() + b"\0" + place.to_bytes(8, "big")
