"""Query parameters, each refused with what it may be."""

from typing import Any, get_args

from starlette.requests import Request

from perdure.duration import parse_ms
from perdure.errors import DefinitionError, PayloadError
from perdure.sdk.port import Port, RunStatus

PAGE = 50
LONGEST_PAGE = 500
STATUSES: tuple[str, ...] = get_args(RunStatus)


async def page_of(request: Request, port: Port, *, event_id: str = "") -> dict[str, Any]:
    """One page of runs by the request's own filters: `{"data": […], "cursor": "…"}`, the cursor empty at the end."""
    only(request, "function", "status", "event_id", "limit", "cursor")
    query = request.query_params
    data, cursor = await port.runs(
        function=query.get("function", ""),
        status=check_status(query.get("status", "")),
        event_id=event_id or query.get("event_id", ""),
        limit=_limit(query.get("limit")),
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


def duration_ms(text: str, what: str) -> int:
    """A duration from outside. Its error is the sender's, not the app's definition."""
    try:
        return parse_ms(text, what=what)
    except DefinitionError as error:
        raise PayloadError(str(error)) from None


def _limit(text: str | None) -> int:
    if text is None:
        return PAGE
    if not text.isascii() or not text.isdigit() or not 0 < int(text[:9]) <= LONGEST_PAGE:
        raise PayloadError(f"limit={text[:40]!r}: a number from 1 to {LONGEST_PAGE} is needed")
    return int(text)
