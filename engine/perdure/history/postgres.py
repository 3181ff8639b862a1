"""History in a PostgreSQL database, a schema for each app. Several processes may write, each the partitions it owns.

The database says no to whoever goes on from another place than a partition stands at: a former owner that does not know
yet, or one that died in the middle of a commit. It begins again where that stands.
"""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from threading import Lock
from typing import Any

from psycopg.sql import SQL, Identifier

from perdure.history.asking import Asking, Source
from perdure.history.postgres_link import Address, Connection, Link, meant
from perdure.history.postgres_news import PostgresNews, tell
from perdure.history.postgres_rows import delete_runs, write_rows, write_state
from perdure.history.postgres_schema import NAMES, SAID, TABLES
from perdure.history.projection import Writes
from perdure.history.rows import Changes, Standing
from perdure.history.schema import VERSION
from perdure.history.store import HistoryDown, NoHistory, Overtaken
from perdure.history.tallies import SIZES_MS
from perdure.log.embedded_store import successor

_MAKING = 0x50455244
"""An advisory lock: one process at a time makes or replaces tables."""
_LONGEST_NAME = 63


def schema_named(app: str) -> str:
    """Of an app: with its namespace, if several share a log."""
    name = f"perdure_{app}"
    if len(name.encode()) <= _LONGEST_NAME:
        return name
    # PostgreSQL would cut it, and say nothing.
    return f"{name.encode()[:40].decode(errors='ignore')}_{blake2b(name.encode(), digest_size=8).hexdigest()}"


class PostgresState:
    """The projection's state of one partition: a `Backing`."""

    def __init__(self, link: Link, partition: int) -> None:
        self._link = link
        self._partition = partition

    def get(self, key: bytes, /) -> bytes | None:
        with self._link.answering() as connection:
            found = connection.execute(
                "SELECT value FROM state WHERE partition = %s AND key = %s", (self._partition, key)
            ).fetchone()
        return None if found is None else found[0]

    def scan(self, prefix: bytes, /, start: bytes = b"", limit: int = 0) -> list[Any]:
        with self._link.answering() as connection:
            return connection.execute(
                "SELECT key, value FROM state WHERE partition = %s AND key >= %s AND key < %s ORDER BY key LIMIT %s",
                (self._partition, max(prefix, start), successor(prefix), limit or None),
            ).fetchall()


