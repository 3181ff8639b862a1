"""Functions: listed, paused, let go on; and runs of background functions by name."""

import msgspec
from msgspec import Raw, Struct, field
from starlette.requests import Request
from starlette.responses import Response

from perdure.errors import PayloadError
from perdure.sdk.json_guard import compact
from perdure.sdk.port import Enqueue
from perdure_connectors.http.answers import hindsight_of, json_answer, port_of
from perdure_connectors.http.body import fitting, json_body
from perdure_connectors.http.queries import duration_ms, only
from perdure_connectors.http.runs import created
from perdure_connectors.http.shapes import Pausing
from perdure_connectors.http.tracing import traceparent_of


class Asked(Struct, forbid_unknown_fields=True):
    """The body. An absent field is as if it were empty."""

    args: Raw = field(default_factory=lambda: Raw(b"[]"))
    kwargs: Raw = field(default_factory=lambda: Raw(b"{}"))
    delay: str | None = None
    idempotency_key: str = ""
    discard_after: str | None = None
    metadata: dict[str, str] = {}
    rerun_of: str = ""


_DECODER = msgspec.json.Decoder(Asked)


async def listing(request: Request) -> Response:
    """All functions of the app."""
    only(request)
    hindsight = hindsight_of(request)
    return json_answer({"data": await (port_of(request) if hindsight is None else hindsight).functions(), "cursor": ""})


async def enqueue(request: Request) -> Response:
    """`{"args": […], "kwargs": {…}, "delay": "5m", …}`: 201 with the run's id, once it is durable."""
    only(request)
    asked = fitting(_DECODER, await json_body(request))
    run_id = await port_of(request).enqueue(
        Enqueue(
            request.path_params["function_id"],
            _arguments(asked),
            asked.idempotency_key,
            None if asked.delay is None else duration_ms(asked.delay, "delay"),
            None if asked.discard_after is None else duration_ms(asked.discard_after, "discard_after"),
            asked.metadata,
            asked.rerun_of,
            traceparent_of(request),
        )
    )
    return created(request, run_id)


async def pause(request: Request) -> Response:
    """Its runs are requested as ever and wait, until it goes on; 202 once that is durable."""
    return await _set_paused(request, paused=True)


async def resume(request: Request) -> Response:
    """All that wait start, in the order in which they came; 202 once that is durable."""
    return await _set_paused(request, paused=False)


async def _set_paused(request: Request, *, paused: bool) -> Response:
    only(request)
    function, port = request.path_params["function_id"], port_of(request)
    await (port.pause(function) if paused else port.resume(function))
    return json_answer(Pausing(function, paused), status=202)


def _arguments(asked: Asked) -> Raw:
    args, kwargs = bytes(asked.args), bytes(asked.kwargs)
    if not args.startswith(b"["):
        raise PayloadError("'args' must be a list: the positional arguments in order")
    if not kwargs.startswith(b"{"):
        raise PayloadError("'kwargs' must be an object: the keyword arguments by name")
    return compact(b"[" + args + b"," + kwargs + b"]")
