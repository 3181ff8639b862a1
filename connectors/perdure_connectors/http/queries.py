"""Query parameters, each refused with what it may be."""

from typing import Any, get_args

from starlette.requests import Request

from perdure.duration import parse_ms
from perdure.errors import DefinitionError, PayloadError
from perdure.sdk.port import Port, RunStatus
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
PAGE_QUERY: dict[str, dict[str, Any]] = {
    "function": {"type": "string"},
    "status": {"enum": ["", *STATUSES]},
    "event_id": {"type": "string"},
    **PART,
}


async def page_of(request: Request, port: Port, *, event_id: str = "") -> dict[str, Any]:
    """One page of runs by the request's own filters: `{"data": […], "cursor": "…"}`, the cursor empty at the end."""
    only(request, "function", "status", "event_id", "limit", "cursor")
    query = request.query_params
    data, cursor = await port.runs(
        function=query.get("function", ""),
        status=check_status(query.get("status", "")),
        event_id=event_id or query.get("event_id", ""),
        limit=limit_of(query.get("limit")),
        cursor=query.get("cursor", ""),
    )
    return {"data": data, "cursor": cursor}


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
