"""Looks at the ends of RocksDB's own logs before RocksDB does, since opening rewrites them.

RocksDB's WAL and manifest are blocks of 32 KiB, filled with records:

    | crc32c 4, masked | length 2 | type 1 | payload | next record ...

A record that reaches beyond the end of the file is a torn write: RocksDB leaves it out without a word, as it should,
for nobody was told that it is there. But a flipped bit in the *length* of a whole record looks just the same, and
takes all that follows with it: acknowledged records, or the manifest's word that a table exists. The checksum tells
the two apart: if some shorter length makes it right, then the record is whole and its length is a lie. All other
damage fails RocksDB's checksums by itself.
"""

from enum import Enum
from pathlib import Path

_BLOCK = 32 << 10
_HEADER = 7


class Tail(Enum):
    WHOLE = "whole"
    TORN = "torn"
    DAMAGED = "damaged"


def tail(path: Path) -> Tail:
    """How the file's last block ends. Reads no more than this block: elsewhere RocksDB notices a wrong length."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(size // _BLOCK * _BLOCK)
        block = file.read()
    at = 0
    while at + _HEADER <= len(block):
        end = at + _HEADER + int.from_bytes(block[at + 4 : at + 6], "little")
        if end > len(block):
            return Tail.DAMAGED if _is_whole(block[at:]) else Tail.TORN
        at = end
    # Up to six bytes are too few for a header: a torn one, or zeros.
    return Tail.TORN if any(block[at:]) else Tail.WHOLE


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
