"""Many runs cancelled by a filter."""

import msgspec
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from perdure.errors import PayloadError
from perdure.sdk.port import Port
from perdure_connectors.http.answers import json_answer, port_of
from perdure_connectors.http.body import fitting, json_body
from perdure_connectors.http.queries import LONGEST_PAGE, check_status, only

LIVE = ("queued", "running", "suspended", "parked")


class Filter(Struct, forbid_unknown_fields=True):
    """All that are given must hold. At least one is needed: nobody cancels everything by a forgotten field."""

    function: str = ""
    event_id: str = ""
    status: str = ""
    reason: str = ""


_DECODER = msgspec.json.Decoder(Filter)


async def create(request: Request) -> Response:
    """`{"function": …, "event_id": …, "status": …, "reason": …}` answers `{"count": n}`, once all are durable.

    Counts the runs that were not over when they were found. Runs that begin meanwhile are left alone.
    """
    only(request)
    wanted = _read(await json_body(request))
    port = port_of(request)
    found = await _find(port, wanted)
    for run_id in found:
        await port.cancel(run_id, wanted.reason[:1000])
    return json_answer({"count": len(found)})


def _read(body: bytes) -> Filter:
    wanted = fitting(_DECODER, body)
    check_status(wanted.status)
    if wanted.status and wanted.status not in LIVE:
        raise PayloadError(f"runs that are {wanted.status} are over: cancel those that are {', '.join(LIVE)}")
    if not (wanted.function or wanted.event_id or wanted.status):
        raise PayloadError("which runs? give at least one of function, event_id, status")
    return wanted


async def _find(port: Port, wanted: Filter) -> list[str]:
    """All of them before the first is cancelled, so that the pages do not shift below the cursor."""
    found: list[str] = []
    cursor = ""
    while True:
        page, cursor = await port.runs(
            function=wanted.function,
            status=wanted.status,
            event_id=wanted.event_id,
            limit=LONGEST_PAGE,
            cursor=cursor,
        )
        found += [run.id for run in page if run.status in LIVE]
        if not cursor:
            return found
