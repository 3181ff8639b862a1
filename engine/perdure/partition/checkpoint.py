"""Checkpoints: the view's changes and the place it stands at, in one write.

1 seal: take what changed up to offset n, with the hash of record n-1 and the last effect's ticket
2 wait until every effect of offsets < n is acknowledged (folding goes on meanwhile)
3 write it all at once; on a full disk, keep it and try again
"""

from msgspec import Struct, json, msgpack
from xxhash import xxh3_64_hexdigest

from perdure.errors import LogFull
from perdure.flow import FOLD_VERSION
from perdure.flow.view import View
from perdure.log.protocol import Log, Store

POSITION_KEY = b"!position"
ACTIVE_PREFIX = b"a/"
CHANGED_PREFIX = b"!changed/"
"""Beside each checkpoint, where there are snapshots: the keys that it changed, until a round has them."""


class Position(Struct):
    """Where a stored view stands: it has folded all offsets below `offset`; `anchor` hashes the record before."""

    offset: int
    at: int
    stamp: int
    anchor: str
    folds: int


def anchor_of(raw: bytes) -> str:
    return xxh3_64_hexdigest(raw)


class Changed(Struct, array_like=True):
    """What a checkpoint changed: the keys that it put or deleted, and the offset that it brought the store to."""

    offset: int
    keys: list[bytes]


def read_position(raw: bytes | None) -> Position | None:
    return None if raw is None else json.decode(raw, type=Position)


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
        self._lists_changes = log.snapshots is not None
        self._checkpoints = 0
        if self._lists_changes:
            rows = store.scan(CHANGED_PREFIX, CHANGED_PREFIX)
            self._checkpoints = int.from_bytes(rows[-1][0][len(CHANGED_PREFIX) :], "big") if rows else 0
        self.active: set[str] = set()
        """Runs that have something to do: what a restart touches. A hint beside the fold, not part of it."""

    @property
    def reached(self) -> int:
        """Up to which offset all is stored, or on its way there."""
        return self._sealed_position.offset

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
        if self._lists_changes:
            self._list(puts, deletes, clears, offset)
        self._sealed = puts, deletes, clears
        self._sealed_position, self._sealed_ticket = position, last_ticket

    def _list(self, puts: list[tuple[bytes, bytes]], deletes: list[bytes], clears: list[bytes], offset: int) -> None:
        """Add what this checkpoint changes, by key: a round has to know what is gone, too."""
        for prefix in clears:
            deletes.extend(key for key, _ in self._store.scan(prefix))
        clears.clear()
        self._checkpoints += 1
        keys = [*(key for key, _ in puts), *deletes]
        puts.append((CHANGED_PREFIX + self._checkpoints.to_bytes(8, "big"), msgpack.encode(Changed(offset, keys))))

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
