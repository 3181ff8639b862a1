"""Past events for a function that did not get them: which ones, and the runs that they start."""

from collections.abc import Mapping

from perdure.errors import PayloadError, PerdureError, UnknownFunction
from perdure.flow.intake import backfill_request
from perdure.flow.routes import Routes
from perdure.flow.routing import run_id
from perdure.history.store import EventQuery, decode_body
from perdure.sdk.hindsight.asking import Hindsight
from perdure.sdk.hindsight.filters import condition_of
from perdure.sdk.port import RunFilter
from perdure_schemas.records import RunRequested

_PAGE = 500


class Forgotten(PerdureError):
    """The event is no longer in history."""


async def events_for(hindsight: Hindsight, wanted: RunFilter, now_ms: int, most: int) -> list[str]:
    """Ids of the events that start a run of the function now and have none, oldest first; one more than `most` at most.

    Raises `PayloadError`, `UnknownFunction`.
    """
    _check(wanted)
    routes = await routes_of(hindsight, wanted.function)
    where = condition_of(wanted.where)
    until = now_ms if wanted.until is None else min(wanted.until, now_ms)
    found: dict[str, int] = {}
    for name in _names(routes, wanted.function):
        query = EventQuery(name, wanted.since, until, where, _PAGE)
        while len(found) <= most:
            page = await hindsight.past_events(query)
            for row in page.events:
                request = backfill_request(routes, wanted.function, decode_body(row.body), "")
                if request is not None and not await hindsight.knows_run(request.run):
                    found[row.id] = row.received_at
            if page.cursor is None:
                break
            query = EventQuery(name, wanted.since, until, where, _PAGE, page.cursor)
    return sorted(found, key=lambda event: (found[event], event))


async def request_for(
    hindsight: Hindsight, routes: Routes, function: str, event_id: str, command: str
) -> RunRequested | None:
    """What it starts; None if it has started it, or no trigger fits any more. Raises `Forgotten`."""
    # Not by the state alone: what ended is there for a while, and a job may take longer.
    if await hindsight.knows_run(run_id(routes.definition.app, function, event_id)):
        return None
    event = await hindsight.body_of(event_id)
    if event is None:
        raise Forgotten(f"event {event_id} is no longer in history")
    return backfill_request(routes, function, event, command)


async def routes_of(hindsight: Hindsight, function: str) -> Routes:
    """The code that is active. Raises `UnknownFunction`, `PayloadError` for a function that no event starts."""
    code = await hindsight.active_code()
    functions: Mapping[str, str] = {one.id: one.kind for one in code.functions} if code is not None else {}
    if code is None or function not in functions:
        known = ", ".join(sorted(one for one, kind in functions.items() if kind == "event"))
        raise UnknownFunction(f"no function {function!r} in the active code (events start {known or 'none'})")
    if functions[function] != "event":
        raise PayloadError(f"{function!r} is a {functions[function]} function: no event starts it")
    return Routes(0, code)


def _names(routes: Routes, function: str) -> list[str]:
    """Events to look at: by name, where the triggers say names; all, where one says many."""
    names = sorted({trigger.event for trigger in routes.functions[function].triggers})
    return [""] if any("*" in name for name in names) else names


def _check(wanted: RunFilter) -> None:
    if not wanted.function or wanted.since is None:
        raise PayloadError("which events? give the function that is to get them, and since when")
    if wanted.status or wanted.event_id or wanted.metadata:
        raise PayloadError("of past events there is no status, event_id or metadata: say which by since, until, where")
