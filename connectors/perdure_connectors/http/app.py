"""The gateway's routes. A list is `{"data": […], "cursor": "…"}`, an error is problem+json.

Ids of events and functions are `:path` because they may hold slashes, and `%2F` reaches routes as a slash.
"""

import asyncio
from collections.abc import Iterable

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response

from perdure.errors import PerdureError
from perdure.sdk.keys import Keyring
from perdure.sdk.port import Port
from perdure_connectors.http import cancellations, events, functions, health, runs
from perdure_connectors.http.access import Gate, rules_of
from perdure_connectors.http.answers import json_answer
from perdure_connectors.http.problems import on_error, on_http_error, on_unexpected
from perdure_connectors.http.routing import Operation, routes_of
from perdure_connectors.http.webhooks import Webhooks
from perdure_connectors.webhook.source import Source

OPERATIONS = [
    Operation("POST", "/e/{key}", events.receive, "send"),
    Operation("GET", "/v1/events/{event_id:path}/runs", events.runs_of, "read"),
    Operation("GET", "/v1/runs", runs.listing, "read"),
    Operation("GET", "/v1/runs/{run_id}/result", runs.result, "read"),
    Operation("GET", "/v1/runs/{run_id}/logs", runs.lines, "read"),
    Operation("POST", "/v1/runs/{run_id}/rerun", runs.rerun, "operate"),
    Operation("POST", "/v1/runs/{run_id}/unpark", runs.unpark, "operate"),
    Operation("GET", "/v1/runs/{run_id}", runs.show, "read"),
    Operation("DELETE", "/v1/runs/{run_id}", runs.cancel, "operate"),
    Operation("GET", "/v1/functions", functions.listing, "read"),
    Operation("POST", "/v1/functions/{function_id:path}/runs", functions.enqueue, "send"),
    Operation("POST", "/v1/cancellations", cancellations.create, "operate"),
    *health.OPERATIONS,
]


def gateway(port: Port, app_name: str, *, keys: Keyring | None = None, webhooks: Iterable[Source] = ()) -> Starlette:
    """An ASGI app that speaks for `port`. It mounts under any path. Without keys it answers this machine alone.

    `webhooks`: who may send to `/w/{source}`.

    `app.state.closing` is an event: whoever stops the server sets it first, and long polls are answered at once.
    """

    async def index(request: Request) -> Response:
        return json_answer({"app": app_name, "routes": sorted({operation.path for operation in OPERATIONS})})

    app = Starlette(
        routes=routes_of([Operation("GET", "/", index, None), *OPERATIONS]),
        middleware=[
            Middleware(Webhooks, port, webhooks),
            Middleware(Gate, rules=rules_of(with_keys=bool(keys))),
        ],
        exception_handlers={PerdureError: on_error, HTTPException: on_http_error, Exception: on_unexpected},
    )
    app.router.redirect_slashes = False
    app.state.port = port
    app.state.keys = keys or Keyring()
    app.state.app_name = app_name
    app.state.closing = asyncio.Event()
    return app
