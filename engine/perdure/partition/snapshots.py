"""Where a partition's state comes from, and how far its journal may be trimmed (model/snapshots.py).

    journal      |..trimmed..|-----------------------------------|
                         start     W                  X          end
    snapshot     every row as in the checkpoint at W ◄─round: the rows last changed in [W, X)

Pods that share a log have a disk each, and come and go without it. So the owner writes *rounds* to the snapshots of its
partition: one transaction of every row that changed since the last round, as the checkpoint at X has it, what was
deleted too, and X itself; from then on the watermark W is X. A checkpoint, not the running fold: every effect of the
records below X is acknowledged. Who takes a partition up

1 fences: earlier writers are refused from here on, and a round that one of them has open is aborted,
2 reads the snapshot to its end,
3 takes its own disk if that stands at or above the journal's start and at or above W, else the snapshot,
4 and halts if the journal begins above both: what is missing is never jumped over.

The journal is trimmed to below W once the round is acknowledged, but not below what people may want to read. Where log
and state share one disk, the checkpoint is the snapshot.

Whoever was the owner, rows are a function of the log; so one snapshot may be made of the checkpoints of several. Only
which runs have work differs from pod to pod: every round has all of those.

What changed since W is known from a row beside each checkpoint that lists the keys it wrote: one write more, of names
alone, and only where there are snapshots. A restarted owner finds all that changed by one scan.
"""

import asyncio
import logging
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from contextvars import Context
from typing import Any, NamedTuple

import msgspec

from perdure.errors import Fenced, LogCorrupt, LogError, LogFull, LogMismatch
from perdure.flow import FOLD_VERSION
from perdure.log.protocol import Log, SnapshotWriter, Store
from perdure.partition.checkpoint import (
    ACTIVE_PREFIX,
    CHANGED_PREFIX,
    POSITION_KEY,
    Changed,
    Position,
    anchor_of,
    read_position,
)

log = logging.getLogger("perdure.partition")
ROUND_MS = 60_000
"""At the latest after so much time a round is due, if anything came since the last one."""
ROUND_RECORDS = 50_000
"""After so many records it does not wait for that: they are what a restore has to fold."""
TRIM_MS = 60_000
"""So often the journal of a log of one process is trimmed."""
_ACTIVE_KEY = b"!active"
"""In a snapshot, the runs that have work."""
_SINCE_KEY = b"!since"
"""From this offset on every change of this store is listed. Written once; another one means that nothing is known."""
_HANDED_BYTES = 16 << 20
_DECODE_CHANGED = msgspec.msgpack.Decoder(Changed).decode


