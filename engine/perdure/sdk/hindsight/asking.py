"""What can be asked of what happened."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import ParamSpec, Protocol, TypeVar

from msgspec import Raw
from msgspec.structs import replace

from perdure.errors import KeepsNothing, NotOwned, UnknownEvent, UnknownRun
from perdure.flow.lines import op_name
from perdure.flow.patterns import is_own
from perdure.flow.states import TERMINAL
from perdure.history import remembered
from perdure.history.rows import RunNews
from perdure.history.store import SCANNED_ROWS, EventQuery, EventsPage, History, decode_body
from perdure.history.tallies import size_of
from perdure.sdk.hindsight.explaining import decisions_of, why_nothing
from perdure.sdk.hindsight.filters import fits, query_of
from perdure.sdk.hindsight.live import Change, Watched
from perdure.sdk.hindsight.numbers import numbers_of
from perdure.sdk.hindsight.pages import detail_of, error_of, event_line, summary_of
from perdure.sdk.hindsight.waiting import why_waiting
from perdure.sdk.local_port import LocalPort, RunNow
from perdure.sdk.port import (
    EventDetail,
    EventList,
    EventUse,
    Failing,
    FunctionNumbers,
    FunctionView,
    OpDetail,
    Overview,
    QueueLength,
    RunDetail,
    RunFilter,
    RunList,
    RunSummary,
    Waits,
)
from perdure_schemas.definition import Definition
from perdure_schemas.event import EventBody

P = ParamSpec("P")
T = TypeVar("T")
WORST = 5
"""Functions that fail most, with their last error."""
LIVE = ("queued", "running", "parked")
COUNTED = 100_000
PATIENCE_S = 2.0
"""How long a question waits for history to come to where the log was when it was asked."""


class Follower(Protocol):
    """What keeps the store up, or knows how others do. `on_runs` is told what changed; None: more than can be told."""

    on_runs: Callable[[Sequence[RunNews] | None], None]

    async def reach(self, patience_s: float) -> int: ...


class Hindsight:
    """History beside the engine of this process, or in a gateway, which has no state of its own.

    An answer shows what was acknowledged before its question: history is behind by a moment, and waited for. Where it
    is far behind (it is made anew; the engine is very busy) nobody waits, and the answer says how far.
    """

    def __init__(self, port: LocalPort, store: History, follower: Follower) -> None:
        self._port = port
        self._store = store
        self._follower = follower
        self.watched = Watched()
        follower.on_runs = self._changed

    def _changed(self, news: Sequence[RunNews] | None) -> None:
        if news is None:
            self.watched.miss()
            return
        shown = [one for one in news if not is_own(one.function)]
        if not shown:
            return
        # Numbers go on where nobody watches, so that who comes back knows that it missed something.
        self.watched.tell([self._change(one) for one in shown] if self.watched else [])

    def _change(self, one: RunNews) -> Change:
        now = None if one.status in TERMINAL else self._port.now(one.id)
        return Change(one.id, one.function, one.status if now is None else now.summary.status, 1)

    async def runs(self, wanted: RunFilter, limit: int, cursor: str) -> RunList:
        """Raises `PayloadError`, `KeepsNothing`."""
        if wanted.status == "suspended" and not self._port.owns:
            raise KeepsNothing("which of the running are suspended only their workers know: ask for running")
        query = query_of(wanted, limit, cursor)
        behind = await self._reached()
        found: list[RunSummary] = []
        looked_at = 0
        while True:
            rows, after = await self._ask(self._store.runs, query)
            looked_at += len(rows)
            seen = [self._as_now(summary_of(row)) for row in rows]
            found += [run for run in seen if fits(wanted, run)]
            if after is None or len(found) == limit or looked_at >= SCANNED_ROWS or len(rows) < query.limit:
                return RunList(found, "" if after is None else str(after), behind)
            query = replace(query, cursor=after, limit=limit - len(found))

    async def run(self, run_id: str) -> RunDetail:
        """All that is known of a run. Raises `UnknownRun`."""
        await self._reached()
        page = await self._ask(self._store.run, run_id)
        now = self._port.now(run_id)
        if page is None or not page.run.function:
            return await self._of_engine(run_id)
        detail = detail_of(page, self._port.readable)
        detail = replace(
            detail,
            children=tuple(map(self._as_now, detail.children)),
            reruns=tuple(map(self._as_now, detail.reruns)),
        )
        if now is not None:
            detail = _at_this_moment(detail, now)
        return replace(detail, waiting=why_waiting(detail, held=now is not None and now.held))

    async def events(self, wanted: EventQuery) -> EventList:
        """Newest first."""
        behind = await self._reached()
        found, after = await self._ask(self._store.events, wanted)
        return EventList([event_line(row) for row in found], "" if after is None else str(after), behind)

    async def event(self, event_id: str) -> EventDetail:
        """What it started, matched, cancelled, and why not more. Raises `UnknownEvent`."""
        behind = await self._reached()
        page = await self._ask(self._store.event, event_id)
        if page is None:
            raise UnknownEvent(f"no event {event_id!r} is known: it never came, or longer ago than history goes back")
        functions: dict[str, str] = {}
        for use in page.uses:
            if use.run not in functions:
                functions[use.run] = await self._function_of(use.run)
        uses = tuple(EventUse(use.run, functions[use.run], use.what, use.at, use.op) for use in page.uses)
        body, code = decode_body(page.event.body), await self.active_code()
        # A rerun has the trigger of the run that it repeats, and was not started by it.
        started = {run.function: run.id for run in page.runs if run.cause in ("event", "backfill")}
        decisions = decisions_of(body, code, started, set(functions.values()), behind=behind > 0)
        return EventDetail(
            Raw(page.event.body),
            page.event.received_at,
            tuple(self._as_now(summary_of(run)) for run in page.runs),
            uses,
            decisions,
            "" if uses else why_nothing(body, code, decisions),
            behind,
        )

    async def overview(self, since: int, until: int) -> Overview:
        """From `since` to `until`, which is now."""
        behind = await self._follower.reach(PATIENCE_S)
        size = size_of(until - since)
        tallied = await self._ask(self._store.tallies, size, since)
        functions = numbers_of(tallied)
        worst = sorted((one for one in functions if one.failed), key=lambda one: -one.failed)[:WORST]
        failing = [await self._failing(one, since) for one in worst]
        live = {status: await self._ask(self._store.live, status, COUNTED) for status in LIVE}
        waits = await self._waits()
        return Overview(since, until, size, functions, failing, live, waits, dict(await self._lag()), behind)

    async def _waits(self) -> Waits:
        found = await self._ask(remembered.queues, self._store)
        names = sorted(self._port.queues() | set(found))
        waiting = await self._ask(remembered.waiting_to_start, self._store)
        return Waits(
            {function: waiting[function] for function in sorted(await self._ask(remembered.paused, self._store))},
            await self._ask(self._store.delayed, remembered.MOST_ROWS),
            sum(self._port.counts().held.values()),
            [QueueLength(name, *found.get(name, remembered.InQueue())) for name in names],
        )

    async def _lag(self) -> Mapping[str, int]:
        if self._port.owns:
            return await self._port.lag()
        ends, stands = await self._port.ends(), await self._ask(self._store.stands)
        return {str(one): max(0, end - stands.get(one, 0)) for one, end in ends.items()}

    async def functions(self) -> list[FunctionView]:
        """With what the log says of them: a process without partitions knows only its own code."""
        views = await self._port.functions()
        if self._port.owns:
            return views
        await self._reached()
        since = await self._ask(remembered.paused, self._store)
        waiting = await self._ask(remembered.waiting_to_start, self._store)
        fires = await self._ask(remembered.next_fires, self._store)
        return [
            replace(
                view,
                running=sum([await self._ask(self._store.live, status, COUNTED, view.id) for status in LIVE]),
                paused_since=since.get(view.id),
                waiting=waiting[view.id],
                next_fire=fires.get(view.id),
            )
            for view in views
        ]

    async def knows_event(self, event_id: str) -> bool:
        """Whether it has come."""
        try:
            return await self._port.knows_event(event_id)
        except (KeepsNothing, NotOwned):
            return await self._ask(self._store.event, event_id) is not None

    async def past_events(self, wanted: EventQuery) -> EventsPage:
        """As they came; newest first."""
        await self._reached()
        return await self._ask(self._store.events, wanted)

    async def body_of(self, event_id: str) -> EventBody | None:
        """None once it is forgotten."""
        page = await self._ask(self._store.event, event_id)
        return None if page is None else decode_body(page.event.body)

    async def knows_run(self, run_id: str) -> bool:
        """Whether it ever was, as far as history goes back."""
        return self._port.now(run_id) is not None or await self._ask(self._store.run, run_id) is not None

    async def active_code(self) -> Definition | None:
        known = self._port.active_code()
        return await self._ask(remembered.active_code, self._store) if known is None else known

    async def _failing(self, one: FunctionNumbers, since: int) -> Failing:
        last = await self._ask(self._store.last_failed, one.function, since)
        if last is None:
            return Failing(one.function, one.failed)
        return Failing(one.function, one.failed, last.run, last.ended_at, error_of(last.error))

    async def _function_of(self, run_id: str) -> str:
        now = self._port.now(run_id)
        if now is not None:
            return now.summary.function
        page = await self._ask(self._store.run, run_id)
        return "" if page is None else page.run.function

    async def _of_engine(self, run_id: str) -> RunDetail:
        """History has not come to it yet, or it began before there was a history."""
        try:
            detail = await self._port.run(run_id)
        except (NotOwned, KeepsNothing):
            raise UnknownRun(
                f"no run {run_id!r} is known to history: it never was, ended longer ago than that goes back, or has "
                "only begun"
            ) from None
        return replace(detail, waiting=why_waiting(detail))

    async def _reached(self) -> int:
        await self._port.settled()
        return await self._follower.reach(PATIENCE_S)

    def _as_now(self, run: RunSummary) -> RunSummary:
        """The state may be a moment ahead, and knows whether code runs or waits."""
        if run.ended_at is not None:
            return run
        now = self._port.now(run.id)
        return run if now is None else now.summary

    async def _ask(self, question: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.to_thread(question, *args, **kwargs)


def _at_this_moment(detail: RunDetail, now: RunNow) -> RunDetail:
    known = {op.op for op in detail.ops}
    ops = [replace(op, running=True) if op.op in now.bodies else op for op in detail.ops]
    ops += [OpDetail(op, op_name(op), "step", "open", now.since, running=True) for op in now.bodies if op not in known]
    return replace(detail, run=now.summary, ops=tuple(ops), progress=dict(now.progress))
