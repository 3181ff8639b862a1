"""Logs: `protocol.py` says what a log is, the other modules are the kinds of it."""

from perdure.duration import parse_ms
from perdure.errors import DefinitionError, LogError
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


def open_log(url: str, *, app: str, partitions: int = 4, stores: bool = True) -> Log:
    """The log that `url` names for an app; `await log.open()` is the caller's.

    `memory://`, `embedded:///absolute/path` or `embedded://relative/path`; the latter may say for how long people find
    in the log what the engine needs no more: `embedded://data?retention=30d`, or `forever` (7 days if it says nothing).
    `kafka://broker:9092/namespace?data=/var/lib/shop`: see `log/kafka/address.py`. Raises `LogError` for anything else.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        raise LogError(f"{url!r} is not a log URL: say embedded:///var/lib/shop or memory://")
    if scheme == "memory":
        from perdure.log.memory import MemoryLog

        return MemoryLog(partitions)
    if scheme == "embedded":
        path, _, query = rest.partition("?")
        if not path:
            raise LogError("embedded:// needs a directory: say embedded:///var/lib/shop, or embedded://data/shop")
        from perdure.log.embedded import RETENTION_MS, EmbeddedLog

        return EmbeddedLog(path, partitions, retention_ms=_retention_ms(query) if query else RETENTION_MS)
    if scheme == "kafka":
        from perdure.log.kafka import KafkaLog, parse

        return KafkaLog(parse(url), app, partitions, stores=stores)
    raise LogError(f"{url!r}: no log is called {scheme}://; there are embedded:///path, kafka://broker and memory://")


def _retention_ms(query: str) -> int | None:
    name, _, value = query.partition("=")
    if name != "retention":
        raise LogError(f"an embedded log has no setting {name!r}: say embedded://data?retention=30d")
    if value == "forever":
        return None
    try:
        return parse_ms(value, what="retention")
    except DefinitionError as error:
        raise LogError(f"{error}, or retention=forever") from error
