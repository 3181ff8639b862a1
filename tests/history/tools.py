"""Journals into history, in many ways that must all come to the same; and all that history has, to be compared."""

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from random import Random
from typing import Any, Protocol, TypeVar
from uuid import uuid4

import msgspec

from perdure.history.postgres import PostgresHistory
from perdure.history.projection import Projection
from perdure.history.sqlite import SqliteHistory
from perdure.history.store import History
from perdure.log.protocol import Batch

T = TypeVar("T")

Records = Sequence[tuple[int, int, bytes]]
"""(offset, timestamp, record) of one partition."""


class Shelf(Protocol):
    """Histories of one kind, by name: each call is another object for the same place."""

    def of(self, name: str = "h", *, writes: bool = True) -> History: ...

    def everything(self, name: str = "h") -> dict[str, list[Any]]:
        """All rows, in an order of their own. Lines in the state are cut by transactions, as by checkpoints."""
        ...

    def opened(self, name: str = "h") -> History:
        """A new one."""
        history = self.of(name)
        assert history.open() is None
        return history

    def asked(self, name: str, question: Callable[[History], T]) -> T:
        """By somebody who only reads."""
        history = self.of(name, writes=False)
        history.open()
        try:
            return question(history)
        finally:
            history.close()


class SqliteShelf(Shelf):
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def of(self, name: str = "h", *, writes: bool = True) -> SqliteHistory:
        return SqliteHistory(self._folder / f"{name}.db", writes=writes)

    def everything(self, name: str = "h") -> dict[str, list[Any]]:
        connection = sqlite3.connect(self._folder / f"{name}.db")
        try:
            return _sorted(lambda sql: connection.execute(sql).fetchall())
        finally:
            connection.close()


class PostgresShelf(Shelf):
    """Schemas that nobody else uses."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._prefix = f"t{uuid4().hex[:12]}"
        self._used: set[str] = set()

    def of(self, name: str = "h", *, writes: bool = True) -> PostgresHistory:
        self._used.add(name)
        return PostgresHistory(self.url, f"{self._prefix}_{name}", writes=writes)

    def everything(self, name: str = "h") -> dict[str, list[Any]]:
        history = self.of(name, writes=False)
        history.open()
        try:
            return _sorted(lambda sql: history._rows(sql, ()))
        finally:
            history.close()

    def clear(self) -> None:
        for name in self._used:
            self.of(name).drop()


def batches(records: Records) -> Iterable[Batch]:
    """One record each: how they come is tried where they come from."""
    for offset, ms, raw in records:
        yield Batch(0, offset, ms, [raw])


def loaded(history: History, partition: int, partitions: int) -> Projection:
    return Projection(partition, partitions, history.standing(partition), history.state(partition))


def written(history: History, projection: Projection) -> None:
    changes, state = projection.taken()
    history.write(projection.partition, changes, state, projection.standing)
    projection.written()


def read_at_once(history: History, partition: int, partitions: int, records: Records) -> None:
    projection = loaded(history, partition, partitions)
    for batch in batches(records):
        projection.read(batch)
    written(history, projection)


def read_under_kills(history: History, partition: int, partitions: int, records: Records, rng: Random) -> None:
    """In slices; whoever reads may die before and after each transaction, and some of it comes again."""
    projection = loaded(history, partition, partitions)
    position = 0
    while position < len(records):
        upto = position + rng.choice([1, 2, 5, 20, 100])
        for batch in batches(records[max(0, position - rng.choice([0, 0, 3])) : upto]):
            projection.read(batch)
        draw = rng.random()
        if draw < 0.1:
            projection = loaded(history, partition, partitions)
            continue
        written(history, projection)
        position = upto
        if draw < 0.3:
            projection = loaded(history, partition, partitions)


_TABLES = {
    "runs": "SELECT r.id, r.partition, r.function, r.status, r.cause, r.requested_at, r.started_at, r.ended_at, r.due, "
    "r.attempt, r.event_id, r.parent, r.parent_op, r.rerun_of, r.scheduled, r.metadata, r.blind FROM runs r",
    "data": "SELECT r.id, d.event, d.arguments, d.result, d.error, d.parked FROM runs r JOIN run_data d ON d.n = r.n",
    "metadata": "SELECT r.id, m.key, m.value, m.requested_at FROM runs r JOIN run_metadata m ON m.n = r.n",
    "ops": "SELECT r.id, o.op, o.position, o.type, o.opened_at, o.status, o.ended_at, o.due, o.attempt, o.took_us, "
    "o.about, o.input, o.result, o.error FROM runs r JOIN ops o ON o.n = r.n",
    "marks": "SELECT r.id, m.op, m.offset, m.at, m.kind, m.detail FROM runs r JOIN marks m ON m.n = r.n",
    "events": "SELECT e.id, e.partition, e.name, e.received_at, e.body FROM events e",
    "uses": "SELECT r.id, u.op, u.event_id, u.what, u.at FROM runs r JOIN uses u ON u.n = r.n",
    "tallies": "SELECT t.size, t.at, t.function, t.what, t.runs FROM tallies t",
    "standing": "SELECT s.partition, s.offset, s.at, s.stamp, s.gap FROM standing s",
    "state": "SELECT s.partition, s.key, s.value FROM state s",
}


def _sorted(ask: Callable[[str], list[Any]]) -> dict[str, list[Any]]:
    """SQLite has its truth values as numbers."""
    rows = {
        name: sorted(
            (tuple(int(value) if isinstance(value, bool) else value for value in row) for row in ask(sql)), key=repr
        )
        for name, sql in _TABLES.items()
    }
    rows["state"] = [row for row in rows["state"] if not bytes(row[1]).startswith(b"o/")]
    return rows


def json(raw: bytes | None) -> Any:
    return None if raw is None else msgspec.json.decode(raw)
