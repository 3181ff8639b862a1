"""The gateway's routes. A list is `{"data": […], "cursor": "…"}`, an error is problem+json.

Ids of events and functions are `:path` because they may hold slashes, and `%2F` reaches routes as a slash.
"""

import asyncio
from collections.abc import Iterable
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response

from perdure.errors import PerdureError
from perdure.sdk.hindsight import Hindsight
from perdure.sdk.hindsight.jobs import Jobs
from perdure.sdk.keys import Keyring
from perdure.sdk.port import (
    EventDetail,
    EventList,
    ForkAsk,
    Job,
    LinePage,
    Overview,
    Port,
    RunDetail,
    RunList,
    RunOutcome,
)
from perdure_connectors import dashboard
from perdure_connectors.http import (
    cancellations,
    events,
    forks,
    functions,
    health,
    jobs,
    live,
    overview,
    queries,
    runs,
    shapes,
)
from perdure_connectors.http.access import Gate, rules_of
from perdure_connectors.http.answers import json_answer
from perdure_connectors.http.openapi import document
from perdure_connectors.http.problems import on_error, on_http_error, on_unexpected
from perdure_connectors.http.routing import EventStream, JsonLines, Operation, routes_of
from perdure_connectors.http.webhooks import OPERATION as WEBHOOK
from perdure_connectors.http.webhooks import Webhooks
from perdure_connectors.webhook.source import Source


async def index(request: Request) -> Response:
    """What this is, and its routes."""
    return json_answer({"app": request.app.state.app_name, "routes": sorted({one.path for one in OPERATIONS})})


async def description(request: Request) -> Response:
    """All operations with what they take and answer, as OpenAPI 3.1."""
    return json_answer(document([*OPERATIONS, WEBHOOK], request.scope.get("root_path", "")))


RUN = {404: ("UnknownRun",)}
FUNCTION = {404: ("UnknownFunction", "UnknownRun")}

OPERATIONS = [
    Operation(
        *("POST", "/e/{key}", events.receive, "send", {200: shapes.Taken, 207: shapes.PartlyTaken}),
        body=shapes.Event | list[shapes.Event],
    ),
    Operation(
        *("GET", "/v1/events/{event_id:path}/runs", events.runs_of, "read", {200: RunList}),
        query=queries.PAGE_QUERY,
        refusals={404: ("UnknownEvent",)},
    ),
    Operation(
        *("GET", "/v1/events/{event_id:path}", events.show, "read", {200: EventDetail}),
        refusals={404: ("UnknownEvent",)},
    ),
    Operation("GET", "/v1/events", events.listing, "read", {200: EventList}, query=queries.EVENT_QUERY),
    Operation("GET", "/v1/runs", runs.listing, "read", {200: RunList}, query=queries.PAGE_QUERY),
    Operation(
        *("GET", "/v1/runs/{run_id}/result", runs.result, "read", {200: RunOutcome, 202: RunOutcome}),
        query={"timeout": queries.DURATION},
        refusals=RUN,
    ),
    Operation(
        *("GET", "/v1/runs/{run_id}/logs", runs.lines, "read", {200: LinePage}),
        query={"level": {"enum": list(queries.LEVELS)}, **queries.PART},
        refusals=RUN,
    ),
    Operation(
        "GET", "/v1/runs/{run_id}/tape", runs.tape, "read", {200: JsonLines}, refusals={**RUN, 410: ("PastGone",)}
    ),
    Operation(
        *("GET", "/v1/runs/{run_id}/records", runs.records, "read", {200: shapes.Records}),
        refusals={**RUN, 410: ("PastGone",)},
    ),
    Operation("POST", "/v1/runs/{run_id}/rerun", runs.rerun, "operate", {201: shapes.RunId}, refusals=RUN),
    Operation("POST", "/v1/forks", forks.part, "operate", {201: shapes.RunId}, body=ForkAsk, refusals=FUNCTION),
    Operation(
        *("POST", "/v1/runs/{run_id}/fork", forks.fork, "operate", {201: shapes.RunId}),
        body=forks.From,
        refusals={404: ("UnknownRun", "UnknownFunction", "UnknownOp"), 410: ("PastGone",)},
    ),
    Operation(
        *("POST", "/v1/runs/{run_id}/unpark", runs.unpark, "operate", {202: shapes.RunId}),
        refusals={**RUN, 409: ("NotParked",)},
    ),
    Operation("GET", "/v1/runs/{run_id}", runs.show, "read", {200: RunDetail}, refusals=RUN),
    Operation(
        *("DELETE", "/v1/runs/{run_id}", runs.cancel, "operate", {202: shapes.RunId}),
        query={"reason": {"type": "string"}},
        refusals=RUN,
    ),
    Operation("GET", "/v1/overview", overview.show, "read", {200: Overview}, query={"since": queries.MOMENT}),
    Operation("GET", "/v1/live", live.changes, "read", {200: EventStream}, query={"timeout": queries.DURATION}),
    Operation("GET", "/v1/functions", functions.listing, "read", {200: shapes.Functions}),
    Operation(
        *("POST", "/v1/functions/{function_id:path}/runs", functions.enqueue, "send", {201: shapes.RunId}),
        body=functions.Asked,
        refusals=FUNCTION,
    ),
    Operation(
        *("POST", "/v1/functions/{function_id:path}/pause", functions.pause, "operate", {202: shapes.Pausing}),
        refusals=FUNCTION,
    ),
    Operation(
        *("POST", "/v1/functions/{function_id:path}/resume", functions.resume, "operate", {202: shapes.Pausing}),
        refusals=FUNCTION,
    ),
    Operation(
        *("POST", "/v1/cancellations", cancellations.create, "operate", {200: shapes.Count}),
        body=cancellations.Filter,
    ),
    Operation("GET", "/v1/jobs", jobs.listing, "read", {200: jobs.JobList}),
    Operation(
        "POST",
        "/v1/jobs",
        jobs.create,
        "operate",
        {200: Job, 202: Job},
        body=jobs.Asked,
        refusals={404: ("UnknownFunction",)},
    ),
    Operation("GET", "/v1/jobs/{job_id}", jobs.show, "read", {200: Job}, refusals={404: ("UnknownJob",)}),
    *health.OPERATIONS,
    Operation("GET", "/v1", index, None, {200: shapes.Index}, asks_engine=False),
    Operation("GET", "/openapi.json", description, None, {200: dict[str, Any]}, asks_engine=False),
]


def gateway(
    port: Port,
    app_name: str,
    *,
    keys: Keyring | None = None,
    webhooks: Iterable[Source] = (),
    hindsight: Hindsight | None = None,
    bulk: Jobs | None = None,
) -> Starlette:
    """An ASGI app that speaks for `port`, with the dashboard at `/`. It mounts under any path.

    Without keys it answers this machine alone. `webhooks`: who may send to `/w/{source}`. `hindsight`: the history that
    is kept beside the engine, if it is.

    `app.state.closing` is an event: whoever stops the server sets it first, and long polls are answered at once.
    """

    app = Starlette(
        routes=[*dashboard.routes(), *routes_of(OPERATIONS)],
        middleware=[
            Middleware(Webhooks, port, webhooks),
            Middleware(Gate, rules=rules_of(with_keys=bool(keys))),
        ],
        exception_handlers={PerdureError: on_error, HTTPException: on_http_error, Exception: on_unexpected},
    )
    app.router.redirect_slashes = False
    app.state.port = port
    app.state.hindsight = hindsight
    app.state.jobs = bulk
    app.state.keys = keys or Keyring()
    app.state.app_name = app_name
    app.state.closing = asyncio.Event()
    return app
