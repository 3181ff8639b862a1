"""How the embedded log lays out records in RocksDB: one value per (partition, flush).

    journal key   | partition 2 | offset of the first record 8 |                big-endian, so that keys sort
    start key     | 255 255 partition 2 |         value: the first offset that is kept 8, where it was trimmed
    voucher key   | 255 255 |                     value: how far all was acknowledged, see `remains`
    side key      | topic | 0 | partition 2 | offset 8 |
    value         | milliseconds 8 | record \\n record \\n record |                 the usual form
                  | milliseconds 8, top bit set | n 4 | length 4 × n | records |   if a record has a newline in it

One value per flush costs half of one per record, and joining costs less than any framing. JSON on one line has no
newline; the second form is there so that no record, whatever it is, can be stored as something else.
"""

from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from struct import Struct

MAX_VALUE_BYTES = 8 << 20  # a reader holds one value at a time

KEY = Struct(">HQ")
_MS = Struct(">Q")
_FRAMED = 1 << 63
COMMANDS = "commands."
"""Topics of the column family `side` that begin so are queues: what is done goes one by one."""


def start_key(partition: int) -> bytes:
    """After the rows of all partitions: there are at most 65535."""
    return b"\xff\xff" + partition.to_bytes(2, "big")


def side_prefix(topic: str, partition: int) -> bytes:
    return topic.encode() + b"\0" + partition.to_bytes(2, "big")


def encode(timestamp_ms: int, values: Sequence[bytes]) -> bytes:
    """The stored value. `values` must not be empty."""
    joined = b"".join(values)
    if b"\n" not in joined:  # a search at the speed of memory; counting those of a body joined by them is no such
        return _MS.pack(timestamp_ms) + b"\n".join(values)
    lengths = Struct(f">I{len(values)}I").pack(len(values), *map(len, values))
    return _MS.pack(timestamp_ms | _FRAMED) + lengths + joined


def decode(stored: bytes) -> tuple[int, list[bytes]]:
    """(timestamp, records). RocksDB's checksums vouch for the bytes; what they held was made by `encode`."""
    (timestamp_ms,) = _MS.unpack_from(stored)
    if not timestamp_ms & _FRAMED:
        return timestamp_ms, stored[8:].split(b"\n")
    count = int.from_bytes(stored[8:12], "big")
    lengths: tuple[int, ...] = Struct(f">{count}I").unpack_from(stored, 12)
    bounds = accumulate(lengths, initial=12 + 4 * count)
    return timestamp_ms ^ _FRAMED, [stored[begin:end] for begin, end in pairwise(bounds)]


def split(values: list[bytes], limit_bytes: int = MAX_VALUE_BYTES) -> Iterator[list[bytes]]:
    """Cut what one flush holds of a partition into lists of about `limit_bytes`, nearly always one."""
    if sum(map(len, values)) <= limit_bytes:
        yield values
        return
    part: list[bytes] = []
    size = 0
    for value in values:
        if part and size + len(value) > limit_bytes:
            yield part
            part, size = [], 0
        part.append(value)
        size += len(value)
    yield part
