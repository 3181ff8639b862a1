"""Which WALs count, by RocksDB's own book: the manifest that CURRENT names.

It is a log of edits, in the records of a WAL. An edit is a list of tagged fields, each to be passed over by its shape.
A WAL below `min_log_number_to_keep` is in tables as a whole: a power failure may bring it back, without its neighbours.
"""

from collections.abc import Iterator
from pathlib import Path

from perdure.log.tails import BLOCK, HEADER, checksum_of

_MIN_LOG = 10
_SHAPES = {
    1: "b",  # comparator
    2: "n",  # log number of a family
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
    200: "n",  # family
    201: "b",
    202: "",
    203: "n",
    300: "n",  # edits still to come in the group
}
_IGNORABLE = 1 << 13
_LAST_FIELD = 1


def manifest(folder: Path) -> Path | None:
    """The one in use. A start that lost its power leaves another, which nobody reads, with whatever was written."""
    try:
        named = folder / (folder / "CURRENT").read_text(encoding="ascii").strip()
    except (OSError, ValueError):  # RocksDB says what is wrong with it
        return None
    return named if named.is_file() else None


def first_wal(folder: Path) -> int:
    """The lowest number of a WAL that is not in tables; 0 if that is not to be found out."""
    path = manifest(folder)
    found = 0
    if path is not None:
        for edit in _records(path.read_bytes()):
            try:
                found = max(found, _min_log(edit))
            except (IndexError, KeyError):
                return 0
    return found


def _records(data: bytes) -> Iterator[bytes]:
    """Payloads, as far as their checksums are right."""
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
            yield parts
            parts = b""
        at = end


def _min_log(edit: bytes) -> int:
    at = found = 0
    while at < len(edit):
        tag, at = _number(edit, at)
        if tag == _MIN_LOG:
            found, at = _number(edit, at)
            continue
        for kind in "b" if tag & _IGNORABLE else _SHAPES[tag]:
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
