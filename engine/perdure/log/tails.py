"""Looks through RocksDB's own logs before RocksDB does, since opening rewrites them.

RocksDB's WAL and manifest are blocks of 32 KiB, filled with records, none of which crosses a block:

    | crc32c 4, masked | length 2 | type 1 | payload | next record ...

Their checksums catch damage to payloads. Damage to a header can look like something innocent, and then takes all
that follows with it, without a word: acknowledged records, or the manifest's word that a table exists.

- A length that reaches beyond the file is what a torn write leaves, and is rightly left out: nobody was told of it.
  The checksum tells the two apart: if some shorter length makes it right, the record is whole and its length a lie.
- A type of zero with no length is what preallocated space looks like; but nothing follows that.
- The types of recycled files, which are never written here, end a WAL; in a manifest RocksDB reads on for ever.
"""

from enum import Enum
from mmap import ACCESS_READ, mmap
from pathlib import Path

BLOCK = 32 << 10
HEADER = 7
_TYPES = range(1, 5)  # full, first, middle, last


class Tail(Enum):
    WHOLE = "whole"
    TORN = "torn"
    DAMAGED = "damaged"


def tail(path: Path) -> Tail:
    """How the file ends, and whether its headers lead there. About 0.2 s for the largest WAL of small records."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        if size == 0:  # cannot be mapped
            return Tail.WHOLE
        with mmap(file.fileno(), 0, access=ACCESS_READ) as data:
            for begin in range(0, size, BLOCK):
                end = _block(data, begin, min(begin + BLOCK, size))
                if end is not Tail.WHOLE:
                    # Only the last block can be torn.
                    return end if begin + BLOCK >= size else Tail.DAMAGED
    return Tail.WHOLE


def _block(data: mmap, at: int, end: int) -> Tail:
    while at + HEADER <= end:
        length = data[at + 4] | data[at + 5] << 8
        if data[at + 6] not in _TYPES:
            return Tail.DAMAGED if any(data[at:end]) else Tail.TORN
        if at + HEADER + length > end:
            return Tail.DAMAGED if _is_whole(data[at:end]) else Tail.TORN
        at += HEADER + length
    # Up to six bytes are too few for a header: padding, or the beginning of a torn one.
    return Tail.TORN if any(data[at:end]) else Tail.WHOLE


def checksum_of(record: bytes) -> bytes:
    """As it stands before a record that begins with its type."""
    crc = 0xFFFFFFFF
    table = _CRC32C
    for byte in record:
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return ((((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF).to_bytes(4, "little")


def _is_whole(rest: bytes) -> bool:
    """Whether the checksum that `rest` begins with fits some prefix of what follows the length."""
    masked = int.from_bytes(rest[:4], "little")
    rotated = (masked - 0xA282EAD8) & 0xFFFFFFFF
    wanted = ((rotated >> 17) | (rotated << 15)) & 0xFFFFFFFF ^ 0xFFFFFFFF
    crc = 0xFFFFFFFF
    for byte in rest[6:]:
        crc = _CRC32C[(crc ^ byte) & 0xFF] ^ (crc >> 8)
        if crc == wanted:
            return True
    return False


def _table() -> list[int]:
    table: list[int] = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
        table.append(crc)
    return table


_CRC32C = _table()
