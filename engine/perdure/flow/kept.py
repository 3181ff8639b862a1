"""Kept events: the matcher's copies within the look-back, by join key and position. One row of the store a copy."""

from collections.abc import Iterator

import msgspec

from perdure.flow.states import KeptEvent
from perdure.flow.tables import Backing

_PREFIX = b"k/"
_CHUNK = 64
"""Rows read at a time: most answers are among the first."""
_ENCODE = msgspec.json.Encoder().encode
_DECODE = msgspec.json.Decoder(KeptEvent).decode

Batch = dict[str, dict[int, KeptEvent]]
"""Key → position → copy, both in order of arrival."""


def row_of(key: str, position: int) -> bytes:
    """A join key is a JSON text, and so has no NUL."""
    return b"%b%b\0%b" % (_PREFIX, key.encode(), position.to_bytes(8, "big"))


class Kept:
    """Copies of a partition. Positions only grow: what is stored comes before what is not stored yet."""

    def __init__(self, backing: Backing) -> None:
        self._backing = backing
        self._new: Batch = {}
        self._sealed: Batch = {}
        self._gone: dict[bytes, None] = {}
        self._sealed_gone: dict[bytes, None] = {}

    def add(self, key: str, kept: KeptEvent) -> bytes:
        """Keep a copy. Returns its row, by which it goes."""
        copies = self._new.get(key)
        if copies is None:
            self._new[key] = {kept.position: kept}
        else:
            copies[kept.position] = kept
        return row_of(key, kept.position)

    def delete(self, row: bytes) -> None:
        key, position = row[len(_PREFIX) : -9].decode(), int.from_bytes(row[-8:], "big")
        copies = self._new.get(key)
        if copies is None or copies.pop(position, None) is None:
            self._gone[row] = None
        elif not copies:
            del self._new[key]

    def since(self, key: str, position: int, at: int, end: int) -> Iterator[KeptEvent]:
        """Copies of a key from `position` on, below `end`, in order, without many that came before log time `at`."""
        prefix = row_of(key, 0)[:-8]
        rows = self._backing.scan(prefix, row_of(key, position), _CHUNK)
        if len(rows) == _CHUNK and _DECODE(rows[-1][1]).high < at:
            first = self._first_reaching(prefix, _position(rows[-1][0]) + 1, end, at)
            rows = self._backing.scan(prefix, prefix + first.to_bytes(8, "big"), _CHUNK)
        while rows:
            for row, raw in rows:
                if row not in self._gone and row not in self._sealed_gone:
                    yield _DECODE(raw)
            after = prefix + (_position(rows[-1][0]) + 1).to_bytes(8, "big")
            rows = self._backing.scan(prefix, after, _CHUNK) if len(rows) == _CHUNK else ()
        for copies in (self._sealed.get(key, {}), self._new.get(key, {})):
            for place, kept in copies.items():
                if place >= position and row_of(key, place) not in self._gone:
                    yield kept

    def _first_reaching(self, prefix: bytes, low: int, end: int, at: int) -> int:
        """By halving: the first position from `low` on whose `high` is at least `at`, or one past the last."""
        while low < end:
            middle = (low + end) // 2
            found = self._backing.scan(prefix, prefix + middle.to_bytes(8, "big"), 1)
            if found and _DECODE(found[0][1]).high < at:
                low = _position(found[0][0]) + 1
            else:
                end = middle
        return low

    def items(self) -> Iterator[tuple[bytes, KeptEvent]]:
        """Every copy by its row."""
        for row, raw in self._backing.scan(_PREFIX, _PREFIX):
            if row not in self._gone and row not in self._sealed_gone:
                yield row, _DECODE(raw)
        for batch in (self._sealed, self._new):
            for key, copies in batch.items():
                for position, kept in copies.items():
                    if (row := row_of(key, position)) not in self._gone:
                        yield row, kept

    def seal(self, puts: list[tuple[bytes, bytes]], deletes: list[bytes]) -> None:
        """Hand over what changed since the last seal, for one write."""
        for key, copies in self._new.items():
            puts.extend((row_of(key, position), _ENCODE(kept)) for position, kept in copies.items())
        deletes.extend(self._gone)
        self._sealed, self._new = self._new, {}
        self._sealed_gone, self._gone = self._gone, {}

    def written(self) -> None:
        self._sealed, self._sealed_gone = {}, {}


def _position(row: bytes) -> int:
    return int.from_bytes(row[-8:], "big")
