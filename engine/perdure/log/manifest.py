"""Which WALs count, by RocksDB's own book: the manifest that CURRENT names.

It is a log of edits, in the records of a WAL. An edit is a list of tagged fields, each to be passed over by its shape.
A WAL below `min_log_number_to_keep` is in tables as a whole: a power failure may bring it back, without its neighbours.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from perdure.log.tails import BLOCK, HEADER, checksum_of

_LOG, _MIN_LOG, _FAMILY = 2, 10, 200
_SHAPES = {
    1: "b",  # comparator
    _LOG: "n",  # of a family: what it has in WALs below is in tables
    3: "n",  # next file
    4: "n",  # last sequence number
    5: "nb",  # where compaction goes on
    6: "nn",  # table removed
    7: "nnnbb",  # table added, as first written
    9: "n",  # log number before
    _MIN_LOG: "n",
    100: "nnnbbnn",
    102: "nnnnbbnn",
    103: "nnnbbnnf",  # table added, as now: further fields of its own
    _FAMILY: "n",
    201: "b",
    202: "",
    203: "n",
    300: "n",  # edits still to come in the group
}
SECTOR = 512
_IGNORABLE = 1 << 13
_LAST_FIELD = 1


def manifest(folder: Path) -> Path | None:
    """The one in use. A start that lost its power leaves another, which nobody reads, with whatever was written."""
    try:
        named = folder / (folder / "CURRENT").read_text(encoding="ascii").strip()
    except (OSError, ValueError):  # RocksDB says what is wrong with it
        return None
    return named if named.is_file() else None


class Book(NamedTuple):
    """What a manifest says, as far as it is whole."""

    path: Path
    end: int
    """Where its last whole edit ends."""
    torn: bool
    """What follows that edit has the holes of a write that was never synced."""
    first_wal: int
    """The lowest number of a WAL that is not in tables; 0 if that is not to be found out."""
    recovered: int
    """The log number that the last opening gave: no WAL has it, and the WALs from then on have higher ones."""


def number_of(path: Path) -> int:
    """Of a WAL or a manifest. RocksDB counts all its files together, as it makes them."""
    return int(path.stem.rpartition("-")[2])


def book(folder: Path) -> Book | None:
    """None if there is no manifest."""
    path = manifest(folder)
    if path is None:
        return None
    data = path.read_bytes()
    end = first = recovered = 0
    of_family: dict[int, int] = {}
    known = True
    for edit, after in _edits(data):
        end = after
        try:
            fields = _numbers(edit)
        except (IndexError, KeyError):
            known = False
            continue
        first = max(first, fields.get(_MIN_LOG, 0))
        if _LOG in fields:
            of_family[fields.get(_FAMILY, 0)] = fields[_LOG]
        if _LOG in fields and _FAMILY not in fields:  # nothing is ever in this family, so that no flush sets it
            recovered = fields[_LOG]
    used = [number for family, number in of_family.items() if family]
    first = max(first, min(used, default=0)) if known else 0
    return Book(path, end, _has_hole(data, end), first, recovered)


def first_wal(folder: Path) -> int:
    """See `Book`."""
    found = book(folder)
    return 0 if found is None else found.first_wal


def _has_hole(data: bytes, at: int) -> bool:
    """Whether a sector has nothing but zeros from `at` on: a disk writes whole ones. One bad byte looks otherwise."""
    begins = (at, *range(at - at % SECTOR + SECTOR, len(data), SECTOR))
    return any(not any(data[begin : begin - begin % SECTOR + SECTOR]) for begin in begins if begin < len(data))


def _edits(data: bytes) -> Iterator[tuple[bytes, int]]:
    """Edits and where each ends, as far as their checksums are right."""
    at, parts = 0, b""
    while at + HEADER <= len(data):
        left = BLOCK - at % BLOCK
        if left < HEADER:
            at += left
            continue
        end = at + HEADER + (data[at + 4] | data[at + 5] << 8)
        kind = data[at + 6]
        if kind == 0 or end > len(data) or checksum_of(data[at + 6 : end]) != data[at : at + 4]:
            return
        parts += data[at + HEADER : end]
        if kind in (1, 4):
            yield parts, end
            parts = b""
        at = end


def _numbers(edit: bytes) -> dict[int, int]:
    """The fields of an edit that are one number each."""
    at, found = 0, dict[int, int]()
    while at < len(edit):
        tag, at = _number(edit, at)
        shape = "b" if tag & _IGNORABLE else _SHAPES[tag]
        if shape == "n":
            found[tag], at = _number(edit, at)
            continue
        for kind in shape:
            at = _skip(edit, at, kind)
    return found


def _skip(edit: bytes, at: int, kind: str) -> int:
    if kind == "f":
        while True:
            tag, at = _number(edit, at)
            if tag == _LAST_FIELD:
                return at
            at = _skip(edit, at, "b")
    number, at = _number(edit, at)
    return at + number if kind == "b" else at


def _number(edit: bytes, at: int) -> tuple[int, int]:
    """Seven bits a byte, lowest first, the top bit set in all but the last."""
    number = shift = 0
    while True:
        byte = edit[at]
        number |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return number, at
