"""Records that say what they are, and a fold of them: what the life writes, and what the checks expect.

    L 3 P 1 N 17 T 60 C 2596996162|<padding>

The 17th record that life 3 gave to partition 1, with ticket 60; C is the checksum of the padding.
"""

import random
from typing import NamedTuple
from zlib import crc32

PARTITIONS = 3
POSITION = b"!position"
SLOTS = 16


class Record(NamedTuple):
    life: int
    partition: int
    number: int
    ticket: int


def make(rng: random.Random, record: Record) -> bytes:
    draw = rng.random()
    size = (
        rng.randrange(40)
        if draw < 0.6
        else rng.randrange(200, 2_000)
        if draw < 0.9
        else rng.randrange(4_000, 60_000)
        if draw < 0.995
        else rng.randrange(200_000, 400_000)
    )
    padding = rng.randbytes(size) if draw < 0.8 or size > 50_000 else b"." * size
    return b"L %d P %d N %d T %d C %d|" % (*record, crc32(padding)) + padding


def parse(raw: bytes) -> Record:
    """Raises AssertionError if the padding is not what was written."""
    head, _, padding = raw.partition(b"|")
    words = head.split()
    assert words[::2] == [b"L", b"P", b"N", b"T", b"C"], f"not a record of ours: {raw[:60]!r}"
    assert int(words[9]) == crc32(padding), f"another padding than was written: {raw[:60]!r}"
    return Record(*map(int, words[1:8:2]))


class Fold:
    """State of a partition below `offset`. Rows come, change, go one by one, and go all at once."""

    def __init__(self) -> None:
        self.offset = 0
        self.chain = 0
        self.rows: dict[bytes, bytes] = {}
        self._changed: set[bytes] = set()
        self._cleared = False

    def take(self, raw: bytes) -> None:
        check = crc32(raw)
        self.chain = crc32(raw, self.chain)
        self._slot(b"s/%02d" % (check % SLOTS))
        if check % 97 == 0:
            self._cleared = True
            for key in [key for key in self.rows if key.startswith(b"g/")]:
                del self.rows[key]
            self._changed = {key for key in self._changed if not key.startswith(b"g/")}
        if check % 7 == 0:
            self._put(b"g/%08d" % self.offset, b"%d" % check * 10)
        self.offset += 1

    def _slot(self, key: bytes) -> None:
        count = int(self.rows.get(key, b"0")) + 1
        if count % 5 == 0:
            self.rows.pop(key, None)
            self._changed.add(key)
        else:
            self._put(key, b"%d" % count)

    def _put(self, key: bytes, value: bytes) -> None:
        self.rows[key] = value
        self._changed.add(key)

    @property
    def position(self) -> bytes:
        return b"%d %d" % (self.offset, self.chain)

    def everything(self) -> dict[bytes, bytes]:
        return {**self.rows, POSITION: self.position}

    def load(self, rows: list[tuple[bytes, bytes]]) -> None:
        self.rows = dict(rows)
        if position := self.rows.pop(POSITION, b""):
            self.offset, self.chain = map(int, position.split())

    def seal(self) -> tuple[list[tuple[bytes, bytes]], list[bytes], list[bytes]]:
        """What changed since the last seal: puts, deletes, prefixes to clear."""
        puts = [(key, self.rows[key]) for key in self._changed if key in self.rows]
        deletes = [key for key in self._changed if key not in self.rows]
        clears = [b"g/"] if self._cleared else []
        self._changed.clear()
        self._cleared = False
        return [*puts, (POSITION, self.position)], deletes, clears
