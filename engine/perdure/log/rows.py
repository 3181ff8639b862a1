"""Reading stored batches: rows of a column family whose keys are a prefix and an offset.

key: prefix 0    prefix 3    prefix 4      A row holds the records from its own offset to the next row's. So the
     +---------+-----------+---------+     row of offset 2 is the last one at or before it, and a missing row
     | 0  1  2 | 3         | 4  5  6 |     shows as a row that begins too late.
     +---------+-----------+---------+
"""

from rocksdict import Rdict

from perdure.errors import LogCorrupt
from perdure.log.encoding import decode
from perdure.log.protocol import Batch

_HIGHEST = b"\xff" * 8


def first(family: Rdict, prefix: bytes) -> int | None:
    """Offset of the first record under `prefix`; None if there is none."""
    rows = family.iter()
    rows.seek(prefix)
    if not rows.valid():
        rows.status()
        return None
    key: bytes = rows.key()
    return int.from_bytes(key[-8:], "big") if key[:-8] == prefix else None


def last(family: Rdict, prefix: bytes) -> tuple[int, int]:
    """(one past the last record's offset, its timestamp) under `prefix`; zeros if there is none."""
    rows = family.iter()
    rows.seek_for_prev(prefix + _HIGHEST)
    if not rows.valid():
        rows.status()
        return 0, 0
    key: bytes = rows.key()
    if key[:-8] != prefix:
        return 0, 0
    timestamp_ms, values = decode(rows.value())
    return int.from_bytes(key[-8:], "big") + len(values), timestamp_ms


def holding(family: Rdict, prefix: bytes, offset: int) -> bytes | None:
    """Key of the row that holds `offset`, or of the last one before it; None if there is none."""
    rows = family.iter()
    rows.seek_for_prev(prefix + offset.to_bytes(8, "big"))
    if not rows.valid():
        rows.status()
        return None
    key: bytes = rows.key()
    return key if key[:-8] == prefix else None


def newer(family: Rdict, prefix: bytes, since_ms: int) -> bytes | None:
    """Key of the first row not older than `since_ms`, else of the last one; None if there is none.

    By halving: rows of one prefix are in the order of time.
    """
    low = first(family, prefix)
    if low is None:
        return None
    end, _ = last(family, prefix)
    rows = family.iter()
    while low < end:
        middle = (low + end) // 2
        rows.seek_for_prev(prefix + middle.to_bytes(8, "big"))
        timestamp_ms, values = decode(rows.value())
        begin = int.from_bytes(rows.key()[-8:], "big")
        if timestamp_ms < since_ms:
            low = begin + len(values)
        else:
            end = begin
    return holding(family, prefix, low)


def read(family: Rdict, prefix: bytes, partition: int, offset: int, end: int, limit_bytes: int) -> list[Batch]:
    """Batches from `offset` to `end` or until `limit_bytes` are passed. Raises `LogCorrupt` if one is not there."""
    rows = family.iter()
    rows.seek_for_prev(prefix + offset.to_bytes(8, "big"))
    batches: list[Batch] = []
    size = 0
    while offset < end and size < limit_bytes:
        if not rows.valid():
            rows.status()
            raise _hole(prefix, offset)
        key: bytes = rows.key()
        stored: bytes = rows.value()
        begin = int.from_bytes(key[-8:], "big")
        timestamp_ms, values = decode(stored)
        if key[:-8] != prefix or not begin <= offset < begin + len(values) or (batches and begin != offset):
            raise _hole(prefix, offset)
        batches.append(Batch(partition, offset, timestamp_ms, values[offset - begin :] if offset > begin else values))
        offset = begin + len(values)
        size += len(stored)
        rows.next()
    return batches


def _hole(prefix: bytes, offset: int) -> LogCorrupt:
    topic = prefix[:-3].decode() or "journal"
    partition = int.from_bytes(prefix[-2:], "big")
    return LogCorrupt(
        f"the record at offset {offset} of {topic}, partition {partition}, is missing, and later ones are there. "
        "Nothing is skipped: restore the directory from a backup"
    )
