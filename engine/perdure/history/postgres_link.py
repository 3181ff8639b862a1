"""A connection to PostgreSQL that comes again after it was lost, and never tells a password.

Names that users chose become TEXT, which takes no NUL and, in an index, no more than a third of a page: both are
escaped here, for every statement alike. Payloads are BYTEA.
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from typing import Any

import psycopg
from psycopg.abc import Buffer
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.types.string import StrDumper

from perdure.history.store import HistoryDown, NoHistory

CONNECT_S = 5
Connection = psycopg.Connection[tuple[Any, ...]]

_SETTINGS = {
    "application_name": "perdure-history",
    "client_encoding": "utf8",
    "connect_timeout": str(CONNECT_S),
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
}
"""Of the connection, where the URL says nothing else."""
_SESSION = (
    # Every question has its index, in whose order it is answered; statistics may be older than most of the rows.
    *("SET enable_seqscan = off", "SET enable_bitmapscan = off", "SET enable_sort = off"),
    *("SET enable_hashjoin = off", "SET enable_mergejoin = off", "SET jit = off"),
    # What a power failure of the server may undo is read again from the log: the position goes with it.
    "SET synchronous_commit = off",
)
_LONGEST = 500
_ESCAPE = "\ufdd0"
"""A noncharacter: it stands before what it escapes."""


def stored(text: str) -> str:
    """As it stands in a column. Of what is too long for an index, its beginning and a digest."""
    if "\0" in text or _ESCAPE in text:
        text = text.replace(_ESCAPE, _ESCAPE + "1").replace("\0", _ESCAPE + "0")
    if len(text) > _LONGEST // 4 and len(raw := text.encode()) > _LONGEST:
        return f"{raw[:_LONGEST].decode(errors='ignore')}…{blake2b(raw, digest_size=16).hexdigest()}"
    return text


def meant(rows: list[Any]) -> list[Any]:
    """Rows as they were before they were stored. Hardly any is another: a page may look at ten thousand of them."""
    return [_meant(row) if any(value.__class__ is str and _ESCAPE in value for value in row) else row for row in rows]


def _meant(row: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(
        value.replace(_ESCAPE + "0", "\0").replace(_ESCAPE + "1", _ESCAPE) if isinstance(value, str) else value
        for value in row
    )


class _Dumper(StrDumper):
    def dump(self, obj: str) -> Buffer | None:
        return super().dump(stored(obj))


class Address:
    """Where it is, from its URL. Raises `NoHistory` if it says nothing that PostgreSQL understands."""

    def __init__(self, url: str) -> None:
        try:
            given = {name: str(value) for name, value in conninfo_to_dict(url).items() if value is not None}
        except psycopg.Error:
            # What it says may quote a part of the password.
            given = {"host": "@"}
        ports = given.get("port", "").replace(",", "")
        if "@" in given.get("host", "") + given.get("dbname", "") or not (ports.isdecimal() or not ports):
            raise NoHistory(
                "the URL of the history is not one: say postgresql://USER:PASSWORD@HOST:5432/DATABASE, with %40 for "
                "an @ in the password, %2F for a / and %3A for a :"
            )
        self.conninfo = make_conninfo("", **{**_SETTINGS, **given})
        self._password = given.get("password", "")
        self.shown = f"postgresql://{given.get('host', 'localhost')}/{given.get('dbname', '')}"

    def said(self, error: Exception) -> str:
        """What it says, on one line."""
        text = " ".join(str(error).split())
        return text.replace(self._password, "…") if self._password else text


class Link:
    """One connection, used by one thread at a time. `made` is called with each new one."""

    def __init__(self, address: Address, schema: str, made: Callable[[Connection], None]) -> None:
        self.address = address
        self._schema = schema
        self._made = made
        self._connection: Connection | None = None

    @contextmanager
    def answering(self) -> Generator[Connection]:
        """Raises `HistoryDown` for whatever the server has to say against it; the next time it connects anew."""
        try:
            if self._connection is None:
                self._connection = self._connected()
            yield self._connection
        except psycopg.Error as error:
            self.close()
            raise HistoryDown(f"{self.address.shown}: {self.address.said(error)}") from None
        except BaseException:
            self.close()
            raise

    @property
    def connected(self) -> bool:
        return self._connection is not None

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _connected(self) -> Connection:
        connection = psycopg.connect(self.address.conninfo, autocommit=True)
        try:
            connection.adapters.register_dumper(str, _Dumper)
            for setting in _SESSION:
                connection.execute(setting.encode())
            connection.execute("SELECT set_config('search_path', quote_ident(%s), false)", [self._schema])
            self._made(connection)
        except BaseException:
            connection.close()
            raise
        return connection
