"""History in a SQLite file in the data directory. Others may read it while one writes (WAL).

What users wrote is bound as a value, never put into SQL.
"""

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

import msgspec

from perdure.errors import PerdureError
from perdure.history.projection import Writes
from perdure.history.rows import Changes, EventRow, Mark, OpRow, RunData, RunRow, Standing, Use
from perdure.history.schema import APPLICATION, TABLES, VERSION
from perdure.history.sqlite_rows import OF_A_RUN, RUN_COLUMNS, after, delete_runs, write_rows, write_state
from perdure.history.store import (
    SCANNED_ROWS,
    Cursor,
    EventPage,
    EventQuery,
    EventsPage,
    RunPage,
    RunQuery,
    RunsPage,
    body_of,
    decode_body,
    matches,
)

T = TypeVar("T")
FILE = "history.db"
"""In the data directory."""
_BUSY_MS = 10_000
_SUFFIXES = ("", "-wal", "-shm")
_DECODE_METADATA = msgspec.json.Decoder(dict[str, str]).decode
_RUN = ", ".join(f"r.{column}" for column in RUN_COLUMNS.split(", "))
_EVENT = "e.id, e.partition, e.name, e.received_at, e.body"


class NoHistory(PerdureError):
    """There is none where somebody looks for it, or it cannot be read."""


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
            (self._partition, max(prefix, start), after(prefix), limit or -1),
        ).fetchall()


