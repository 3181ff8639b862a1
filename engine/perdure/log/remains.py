"""What a power failure leaves of WALs, told apart from damage, and cut off before RocksDB reads it.

    synced                              | written, not synced: lost, there, or with holes, in any mixture
    | batch | batch | flight F | state  | state | flight F+1 | state |
                                          ^^^^^   ^^^^^^^^^^
                                          a hole: RocksDB calls it corruption, or passes it over and reads on

A disk may write the pages of a file in any order, so that what was never synced can have holes, with whole records
behind them; and of two WALs the later may be there without the end of the earlier. RocksDB cannot know whether such a
hole was synced once, nor does it look whether one WAL goes on where the last one ends. We can: every batch says up to
which sequence number all had been acknowledged when it was written (`VOUCHER`), and so does the mark. What is missing
above the highest of these was promised to nobody, and goes, with all that follows it: a log has no holes. What is
missing below is damage, and nothing is touched.
"""

import os
from collections.abc import Iterator
from itertools import pairwise
from mmap import ACCESS_READ, mmap
from pathlib import Path
from struct import Struct
from typing import NamedTuple

from perdure.errors import LogCorrupt
from perdure.log.directory import sync_directory
from perdure.log.manifest import Book, book, first_wal, number_of
from perdure.log.tails import BLOCK, HEADER, checksum_of

VOUCHER = b"\xff\xff"
"""A key of the journal that no partition has: the sequence number up to which all is acknowledged."""

_FULL, _FIRST, _MIDDLE, _LAST = range(1, 5)
_BATCH = Struct("<QI")
_PUT = 5
"""Of a batch's operation that puts a value, and names its family, its key and the value's length."""
_SIGN = bytes([len(VOUCHER)]) + VOUCHER + b"\x08"
_SIGN_AT = _BATCH.size + 2
_VOUCHED_AT = _SIGN_AT + len(_SIGN)
"""In a batch's payload: tag and family come before the sign, and what it vouches for behind it."""

Data = mmap | bytes


class Found(NamedTuple):
    """A batch in a WAL, by its headers; whether its payload is whole is another question."""

    wal: int
    at: int
    end: int
    first: int
    last: int
    """Sequence numbers."""


class Cut(NamedTuple):
    """Where to cut: at `at` of `wals[0]`; the later ones go altogether."""

    wals: list[Path]
    at: int
    vouched: int
    """What must be there after it, by what is there before it."""


def find_cut(folder: Path, mark: int) -> Cut | None:
    """Where the WALs in `folder` end to be whole, if they do and nobody was promised what follows. Reads only.

    Raises `LogCorrupt` if somebody was. None: whatever RocksDB complains of, it is no end of a WAL.
    """
    paths = _wals(folder, first_wal(folder))
    wals = [_load(path) for path in paths]
    vouched = _vouched(wals)
    sure = max(mark, vouched)
    whole, hole = _whole(wals)
    for number, batch in enumerate(whole):
        if batch.last > sure and not _is_whole(wals[batch.wal], batch):
            hole = batch.wal, batch.at
            del whole[number:]
            break
    if hole is None:
        return None
    where, at = hole
    if whole and whole[-1].last < sure:
        raise LogCorrupt(_damaged(paths[where], at))
    return Cut(paths[where:], at, vouched)


def make_cut(cut: Cut) -> None:
    """Durable when this returns. The latest WAL goes first: cut short by another power failure, it is the same cut."""
    for path in reversed(cut.wals[1:]):
        path.unlink()
    sync_directory(cut.wals[0].parent)
    _shorten(cut.wals[0], cut.at)


def _shorten(path: Path, size: int) -> None:
    fd = os.open(path, os.O_RDWR)
    try:
        os.ftruncate(fd, size)
        os.fsync(fd)
    finally:
        os.close(fd)


def cut_manifest(folder: Path) -> bool:
    """Take from the end of the manifest an edit that was never synced. Whether there was one; durable when it returns.

    Nothing goes with it: WALs are removed only after the edit that says so was synced. If they are gone all the same,
    the edit was damaged later, and `LogCorrupt` is raised.
    """
    found = book(folder)
    if found is None or not found.torn:
        return False
    if not _has_all_since(folder, found):
        raise LogCorrupt(_damaged(found.path, found.end))
    _shorten(found.path, found.end)
    return True


def _has_all_since(folder: Path, found: Book) -> bool:
    """Whether no WAL is missing of those that the manifest, as far as it is whole, says are needed."""
    if (folder / f"{found.first_wal:06}.log").exists():
        return True
    # The opening made its WAL before its manifest. While that is there, written to or not, none has gone since.
    return found.first_wal == found.recovered and any(
        number_of(path) < number_of(found.path) for path in _wals(folder, found.recovered)
    )


def continues(paths: list[Path]) -> bool:
    """Whether each WAL begins with the write after the last one of the WAL before, headers being right."""
    ends = [ends for ends in map(_ends, paths) if ends is not None]
    return all(last + 1 == first for (_, last), (first, _) in pairwise(ends))


def _wals(folder: Path, first: int) -> list[Path]:
    """Those from number `first` on, in order."""
    return sorted((path for path in folder.glob("*.log") if number_of(path) >= first), key=number_of)


