"""How changes come into the tables of the SQLite store, within the caller's transaction."""

import sqlite3
from collections.abc import Iterable, Sequence

from perdure.history.asking import RUN_COLUMNS
from perdure.history.projection import Writes
from perdure.history.rows import Changes
from perdure.history.values import OF_A_RUN, decode_metadata, of_data, of_metadata, of_ops, of_runs
from perdure.log.embedded_store import successor

_IDS_AT_ONCE = 500
_PUT_RUN = f"""
INSERT INTO runs (n, {RUN_COLUMNS}) VALUES ({", ".join("?" * 17)})
ON CONFLICT (n) DO UPDATE SET status = excluded.status, started_at = excluded.started_at,
    ended_at = excluded.ended_at, due = excluded.due, attempt = excluded.attempt
"""
_PUT_DATA = """
INSERT INTO run_data (n, event, arguments, result, error, parked) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (n) DO UPDATE SET event = coalesce(excluded.event, event),
    arguments = coalesce(excluded.arguments, arguments),
    result = coalesce(excluded.result, result), error = coalesce(excluded.error, error),
    parked = coalesce(excluded.parked, parked)
"""
_PUT_OP = """
INSERT INTO ops (n, op, position, type, opened_at, status, ended_at, due, attempt, took_us, about, input, result, error)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (n, op) DO UPDATE SET status = excluded.status, ended_at = excluded.ended_at, due = excluded.due,
    attempt = coalesce(excluded.attempt, attempt), took_us = coalesce(excluded.took_us, took_us),
    about = coalesce(excluded.about, about), input = coalesce(excluded.input, input),
    result = coalesce(excluded.result, result), error = coalesce(excluded.error, error)
"""
_PATCH_OP = """
UPDATE ops SET status = ?, ended_at = ?, due = ?, attempt = coalesce(?, attempt), took_us = coalesce(?, took_us),
    input = coalesce(?, input), result = coalesce(?, result), error = coalesce(?, error) WHERE n = ? AND op = ?
"""


def write_state(connection: sqlite3.Connection, partition: int, state: Writes) -> None:
    puts, deletes, clears = state
    for prefix in clears:
        connection.execute(
            "DELETE FROM state WHERE partition = ? AND key >= ? AND key < ?", (partition, prefix, successor(prefix))
        )
    connection.executemany("DELETE FROM state WHERE partition = ? AND key = ?", ((partition, key) for key in deletes))
    connection.executemany(
        "INSERT OR REPLACE INTO state VALUES (?, ?, ?)", ((partition, key, raw) for key, raw in puts)
    )


def write_rows(connection: sqlite3.Connection, changes: Changes) -> None:
    numbers = _numbers(connection, changes)
    run_many = connection.executemany
    run_many(_PUT_RUN, of_runs(changes, numbers))
    run_many("INSERT OR REPLACE INTO run_metadata VALUES (?, ?, ?, ?)", of_metadata(changes, numbers))
    run_many(_PUT_DATA, of_data(changes, numbers))
    run_many(_PUT_OP, of_ops(changes, numbers))
    run_many(
        _PATCH_OP,
        (
            (
                one.status, one.ended_at, one.due, one.attempt, one.took_us, one.input, one.result, one.error,
                numbers[run], op,
            )
            for (run, op), one in changes.patches.items()
            if run in numbers
        ),
    )  # fmt: skip
    run_many(
        "UPDATE ops SET status = 'closed', ended_at = ?, due = NULL WHERE n = ? AND status = 'open'",
        ((at, numbers[run]) for run, at in changes.ended.items() if run in numbers),
    )
    run_many(
        "INSERT OR REPLACE INTO marks VALUES (?, ?, ?, ?, ?, ?)",
        (
            (numbers[one.run], one.op, one.offset, one.at, one.kind, one.detail)
            for one in changes.marks
            if one.run in numbers
        ),
    )
    run_many(
        "INSERT OR IGNORE INTO events (id, partition, name, received_at, body) VALUES (?, ?, ?, ?, ?)",
        ((one.id, one.partition, one.name, one.received_at, one.body) for one in changes.events),
    )
    run_many(
        "INSERT INTO tallies VALUES (?, ?, ?, ?, ?) "
        "ON CONFLICT (size, at, function, what) DO UPDATE SET runs = runs + excluded.runs",
        ((*tally, count) for tally, count in changes.tallies.items()),
    )
    for (run, op), at in changes.given_back.items():
        if run in numbers:
            _give_back(connection, numbers[run], op, at)
    run_many(
        "INSERT OR REPLACE INTO uses VALUES (?, ?, ?, ?, ?)",
        ((numbers[one.run], one.op, one.event_id, one.what, one.at) for one in changes.uses if one.run in numbers),
    )


def _give_back(connection: sqlite3.Connection, n: int, op: str, at: int) -> None:
    if connection.execute("DELETE FROM uses WHERE n = ? AND op = ?", (n, op)).rowcount:
        connection.execute(
            "UPDATE ops SET status = 'closed', ended_at = ?, due = NULL WHERE n = ? AND op = ?", (at, n, op)
        )


def _numbers(connection: sqlite3.Connection, changes: Changes) -> dict[str, int]:
    """Run → its number, of all that the changes name. Those that were deleted by age have none, and nothing is kept."""
    known = _known(connection, changes.named())
    delete_runs(connection, [known.pop(run) for run in changes.new if run in known])
    numbers = {run: row[0] for run, row in known.items()}
    last = connection.execute("SELECT max(n) FROM runs").fetchone()[0] or 0
    return numbers | {run: number for number, run in enumerate(changes.new, last + 1)}


def _known(connection: sqlite3.Connection, runs: Iterable[str]) -> dict[str, tuple[int, int, bytes]]:
    ids = list(runs)
    found: dict[str, tuple[int, int, bytes]] = {}
    for first in range(0, len(ids), _IDS_AT_ONCE):
        some = ids[first : first + _IDS_AT_ONCE]
        marks = ", ".join("?" * len(some))
        rows = connection.execute(f"SELECT id, n, requested_at, metadata FROM runs WHERE id IN ({marks})", some)
        found.update((run, (n, at, metadata)) for run, n, at, metadata in rows)
    return found


def delete_runs(connection: sqlite3.Connection, found: Sequence[tuple[int, int, bytes]]) -> None:
    """Of (number, requested at, metadata)."""
    for n, at, metadata in found:
        connection.executemany(
            "DELETE FROM run_metadata WHERE key = ? AND value = ? AND requested_at = ? AND n = ?",
            ((key, value, at, n) for key, value in decode_metadata(metadata).items()),
        )
    for table in ("runs", *OF_A_RUN):
        connection.executemany(f"DELETE FROM {table} WHERE n = ?", ((n,) for n, _, _ in found))
