"""How changes come into the tables of the PostgreSQL store, within the caller's transaction: a statement a table.

Rows go as one array a column: what a statement costs on its way there and back counts for all of them once.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from perdure.history.asking import RUN_COLUMNS
from perdure.history.postgres_link import Connection, meant
from perdure.history.projection import Writes
from perdure.history.rows import Changes
from perdure.history.values import OF_A_RUN, decode_metadata, of_data, of_metadata, of_ops, of_runs
from perdure.log.embedded_store import successor


def _given(types: str) -> str:
    """The rows of a statement, one array for each of the types."""
    return f"unnest({', '.join(f'%s::{of}[]' for of in types.split())})"


_PUT_RUN = f"""
INSERT INTO runs (n, {RUN_COLUMNS})
SELECT * FROM {
    _given("bigint text bigint text text text bigint bigint bigint bigint bigint text text text text bigint bytea")
}
ON CONFLICT (n) DO UPDATE SET status = excluded.status, started_at = excluded.started_at,
    ended_at = excluded.ended_at, due = excluded.due, attempt = excluded.attempt
"""
_PUT_METADATA = f"INSERT INTO run_metadata SELECT * FROM {_given('text text bigint bigint')} ON CONFLICT DO NOTHING"
_PUT_DATA = f"""
INSERT INTO run_data AS d (n, event, arguments, result, error, parked)
SELECT * FROM {_given("bigint bytea bytea bytea bytea bytea")}
ON CONFLICT (n) DO UPDATE SET event = coalesce(excluded.event, d.event),
    arguments = coalesce(excluded.arguments, d.arguments), result = coalesce(excluded.result, d.result),
    error = coalesce(excluded.error, d.error), parked = coalesce(excluded.parked, d.parked)
"""
_PUT_OP = f"""
INSERT INTO ops AS o
    (n, op, position, type, opened_at, status, ended_at, due, attempt, took_us, about, input, result, error)
SELECT * FROM {_given("bigint text bigint text bigint text bigint bigint bigint bigint bytea bytea bytea bytea")}
ON CONFLICT (n, op) DO UPDATE SET status = excluded.status, ended_at = excluded.ended_at, due = excluded.due,
    attempt = coalesce(excluded.attempt, o.attempt), took_us = coalesce(excluded.took_us, o.took_us),
    about = coalesce(excluded.about, o.about), input = coalesce(excluded.input, o.input),
    result = coalesce(excluded.result, o.result), error = coalesce(excluded.error, o.error)
"""
_PATCH_OP = f"""
UPDATE ops o SET status = p.status, ended_at = p.ended_at, due = p.due, attempt = coalesce(p.attempt, o.attempt),
    took_us = coalesce(p.took_us, o.took_us), input = coalesce(p.input, o.input),
    result = coalesce(p.result, o.result), error = coalesce(p.error, o.error)
FROM {_given("bigint text text bigint bigint bigint bigint bytea bytea bytea")}
    AS p (n, op, status, ended_at, due, attempt, took_us, input, result, error)
