"""A log in memory, for tests and simulation. It outlives the engine above it, as a disk outlives a process.

`crash()` is the process dying: what was not acknowledged is gone, and so is every reader; the object keeps what was
durable, and `open()` starts the next process upon it. With `on_append` the crash can be put right after any record.
"""

import asyncio
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Sequence
from contextvars import Context

from perdure.errors import LogError
from perdure.log.alone import Alone
from perdure.log.clock import Clock
from perdure.log.commands import Consumer, Queues, Stored
from perdure.log.protocol import Batch, Commands, Events, Failed, Member, Reader, Sink, Snapshots, Store, Take
from perdure.log.readers import Readers
from perdure.log.tickets import Waiters


class MemoryStore:
    """Sorted keys beside a dict. Writing goes nowhere while the log is crashed: a dead process writes nothing."""

    def __init__(self, log: "MemoryLog") -> None:
        self._log = log
        self._values: dict[bytes, bytes] = {}
        self._keys: list[bytes] = []

    def get(self, key: bytes, /) -> bytes | None:
        return self._values.get(key)

    def scan(self, prefix: bytes, /, start: bytes = b"", limit: int = 0) -> list[tuple[bytes, bytes]]:
        found: list[tuple[bytes, bytes]] = []
        for index in range(bisect_left(self._keys, max(prefix, start)), len(self._keys)):
            key = self._keys[index]
            if not key.startswith(prefix) or (limit and len(found) == limit):
                break
            found.append((key, self._values[key]))
        return found

    def write(
        self, puts: Sequence[tuple[bytes, bytes]], deletes: Sequence[bytes], /, clear: Sequence[bytes] = ()
    ) -> None:
        if self._log.crashed:
            return
        for prefix in clear:
            for key, _ in self.scan(prefix):
                self._delete(key)
        for key in deletes:
            self._delete(key)
        for key, value in puts:
            if key not in self._values:
                insort(self._keys, key)
            self._values[key] = value

    def _delete(self, key: bytes) -> None:
        if self._values.pop(key, None) is not None:
            del self._keys[bisect_left(self._keys, key)]


class MemoryCommands:
    """See `Commands`. Places outlive a crash, as the log does."""

    local = True

    def __init__(self, queue_up: Callable[[str, bytes], int], remove: Callable[[str, int], None]) -> None:
        self._queue_up = queue_up
        self._queues = Queues(self._read, remove)
        self._stored: dict[str, dict[int, bytes]] = {}
        self._places = 0

    def put(self, queue: str, key: str, value: bytes) -> int:
        return self._queue_up(queue, value)

    def subscribe(self, queue: str, take: Take, *, limit: int) -> Consumer:
        return self._queues.subscribe(queue, take, limit)

    def store(self, queue: str, value: bytes) -> None:
        """It is durable."""
        self._stored.setdefault(queue, {})[self._places] = value
        self._places += 1

    def came(self, queues: set[str]) -> None:
        for queue in sorted(queues):
            self._queues.came(queue)

    def remove(self, queue: str, place: int) -> None:
        del self._stored[queue][place]

    def close(self) -> None:
        self._queues.close()

    def _read(self, queue: str, place: int, limit: int) -> Stored:
        stored = self._stored.get(queue, {})
        if place in stored:
            return [(place, stored[place])]
        return [(at, value) for at, value in stored.items() if at >= place][:limit]


