"""The files beside RocksDB in the directory of an embedded log.

perdure.json    format and partition count: what must be known before RocksDB is opened
lock            locked while a process has the log open; holds its pid, for people
acknowledged    the mark: how far RocksDB had come when somebody was last told that a record is durable
db/             RocksDB
"""

import fcntl
import json
import os
from contextlib import suppress
from pathlib import Path
from struct import Struct
from zlib import crc32

from perdure.errors import LogCorrupt, LogInUse, LogMismatch

FORMAT = 1

_MARK = Struct(">8sQI")
_MAGIC = b"perdure\0"


class Lock:
    """Exclusive use of a directory, within this process too. The kernel frees it when the process ends."""

    def __init__(self, directory: Path) -> None:
        """Raises `LogInUse`."""
        self._fd = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.pread(self._fd, 20, 0).decode(errors="replace").strip() or "unknown"
            os.close(self._fd)
            raise LogInUse(
                f"{directory} is in use by process {owner}. An embedded log belongs to one process: stop that one, or "
                "talk to it through its gateway, Client(app, 'http://127.0.0.1:8288')"
            ) from error
        with suppress(OSError):  # a full disk: the lock holds without its text
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, str(os.getpid()).encode(), 0)

    def release(self) -> None:
        os.close(self._fd)


class Mark:
    """RocksDB's sequence number at the last acknowledgement: a log that opens below it has lost something.

    It is overwritten in place, and not synced: after a power failure it may be old, and then says less. It is never
    ahead of the log. Only the first one is synced, before it has its name, so that it is never half there either:
    what is overwritten lies in one sector.
    """

    def __init__(self, directory: Path) -> None:
        """Raises `LogCorrupt`, `OSError` if there is none and none can be made."""
        path = directory / "acknowledged"
        if not path.exists():
            _make(path, _mark(0))
        self._fd = os.open(path, os.O_RDWR)
        self.value = 0
        stored = os.pread(self._fd, _MARK.size + 1, 0)
        if not stored:  # as an earlier version left it, killed at its first start
            return
        try:
            magic, self.value, check = _MARK.unpack(stored)
            if magic != _MAGIC or check != crc32(stored[:16]):
                raise ValueError("its checksum is wrong")
        except Exception as error:
            os.close(self._fd)
            raise LogCorrupt(
                f"{path} is damaged: {error}. The log may be whole: remove this file to open it without checking that "
                "nothing acknowledged is missing"
            ) from error

    def advance(self, value: int) -> None:
        """Never raises: an old mark is a weaker check, and no reason to refuse a record that is durable."""
        self.value = value
        with suppress(OSError):
            os.pwrite(self._fd, _mark(value), 0)

    def insist(self, value: int) -> None:
        """Say so for good: what would prove it by itself is about to go. Raises `OSError`."""
        self.advance(max(value, self.value))
        os.fsync(self._fd)

    def close(self) -> None:
        os.close(self._fd)


def prepare(directory: Path, partitions: int) -> None:
    """Make the directory's description, or compare it. Raises `LogMismatch`, `LogCorrupt`."""
    path = directory / "perdure.json"
    try:
        found = json.loads(path.read_bytes())
        format_, count = int(found["format"]), int(found["partitions"])
    except FileNotFoundError:
        if (directory / "db" / "CURRENT").exists():
            raise LogCorrupt(
                f"{path} is missing, and {directory / 'db'} is not empty: restore it, or choose another directory"
            ) from None
        _make(path, json.dumps({"format": FORMAT, "partitions": partitions}).encode())
        return
    except (ValueError, KeyError, TypeError) as error:
        raise LogCorrupt(
            f"{path} is damaged ({error!r}): it should read "
            f'{{"format": {FORMAT}, "partitions": <the number this log was made with>}}'
        ) from error
    if format_ != FORMAT:
        raise LogMismatch(
            f"{directory} was written in format {format_}, and this version of perdure reads format {FORMAT}: "
            "install the version that wrote it, or a newer one"
        )
    if count != partitions:
        raise LogMismatch(
            f"{directory} has {count} partitions, and {partitions} were asked for. The number is fixed when a log is "
            f"made, since a run's id says where it lives: open it with partitions={count}, or begin anew elsewhere"
        )


def partitions_of(directory: Path) -> int | None:
    """How many the log in it was made with; None if there is none, or nobody can tell."""
    try:
        return int(json.loads((directory / "perdure.json").read_bytes())["partitions"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def make_directories(directory: Path) -> None:
    """Make `directory` and what is missing above it, so that no power failure takes them away again."""
    missing = [folder for folder in (directory, *directory.parents) if not folder.exists()]
    directory.mkdir(parents=True, exist_ok=True)
    for folder in reversed(missing):
        sync_directory(folder.parent)


def sync_directory(directory: Path) -> None:
    """Make the names in it durable: syncing a file says nothing of its name."""
    folder = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _mark(value: int) -> bytes:
    head = _MAGIC + value.to_bytes(8, "big")
    return head + crc32(head).to_bytes(4, "big")


def _make(path: Path, content: bytes) -> None:
    """All of it or nothing, whenever the power fails; durable when this returns."""
    new = path.with_suffix(".new")
    with new.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    new.rename(path)
    sync_directory(path.parent)
