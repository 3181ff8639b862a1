"""Checkpoints: the view's changes and the place it stands at, in one write.

1 seal: take what changed up to offset n, with the hash of record n-1 and the last effect's ticket
2 wait until every effect of offsets < n is acknowledged (folding goes on meanwhile)
3 write it all at once; on a full disk, keep it and try again
"""

from msgspec import Struct, json
from xxhash import xxh3_64_hexdigest

from perdure.errors import LogCorrupt, LogFull
from perdure.flow import FOLD_VERSION
from perdure.flow.view import View
from perdure.log.protocol import Log, Store

POSITION_KEY = b"!position"
ACTIVE_PREFIX = b"a/"


class Position(Struct):
    """Where a stored view stands: it has folded all offsets below `offset`; `anchor` hashes the record before."""

    offset: int
    at: int
    stamp: int
    anchor: str
    folds: int


def anchor_of(raw: bytes) -> str:
    return xxh3_64_hexdigest(raw)


def stored_position(log: Log, partition: int) -> Position:
    """Where the store stands. One of another fold version is dropped, and folded again from the beginning (I2)."""
    raw = log.store(partition).get(POSITION_KEY)
    if raw is not None:
        position = json.decode(raw, type=Position)
        if position.folds == FOLD_VERSION:
            return position
        log.drop_store(partition)
    return Position(log.start(partition), 0, 0, "", FOLD_VERSION)


async def find_position(log: Log, partition: int) -> Position:
    """Where to go on.

    Raises `LogCorrupt` if the log does not hold the record that the store says it folded last (I7).
    """
    position = stored_position(log, partition)
    end = await log.latest(partition)
    if position.offset > end:
        raise LogCorrupt(
            f"I7: partition {partition} ends at {end}, but its state has folded up to "
            f"{position.offset}: acknowledged records are missing. Restore the data directory from a backup."
        )
    if position.anchor:
        last = (await log.fetch(partition, position.offset - 1, limit_bytes=1))[0].values[0]
        if anchor_of(last) != position.anchor:
            raise LogCorrupt(f"I7: partition {partition}: record {position.offset - 1} is not the one that was folded")
    return position


class Checkpointer:
    """Writes a view's changes to its store, late enough and all at once."""

    def __init__(self, log: Log, store: Store, view: View, position: Position) -> None:
        self._log = log
        self._store = store
        self._view = view
        self.stored = position
        self._sealed: tuple[list[tuple[bytes, bytes]], list[bytes], list[bytes]] | None = None
        self._sealed_position = position
        self._sealed_ticket = 0
        self._sealed_active: set[str] = set()
        self._stored_active: set[str] = set()
        self.active: set[str] = set()
        """Runs that have something to do: what a restart touches. A hint beside the fold, not part of it."""

    def load_active(self) -> set[str]:
        skip = len(ACTIVE_PREFIX)
        self._stored_active = {row[skip:].decode() for row, _ in self._store.scan(ACTIVE_PREFIX, ACTIVE_PREFIX)}
        self.active = set(self._stored_active)
        return self.active

    @property
    def sealed(self) -> bool:
        """A checkpoint is under way."""
        return self._sealed is not None

    @property
    def hint_changed(self) -> bool:
        """Whether what a restart touches differs from what is stored."""
        return self.active != self._stored_active

    def seal(self, offset: int, anchor: str, last_ticket: int) -> None:
        """Step 1."""
        assert self._sealed is None, "I7: one checkpoint at a time"
        puts: list[tuple[bytes, bytes]] = []
        deletes: list[bytes] = []
        clears: list[bytes] = []
        self._view.seal(puts, deletes, clears)
        self._sealed_active = set(self.active)
        puts.extend((ACTIVE_PREFIX + run.encode(), b"") for run in self._sealed_active - self._stored_active)
        deletes.extend(ACTIVE_PREFIX + run.encode() for run in self._stored_active - self._sealed_active)
        position = Position(offset, self._view.at, self._view.stamp, anchor, FOLD_VERSION)
        puts.append((POSITION_KEY, json.encode(position)))
        self._sealed = puts, deletes, clears
        self._sealed_position, self._sealed_ticket = position, last_ticket

    def try_write(self) -> list[str] | None:
        """Steps 2 and 3. The runs that may leave memory, or None if it is too early or the disk is full."""
        if self._sealed is None or self._log.acknowledged < self._sealed_ticket:
            return None
        puts, deletes, clears = self._sealed
        try:
            self._store.write(puts, deletes, clears)
        except LogFull:
            return None
        self._sealed = None
        self.stored, self._stored_active = self._sealed_position, self._sealed_active
        return list(self._view.written())
