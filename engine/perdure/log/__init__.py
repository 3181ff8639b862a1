"""Logs: `protocol.py` says what a log is, the other modules are the kinds of it."""

from perdure.errors import LogError
from perdure.log.protocol import (
    Batch,
    Command,
    Commands,
    Failed,
    Log,
    Member,
    Reader,
    Sink,
    Snapshots,
    SnapshotWriter,
    Store,
    Take,
)

__all__ = [
    "Batch",
    "Command",
    "Commands",
    "Failed",
    "Log",
    "Member",
    "Reader",
    "Sink",
    "SnapshotWriter",
    "Snapshots",
    "Store",
    "Take",
    "open_log",
]


def open_log(url: str, *, partitions: int = 4) -> Log:
    """The log that `url` names; `await log.open()` is the caller's.

    `memory://`, `embedded:///absolute/path` or `embedded://relative/path`. Raises `LogError` for anything else.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        raise LogError(f"{url!r} is not a log URL: say embedded:///var/lib/shop or memory://")
    if scheme == "memory":
        from perdure.log.memory import MemoryLog

        return MemoryLog(partitions)
    if scheme == "embedded":
        if not rest:
            raise LogError("embedded:// needs a directory: say embedded:///var/lib/shop, or embedded://data/shop")
        from perdure.log.embedded import EmbeddedLog

        return EmbeddedLog(rest, partitions)
    if scheme == "kafka":
        raise LogError("kafka:// comes with a later release: use embedded:///path on one machine until then")
    raise LogError(f"{url!r}: no log is called {scheme}://; there are embedded:///path and memory://")