class Keeper:
    """Trims the journal of a partition, where log and state share one disk: to the stored checkpoint."""

    def __init__(self, app_log: Log, partition: int) -> None:
        self.log = app_log
        self.partition = partition
        self._task: asyncio.Task[None] | None = None
        self._looked = app_log.now_ms()

    def tend(self, position: Position) -> None:
        """Now and then, while the store stands at `position`: begin what is due."""
        now = self.log.now_ms()
        if now - self._looked >= TRIM_MS and not self.busy:
            self._looked = now
            self._run(position)

    def _run(self, position: Position) -> None:
        if self.log.retention_ms is not None and not self.log.shared:
            self._begin(self._trim(position.offset))

    @property
    def busy(self) -> bool:
        return self._task is not None and not self._task.done()

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        self._task = asyncio.get_running_loop().create_task(work, context=Context())

    async def settled(self) -> None:
        """What is under way is done."""
        if self._task is not None:
            await asyncio.wait([self._task])

    def close(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _trim(self, below: int) -> None:
        """The record before `below` stays: who begins at `below` compares its hash (I7)."""
        retention_ms = self.log.retention_ms
        start = self.log.start(self.partition)
        if retention_ms is None or below - 1 <= start:
            return
        try:
            offset = below - 1
            if retention_ms:
                oldest = self.log.now_ms() - retention_ms
                offset = await offset_at(self.log, self.partition, oldest, start, offset)
            await self.log.trim(self.partition, offset)
        except (LogError, IndexError) as error:
            log.warning("partition %d is not trimmed: %s", self.partition, error)


class Rounds(Keeper):
    """Writes the snapshots of a partition and trims its journal below them."""

    def __init__(self, app_log: Log, partition: int, writer: SnapshotWriter, found: "Found") -> None:
        super().__init__(app_log, partition)
        self._store = app_log.store(partition)
        self._writer: SnapshotWriter | None = writer
        since = self._store.get(_SINCE_KEY)
        assert since is not None, "`take_up` says from where on changes are listed"
        self._since = int.from_bytes(since, "big")
        self._learn(found)

    @property
    def watermark(self) -> int:
        return self._found.watermark

    def tend(self, position: Position) -> None:
        now = self.log.now_ms()
        due = position.offset - self.watermark >= ROUND_RECORDS or now - self._looked >= ROUND_MS
        if not due or self.busy or position.offset <= self.watermark:
            return
        self._looked = now
        if self._writer is None:
            # Only the member of the group that has the partition may take the writing back.
            if self.log.confirmed(self.partition):
                self._begin(self._fence())
            return
        puts, deletes = self._changes(position)
        self._begin(self._round(self._writer, position.offset, puts, deletes))

    def _learn(self, found: "Found") -> None:
        """What the topic holds. Its keys are needed only if the next round replaces all of it."""
        self._whole = not found.usable or self._since > found.watermark or not self._stood_at(found.watermark)
        self._found = found if self._whole else found._replace(keys=frozenset())

    def _stood_at(self, watermark: int) -> bool:
        """Whether a checkpoint of this store ended there.

        One that goes across another owner's watermark does not list a row that came before it and went after it.
        """
        rows = self._store.scan(CHANGED_PREFIX, CHANGED_PREFIX)
        return watermark == self._since or any(_DECODE_CHANGED(raw).offset == watermark for _, raw in rows)

    def _changes(self, position: Position) -> tuple[list[tuple[bytes, bytes]], list[bytes]]:
        """What the next round has: every key that changed since the watermark, as the store has it now."""
        if self._whole:
            keys = {key for key, _ in self._store.scan(b"")} | self._found.keys
        else:
            keys = {
                key
                for _, raw in self._store.scan(CHANGED_PREFIX, CHANGED_PREFIX)
                if (changed := _DECODE_CHANGED(raw)).offset >= self.watermark
                for key in changed.keys
            }
        puts: list[tuple[bytes, bytes]] = []
        deletes: list[bytes] = []
        for key in sorted(key for key in keys if not _is_local(key)):
            value = self._store.get(key)
            if value is None:
                deletes.append(key)
            else:
                puts.append((key, value))
        puts.append((_ACTIVE_KEY, _active_in(self._store)))
        assert self._store.get(POSITION_KEY) == msgspec.json.encode(position), "I2: a round is of a checkpoint"
        return puts, deletes

    async def _round(
        self, writer: SnapshotWriter, offset: int, puts: list[tuple[bytes, bytes]], deletes: list[bytes]
    ) -> None:
        try:
            await writer.commit(puts, deletes)
        except Fenced:
            self._writer = None
        except LogError as error:
            # Whether it was committed is not known: nothing is trimmed, and the topic is asked before the next one.
            self._writer = None
            log.warning("partition %d: no snapshot: %s", self.partition, error)
        else:
            self._found = Found(offset, True, frozenset())
            self._forget_changes()
            self._whole = False
            await self._trim(offset)

    def _forget_changes(self) -> None:
        rows = self._store.scan(CHANGED_PREFIX, CHANGED_PREFIX)
        old = [row for row, raw in rows if _DECODE_CHANGED(raw).offset < self.watermark]
        try:
            self._store.write([(_SINCE_KEY, self.watermark.to_bytes(8, "big"))], old)
        except LogFull:
            return  # what is listed twice is found twice
        self._since = self.watermark

    async def _fence(self) -> None:
        snapshots = self.log.snapshots
        assert snapshots is not None
        try:
            writer = await snapshots.fence(self.partition)
            found = _found(dict(await snapshots.read(self.partition)))
        except LogError as error:
            log.warning("partition %d: no snapshot: %s", self.partition, error)
        else:
            self._learn(found)
            self._writer = writer


class Found(NamedTuple):
    """What a snapshot holds: up to where, whether these folds can use it; if not, its keys, which a round replaces."""

    watermark: int
    usable: bool
    keys: frozenset[bytes]


def _found(rows: dict[bytes, bytes]) -> Found:
    position = read_position(rows.get(POSITION_KEY))
    if position is None:
        return Found(0, True, frozenset())
    usable = position.folds == FOLD_VERSION
    return Found(position.offset, usable, frozenset(rows))


def _is_local(key: bytes) -> bool:
    """A row that is about this disk, or this pod, alone."""
    return key in (_SINCE_KEY, _ACTIVE_KEY) or key.startswith((CHANGED_PREFIX, ACTIVE_PREFIX))


def _active_in(store: Store) -> bytes:
    return msgspec.json.encode([row[len(ACTIVE_PREFIX) :].decode() for row, _ in store.scan(ACTIVE_PREFIX)])


async def take_up(app_log: Log, partition: int) -> tuple[Position, Keeper]:
    """Where to go on: what the store of this partition holds from here on, and who keeps its journal short.

    Raises `LogCorrupt` if what is needed is missing, `LogMismatch` if only other folds can read it, or the log's own
    `LogError`s.
    """
    # Asked first: whoever trims meanwhile has written a snapshot before, which the next try finds.
    start = app_log.start(partition)
    if app_log.snapshots is None:
        position = _own_disk(app_log, partition, start) or _from_the_beginning(app_log, partition, start)
        await _check(app_log, partition, position)
        return position, Keeper(app_log, partition)
    writer = await app_log.snapshots.fence(partition)
    rows = dict(await app_log.snapshots.read(partition))
    found = _found(rows)
    own = _own_disk(app_log, partition, max(start, found.watermark))
    if own is not None:
        position = own
    elif found.watermark and found.usable:
        position = _restore(app_log, partition, start, rows)
    else:
        position = _from_the_beginning(app_log, partition, start, rows.get(POSITION_KEY))
    await _check(app_log, partition, position)
    store = app_log.store(partition)
    if store.get(_SINCE_KEY) is None:
        store.write([(_SINCE_KEY, position.offset.to_bytes(8, "big"))], ())
    return position, Rounds(app_log, partition, writer, found)


def _own_disk(app_log: Log, partition: int, least: int) -> Position | None:
    """Where the store stands, if the journal goes on from there and no snapshot is ahead of it."""
    own = read_position(app_log.store(partition).get(POSITION_KEY))
    return own if own is not None and own.folds == FOLD_VERSION and own.offset >= least else None


def _from_the_beginning(app_log: Log, partition: int, start: int, other: bytes | None = None) -> Position:
    """A store of another fold version is dropped, and folded again (I2), as long as the whole journal is there."""
    if start > 0:
        own = read_position(app_log.store(partition).get(POSITION_KEY))
        raise _cannot_fold(app_log, partition, start, own, read_position(other))
    app_log.drop_store(partition)
    return Position(0, 0, 0, "", FOLD_VERSION)


def _cannot_fold(
    app_log: Log, partition: int, start: int, own: Position | None, other: Position | None = None
) -> LogError:
    trimmed = f"partition {partition}: its journal begins at offset {start}, since earlier records were trimmed, and "
    known = other or own
    if known is not None and known.folds != FOLD_VERSION:
        return LogMismatch(
            f"{trimmed}its state was folded by version {known.folds} of the folds, while this perdure has version "
            f"{FOLD_VERSION}: it cannot be folded again. Run the version of perdure that wrote it until its runs have "
            "ended, then begin with a new log (or namespace) under this one"
        )
    where = f"the state on this disk stands at {own.offset}" if own is not None else "there is no state"
    return LogCorrupt(
        f"{trimmed}{where}: what lies between cannot be known, and nothing is skipped. Restore the state"
        f"{' and the snapshots topic' if app_log.snapshots is not None else ' and the log, together,'} from a backup"
    )


def _restore(app_log: Log, partition: int, start: int, rows: dict[bytes, bytes]) -> Position:
    """This disk becomes what the snapshot says. A death half-way leaves one that says nothing, as an empty one does."""
    position = read_position(rows[POSITION_KEY])
    assert position is not None
    if start > position.offset:
        raise LogCorrupt(
            f"partition {partition}: its journal begins at offset {start}, and its snapshot ends at "
            f"{position.offset}: records between them are missing, and nothing is skipped. Restore the snapshots topic "
            "from a backup"
        )
    active = msgspec.json.decode(rows.pop(_ACTIVE_KEY, b"[]"), type=list[str])
    app_log.drop_store(partition)
    app_log.store(partition).write(
        [
            *rows.items(),
            *((ACTIVE_PREFIX + run.encode(), b"") for run in active),
            (_SINCE_KEY, position.offset.to_bytes(8, "big")),
        ],
        (),
    )
    return position


class State(NamedTuple):
    """A partition's state as a snapshot has it, and where it stands."""

    position: Position
    rows: dict[bytes, bytes]


async def state_of(app_log: Log, partition: int) -> State | None:
    """What a new owner would go on from; None if it would fold the whole journal. Raises as `take_up`."""
    start = app_log.start(partition)
    if app_log.snapshots is None:
        store = app_log.store(partition)
        rows = {key: value for key, value in store.scan(b"") if not _is_local(key)}
        rows[_ACTIVE_KEY] = _active_in(store)
    else:
        rows = dict(await app_log.snapshots.read(partition))
    position = read_position(rows.get(POSITION_KEY))
    if position is None or position.folds != FOLD_VERSION or position.offset < start:
        if start > 0:
            raise _cannot_fold(app_log, partition, start, position)
        return None
    await _check(app_log, partition, position)
    return State(position, rows)


async def hand_over(app_log: Log, partition: int, rows: Mapping[bytes, bytes]) -> None:
    """Put a partition's state where its first owner looks. Until all of it is there, it says nothing."""
    position = POSITION_KEY, rows[POSITION_KEY]
    rest = [(key, value) for key, value in rows.items() if key != POSITION_KEY]
    if app_log.snapshots is None:
        active = msgspec.json.decode(rows.get(_ACTIVE_KEY, b"[]"), type=list[str])
        rest = [pair for pair in rest if pair[0] != _ACTIVE_KEY]
        app_log.store(partition).write([*rest, *((ACTIVE_PREFIX + run.encode(), b"") for run in active), position], ())
        return
    writer = await app_log.snapshots.fence(partition)
    for chunk in _chunks(rest):
        await writer.commit(chunk, ())
    await writer.commit([position], ())


def _chunks(rows: Sequence[tuple[bytes, bytes]]) -> Iterator[list[tuple[bytes, bytes]]]:
    """What one transaction takes in good time."""
    chunk: list[tuple[bytes, bytes]] = []
    size = 0
    for key, value in rows:
        chunk.append((key, value))
        size += len(key) + len(value)
        if size >= _HANDED_BYTES:
            yield chunk
            chunk, size = [], 0
    yield chunk


async def _check(app_log: Log, partition: int, position: Position) -> None:
    """Raises `LogCorrupt` if the log does not hold the record that the state says it folded last (I7)."""
    end = await app_log.latest(partition)
    if position.offset > end:
        raise LogCorrupt(
            f"I7: partition {partition} ends at {end}, but its state has folded up to "
            f"{position.offset}: acknowledged records are missing. Restore the data directory from a backup."
        )
    if position.anchor and position.offset > app_log.start(partition):
        try:
            last = (await app_log.fetch(partition, position.offset - 1, limit_bytes=1))[0].values[0]
        except IndexError as error:
            raise LogError(f"partition {partition} was trimmed meanwhile: {error}") from error
        if anchor_of(last) != position.anchor:
            raise LogCorrupt(f"I7: partition {partition}: record {position.offset - 1} is not the one that was folded")


async def offset_at(app_log: Log, partition: int, at_ms: int, low: int, high: int) -> int:
    """Of offsets `low` to `high`, the first whose record is not older than log time `at_ms`; `high` if all are."""
    step = 1
    while low < high:
        # Mostly little is older than that: so the steps are short at first.
        middle = min(low + step - 1, high - 1)
        batch = (await app_log.fetch(partition, middle, limit_bytes=1))[0]
        if batch.timestamp_ms >= at_ms:
            high, step = middle, 1
        else:
            low, step = min(batch.offset + len(batch.values), high), step * 2
    return high
