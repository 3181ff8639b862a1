"""`POST /w/{source}`: webhooks of known senders become events.

The signature is the key: such a request needs no other, and may come from any machine, also where the rest of the
gateway serves this machine alone. What a web page sends has no signature, whatever its Origin.
"""

import time
from collections.abc import Iterable
from typing import Any

from msgspec.structs import replace
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from perdure.errors import PerdureError
from perdure.sdk.json_guard import EVENT_LIMIT_BYTES
from perdure.sdk.port import Port
from perdure_connectors.http.answers import json_answer, port_of
from perdure_connectors.http.body import judge, raw_body
from perdure_connectors.http.problems import on_error, on_http_error, on_unexpected, problem
from perdure_connectors.http.routing import Operation, routes_of
from perdure_connectors.http.shapes import Taken
from perdure_connectors.http.tracing import traceparent_of
from perdure_connectors.webhook.checking import SignatureRefused
from perdure_connectors.webhook.source import Source

PREFIX = "/w/"


class Webhooks:
    """Takes what is sent to `/w/…`, and leaves the rest to the gateway and its rules of access."""

    def __init__(self, app: ASGIApp, port: Port, sources: Iterable[Source]) -> None:
        self.app = app
        self.inbound = inbound(port, sources)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        ours = scope["type"] == "http" and _path(scope).startswith(PREFIX)
        await (self.inbound if ours else self.app)(scope, receive, send)


def inbound(port: Port, sources: Iterable[Source]) -> Starlette:
    """An app of this route alone."""
    app = Starlette(
        routes=routes_of([OPERATION]),
        exception_handlers={PerdureError: on_error, HTTPException: on_http_error, Exception: on_unexpected},
    )
    app.router.redirect_slashes = False
    app.state.port = port
    app.state.sources = {source.name: source for source in sources}
    return app


async def receive(request: Request) -> Response:
    """200 `{"ids": […], "status": 200}` once the event is durable; without ids if nobody asked for its type.

    401: the signature does not hold. 503 with Retry-After while the log is away: the sender delivers again.
    """
    source: Source | None = request.app.state.sources.get(request.path_params["source"])
    if source is None:
        return problem(404, "HttpError", f"there is no webhook source {request.path_params['source'][:64]!r} here")
    body = await raw_body(request, limit=EVENT_LIMIT_BYTES)
    try:
        source.verify(request.headers, body, time.time())
        await judge(body, limit=EVENT_LIMIT_BYTES)
        event = source.event_of(request.headers, body)
    except SignatureRefused as refused:
        answer = problem(401, "SignatureRefused", str(refused))
        answer.headers["www-authenticate"] = "Signature"
        return answer
    if event is not None:
        event = replace(event, traceparent=traceparent_of(request))
    ids = await port_of(request).send([event]) if event is not None else []
    return json_answer({"ids": ids, "status": 200})


def _path(scope: Scope) -> str:
    """Below the place where the gateway is mounted."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


OPERATION = Operation(
    *("POST", PREFIX + "{source}", receive, None, {200: Taken}),
    body=Any,
    refusals={401: ("SignatureRefused",), 404: ("HttpError",)},
)
