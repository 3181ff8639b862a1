"""What a store in SQL can be asked, in words that all of them speak: `?` stands for a value.

Found by the index that says most; the rest is asked of what it finds, of so many rows at most. Which index is said
here, and how that is said is the store's own: what a planner takes for likely may be long ago.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

from perdure.flow.expressions import Condition
from perdure.history.rows import EventRow, Mark, OpRow, RunData, RunRow, Use
from perdure.history.store import (
    SCANNED_ROWS,
    Cursor,
    EventPage,
    EventQuery,
    EventsPage,
    LastFailed,
    RunPage,
    RunQuery,
    RunsPage,
    Tallied,
    matches,
    trigger_matches,
)
from perdure.history.tallies import LENGTHS_MS
from perdure.history.values import decode_metadata
from perdure.log.embedded_store import successor

T = TypeVar("T")
RUN_COLUMNS = (
    "id, partition, function, status, cause, requested_at, started_at, ended_at, due, attempt, event_id, parent, "
    "parent_op, rerun_of, scheduled, metadata"
)
_RUN = ", ".join(f"r.{column}" for column in RUN_COLUMNS.split(", "))
_EVENT = "e.id, e.partition, e.name, e.received_at, e.body"
_SHOWN = 1_000
"""So many of what belongs to a run or an event are on its page."""
_AT_ONCE = 500
"""Rows that are read in one go, where not all of them are wanted."""


class Source(NamedTuple):
    """A table, with what is asked of it by value."""

    table: str
    conditions: Sequence[str] = ()
    values: Sequence[Any] = ()
    order: tuple[str, str] = ("r.requested_at", "r.n")


class Asking(ABC):
    """The asking half of a `History`."""

    @abstractmethod
    def _rows(self, sql: str, values: Sequence[Any]) -> list[Any]:
        """All that a question finds."""

    @abstractmethod
    def _by(self, table: str, index: str) -> Source:
        """A table (`runs r`), read by one of its indexes."""

    def runs(self, query: RunQuery) -> RunsPage:
        source = self._source_of(query)
        where = query.where
        if where is not None:
            return self._runs_where(where, source, query)

        def wanted(row: Sequence[Any]) -> RunRow | None:
            run = row[2:]
            return _run_row(run) if _fits(query, run[2], run[3], run[15]) else None

        return RunsPage(*self._page(_RUN, source, query, wanted))

    def _runs_where(self, where: Condition, source: Source, query: RunQuery) -> RunsPage:
        """Thousands are looked at for a page of them: the rows are read of those alone that are on it."""
        source = source._replace(table=f"{source.table} LEFT JOIN run_data d ON d.n = r.n")

        def wanted(row: Sequence[Any]) -> int | None:
            _, n, function, status, metadata, event = row
            return n if _fits(query, function, status, metadata) and trigger_matches(where, event) else None

        numbers, after = self._page("r.function, r.status, r.metadata, d.event", source, query, wanted)
        listed = ", ".join("?" * len(numbers))
        rows = self._rows(f"SELECT r.n, {_RUN} FROM runs r WHERE r.n IN ({listed})", numbers) if numbers else []
        found = {n: _run_row(row) for n, *row in rows}
        return RunsPage([found[n] for n in numbers if n in found], after)

    def events(self, query: EventQuery) -> EventsPage:
        source = self._by("events e", "events_by_name" if query.name else "events_by_time")
        source = source._replace(order=("e.received_at", "e.n"))
        if query.name:
            source = _asked(source, "e.name = ?", query.name)
        where = query.where

        def wanted(row: Sequence[Any]) -> EventRow | None:
            event = EventRow(*row[2:])
            return event if where is None or matches(where, event.body) else None

        return EventsPage(*self._page(_EVENT, source, query, wanted))

    def run(self, run: str) -> RunPage | None:
        for n, blind, *row in self._rows(f"SELECT r.n, r.blind, {_RUN} FROM runs r WHERE r.id = ?", [run]):
            data = self._rows(
                "SELECT d.event, d.arguments, d.result, d.error, d.parked FROM run_data d WHERE d.n = ?", [n]
            )
            ops = self._rows(
                "SELECT o.op, o.position, o.type, o.opened_at, o.status, o.ended_at, o.due, o.attempt, o.took_us, "
                "o.about, o.input, o.result, o.error FROM ops o WHERE o.n = ? ORDER BY o.position, o.op",
                [n],
            )
            marks = self._rows(
                "SELECT m.op, m.offset, m.at, m.kind, m.detail FROM marks m WHERE m.n = ? ORDER BY m.offset, m.op", [n]
            )
            return RunPage(
                _run_row(row),
                RunData(*data[0]) if data else RunData(),
                bool(blind),
                [OpRow(run, *op) for op in ops],
                [Mark(run, *mark) for mark in marks],
                self._runs_of("runs_by_parent", "parent", run),
                self._runs_of("runs_by_rerun", "rerun_of", run),
            )
        return None

    def event(self, event: str) -> EventPage | None:
        for found in self._rows(f"SELECT {_EVENT} FROM events e WHERE e.id = ?", [event]):
            runs = self._runs_of("runs_by_event", "event_id", event)
            by = _asked(self._by("uses u", "uses_by_event"), "u.event_id = ?", event)
            uses = self._rows(
                f"SELECT u.event_id, r.id, u.op, u.what, u.at FROM {by.table} JOIN runs r ON r.n = u.n "
                f"WHERE {' AND '.join(by.conditions)} ORDER BY u.at, r.id, u.op LIMIT {_SHOWN}",
                by.values,
            )
            return EventPage(EventRow(*found), runs, [Use(*use) for use in uses])
        return None

    def tallies(self, size: int, since: int) -> list[Tallied]:
        def since_in(size: int) -> list[int]:
            return [size, since - since % size]

        where = "FROM tallies t WHERE t.size = ? AND t.at >= ? AND substr(t.what, 1, 4)"
        apart = self._rows(f"SELECT t.function, t.at, t.what, t.runs {where} <> 'took'", since_in(size))
        counted = f"SELECT t.function, 0, t.what, CAST(sum(t.runs) AS BIGINT) {where} = 'took'"
        took = self._rows(f"{counted} GROUP BY t.function, t.what", since_in(LENGTHS_MS[size]))
        return [Tallied(*row) for row in [*apart, *took]]

    def last_failed(self, function: str, since: int) -> LastFailed | None:
        by = _asked(self._by("runs r", "runs_by_both"), "r.function = ? AND r.status = 'failed'", function)
        by = _asked(by, "r.requested_at >= ?", since)
        rows = self._rows(
            f"SELECT r.id, r.ended_at, d.error FROM {by.table} LEFT JOIN run_data d ON d.n = r.n "
            f"WHERE {' AND '.join(by.conditions)} ORDER BY r.requested_at DESC, r.n DESC LIMIT 1",
            by.values,
        )
        return LastFailed(*rows[0]) if rows else None

    def live(self, status: str, limit: int, function: str = "") -> int:
        return self._count("1", self._source_of(RunQuery(function, status)), limit)

    def delayed(self, limit: int) -> int:
        return self._count("r.due", self._source_of(RunQuery(status="queued")), limit)

    def _count(self, what: str, by: Source, limit: int) -> int:
        some = f"SELECT {what} AS what FROM {by.table} WHERE {' AND '.join(by.conditions)} LIMIT ?"
        return int(self._rows(f"SELECT count(found.what) FROM ({some}) AS found", [*by.values, limit])[0][0])

    def stands(self) -> dict[int, int]:
        return dict(self._rows("SELECT s.partition, s.offset FROM standing s", ()))

    def remembered(self, prefix: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        found: list[tuple[bytes, bytes]] = []
        for partition in sorted(self.stands()):
            rows = self._rows(
                "SELECT s.key, s.value FROM state s WHERE s.partition = ? AND s.key >= ? AND s.key < ? "
                "ORDER BY s.key LIMIT ?",
                [partition, prefix, successor(prefix), limit - len(found)],
            )
            found += [(key, value) for key, value in rows]
        return found

    def _runs_of(self, index: str, column: str, value: str) -> list[RunRow]:
        """Of a run, or an event; so many as a page shows."""
        by = _asked(self._by("runs r", index), f"r.{column} = ? AND r.{column} <> ''", value)
        rows = self._rows(
            f"SELECT {_RUN} FROM {by.table} WHERE {' AND '.join(by.conditions)} "
            f"ORDER BY r.requested_at, r.n LIMIT {_SHOWN}",
            by.values,
        )
        return [_run_row(row) for row in rows]

    def _source_of(self, query: RunQuery) -> Source:
        if query.event_id:
            by = self._by("runs r", "runs_by_event")
            return _asked(by, "r.event_id = ? AND r.event_id <> ''", query.event_id)
        if query.metadata is not None:
            # In this order: CROSS JOIN says so to SQLite.
            order = ("m.requested_at", "m.n")
            by = Source("run_metadata m CROSS JOIN runs r", ["r.n = m.n"], order=order)
            return _asked(by, "m.key = ? AND m.value = ?", *query.metadata)
        if query.function and query.status:
            by = self._by("runs r", "runs_by_both")
            return _asked(by, "r.function = ? AND r.status = ?", query.function, query.status)
        if query.function:
            return _asked(self._by("runs r", "runs_by_function"), "r.function = ?", query.function)
        if query.status:
            return _asked(self._by("runs r", "runs_by_status"), "r.status = ?", query.status)
        return self._by("runs r", "runs_by_time")

    def _page(
        self,
        columns: str,
        source: Source,
        query: RunQuery | EventQuery,
        wanted: Callable[[Sequence[Any]], T | None],
    ) -> tuple[list[T], Cursor | None]:
        at = source.order[0]
        if query.since is not None:
            source = _asked(source, f"{at} >= ?", query.since)
        if query.until is not None:
            source = _asked(source, f"{at} < ?", query.until)
        found: list[T] = []
        last: Sequence[Any] = ()
        rows = self._newest_first(columns, source, query.cursor, query.limit + 1)
        for looked_at, row in enumerate(rows):
            if len(found) == query.limit or looked_at - len(found) == SCANNED_ROWS:
                return found, Cursor(*last[:2])
            last = row
            one = wanted(row)
            if one is not None:
                found.append(one)
        return found, None

    def _newest_first(self, columns: str, source: Source, before: Cursor | None, first: int) -> Iterator[Any]:
        """Row by row; read by so many at first, as many as are needed if all are wanted."""
        at, n = source.order
        limit = first
        while True:
            asked = source if before is None else _asked(source, f"({at}, {n}) < (?, ?)", *before)
            rows = self._rows(
                f"SELECT {at}, {n}, {columns} FROM {asked.table} WHERE {' AND '.join(asked.conditions) or 'true'} "
                f"ORDER BY {at} DESC, {n} DESC LIMIT ?",
                [*asked.values, limit],
            )
            yield from rows
            if len(rows) < limit:
                return
            before, limit = Cursor(*rows[-1][:2]), _AT_ONCE


def _asked(source: Source, condition: str, *values: Any) -> Source:
    return source._replace(conditions=[*source.conditions, condition], values=[*source.values, *values])


def _fits(query: RunQuery, function: str, status: str, metadata: bytes) -> bool:
    """Whether a run is meant, as far as its own row tells."""
    if query.function not in ("", function) or query.status not in ("", status):
        return False
    return query.metadata is None or decode_metadata(metadata).get(query.metadata[0]) == query.metadata[1]


def _run_row(row: Sequence[Any]) -> RunRow:
    values = [*row]
    values[15] = decode_metadata(row[15])
    return RunRow(*values)