class MemoryLog:
    """See `Log`, and this module's text.

    `clock` gives milliseconds since the epoch (the wall clock by default); a step back of it is not passed on.

    `on_append`, for tests, is called with the count, from 1, of records and commands made durable in the life of this
    object, once for each, in the order of tickets. If it answers True the log crashes right there: this record and
    all before it are durable, later ones of the same flush are lost, and nobody is told of any record of that flush
    (no acknowledgement, no sink, no side record). Until `open()` appends and store writes then go nowhere.
    """

    def __init__(
        self, partitions: int = 4, clock: Callable[[], int] | None = None, *, retention_ms: int | None = None
    ) -> None:
        self._partitions = partitions
        self._clock = clock or Clock().now_ms
        self._now = 0
        self._retention_ms = retention_ms
        self._starts = [0] * partitions
        self._topics: dict[tuple[str, int], list[Batch]] = {("", p): [] for p in range(partitions)}
        self._stores = [MemoryStore(self) for _ in range(partitions)]
        self._pending: list[tuple[int, bytes]] = []
        self._side: list[tuple[str, int, bytes]] = []
        self._ticket = 0
        self._acknowledged = 0
        self._durable = 0
        self._waiters = Waiters()
        self._readers = Readers(partitions, self._read_journal, self.end)
        self._group = Alone(partitions)
        self._commands = MemoryCommands(self._queue_up, self._remove)
        self._queued: dict[int, str] = {}
        """Index in `_pending` → queue of a command."""
        self._done: list[tuple[str, int]] = []
        self._scheduled: asyncio.Handle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.crashed = False
        self.on_append: Callable[[int], bool] | None = None

    @property
    def partitions(self) -> int:
        return self._partitions

    @property
    def shared(self) -> bool:
        return False

    @property
    def acknowledged(self) -> int:
        return self._acknowledged

    @property
    def unflushed(self) -> bool:
        """Whether records wait for the next flush; for tests that wait until nothing happens any more."""
        return bool(self._pending)

    @property
    def failure(self) -> Exception | None:
        return None

    async def open(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.crashed = False
        self._ticket = self._acknowledged = 0

    async def close(self) -> None:
        if self._scheduled is not None:
            self._scheduled.cancel()
            self._flush()
        self._readers.close()
        self._commands.close()
        self._group.leave()
        self._loop = None

    def crash(self) -> None:
        """Die here: forget what was not acknowledged, every reader, and whoever waits for an acknowledgement."""
        self.crashed = True
        self._pending.clear()
        self._queued.clear()
        self._done.clear()
        self._side.clear()
        self._waiters.forget()
        self._readers.close()
        self._commands.close()
        self._group.leave()
        if self._scheduled is not None:
            self._scheduled.cancel()
            self._scheduled = None

    def append(self, partition: int, value: bytes) -> int:
        if not 0 <= partition < self._partitions:
            raise IndexError(f"partition {partition}: this log has {self._partitions}")
        if self._loop is None:
            raise LogError("the log is not open: `await log.open()` first")
        self._ticket += 1
        if not self.crashed:
            self._pending.append((partition, value))
            self._schedule()
        return self._ticket

    async def acknowledge(self, ticket: int) -> None:
        if ticket > self._acknowledged:
            await self._waiters.add(ticket, asyncio.get_running_loop())

    def start(self, partition: int) -> int:
        return self._starts[partition]

    def end(self, partition: int) -> int:
        return _end(self._topics["", partition])

    def now_ms(self) -> int:
        self._now = max(self._now, self._clock())
        return self._now

    def read(self, partition: int, offset: int, *, limit_bytes: int = 1 << 20) -> list[Batch]:
        return self._read_journal(partition, offset, limit_bytes)

    def follow(self, partition: int, offset: int, sink: Sink, *, failed: Failed | None = None) -> Reader:
        self._check_offset(partition, offset)
        reader = self._readers.follow(partition, offset, sink, failed)
        if self.crashed:
            reader.close()  # the process that asks is dead
        return reader

    @property
    def retention_ms(self) -> int | None:
        return self._retention_ms

    async def trim(self, partition: int, offset: int) -> None:
        offset = min(offset, self.end(partition))
        if self.crashed or offset <= self._starts[partition]:
            return
        self._starts[partition] = offset
        _drop(self._topics["", partition], lambda after: after.offset <= offset)
        if self._retention_ms is not None:
            oldest = self.now_ms() - self._retention_ms
            for topic, of in list(self._topics):
                if topic and of == partition:
                    _drop(self._topics[topic, of], lambda after: after.timestamp_ms < oldest)

    def side(self, topic: str, partition: int, value: bytes) -> None:
        if not self.crashed and self._loop is not None:
            self._side.append((topic, partition, value))
            self._schedule()

    async def read_side(self, topic: str, partition: int, offset: int, *, limit_bytes: int = 1 << 20) -> list[Batch]:
        stored = self._topics.get((topic, partition), [])
        return _cut(stored, max(offset, stored[0].offset), limit_bytes) if stored else []

    def store(self, partition: int) -> Store:
        return self._stores[partition]

    def drop_store(self, partition: int) -> None:
        self._stores[partition].write((), (), clear=(b"",))

    async def latest(self, partition: int) -> int:
        return self.end(partition)

    async def fetch(self, partition: int, offset: int, *, limit_bytes: int = 1 << 20) -> list[Batch]:
        return self.read(partition, offset, limit_bytes=limit_bytes)

    def join(self, member: Member) -> None:
        if self._loop is None:
            raise LogError("the log is not open: `await log.open()` first")
        self._group.join(member)

    async def leave(self) -> None:
        self._group.leave()

    def confirmed(self, partition: int) -> bool:
        return self._group.confirmed(partition)

    @property
    def snapshots(self) -> Snapshots | None:
        return None

    @property
    def events(self) -> Events | None:
        return None

    @property
    def commands(self) -> Commands | None:
        return self._commands

    def _queue_up(self, queue: str, value: bytes) -> int:
        ticket = self.append(0, value)
        if not self.crashed:
            self._queued[len(self._pending) - 1] = queue
        return ticket

    def _remove(self, queue: str, place: int) -> None:
        if not self.crashed:
            self._done.append((queue, place))
            self._schedule()

    def _schedule(self) -> None:
        if self._scheduled is None and self._loop is not None:
            # An empty context: the flush, and all sinks it calls, belong to no run.
            self._scheduled = self._loop.call_soon(self._flush, context=Context())

    def _flush(self) -> None:
        self._scheduled = None
        pending, self._pending = self._pending, []
        side, self._side = self._side, []
        queued, self._queued = self._queued, {}
        done, self._done = self._done, []
        ticket = self._ticket
        kept = self._until_crash(pending)
        for index, queue in queued.items():
            if index < len(kept):
                self._commands.store(queue, kept[index][1])
        if queued:
            kept = [record for index, record in enumerate(kept) if index not in queued]
        batches = self._add([("", partition, value) for partition, value in kept])
        if self.crashed:
            return
        self._add(side)
        for queue, place in done:
            self._commands.remove(queue, place)
        self._acknowledged = ticket
        for batch in batches:
            self._readers.deliver(batch)
        self._commands.came(set(queued.values()))
        self._waiters.release(self._acknowledged)

    def _until_crash(self, pending: list[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
        if self.on_append is None:
            self._durable += len(pending)
            return pending
        for index in range(len(pending)):
            self._durable += 1
            if self.on_append(self._durable):
                self.crash()
                return pending[: index + 1]
        return pending

    def _add(self, records: list[tuple[str, int, bytes]]) -> list[Batch]:
        groups: dict[tuple[str, int], list[bytes]] = {}
        for topic, partition, value in records:
            groups.setdefault((topic, partition), []).append(value)
        now = self.now_ms()
        batches: list[Batch] = []
        for (topic, partition), values in groups.items():
            stored = self._topics.setdefault((topic, partition), [])
            batch = Batch(partition, _end(stored), now, values)
            stored.append(batch)
            batches.append(batch)
        return batches

    def _read_journal(self, partition: int, offset: int, limit_bytes: int) -> list[Batch]:
        self._check_offset(partition, offset)
        return _cut(self._topics["", partition], offset, limit_bytes)

    def _check_offset(self, partition: int, offset: int) -> None:
        start, end = self._starts[partition], self.end(partition)
        if not start <= offset <= end:
            raise IndexError(f"offset {offset} of partition {partition} is outside its log, {start} to {end}")


def _end(batches: list[Batch]) -> int:
    return batches[-1].offset + len(batches[-1].values) if batches else 0


def _drop(batches: list[Batch], gone: Callable[[Batch], bool]) -> None:
    """Remove batches from the front while `gone` is true of the one after. The last stays, and with it the end."""
    count = next((index for index, after in enumerate(batches[1:]) if not gone(after)), len(batches) - 1)
    del batches[: max(count, 0)]


def _cut(batches: list[Batch], offset: int, limit_bytes: int) -> list[Batch]:
    """Batches from `offset` on, the first cut to begin there, until `limit_bytes` are passed."""
    found: list[Batch] = []
    if offset >= _end(batches):
        return found
    size = 0
    for index in range(bisect_right(batches, offset, key=lambda batch: batch.offset) - 1, len(batches)):
        batch = batches[index]
        if batch.offset < offset:
            batch = batch._replace(offset=offset, values=batch.values[offset - batch.offset :])
        found.append(batch)
        size += sum(map(len, batch.values))
        if size >= limit_bytes:
            break
    return found
