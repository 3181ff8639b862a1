"""The log of one process on one machine: RocksDB, with group commit.

    append ──► lists of this flush ──► one value per partition ──► write (WAL, no sync) ──► fsync in a thread
                     ▲                                                                          │
                     │ what comes meanwhile waits for the next flush                            ▼
                     └───────────────────────────────── acknowledge, move `end`, hand the very lists to the readers

One flush is under way at a time (the *flight*). If it fails it is kept, and written again, first and unchanged, at
the same offsets, when the database is open again: so nothing is reordered and no hole comes about.
"""

import asyncio
from collections import deque
from contextvars import Context
from pathlib import Path

from rocksdict import WriteBatch

from perdure.errors import LogCorrupt, LogError, LogFull
from perdure.log import rows
from perdure.log.alone import Alone
from perdure.log.clock import Clock
from perdure.log.directory import Lock, Mark, make_directories, prepare, sync_directory
from perdure.log.disk import Disk
from perdure.log.embedded_commands import EmbeddedCommands
from perdure.log.embedded_store import EmbeddedStore
from perdure.log.encoding import KEY, encode, split, start_key
from perdure.log.flight import Entry, Flight, Lists
from perdure.log.flusher import Flusher
from perdure.log.protocol import Batch, Commands, Events, Failed, Member, Reader, Sink, Snapshots, Store
from perdure.log.readers import Readers
from perdure.log.side import SideRecord, SideTopics
from perdure.log.tickets import Waiters

# A flush takes at most this many records: after a full disk there may be millions.
_FLUSH_RECORDS = 1 << 16
RETENTION_MS = 7 * 86_400_000
"""How long people find in the log what the engine needs no more, unless they ask for another time."""
_SIDE_DELAY_S = 0.05
_RETRY_S = (0.1, 2.0)