WHERE o.n = p.n AND o.op = p.op
"""
_END_OPS = f"""
UPDATE ops o SET status = 'closed', ended_at = p.at, due = NULL FROM {_given("bigint bigint")} AS p (n, at)
WHERE o.n = p.n AND o.status = 'open'
"""
_PUT_MARK = f"""
INSERT INTO marks SELECT * FROM {_given("bigint text bigint bigint text bytea")}
ON CONFLICT (n, op, "offset") DO UPDATE SET at = excluded.at, kind = excluded.kind, detail = excluded.detail
"""
_PUT_EVENT = f"""
INSERT INTO events (id, partition, name, received_at, body) SELECT * FROM {_given("text bigint text bigint bytea")}
ON CONFLICT (id) DO NOTHING
"""
_GIVE_BACK = f"""
WITH back AS (SELECT * FROM {_given("bigint text bigint")} AS p (n, op, at)),
gone AS (DELETE FROM uses u USING back WHERE u.n = back.n AND u.op = back.op RETURNING u.n, u.op, back.at)
UPDATE ops o SET status = 'closed', ended_at = gone.at, due = NULL FROM gone WHERE o.n = gone.n AND o.op = gone.op
"""
_PUT_USE = f"""
INSERT INTO uses SELECT * FROM {_given("bigint text text text bigint")}
ON CONFLICT (n, op, event_id) DO UPDATE SET what = excluded.what, at = excluded.at
"""
_PUT_TALLY = f"""
INSERT INTO tallies AS t SELECT * FROM {_given("bigint bigint text text bigint")}
ON CONFLICT (size, at, function, what) DO UPDATE SET runs = t.runs + excluded.runs
"""
_DELETE_METADATA = f"""
DELETE FROM run_metadata m USING {_given("text text bigint bigint")} AS p (key, value, requested_at, n)
WHERE m.key = p.key AND m.value = p.value AND m.requested_at = p.requested_at AND m.n = p.n
"""
_DELETE_STATE = f"""
DELETE FROM state s USING {_given("bigint bytea")} AS p (partition, key)
WHERE s.partition = p.partition AND s.key = p.key
"""
_PUT_STATE = f"""
INSERT INTO state SELECT * FROM {_given("bigint bytea bytea")}
ON CONFLICT (partition, key) DO UPDATE SET value = excluded.value
"""


def _send(connection: Connection, statement: str, rows: Iterable[Sequence[Any]]) -> None:
    """All rows in one statement; no two of one key, which a statement may not change twice."""
    columns = [list(column) for column in zip(*rows, strict=True)]
    if columns:
        connection.execute(statement.encode(), columns)


def write_state(connection: Connection, partition: int, state: Writes) -> None:
    puts, deletes, clears = state
    for prefix in clears:
        connection.execute(
            "DELETE FROM state WHERE partition = %s AND key >= %s AND key < %s", (partition, prefix, successor(prefix))
        )
    _send(connection, _DELETE_STATE, ((partition, key) for key in deletes))
    _send(connection, _PUT_STATE, ((partition, key, raw) for key, raw in puts))


def write_rows(connection: Connection, changes: Changes) -> None:
    numbers = _numbers(connection, changes)
    with connection.pipeline():
        _put_runs(connection, changes, numbers)
        _put_ops(connection, changes, numbers)
        marks = {
            (numbers[one.run], one.op, one.offset): (one.at, one.kind, one.detail)
            for one in changes.marks
            if one.run in numbers
        }
        _send(connection, _PUT_MARK, (key + row for key, row in marks.items()))
        events = {one.id: (one.partition, one.name, one.received_at, one.body) for one in reversed(changes.events)}
        _send(connection, _PUT_EVENT, ((event, *row) for event, row in reversed(events.items())))
        given_back = changes.given_back.items()
        _send(connection, _GIVE_BACK, ((numbers[run], op, at) for (run, op), at in given_back if run in numbers))
        uses = {
            (numbers[one.run], one.op, one.event_id): (one.what, one.at) for one in changes.uses if one.run in numbers
        }
        _send(connection, _PUT_USE, (key + row for key, row in uses.items()))
        # Others add to the same rows: all in one order, and last, since they wait for each other until the end.
        _send(connection, _PUT_TALLY, ((*tally, runs) for tally, runs in sorted(changes.tallies.items())))


def _put_runs(connection: Connection, changes: Changes, numbers: dict[str, int]) -> None:
    _send(connection, _PUT_RUN, of_runs(changes, numbers))
    _send(connection, _PUT_METADATA, of_metadata(changes, numbers))
    _send(connection, _PUT_DATA, of_data(changes, numbers))


def _put_ops(connection: Connection, changes: Changes, numbers: dict[str, int]) -> None:
    _send(connection, _PUT_OP, of_ops(changes, numbers))
    _send(
        connection,
        _PATCH_OP,
        (
            (
                numbers[run], op, one.status, one.ended_at, one.due, one.attempt, one.took_us, one.input, one.result,
                one.error,
            )
            for (run, op), one in changes.patches.items()
            if run in numbers
        ),
    )  # fmt: skip
    _send(connection, _END_OPS, ((numbers[run], at) for run, at in changes.ended.items() if run in numbers))


def _numbers(connection: Connection, changes: Changes) -> dict[str, int]:
    """Run → its number, of all that the changes name. Those that were deleted by age have none, and nothing is kept."""
    rows = connection.execute(
        "SELECT id, n, requested_at, metadata FROM runs WHERE id = ANY(%s::text[])", [list(changes.named())]
    ).fetchall()
    known = {run: (n, at, metadata) for run, n, at, metadata in meant(rows)}
    delete_runs(connection, [known.pop(run) for run in changes.new if run in known])
    numbers = {run: row[0] for run, row in known.items()}
    new = connection.execute(
        "SELECT nextval('run_numbers') FROM generate_series(1, %s) ORDER BY 1", [len(changes.new)]
    ).fetchall()
    return numbers | {run: number for run, (number,) in zip(changes.new, new, strict=True)}


def delete_runs(connection: Connection, found: Sequence[tuple[int, int, bytes]]) -> None:
    """Of (number, requested at, metadata)."""
    if not found:
        return
    metadata = ((pair, at, n) for n, at, raw in found for pair in decode_metadata(raw).items())
    _send(connection, _DELETE_METADATA, ((key, value, at, n) for (key, value), at, n in metadata))
    for table in ("runs", *OF_A_RUN):
        connection.execute(f"DELETE FROM {table} WHERE n = ANY(%s)".encode(), [[n for n, _, _ in found]])