class PostgresHistory(Asking):
    """A `History` in one schema."""

    def __init__(self, url: str, schema: str, *, writes: bool = True) -> None:
        self.schema = schema
        self._writes = writes
        self._address = address = Address(url)
        self.shown = f"{address.shown}, schema {schema}"
        self._why: str | None = None
        self._writer = Link(address, schema, self._make)
        self._reader = Link(address, schema, self._check)
        self._reading = Lock()
        self._stands: dict[int, int] = {}
        """Where each partition was left by what was read or written here."""

    # Opening

    def open(self) -> str | None:
        """Raises `NoHistory` if it is only to be read, and is not there; `HistoryDown`. May be called again."""
        self._why = None
        with (self._writer if self._writes else self._reader).answering():
            return self._why

    def close(self) -> None:
        self._writer.close()
        self._reader.close()

    def news(self) -> PostgresNews:
        """What others write here, as they write it."""
        return PostgresNews(self._address, self.schema)

    def _make(self, connection: Connection) -> None:
        """If need be. Called with every connection that writes."""
        with connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(%s)", [_MAKING])
            encoding = _one(connection, "SELECT current_setting('server_encoding')")
            if encoding != "UTF8":
                raise NoHistory(f"the database's encoding is {encoding}: history needs one WITH ENCODING 'UTF8'")
            if _one(connection, "SELECT to_regnamespace(quote_ident(%s)) IS NULL", self.schema):
                connection.execute(SQL("CREATE SCHEMA {}").format(Identifier(self.schema)))
            version = self._version(connection)
            if version == VERSION:
                return
            if version is not None:
                if version > VERSION:
                    raise NoHistory(self._other(version))
                self._why = f"{self.shown} is of version {version}, and this code makes {VERSION}"
                for name in NAMES:
                    connection.execute(SQL("DROP TABLE {}").format(Identifier(name)))
                connection.execute("DROP SEQUENCE run_numbers")
            connection.execute(TABLES)
            connection.execute("INSERT INTO about VALUES (%s)", [VERSION])

    def _check(self, connection: Connection) -> None:
        version = self._version(connection)
        if version is None:
            raise NoHistory(
                f"there is no history at {self.shown}: workers that are given it write it, and `perdure history "
                "rebuild` makes it from the log"
            )
        if version != VERSION:
            raise NoHistory(self._other(version))

    def _version(self, connection: Connection) -> int | None:
        """None where nothing is. Raises `NoHistory` where something else is."""
        if _one(connection, "SELECT to_regclass(quote_ident(%s) || '.about') IS NULL", self.schema):
            tables = _one(connection, "SELECT count(*) FROM pg_tables WHERE schemaname = %s", self.schema)
            if tables:
                raise NoHistory(f"{self.shown} has tables of something else: rename the schema")
            return None
        return int(_one(connection, "SELECT version FROM about"))

    def _other(self, version: int) -> str:
        return (
            f"{self.shown} is of version {version}, and this code has {VERSION}: "
            "`perdure history rebuild` makes it anew"
        )

    # Writing

    def standing(self, partition: int) -> Standing:
        with self._writer.answering() as connection:
            found = connection.execute(
                'SELECT "offset", at, stamp, gap FROM standing WHERE partition = %s', [partition]
            ).fetchone()
        standing = Standing() if found is None else Standing(*found)
        self._stands[partition] = standing.offset
        return standing

    def state(self, partition: int) -> PostgresState:
        return PostgresState(self._writer, partition)

    def write(self, partition: int, changes: Changes, state: Writes, standing: Standing) -> None:
        """Raises `Overtaken` if the partition stands elsewhere than it was left: nothing is written then."""
        with self._transaction() as connection:
            self._hold(connection, partition)
            write_rows(connection, changes)
            write_state(connection, partition, state)
            tell(connection, self.schema, changes.runs)
            connection.execute(
                'UPDATE standing SET "offset" = %s, at = %s, stamp = %s, gap = %s WHERE partition = %s',
                (standing.offset, standing.at, standing.stamp, standing.gap, partition),
            )
        self._stands[partition] = standing.offset

    def _hold(self, connection: Connection, partition: int) -> None:
        """Nobody else writes this partition until the end of the transaction."""
        connection.execute(
            "INSERT INTO standing VALUES (%s, 0, 0, 0, false) ON CONFLICT (partition) DO NOTHING", [partition]
        )
        found = connection.execute(
            'SELECT s."offset", a.version FROM standing s, about a WHERE s.partition = %s FOR UPDATE OF s', [partition]
        ).fetchone()
        offset, version = found or (-1, VERSION)
        if version != VERSION:
            raise NoHistory(self._other(version))
        left = self._stands.get(partition, 0)
        if offset != left:
            raise Overtaken(f"partition {partition} was left at {left}, and another has written it to {offset}")

    @contextmanager
    def _transaction(self) -> Generator[Connection]:
        with self._writer.answering() as connection, connection.transaction():
            yield connection

    def lose_sight(self, partition: int) -> None:
        with self._transaction() as connection:
            connection.execute("UPDATE runs SET blind = true WHERE partition = %s AND ended_at IS NULL", [partition])

    def retain(self, since_ms: int, *, limit: int = 1_000) -> int:
        with self._transaction() as connection:
            # A writer that has looked up a run's number is not to meet it gone.
            connection.execute("LOCK TABLE standing IN EXCLUSIVE MODE")
            found = connection.execute(
                f"SELECT n, requested_at, metadata FROM runs WHERE {SAID['runs_by_time']} AND requested_at < %s "
                "AND ended_at < %s ORDER BY requested_at LIMIT %s".encode(),
                (since_ms, since_ms, limit),
            ).fetchall()
            connection.execute("DELETE FROM tallies WHERE at < %s", [since_ms - max(SIZES_MS)])
            delete_runs(connection, [(n, at, metadata) for n, at, metadata in found])
            gone = connection.execute(
                f"DELETE FROM events WHERE n IN (SELECT n FROM events WHERE {SAID['events_by_time']} "
                "AND received_at < %s ORDER BY received_at LIMIT %s)".encode(),
                (since_ms, limit),
            )
            return len(found) + gone.rowcount

    def clear(self) -> None:
        with self._transaction() as connection:
            connection.execute("LOCK TABLE standing IN ACCESS EXCLUSIVE MODE")
            connection.execute(SQL("TRUNCATE {}").format(SQL(", ").join(map(Identifier, NAMES[1:]))))
        self._stands.clear()

    # Made anew beside it

    def replace(self, made: "PostgresHistory") -> None:
        """`made` comes in the place of this one. Whoever writes meanwhile finds that, and goes on from there."""
        with self._aside() as connection, connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(%s)", [_MAKING])
            own, other = Identifier(self.schema), Identifier(made.schema)
            connection.execute(SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(own))
            connection.execute(SQL("ALTER SCHEMA {} RENAME TO {}").format(other, own))

    def drop(self) -> None:
        """Forget all of it, and the schema."""
        with self._aside() as connection:
            connection.execute(SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(Identifier(self.schema)))

    @contextmanager
    def _aside(self) -> Generator[Connection]:
        """For once, and whatever is there."""
        link = Link(self._writer.address, self.schema, lambda connection: None)
        try:
            with link.answering() as connection:
                yield connection
        finally:
            link.close()

    # Asking

    def _rows(self, sql: str, values: Sequence[Any]) -> list[Any]:
        """A server that was started anew meanwhile is asked again."""
        with self._reading:
            known = self._reader.connected
            try:
                return self._asked(sql, values)
            except HistoryDown:
                if not known:
                    raise
                return self._asked(sql, values)

    def _asked(self, sql: str, values: Sequence[Any]) -> list[Any]:
        with self._reader.answering() as connection:
            return meant(connection.execute(sql.replace("?", "%s").encode(), values).fetchall())

    def _by(self, table: str, index: str) -> Source:
        said = SAID.get(index)
        return Source(table) if said is None else Source(table, [f"{table.split()[1]}.{said}"])


def _one(connection: Connection, sql: str, *values: Any) -> Any:
    found = connection.execute(sql.encode(), values).fetchone()
    assert found is not None
    return found[0]
