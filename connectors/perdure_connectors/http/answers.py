"""JSON answers, and the port that gives them."""

from collections.abc import Mapping

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from perdure.errors import KeepsNothing
from perdure.sdk.hindsight import Hindsight
from perdure.sdk.port import Port

UNCACHED = {"cache-control": "no-store", "x-content-type-options": "nosniff"}
"""Of what is true only now."""
_encode = msgspec.json.Encoder().encode


def port_of(request: Request) -> Port:
    """The engine behind this gateway."""
    port: Port = request.app.state.port
    return port


NO_HISTORY = (
    "this engine keeps none: run `perdure serve` (or `dev`) on a log that lasts, without --no-history, or "
    "`perdure gateway` with --history or --data"
)


def hindsight_of(request: Request) -> Hindsight | None:
    """The history beside that engine, if it has one."""
    hindsight: Hindsight | None = request.app.state.hindsight
    return hindsight


def history_of(request: Request) -> Hindsight:
    """Raises `KeepsNothing` where there is none."""
    hindsight = hindsight_of(request)
    if hindsight is None:
        raise KeepsNothing(f"this is asked of history: {NO_HISTORY}")
    return hindsight


def json_answer(content: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """What `content` is, raw payloads as they stand in the log. Never cached: it is true only now."""
    return Response(
        _encode(content),
        status,
        {**UNCACHED, **(headers or {})},
        "application/json",
    )
