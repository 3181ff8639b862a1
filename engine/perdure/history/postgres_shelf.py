"""Jobs in a PostgreSQL database, beside an app's history: every gateway of the app shows and does them.

Who does a job holds an advisory lock of its session: that ends with the process, and another takes the job.
"""

from collections.abc import Generator, Iterable
from contextlib import contextmanager
from hashlib import blake2b
from threading import Lock
from typing import Any

from psycopg.sql import SQL, Identifier

from perdure.history.postgres_link import Address, Connection, Link
from perdure.history.store import HistoryDown

_MAKING = 0x504A4F42
"""An advisory lock: one process at a time makes the table."""
_TABLE = """
CREATE TABLE IF NOT EXISTS jobs (
    id TEXT COLLATE "C" PRIMARY KEY, content BYTEA NOT NULL, runs BYTEA NOT NULL, done BIGINT NOT NULL,
    finished BOOLEAN NOT NULL
)
"""


class PostgresShelf:
    """A `Shelf` in a schema of its own: an app's history may be dropped and made anew."""

    shared = True

    def __init__(self, url: str, schema: str) -> None:
        self._schema = schema
        self._link = Link(Address(url), schema, self._make)
        self._one_at_a_time = Lock()
        self._closed = False

    def all(self) -> list[bytes]:
        with self._answering() as connection:
            return [row[0] for row in connection.execute("SELECT content FROM jobs").fetchall()]

    def find(self, job: str) -> bytes | None:
        return self._found("content", job)

    def runs(self, job: str) -> bytes:
        return self._found("runs", job) or b"[]"

    def _found(self, column: str, job: str) -> bytes | None:
        with self._answering() as connection:
            found = connection.execute(f"SELECT {column} FROM jobs WHERE id = %s".encode(), [job]).fetchone()
        return None if found is None else found[0]

    def make(self, job: str, content: bytes, runs: bytes) -> bool:
        with self._answering() as connection:
            made = connection.execute(
                "INSERT INTO jobs VALUES (%s, %s, %s, 0, false) ON CONFLICT (id) DO NOTHING", (job, content, runs)
            )
            return made.rowcount == 1

    def keep(self, job: str, content: bytes, done: int, *, finished: bool) -> None:
        with self._answering() as connection:
            connection.execute(
                "UPDATE jobs SET content = %s, done = %s, finished = %s WHERE id = %s AND done <= %s AND NOT finished",
                (content, done, finished, job, done),
            )

    def take(self, job: str) -> bool:
        with self._answering() as connection:
            if not _one(connection, "SELECT pg_try_advisory_lock(%s)", self._lock_of(job)):
                return False
            if _one(connection, "SELECT EXISTS (SELECT 1 FROM jobs WHERE id = %s AND NOT finished)", job):
                return True
            connection.execute("SELECT pg_advisory_unlock(%s)", [self._lock_of(job)])
            return False

    def leave(self, job: str) -> None:
        with self._answering() as connection:
            connection.execute("SELECT pg_advisory_unlock(%s)", [self._lock_of(job)])

    def forget(self, jobs: Iterable[str]) -> None:
        with self._answering() as connection:
            connection.execute("DELETE FROM jobs WHERE id = ANY(%s)", [[*jobs]])

    def close(self) -> None:
        with self._one_at_a_time:
            self._closed = True
            self._link.close()

    def drop(self) -> None:
        """Forget all of them, and the schema."""
        with self._answering() as connection:
            connection.execute(SQL("DROP SCHEMA {} CASCADE").format(Identifier(self._schema)))
        self.close()

    @contextmanager
    def _answering(self) -> Generator[Connection]:
        with self._one_at_a_time:
            if self._closed:
                # A thread that nobody waits for any more: it would connect again.
                raise HistoryDown(f"{self._schema} is closed: this process comes to its end")
            with self._link.answering() as connection:
                yield connection

    def _make(self, connection: Connection) -> None:
        with connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(%s)", [_MAKING])
            connection.execute(SQL("CREATE SCHEMA IF NOT EXISTS {}").format(Identifier(self._schema)))
            connection.execute(_TABLE.encode())

    def _lock_of(self, job: str) -> int:
        digest = blake2b(f"{self._schema}/{job}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big", signed=True)


def _one(connection: Connection, sql: str, *values: Any) -> Any:
    found = connection.execute(sql.encode(), values).fetchone()
    assert found is not None
    return found[0]
