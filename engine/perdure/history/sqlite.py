"""History in a SQLite file in the data directory. Others may read it while one writes (WAL).

What users wrote is bound as a value, never put into SQL.
"""

import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any

from perdure.history.asking import Asking, Source
from perdure.history.projection import Writes
from perdure.history.rows import Changes, Standing
from perdure.history.schema import APPLICATION, TABLES, VERSION
from perdure.history.sqlite_rows import delete_runs, write_rows, write_state
from perdure.history.store import HistoryDown, NoHistory
from perdure.history.tallies import SIZES_MS
from perdure.history.values import OF_A_RUN
from perdure.log.embedded_store import successor

FILE = "history.db"
"""In the data directory."""
_BUSY_MS = 10_000
_CACHE_KIB = 16_384
"""Of what is read: the upper pages of the indexes of a million runs. SQLite's own 2,000 do not hold them."""
_SUFFIXES = ("", "-wal", "-shm")


class SqliteState:
    """The projection's state of one partition: a `Backing`."""

    def __init__(self, connection: sqlite3.Connection, partition: int) -> None:
        self._connection = connection
        self._partition = partition

    def get(self, key: bytes, /) -> bytes | None:
        found = self._connection.execute(
            "SELECT value FROM state WHERE partition = ? AND key = ?", (self._partition, key)
        ).fetchone()
        return None if found is None else found[0]

    def scan(self, prefix: bytes, /, start: bytes = b"", limit: int = 0) -> list[tuple[bytes, bytes]]:
        return self._connection.execute(
            "SELECT key, value FROM state WHERE partition = ? AND key >= ? AND key < ? ORDER BY key LIMIT ?",
            (self._partition, max(prefix, start), successor(prefix), limit or -1),
        ).fetchall()


class SqliteHistory(Asking):
    """A `History` in one file."""

    def __init__(self, path: Path, *, writes: bool = True) -> None:
        self.path = path
        self._writes = writes
        self._writer: sqlite3.Connection | None = None
        self._reader: sqlite3.Connection | None = None
        self._reading = Lock()

    # Opening

    def open(self) -> str | None:
        """Raises `NoHistory` if it is only to be read, and is not there."""
        if not self._writes:
            self._reader = self._readable()
            return None
        why = self._other()
        if why is not None:
            for suffix in _SUFFIXES:
                self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
        self._writer = self._connect()
        if self._writer.execute("PRAGMA user_version").fetchone()[0] != VERSION:
            self._writer.executescript(
                f"BEGIN; {TABLES} PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {VERSION}; COMMIT;"
            )
        self._reader = _cached(self._connect())
        return why

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
        connection.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")
        connection.execute("PRAGMA journal_mode = WAL")
        # Of the last transactions a power failure may leave none: their records are read again.
        connection.execute("PRAGMA synchronous = NORMAL")
        return connection

    def _other(self) -> str | None:
        """Why what is there cannot be gone on with; None if it can, or there is nothing."""
        if not self.path.exists():
            return None
        connection = sqlite3.connect(self.path, isolation_level=None)
        try:
            application = connection.execute("PRAGMA application_id").fetchone()[0]
            version = connection.execute("PRAGMA user_version").fetchone()[0]
        except sqlite3.DatabaseError as error:
            return f"{self.path} is damaged ({error})"
        finally:
            connection.close()
        if (application, version) == (APPLICATION, VERSION) or (application, version) == (0, 0):
            return None
        if application != APPLICATION:
            raise NoHistory(f"{self.path} is a database of something else: move it away")
        return f"{self.path} is of version {version}, and this code makes {VERSION}"

    def _readable(self) -> sqlite3.Connection:
        if not self.path.exists():
            raise NoHistory(f"there is no history at {self.path}: `perdure history rebuild` makes it from the log")
        connection = sqlite3.connect(f"{self.path.resolve().as_uri()}?mode=ro", uri=True, check_same_thread=False)
        try:
            version = connection.execute("PRAGMA user_version").fetchone()[0]
        except sqlite3.DatabaseError as error:
            connection.close()
            raise NoHistory(f"{self.path} cannot be read ({error}): `perdure history rebuild` makes it anew") from error
        if version != VERSION:
            connection.close()
            raise NoHistory(
                f"{self.path} is of version {version}, and this code reads {VERSION}: `perdure history rebuild` makes "
                "it anew"
            )
        return _cached(connection)

    def close(self) -> None:
        for connection in (self._reader, self._writer):
            if connection is not None:
                connection.close()
        self._reader = self._writer = None

    @property
    def _written(self) -> sqlite3.Connection:
        assert self._writer is not None, "history is open for writing"
        return self._writer

    # Writing

    def standing(self, partition: int) -> Standing:
        found = self._written.execute(
            "SELECT offset, at, stamp, gap FROM standing WHERE partition = ?", (partition,)
        ).fetchone()
        return Standing() if found is None else Standing(*[*found[:3], bool(found[3])])

    def state(self, partition: int) -> SqliteState:
        return SqliteState(self._written, partition)

    def write(self, partition: int, changes: Changes, state: Writes, standing: Standing) -> None:
        with self._transaction() as connection:
            write_rows(connection, changes)
            write_state(connection, partition, state)
            connection.execute(
                "INSERT OR REPLACE INTO standing VALUES (?, ?, ?, ?, ?)",
                (partition, standing.offset, standing.at, standing.stamp, standing.gap),
            )

    def _transaction(self) -> "_Transaction":
        return _Transaction(self._written)

    def lose_sight(self, partition: int) -> None:
        with self._transaction() as connection:
            connection.execute("UPDATE runs SET blind = 1 WHERE partition = ? AND ended_at IS NULL", (partition,))

    def retain(self, since_ms: int, *, limit: int = 1_000) -> int:
        with self._transaction() as connection:
            found = connection.execute(
                "SELECT n, requested_at, metadata FROM runs INDEXED BY runs_by_time "
                "WHERE requested_at < ? AND ended_at < ? ORDER BY requested_at LIMIT ?",
                (since_ms, since_ms, limit),
            ).fetchall()
            delete_runs(connection, found)
            gone = connection.execute(
                "DELETE FROM events WHERE n IN (SELECT n FROM events INDEXED BY events_by_time "
                "WHERE received_at < ? ORDER BY received_at LIMIT ?)",
                (since_ms, limit),
            )
            connection.execute("DELETE FROM tallies WHERE at < ?", (since_ms - max(SIZES_MS),))
            return len(found) + gone.rowcount

    def clear(self) -> None:
        with self._transaction() as connection:
            for table in ("standing", "state", "runs", "run_metadata", "events", "tallies", *OF_A_RUN):
                connection.execute(f"DELETE FROM {table}")

    # Asking

    def _rows(self, sql: str, values: Sequence[Any]) -> list[Any]:
        if self._reader is None:
            raise HistoryDown(f"{self.path} is closed: this process comes to its end")
        with self._reading:
            return self._reader.execute(sql, values).fetchall()

    def _by(self, table: str, index: str) -> Source:
        return Source(f"{table} INDEXED BY {index}")


def _cached(connection: sqlite3.Connection) -> sqlite3.Connection:
    connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
    return connection


class _Transaction:
    """All or nothing."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __enter__(self) -> sqlite3.Connection:
        self._connection.execute("BEGIN IMMEDIATE")
        return self._connection

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._connection.execute("COMMIT")
        else:
            with suppress(sqlite3.Error):  # a full disk has rolled it back already
                self._connection.execute("ROLLBACK")
