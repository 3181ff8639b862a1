"""JSON answers, and the port that gives them."""

from collections.abc import Mapping

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from perdure.sdk.port import Port

_encode = msgspec.json.Encoder().encode


def port_of(request: Request) -> Port:
    """The engine behind this gateway."""
    port: Port = request.app.state.port
    return port


def json_answer(content: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """What `content` is, raw payloads as they stand in the log. Never cached: it is true only now."""
    return Response(
        _encode(content),
        status,
        {"cache-control": "no-store", "x-content-type-options": "nosniff", **(headers or {})},
        "application/json",
    )
