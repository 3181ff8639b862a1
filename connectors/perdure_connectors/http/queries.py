"""Query parameters, each refused with what it may be."""

import time
from typing import Any, get_args

from starlette.requests import Request

from perdure.duration import parse_ms
from perdure.errors import DefinitionError, KeepsNothing, PayloadError
from perdure.sdk.moments import moment_ms
from perdure.sdk.port import RunFilter, RunList, RunStatus
from perdure_connectors.http.answers import NO_HISTORY, hindsight_of, port_of
from perdure_schemas.records import LogLevel

PAGE = 50
LONGEST_PAGE = 500
STATUSES: tuple[str, ...] = get_args(RunStatus)
LEVELS: tuple[LogLevel, ...] = get_args(LogLevel)

DURATION = {"type": "string", "examples": ["20s", "2h45m"]}
PART: dict[str, dict[str, Any]] = {
    "limit": {"type": "integer", "minimum": 1, "maximum": LONGEST_PAGE, "default": PAGE},
    "cursor": {"type": "string"},
}
MOMENT = {"type": "string", "examples": ["24h", "2026-11-21T18:00:00Z", "1795284000000"]}
RUN_QUERY: dict[str, dict[str, Any]] = {
    "function": {"type": "string"},
    "status": {"enum": ["", *STATUSES]},
    "event_id": {"type": "string"},
    "since": MOMENT,
    "until": MOMENT,
    "metadata": {"type": "array", "items": {"type": "string", "examples": ["tenant=acme"]}},
    "where": {"type": "string", "examples": ["event.data.total > 100"]},
}
PAGE_QUERY: dict[str, dict[str, Any]] = {**RUN_QUERY, **PART}
EVENT_QUERY: dict[str, dict[str, Any]] = {
    "name": {"type": "string"},
    **{name: RUN_QUERY[name] for name in ("since", "until", "where")},
    **PART,
}


async def page_of(request: Request, *, event_id: str = "") -> RunList:
    """One page of runs by the request's own filters, newest first; the cursor is empty at the end."""
    only(request, *PAGE_QUERY)
    wanted = filter_of(request, event_id)
    limit, cursor = limit_of(request.query_params.get("limit")), request.query_params.get("cursor", "")
    hindsight = hindsight_of(request)
    if hindsight is not None:
        return await hindsight.runs(wanted, limit, cursor)
    if wanted.needs_history:
        raise KeepsNothing(f"since, until, metadata and where are asked of history: {NO_HISTORY}")
    data, after = await port_of(request).runs(
        function=wanted.function, status=wanted.status, event_id=wanted.event_id, limit=limit, cursor=cursor
    )
    return RunList(data, after, 0)


def filter_of(request: Request, event_id: str = "") -> RunFilter:
    """Which runs are meant."""
    query = request.query_params
    return RunFilter(
        query.get("function", ""),
        check_status(query.get("status", "")),
        event_id or query.get("event_id", ""),
        moment_of(request, "since"),
        moment_of(request, "until"),
        dict(map(_pair, query.getlist("metadata"))),
        query.get("where", ""),
    )


def moment_of(request: Request, name: str) -> int | None:
    """A time in the past, in milliseconds; without a zone it is UTC."""
    text = request.query_params.get(name)
    return None if not text else moment_ms(text, int(time.time() * 1000), name)


def _pair(text: str) -> tuple[str, str]:
    key, sign, value = text.partition("=")
    if not (key and sign):
        raise PayloadError(f"metadata {text[:40]!r}: say metadata=KEY=VALUE")
    return key, value


def only(request: Request, *known: str) -> None:
    """Refuses parameters that nobody reads: a misspelt filter would show, or cancel, more than was asked for."""
    for name in request.query_params:
        if name not in known:
            raise PayloadError(f"there is no parameter {name[:40]!r} here: {', '.join(known) or 'there is none'}")


def check_status(status: str) -> str:
    """The status, if a run can have it; empty for any."""
    if status and status not in STATUSES:
        raise PayloadError(f"status {status[:40]!r} is none of {', '.join(STATUSES)}")
    return status


def check_level(level: str) -> LogLevel:
    """The level, if a line can have it."""
    for known in LEVELS:
        if level == known:
            return known
    raise PayloadError(f"level {level[:40]!r} is none of {', '.join(LEVELS)}")


def duration_ms(text: str, what: str) -> int:
    """A duration from outside. Its error is the sender's, not the app's definition."""
    try:
        return parse_ms(text, what=what)
    except DefinitionError as error:
        raise PayloadError(str(error)) from None


def limit_of(text: str | None) -> int:
    """How many of a page."""
    if text is None:
        return PAGE
    if not text.isascii() or not text.isdigit() or not 0 < int(text[:9]) <= LONGEST_PAGE:
        raise PayloadError(f"limit={text[:40]!r}: a number from 1 to {LONGEST_PAGE} is needed")
    return int(text)
