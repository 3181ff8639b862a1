"""Builds the shim, and reads the record of changes that it writes. See shim.c."""

import shutil
import subprocess
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path
from struct import Struct
from typing import NamedTuple

import pytest

SOURCE = Path(__file__).parent / "shim.c"
_ENTRY = Struct("<IiqII")


class Op(IntEnum):
    OPEN = 1
    WRITE = 2
    TRUNCATE = 3
    SYNC_BEGUN = 4
    SYNC_ENDED = 5
    CLOSE = 6
    RENAME = 7
    UNLINK = 8
    MKDIR = 9
    RMDIR = 10
    LINK = 11
    SYNC_FAILED = 12
    STRANGE = 13


class Entry(NamedTuple):
    """One change.

    `at`: where a write begins, the length after a truncation; of an `OPEN` 1 made, 2 emptied; of a sync the thread.
    """

    op: Op
    fd: int
    at: int
    one: bytes
    two: bytes

    @property
    def path(self) -> str:
        return self.one.decode()


def build(folder: Path) -> Path:
    """Compile the shim into `folder`, once. Skips the test where there is no compiler."""
    library = folder / "shim.so"
    if not library.exists():
        compiler = next(filter(None, map(shutil.which, ("gcc", "cc", "clang"))), None)
        if compiler is None:
            pytest.skip("needs a C compiler for its file layer")
        command = [compiler, "-O1", "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-ldl", "-lpthread"]
        subprocess.run(command, check=True)
    return library


def entries(record: Path) -> Iterator[Entry]:
    """In the order in which they happened; a last one that the kill cut off has not happened."""
    data = record.read_bytes()
    at = 0
    while at + _ENTRY.size <= len(data):
        op, fd, number, length, length2 = _ENTRY.unpack_from(data, at)
        at += _ENTRY.size
        end = at + length + length2
        if end > len(data):
            return
        yield Entry(Op(op), fd, number, data[at : at + length], data[at + length : end])
        at = end
