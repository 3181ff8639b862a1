"""Changes as rows of values, for stores in SQL: in the order of the tables' columns, of runs that have a number."""

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from perdure.history.rows import Changes

OF_A_RUN = ("run_data", "ops", "marks", "uses")
"""Tables that go with a run, by its number."""
Numbers = Mapping[str, int]
Values = Iterator[tuple[Any, ...]]
_ENCODE = msgspec.json.Encoder().encode
decode_metadata = msgspec.json.Decoder(dict[str, str]).decode
"""As a run's row has it."""


def of_runs(changes: Changes, numbers: Numbers) -> Values:
    """The number, then `asking.RUN_COLUMNS`."""
    return (
        (
            numbers[row.id], row.id, row.partition, row.function, row.status, row.cause, row.requested_at,
            row.started_at, row.ended_at, row.due, row.attempt, row.event_id, row.parent, row.parent_op,
            row.rerun_of, row.scheduled, _ENCODE(row.metadata),
        )
        for row in changes.runs.values()
        if row.id in numbers
    )  # fmt: skip


def of_metadata(changes: Changes, numbers: Numbers) -> Values:
    return (
        (key, value, changes.runs[run].requested_at, numbers[run])
        for run in changes.new
        for key, value in changes.runs[run].metadata.items()
    )


def of_data(changes: Changes, numbers: Numbers) -> Values:
    return (
        (numbers[run], one.event, one.arguments, one.result, one.error, one.parked)
        for run, one in changes.data.items()
        if run in numbers
    )


def of_ops(changes: Changes, numbers: Numbers) -> Values:
    return (
        (
            numbers[row.run], row.op, row.position, row.type, row.opened_at, row.status, row.ended_at, row.due,
            row.attempt, row.took_us, row.about, row.input, row.result, row.error,
        )
        for row in changes.ops.values()
        if row.run in numbers
    )  # fmt: skip
