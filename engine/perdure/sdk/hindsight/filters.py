"""Which runs are meant: what the store finds, and what is left to ask of what it found."""

from collections.abc import Mapping

from perdure.errors import DefinitionError, PayloadError
from perdure.flow.expressions import Condition, compile_where
from perdure.flow.patterns import is_own
from perdure.history.store import Cursor, RunQuery, parse_cursor
from perdure.sdk.port import RunFilter, RunSummary

_IN_HISTORY: Mapping[str, str] = {"suspended": "running"}
"""Whether code runs or waits is known to its worker alone."""


def query_of(wanted: RunFilter, limit: int, cursor: str) -> RunQuery:
    """For the store; `fits` has the rest. Raises `PayloadError`."""
    return RunQuery(
        wanted.function,
        _IN_HISTORY.get(wanted.status, wanted.status),
        wanted.since,
        wanted.until,
        wanted.event_id,
        next(iter(wanted.metadata.items()), None),
        condition_of(wanted.where),
        limit,
        cursor_of(cursor),
    )


def condition_of(where: str) -> Condition | None:
    """Over `event`; None for none. Raises `PayloadError`."""
    try:
        return compile_where(where, names=frozenset({"event"})) if where else None
    except DefinitionError as error:
        raise PayloadError(f"where: {error}") from None


def fits(wanted: RunFilter, run: RunSummary) -> bool:
    """Of a run that the store found, as it is now. The engine's own are for who asks for them by name."""
    if not wanted.function and is_own(run.function):
        return False
    return wanted.status in ("", run.status) and wanted.metadata.items() <= run.metadata.items()


def cursor_of(text: str) -> Cursor | None:
    """Raises `PayloadError`."""
    try:
        return parse_cursor(text)
    except ValueError as error:
        raise PayloadError(str(error)) from None
