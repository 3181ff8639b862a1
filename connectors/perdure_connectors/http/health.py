"""For supervisors and scrapers."""

import asyncio
from collections.abc import Mapping

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

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
    """Prometheus text: what is ready, lags, has halted or waits for somebody, until metrics proper come."""
    port = port_of(request)
    waiting, counts = port.ready(), port.counts()
    ready = {request.app.state.app_name: 0 if waiting else 1}
    lines = [
        *_gauge("ready", "Whether all partitions are ready.", "app", ready),
        *_gauge("not_ready", "What is not ready or has halted.", "what", dict.fromkeys(sorted(waiting), 1)),
        *_gauge("partition_lag", "Records of the journal not folded here yet.", "partition", await _lag(port)),
        *_gauge("partition_halted", "1 where the journal cannot be folded further.", "partition", counts.halted),
        *_gauge("events_gone", "Records gone before their intake, which waits.", "partition", counts.events_gone),
        *_gauge("runs_held", "Runs that wait for other code, or a payload.", "partition", counts.held),
        *_gauge("runs_parked", "Runs whose code asks for what their log has not.", "partition", counts.parked),
    ]
    return PlainTextResponse("\n".join(lines) + "\n", media_type="text/plain; version=0.0.4; charset=utf-8")


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


def _gauge(name: str, what: str, label: str, values: Mapping[str, int]) -> list[str]:
    return [
        f"# HELP perdure_{name} {what}",
        f"# TYPE perdure_{name} gauge",
        *(f"perdure_{name}{{{label}={_quoted(one)}}} {value}" for one, value in values.items()),
    ]


def _quoted(label: str) -> str:
    escaped = label.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
