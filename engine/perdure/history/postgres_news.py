"""Who writes history to PostgreSQL tells who watches it what changed: by NOTIFY, heard once the rows are there.

A message has some runs, `[[id, function, status], …]`; or `null`, if more changed than anybody shows.
"""

from collections.abc import Iterator, Mapping

import msgspec
from psycopg.sql import SQL, Identifier

from perdure.history.postgres_link import Address, Connection, Link
from perdure.history.rows import RunNews, RunRow, news_of

MOST = 500
"""Runs of one transaction."""
_BYTES = 7_000
"""Of a message: PostgreSQL takes less than 8,000."""
_ENCODE = msgspec.json.Encoder().encode
_DECODE = msgspec.json.Decoder(list[RunNews] | None).decode


def tell(connection: Connection, schema: str, changed: Mapping[str, RunRow]) -> None:
    """Within the transaction that writes the rows: without that nobody hears of it."""
    for message in _messages(news_of(changed)) if len(changed) <= MOST else [b"null"]:
        # As bytes: a text would be stored as a name is, and cut.
        connection.execute("SELECT pg_notify(%s, convert_from(%s, 'UTF8'))", (schema, message))


def _messages(news: list[RunNews]) -> Iterator[bytes]:
    some: list[bytes] = []
    for one in map(_ENCODE, news):
        if len(one) > _BYTES:  # a function with a name as long as that
            yield b"null"
            continue
        if sum(map(len, some)) + len(some) + len(one) > _BYTES:
            yield b"[%b]" % b",".join(some)
            some = []
        some.append(one)
    if some:
        yield b"[%b]" % b",".join(some)


class PostgresNews:
    """What others write in a schema. Asked by one thread at a time."""

    def __init__(self, address: Address, schema: str) -> None:
        self._link = Link(address, schema, lambda connection: self._listen(connection, schema))

    def next(self, wait_s: float) -> list[RunNews] | None:
        """What changed since it was asked last; empty if nothing did for so long. None: more than can be told.

        So it begins, and begins again after the server was away. Raises `HistoryDown`.
        """
        known = self._link.connected
        with self._link.answering() as connection:
            if not known:
                return None
            heard = [_DECODE(one.payload) for one in connection.notifies(timeout=wait_s, stop_after=1)]
        found: list[RunNews] = []
        for some in heard:
            if some is None:
                return None
            found += some
        return found

    def close(self) -> None:
        self._link.close()

    def _listen(self, connection: Connection, schema: str) -> None:
        connection.execute(SQL("LISTEN {}").format(Identifier(schema)))
