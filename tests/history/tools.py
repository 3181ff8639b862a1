"""Journals into history, in many ways that must all come to the same; and all that history has, to be compared."""

import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from perdure.history.projection import Projection
from perdure.history.sqlite import SqliteHistory
from perdure.log.protocol import Batch

Records = Sequence[tuple[int, int, bytes]]
"""(offset, timestamp, record) of one partition."""


def opened(folder: Path, name: str = "history.db") -> SqliteHistory:
    history = SqliteHistory(folder / name)
    assert history.open() is None
    return history


def batches(records: Records) -> Iterable[Batch]:
    """One record each: how they come is tried where they come from."""
    for offset, ms, raw in records:
        yield Batch(0, offset, ms, [raw])


def loaded(history: SqliteHistory, partition: int, partitions: int) -> Projection:
    return Projection(partition, partitions, history.standing(partition), history.state(partition))


def written(history: SqliteHistory, projection: Projection) -> None:
    changes, state = projection.taken()
    history.write(projection.partition, changes, state, projection.standing)
    projection.written()


def read_at_once(history: SqliteHistory, partition: int, partitions: int, records: Records) -> None:
    projection = loaded(history, partition, partitions)
    for batch in batches(records):
        projection.read(batch)
    written(history, projection)


def read_under_kills(history: SqliteHistory, partition: int, partitions: int, records: Records, rng: Random) -> None:
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
    "events": "SELECT id, partition, name, received_at, body FROM events",
    "uses": "SELECT r.id, u.op, u.event_id, u.what, u.at FROM runs r JOIN uses u ON u.n = r.n",
    "standing": "SELECT partition, offset, at, stamp, gap FROM standing",
    "state": "SELECT partition, key, value FROM state WHERE key NOT LIKE 'o/%'",
}


def everything(path: Path) -> dict[str, list[Any]]:
    """All rows, in an order of their own. Lines in the state are cut by transactions, as they are by checkpoints."""
    connection = sqlite3.connect(path)
    try:
        return {name: sorted(connection.execute(sql).fetchall(), key=repr) for name, sql in _TABLES.items()}
    finally:
        connection.close()


def counts(path: Path) -> dict[str, int]:
    return {name: len(rows) for name, rows in everything(path).items()}


def json(raw: bytes | None) -> Any:
    return None if raw is None else msgspec.json.decode(raw)
