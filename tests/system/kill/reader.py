"""Reads an embedded log's journal from its files, with nothing of ours: RocksDB, struct and json.

What stands here was written from the description of the format, not by calling the engine, so that a mistake that the
engine makes in writing and in reading alike would still show.
"""

from collections.abc import Iterator
from pathlib import Path
from struct import unpack, unpack_from
from typing import NamedTuple

from rocksdict import AccessType, Options, Rdict

from tests.evidence.entries import Journal, entries_of

FAMILIES = ("journal", "side", "state")
FRAMED = 1 << 63
VOUCHER = b"\xff\xff"
"""A key that is no record: how far all was acknowledged."""


def read_journal(folder: Path) -> Journal:
    """Every record of every partition, in order; offsets have no gaps, or it fails."""
    db = Rdict(
        str(folder / "db"),
        Options(raw_mode=True),
        {name: Options(raw_mode=True) for name in FAMILIES},
        AccessType.read_only(False),
    )
    try:
        journal = db.get_column_family("journal")
        partitions: dict[int, list[tuple[int, int, bytes]]] = {}
        for key, value in _rows(journal):
            if key == VOUCHER:
                continue
            partition, first = unpack(">HQ", key)
            stored = partitions.setdefault(partition, [])
            assert first == len(stored), f"partition {partition}: offset {len(stored)} is followed by {first}"
            ms, values = _values(value)
            for raw in values:
                stored.append((len(stored), ms, raw))
        del journal
        return {partition: entries_of(partition, stored) for partition, stored in partitions.items()}
    finally:
        db.close()


def _rows(family: Rdict) -> Iterator[tuple[bytes, bytes]]:
    rows = family.iter()
    rows.seek_to_first()
    while rows.valid():
        yield rows.key(), rows.value()
        rows.next()
    rows.status()


def _values(stored: bytes) -> tuple[int, list[bytes]]:
    (ms,) = unpack_from(">Q", stored)
    if not ms & FRAMED:
        return ms, stored[8:].split(b"\n")
    (count,) = unpack_from(">I", stored, 8)
    at = 12 + 4 * count
    values: list[bytes] = []
    for length in unpack_from(f">{count}I", stored, 12):
        values.append(stored[at : at + length])
        at += length
    return ms & ~FRAMED, values


class Line(NamedTuple):
    """A line of the file that steps write."""

    word: str
    ms: int
    pid: int
    attempt: int
    kind: str
    key: str

    @property
    def run(self) -> str:
        return self.key.partition("/")[0]

    @property
    def op(self) -> str:
        return self.key.partition("/")[2]


def read_steps(path: Path) -> list[Line]:
    """In the order in which the lines were written."""
    found: list[Line] = []
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    for line in text.splitlines():
        word, ms, pid, attempt, kind, key = line.split(" ", 5)
        found.append(Line(word, int(ms), int(pid), int(attempt), kind, key))
    return found


def in_flight(lines: list[Line], pid: int) -> set[tuple[str, int]]:
    """Attempts that this process has begun and not ended, by key."""
    mine = [line for line in lines if line.pid == pid]
    begun = {(line.key, line.attempt) for line in mine if line.word == "started"}
    return begun - {(line.key, line.attempt) for line in mine if line.word != "started"}