def _ends(path: Path) -> tuple[int, int] | None:
    """Sequence numbers of the first and the last write in a WAL; None if it has none."""
    data = _load(path)
    first = next(_walk(data, 0, 0), None)
    if not isinstance(first, Found):
        return None
    for begin in reversed(range(0, len(data), BLOCK)):
        found = [batch for batch in _walk(data, 0, begin, loose=True) if isinstance(batch, Found)]
        if found:
            return first.first, found[-1].last
    return None


def _damaged(path: Path, at: int) -> str:
    return (
        f"{path} is damaged at byte {at}, before the end of what was acknowledged. Nothing is skipped: restore the "
        "directory from a backup"
    )


def _load(path: Path) -> Data:
    with path.open("rb") as file:
        size = file.seek(0, 2)
        return mmap(file.fileno(), 0, access=ACCESS_READ) if size else b""  # nothing cannot be mapped


def _vouched(wals: list[Data]) -> int:
    """The highest voucher, which is the last: what is acknowledged stays so. Found wherever it is, behind any hole."""
    for data in reversed(wals):
        found = _last_voucher(data)
        if found is not None:
            return found
    return 0


def _last_voucher(data: Data) -> int | None:
    found, at = None, len(data)
    while found is None and (at := data.rfind(_SIGN, 0, at + len(_SIGN) - 1)) >= 0:
        found = _voucher(data, at - HEADER - _SIGN_AT)
    # The end of a block may part a sign, and then no search finds it.
    for boundary in range(len(data) // BLOCK * BLOCK, max(at, 0), -BLOCK):
        for begin in range(boundary - HEADER - _SIGN_AT - len(_SIGN) + 1, boundary - HEADER + 1):
            if begin >= 0 and _end(data, begin) == boundary and (parted := _voucher(data, begin)) is not None:
                return parted
    return found


def _voucher(data: Data, begin: int) -> int | None:
    """What the batch vouches for whose first record is at `begin`; None if none is, or if it is torn."""
    payload, at, kinds = b"", begin, (_FULL, _FIRST)
    while len(payload) < _VOUCHED_AT + 8:
        if at < 0 or at + HEADER > len(data) or data[at + 6] not in kinds or not _is_right(data, at):
            return None
        payload += data[at + HEADER : min(_end(data, at), at + HEADER + _VOUCHED_AT + 8)]
        at, kinds = _end(data, at), (_MIDDLE, _LAST)
    if payload[_BATCH.size] != _PUT or payload[_SIGN_AT:_VOUCHED_AT] != _SIGN:
        return None
    return int.from_bytes(payload[_VOUCHED_AT : _VOUCHED_AT + 8], "big")


def _whole(wals: list[Data]) -> tuple[list[Found], tuple[int, int] | None]:
    """Batches without a gap, and where they stop before the end."""
    whole: list[Found] = []
    for number, data in enumerate(wals):
        for batch in _walk(data, number, 0):
            if isinstance(batch, int):
                return whole, (number, batch)
            if whole and batch.first != whole[-1].last + 1:
                before = whole[-1].wal
                return whole, (number, batch.at) if before == number else (before, len(wals[before]))
            whole.append(batch)
    return whole, None


def _walk(data: Data, wal: int, at: int, *, loose: bool = False) -> Iterator[Found | int]:
    """Batches by their headers from `at` on; at last, if it does not come to the end, where it stopped.

    `loose`: the rest of one that began before is passed over.
    """
    size = len(data)
    begin = -1
    head = b""
    while at < size:
        left = BLOCK - at % BLOCK
        if left < HEADER or size - at < HEADER:
            if any(data[at : min(at + left, size)]) or left >= HEADER:
                break
            at += left
            continue
        length, kind = data[at + 4] | data[at + 5] << 8, data[at + 6]
        fits = kind in (_FULL, _FIRST) if begin < 0 else kind in (_MIDDLE, _LAST)
        end = at + HEADER + length
        if HEADER + length > left or end > size:
            break
        if loose and kind in (_MIDDLE, _LAST):
            at = end
            continue
        loose = False
        if not fits:
            break
        if begin < 0:
            begin, head = at, b""
        if len(head) < _BATCH.size:
            head += data[at + HEADER : min(end, at + HEADER + _BATCH.size)]
        at = end
        if kind in (_FULL, _LAST):
            found = _found(wal, begin, end, head)
            if found is None:
                yield begin
                return
            begin = -1
            yield found
    if at < size or begin >= 0:
        yield begin if begin >= 0 else at


def _found(wal: int, at: int, end: int, head: bytes) -> Found | None:
    if len(head) < _BATCH.size:
        return None
    first, count = _BATCH.unpack_from(head)
    return Found(wal, at, end, first, first + count - 1)


def _is_whole(data: Data, batch: Found) -> bool:
    """By the checksums of its records. About 10 MB a second: only for what is in doubt."""
    at = batch.at
    while at < batch.end:
        if BLOCK - at % BLOCK < HEADER:
            at += BLOCK - at % BLOCK
            continue
        if not _is_right(data, at):
            return False
        at = _end(data, at)
    return True


def _end(data: Data, at: int) -> int:
    return at + HEADER + (data[at + 4] | data[at + 5] << 8)


def _is_right(data: Data, at: int) -> bool:
    return checksum_of(data[at + 6 : _end(data, at)]) == data[at : at + 4]
