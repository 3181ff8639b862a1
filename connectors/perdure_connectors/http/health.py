"""For supervisors and scrapers."""

import asyncio
from collections.abc import Mapping

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response

from perdure.errors import LogError, PerdureError
from perdure.sdk.keys import Keyring
from perdure.sdk.port import Port
from perdure_connectors.http import shapes
from perdure_connectors.http.access import Gate, plain_head
from perdure_connectors.http.answers import json_answer, port_of
from perdure_connectors.http.problems import on_error, on_http_error, on_unexpected
from perdure_connectors.http.routing import Operation, routes_of

LAG_SECONDS = 2.0


async def livez(request: Request) -> Response:
    """200 while the loop turns."""
    return json_answer({"live": True})


async def readyz(request: Request) -> Response:
    """200 when all is ready; 503 with what is not, by name."""
    waiting = dict(port_of(request).ready())
    return json_answer({"ready": not waiting, "waiting": waiting}, 503 if waiting else 200)


async def metrics(request: Request) -> Response:
    """Prometheus text. Needs `pip install perdure[server]`."""
    from perdure_connectors.http.metrics import CONTENT_TYPE, metrics_text

    port = port_of(request)
    text = metrics_text(request.app.state.app_name, port.ready(), port.counts(), await _lag(port))
    return Response(text, media_type=CONTENT_TYPE)


OPERATIONS = [
    Operation("GET", "/livez", livez, None, {200: shapes.Live}, asks_engine=False),
    Operation("GET", "/healthz", livez, None, {200: shapes.Live}, asks_engine=False),
    Operation("GET", "/readyz", readyz, None, {200: shapes.Ready, 503: shapes.Ready}),
    Operation("GET", "/metrics", metrics, "read", {200: str}),
]


def health_checks(port: Port, app_name: str, keys: Keyring | None = None) -> Starlette:
    """These alone, for a process without a gateway."""
    app = Starlette(
        routes=routes_of(OPERATIONS),
        middleware=[Middleware(Gate, rules=[plain_head])],
        exception_handlers={PerdureError: on_error, HTTPException: on_http_error, Exception: on_unexpected},
    )
    app.state.keys = keys or Keyring()
    app.router.redirect_slashes = False
    app.state.port = port
    app.state.app_name = app_name
    return app


async def _lag(port: Port) -> Mapping[str, int]:
    """None of it while the log cannot be asked: what else there is to tell is told at once."""
    try:
        async with asyncio.timeout(LAG_SECONDS):
            return await port.lag()
    except (TimeoutError, LogError):
        return {}
