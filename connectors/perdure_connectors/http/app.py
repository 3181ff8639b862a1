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
from starlette.routing import Route

from perdure.errors import PerdureError
from perdure.sdk.port import Port
from perdure_connectors.http import cancellations, events, functions, health, runs
from perdure_connectors.http.access import LoopbackOnly
from perdure_connectors.http.answers import json_answer
from perdure_connectors.http.problems import on_error, on_http_error, on_unexpected
from perdure_connectors.http.webhooks import Webhooks
from perdure_connectors.webhook.source import Source

ROUTES = [
    Route("/e/{key}", events.receive, methods=["POST"]),
    Route("/v1/events/{event_id:path}/runs", events.runs_of, methods=["GET"]),
    Route("/v1/runs", runs.listing, methods=["GET"]),
    Route("/v1/runs/{run_id}/result", runs.result, methods=["GET"]),
    Route("/v1/runs/{run_id}/rerun", runs.rerun, methods=["POST"]),
    Route("/v1/runs/{run_id}/unpark", runs.unpark, methods=["POST"]),
    Route("/v1/runs/{run_id}", runs.One),
    Route("/v1/functions", functions.listing, methods=["GET"]),
    Route("/v1/functions/{function_id:path}/runs", functions.enqueue, methods=["POST"]),
    Route("/v1/cancellations", cancellations.create, methods=["POST"]),
    *health.ROUTES,
]


def gateway(port: Port, app_name: str, *, webhooks: Iterable[Source] = ()) -> Starlette:
    """An ASGI app that speaks for `port`. It mounts under any path. `webhooks`: who may send to `/w/{source}`.

    `app.state.closing` is an event: whoever stops the server sets it first, and long polls are answered at once.
    """

    async def index(request: Request) -> Response:
        return json_answer({"app": app_name, "routes": sorted({route.path for route in ROUTES})})

    app = Starlette(
        routes=[Route("/", index, methods=["GET"]), *ROUTES],
        middleware=[Middleware(Webhooks, port, webhooks), Middleware(LoopbackOnly)],
        exception_handlers={PerdureError: on_error, HTTPException: on_http_error, Exception: on_unexpected},
    )
    app.router.redirect_slashes = False
    app.state.port = port
    app.state.app_name = app_name
    app.state.closing = asyncio.Event()
    return app