class EmbeddedLog:
    """See `Log`. `path` is a directory, made if need be; it belongs to one process at a time.

    The disk may fill up: `failure` is `LogFull` then, records wait in memory, and go out in order when there is room.
    """

    __slots__ = (
        "_acknowledged", "_clock", "_commands", "_directory", "_disk", "_ends", "_failure", "_flight", "_flusher",
        "_flushing", "_full", "_group", "_idle", "_last", "_lists", "_lock", "_loop", "_mark", "_opened",
        "_partitions", "_prefixes", "_quiet", "_readers", "_recovering", "_retention_ms", "_retry", "_retry_s",
        "_side", "_side_timer", "_starts", "_stores", "_ticket", "_topics", "_waiters",
    )  # fmt: skip
    """More attributes than CPython would find fast in a dict, and `append` is called for each record."""

    def __init__(self, path: str | Path, partitions: int = 4, *, retention_ms: int | None = RETENTION_MS) -> None:
        if not 0 < partitions < 1 << 16:
            raise LogError(f"{partitions} partitions: give a number from 1 to 65535")
        self._directory = Path(path)
        self._partitions = partitions
        self._retention_ms = retention_ms
        self._prefixes = [partition.to_bytes(2, "big") for partition in range(partitions)]
        self._disk = Disk(self._directory)
        self._readers = Readers(partitions, self._read, self.end)
        self._waiters = Waiters()
        self._group = Alone(partitions)
        self._commands = EmbeddedCommands(self._disk, self._queue_up)
        self._stores = [EmbeddedStore(self._disk, partition, self._write_state) for partition in range(partitions)]
        self._failure: LogError | None = None
        self._recovering = False
        self._retry: asyncio.TimerHandle | None = None
        self._retry_s = _RETRY_S[0]
        self._quiet: asyncio.Future[None] | None = None
        self._starts = [0] * partitions
        self._ends = [0] * partitions
        self._clock = Clock()
        self._opened = False
        self._reset(0)

    def _reset(self, partitions: int) -> None:
        """Nothing pending, nothing promised; 0 partitions refuse every append."""
        self._lists = Lists(partitions)
        self._full: deque[tuple[Lists, int]] = deque()
        self._side: list[SideRecord] = []
        self._topics = SideTopics(self._disk)
        self._side_timer: asyncio.TimerHandle | None = None
        self._flight: Flight | None = None
        self._flushing = False
        self._idle = True
        self._ticket = self._acknowledged = 0
        self._last = _FLUSH_RECORDS

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
    def failure(self) -> Exception | None:
        return self._failure

    async def open(self) -> None:
        if self._opened:
            return
        self._loop = asyncio.get_running_loop()
        try:
            make_directories(self._directory)
            self._lock = Lock(self._directory)
        except OSError as error:
            raise LogError(
                f"{self._directory} cannot be a log: {error}. Give a directory that can be written"
            ) from error
        try:
            prepare(self._directory, self._partitions)
            full = self._open_disk()
        except OSError as error:
            self._lock.release()
            raise self._disk.explain(error) from error
        except BaseException:
            self._lock.release()
            raise
        self._reset(self._partitions)
        self._flusher = Flusher(self._loop, self._done)
        self._opened = True
        if full is not None:
            self._fail(full)

    async def close(self) -> None:
        if not self._opened:
            return
        if self._failure is not None and not self._flushing:
            self._recover()  # there may be room by now
        elif self._side and self._idle:
            self._side_due()
        while self._flushing or not (self._idle or self._failure is not None):
            if self._quiet is None or self._quiet.done():
                self._quiet = self._loop.create_future()
            await asyncio.shield(self._quiet)  # shared, if `close` is called twice at a time
        if not self._opened:
            return
        self._opened = False
        for timer in (self._retry, self._side_timer):
            if timer is not None:
                timer.cancel()
        self._retry = None
        self._well()
        self._group.leave()
        self._commands.close()
        self._readers.close()
        self._waiters.refuse(lambda: LogError("the log was closed before this was durable"))
        self._flusher.stop()
        self._disk.close()
        self._mark.close()
        self._lock.release()
        self._reset(0)

    def append(self, partition: int, value: bytes) -> int:
        self._lists[partition].append(value)
        ticket = self._ticket = self._ticket + 1
        if self._idle or ticket == self._last:
            self._wake()
        return ticket

    async def acknowledge(self, ticket: int) -> None:
        if ticket <= self._acknowledged:
            return
        if self._failure is not None:
            raise _again(self._failure)
        if not self._opened:
            raise LogError("the log is not open: `await log.open()` first")
        await self._waiters.add(ticket, self._loop)

    def start(self, partition: int) -> int:
        return self._starts[partition]

    def end(self, partition: int) -> int:
        return self._ends[partition]

    def now_ms(self) -> int:
        return self._clock.now_ms()

    def read(self, partition: int, offset: int, *, limit_bytes: int = 1 << 20) -> list[Batch]:
        return self._read(partition, offset, limit_bytes)

    def follow(self, partition: int, offset: int, sink: Sink, *, failed: Failed | None = None) -> Reader:
        self._check_offset(partition, offset)
        return self._readers.follow(partition, offset, sink, failed)

    @property
    def retention_ms(self) -> int | None:
        return self._retention_ms

    async def trim(self, partition: int, offset: int) -> None:
        offset = min(offset, self._ends[partition])
        if offset <= self._starts[partition]:
            return
        prefix, disk = self._prefixes[partition], self._disk
        batch = WriteBatch(raw_mode=True)
        try:
            # The row that holds the first record kept stays whole; the last row stays in any case: the end is there.
            kept = rows.holding(disk.journal, prefix, offset)
            if kept is not None:
                batch.delete_range(prefix, kept, disk.journal_handle)
            batch.put(start_key(partition), offset.to_bytes(8, "big"), disk.journal_handle)
            if self._retention_ms is not None:
                self._topics.trim(batch, partition, self.now_ms() - self._retention_ms)
        except Exception as error:
            raise disk.explain(error) from error
        # Not synced: after a power failure the log may begin lower again, and nothing is wrong with that.
        self._write_state(batch)
        self._starts[partition] = offset

    def side(self, topic: str, partition: int, value: bytes) -> None:
        if self._failure is not None or not self._opened:
            return
        self._side.append((topic, partition, value))
        if self._side_timer is None:
            self._side_timer = self._loop.call_later(_SIDE_DELAY_S, self._side_due, context=Context())

    async def read_side(self, topic: str, partition: int, offset: int, *, limit_bytes: int = 1 << 20) -> list[Batch]:
        try:
            return self._topics.read(topic, partition, offset, limit_bytes)
        except Exception as error:
            raise self._disk.explain(error) from error

    def store(self, partition: int) -> Store:
        return self._stores[partition]

    def drop_store(self, partition: int) -> None:
        self._stores[partition].drop()

    async def latest(self, partition: int) -> int:
        return self._ends[partition]

    async def fetch(self, partition: int, offset: int, *, limit_bytes: int = 1 << 20) -> list[Batch]:
        return self._read(partition, offset, limit_bytes)

    def join(self, member: Member) -> None:
        if not self._opened:
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

    def _queue_up(self, entry: Entry) -> int:
        if not self._opened:
            raise LogError("the log is not open: `await log.open()` first")
        self._lists.commands.append(entry)
        # What is done needs no ticket: nobody waits for it.
        self._ticket += entry.done is None
        if self._idle or self._ticket == self._last:
            self._wake()
        return self._ticket

    # The way of a record, in the order of calls: _wake, _kick, _send, _done.

    def _wake(self) -> None:
        if self._ticket == self._last:
            self._full.append(self._take())
        if self._idle:
            self._idle = False
            # An empty context: the flush, and all that it resumes, must not belong to the run that appended.
            self._loop.call_soon(self._kick, context=Context())

    def _kick(self) -> None:
        """Begin the next flush, with what is pending. While failing, `_recover` does it."""
        if self._failure is not None or self._flight is not None:
            return
        lists, ticket = self._full.popleft() if self._full else self._take()
        side, self._side = self._side, []
        self._flight = Flight(lists, ticket, side)
        self._send(self._flight)

    def _take(self) -> tuple[Lists, int]:
        """What is pending and its last ticket; new lists begin, and end at the latest with ticket `_last`."""
        taken = self._lists
        self._lists = Lists(self._partitions)
        self._last = self._ticket + _FLUSH_RECORDS
        return taken, self._ticket

    def _send(self, flight: Flight) -> None:
        """Write the flight and have it flushed. The same flight makes the same keys, however often it is written."""
        disk = self._disk
        try:
            disk.write(self._encode(flight))
        except Exception as error:
            self._fail(disk.explain(error))
            return
        flight.sequence = disk.sequence()
        self._flushing = True
        self._flusher.flush(disk.db.flush_wal)

    def _encode(self, flight: Flight) -> WriteBatch:
        now = self.now_ms()
        batch = self._disk.batch(self._disk.journal_handle)
        batches: list[Batch] = []
        for partition, values in flight.lists.items():
            offset = self._ends[partition]
            for part in split(values):
                batch.put(KEY.pack(partition, offset), encode(now, part))
                batches.append(Batch(partition, offset, now, part))
                offset += len(part)
        flight.batches = batches
        if flight.side:
            flight.side_ends = self._topics.put(batch, flight.side, now)
        if flight.lists.commands:
            flight.queue_ends = self._commands.write(batch, flight.lists.commands, now)
        return batch

    def _done(self, error: Exception | None) -> None:
        """The flush is over."""
        self._flushing = False
        flight = self._flight
        if flight is None or error is not None:
            self._fail(self._disk.explain(error or LogError("a flush without a flight")))
            return
        self._flight = None
        if self._recovering:
            self._well()
        self._acknowledged = flight.ticket
        for batch in flight.batches:
            self._ends[batch.partition] = batch.offset + len(batch.values)
        self._topics.advance(flight.side_ends)
        self._mark.advance(flight.sequence)
        self._disk.acknowledged = flight.sequence
        self._waiters.release(flight.ticket)
        # The next flush first: the disk works while the readers do.
        if self._lists or self._full or (self._side and self._side_timer is None):
            self._kick()
        elif self._failure is None:
            self._idle = True
        for batch in flight.batches:
            self._readers.deliver(batch)
        self._commands.advance(flight.queue_ends)
        self._tell_quiet()

    def _fail(self, error: LogError) -> None:
        """Refuse whoever waits, keep what is queued, and try again later; after damage, never."""
        self._failure = error
        self._recovering = False
        self._idle = False
        self._side.clear()
        self._topics.forget()
        if self._flight is not None and not self._flushing:
            self._flight.side.clear()
            self._flight.side_ends.clear()
        self._waiters.refuse(lambda: _again(error))
        if self._retry is None and not isinstance(error, LogCorrupt):
            self._retry = self._loop.call_later(self._retry_s, self._recover, context=Context())
            self._retry_s = min(self._retry_s * 2, _RETRY_S[1])
        self._tell_quiet()

    def _recover(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        if isinstance(self._failure, LogCorrupt):
            return
        if self._flushing:  # a store's write failed; its own flush will end first
            self._retry = self._loop.call_later(self._retry_s, self._recover, context=Context())
            return
        try:
            self._disk.reopen()
        except LogError as error:
            self._fail(error)
            return
        if self._flight is not None:
            self._recovering = True  # all is well once this has gone through
            self._send(self._flight)
            return
        self._well()
        if self._lists or self._full:
            self._kick()
        else:
            self._idle = True

    def _well(self) -> None:
        self._recovering = False
        self._failure = None
        self._retry_s = _RETRY_S[0]

    def _open_disk(self) -> LogFull | None:
        """Open RocksDB and find where each partition begins and ends; the failure if it can only be read now."""
        full: LogFull | None = None
        self._mark = Mark(self._directory)
        try:
            try:
                self._disk.open(self._mark.value, self._mark)
                # Syncing what is in `db` says nothing of `db` itself: it must be there before anything is promised.
                sync_directory(self._directory)
            except LogFull as error:
                # What a killed process had written is read now, so it must not vanish with the power later.
                self._disk.sync_wals()
                self._disk.open_read_only()
                full = error
            self._starts = [self._start_of(partition) for partition in range(self._partitions)]
            lasts = [rows.last(self._disk.journal, prefix) for prefix in self._prefixes]
        except Exception as error:
            self._disk.close()
            self._mark.close()
            raise self._disk.explain(error) from error
        self._ends = [end for end, _ in lasts]
        self._clock.at_least(max(timestamp for _, timestamp in lasts))
        if full is None:
            self._mark.advance(self._disk.sequence())
        return full

    def _start_of(self, partition: int) -> int:
        trimmed: bytes | None = self._disk.journal.get(start_key(partition))
        if trimmed is not None:
            return int.from_bytes(trimmed, "big")
        return rows.first(self._disk.journal, self._prefixes[partition]) or 0

    def _read(self, partition: int, offset: int, limit_bytes: int) -> list[Batch]:
        self._check_offset(partition, offset)
        end = self._ends[partition]
        try:
            return rows.read(self._disk.journal, self._prefixes[partition], partition, offset, end, limit_bytes)
        except Exception as error:
            raise self._disk.explain(error) from error

    def _check_offset(self, partition: int, offset: int) -> None:
        start, end = self._starts[partition], self._ends[partition]
        if not start <= offset <= end:
            raise IndexError(f"offset {offset} of partition {partition} is outside its log, {start} to {end}")

    def _write_state(self, batch: WriteBatch) -> None:
        if self._failure is not None:
            raise _again(self._failure)
        try:
            self._disk.write(batch)
        except LogError as error:
            self._fail(error)
            raise

    def _side_due(self) -> None:
        self._side_timer = None
        if self._side and self._idle:
            self._idle = False
            self._kick()

    def _tell_quiet(self) -> None:
        if self._quiet is not None and not self._quiet.done():
            self._quiet.set_result(None)


def _again(error: LogError) -> LogError:
    """The same error to raise once more: a raised one grows a traceback."""
    return type(error)(str(error))