class SqliteHistory:
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
        self._reader = self._connect()
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
        return connection

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
            return len(found) + gone.rowcount

    def clear(self) -> None:
        with self._transaction() as connection:
            for table in ("standing", "state", "runs", "run_metadata", "events", *OF_A_RUN):
                connection.execute(f"DELETE FROM {table}")

    # Asking

    def runs(self, query: RunQuery) -> RunsPage:
        """Found by the index that says most; the rest is asked of what it finds, of so many rows at most."""
        source, conditions, values = _source_of(query)
        where = query.where
        columns = f"r.n, {_RUN}" + (", d.event" if where is not None else "")
        if where is not None:
            source += " LEFT JOIN run_data d ON d.n = r.n"

        def wanted(row: Sequence[Any]) -> RunRow | None:
            if where is not None and not matches(where, body_of(row[17])):
                return None
            run = _run_row(row[1:17])
            if query.function not in ("", run.function) or query.status not in ("", run.status):
                return None
            if query.metadata is not None and run.metadata.get(query.metadata[0]) != query.metadata[1]:
                return None
            return run

        key = ("m.requested_at", "m.n") if source.startswith("run_metadata") else ("r.requested_at", "r.n")
        found, cursor = self._page(columns, source, key, conditions, values, query, wanted)
        return RunsPage([run for run, _ in found], cursor)

    def events(self, query: EventQuery) -> EventsPage:
        index = "events_by_name" if query.name else "events_by_time"
        conditions, values = (["e.name = ?"], [query.name]) if query.name else ([], [])
        where = query.where

        def wanted(row: Sequence[Any]) -> EventRow | None:
            event = EventRow(*row[1:6])
            return event if where is None or matches(where, decode_body(event.body)) else None

        columns, source = f"e.n, {_EVENT}", f"events e INDEXED BY {index}"
        found, cursor = self._page(columns, source, ("e.received_at", "e.n"), conditions, values, query, wanted)
        return EventsPage([event for event, _ in found], cursor)

    def _page(
        self,
        columns: str,
        source: str,
        key: tuple[str, str],
        conditions: list[str],
        values: list[Any],
        query: RunQuery | EventQuery,
        wanted: Callable[[Sequence[Any]], T | None],
    ) -> tuple[list[tuple[T, Cursor]], Cursor | None]:
        at, n = key
        for condition, value in ((f"{at} >= ?", query.since), (f"{at} < ?", query.until)):
            if value is not None:
                conditions, values = [*conditions, condition], [*values, value]
        if query.cursor is not None:
            conditions, values = [*conditions, f"({at}, {n}) < (?, ?)"], [*values, *query.cursor]
        sql = (
            f"SELECT {at}, {columns} FROM {source} WHERE {' AND '.join(conditions) or '1'} "
            f"ORDER BY {at} DESC, {n} DESC LIMIT ?"
        )
        found: list[tuple[T, Cursor]] = []
        last: Cursor | None = None
        with self._reading:
            rows = self._read(sql, [*values, SCANNED_ROWS + query.limit])
            for looked_at, (when, *row) in enumerate(rows):
                if len(found) == query.limit or looked_at - len(found) == SCANNED_ROWS:
                    rows.close()
                    return found, last
                last = Cursor(when, row[0])
                one = wanted(row)
                if one is not None:
                    found.append((one, last))
        return found, None

    def _read(self, sql: str, values: Sequence[Any]) -> sqlite3.Cursor:
        assert self._reader is not None, "history is open"
        return self._reader.execute(sql, values)

    def run(self, run: str) -> RunPage | None:
        with self._reading:
            found = self._read(f"SELECT r.n, r.blind, {_RUN} FROM runs r WHERE r.id = ?", [run]).fetchone()
            if found is None:
                return None
            n, blind, *row = found
            data = self._read(
                "SELECT event, arguments, result, error, parked FROM run_data WHERE n = ?", [n]
            ).fetchone()
            ops = self._read(
                "SELECT op, position, type, opened_at, status, ended_at, due, attempt, took_us, about, input, result, "
                "error FROM ops WHERE n = ? ORDER BY position, op",
                [n],
            ).fetchall()
            marks = self._read(
                "SELECT op, offset, at, kind, detail FROM marks WHERE n = ? ORDER BY offset, op", [n]
            ).fetchall()
            children, reruns = (
                self._runs_of("runs_by_parent", "parent", run),
                self._runs_of("runs_by_rerun", "rerun_of", run),
            )
        return RunPage(
            _run_row(row),
            RunData(*data) if data is not None else RunData(),
            bool(blind),
            [OpRow(run, *op) for op in ops],
            [Mark(run, *mark) for mark in marks],
            children,
            reruns,
        )

    def _runs_of(self, index: str, column: str, value: str) -> list[RunRow]:
        """Of a run, or an event; so many as a page shows."""
        rows = self._read(
            f"SELECT {_RUN} FROM runs r INDEXED BY {index} WHERE r.{column} = ? AND r.{column} <> '' "
            "ORDER BY r.requested_at, r.n LIMIT 1000",
            [value],
        )
        return [_run_row(row) for row in rows]

    def event(self, event: str) -> EventPage | None:
        with self._reading:
            found = self._read(f"SELECT {_EVENT} FROM events e WHERE e.id = ?", [event]).fetchone()
            if found is None:
                return None
            runs = self._runs_of("runs_by_event", "event_id", event)
            uses = self._read(
                "SELECT u.event_id, r.id, u.op, u.what, u.at FROM uses u INDEXED BY uses_by_event "
                "JOIN runs r ON r.n = u.n WHERE u.event_id = ? ORDER BY u.at, r.id, u.op LIMIT 1000",
                [event],
            ).fetchall()
        return EventPage(EventRow(*found), runs, [Use(*use) for use in uses])


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


def _source_of(query: RunQuery) -> tuple[str, list[str], list[Any]]:
    """Table and index, with what is asked of them by value."""
    if query.event_id:
        return "runs r INDEXED BY runs_by_event", ["r.event_id = ?", "r.event_id <> ''"], [query.event_id]
    if query.metadata is not None:
        key, value = query.metadata
        return "run_metadata m CROSS JOIN runs r ON r.n = m.n", ["m.key = ?", "m.value = ?"], [key, value]
    if query.function and query.status:
        return "runs r INDEXED BY runs_by_both", ["r.function = ?", "r.status = ?"], [query.function, query.status]
    if query.function:
        return "runs r INDEXED BY runs_by_function", ["r.function = ?"], [query.function]
    if query.status:
        return "runs r INDEXED BY runs_by_status", ["r.status = ?"], [query.status]
    return "runs r INDEXED BY runs_by_time", [], []


def _run_row(row: Sequence[Any]) -> RunRow:
    values = [*row]
    values[15] = _DECODE_METADATA(row[15])
    return RunRow(*values)
