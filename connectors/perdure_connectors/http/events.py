"""Events in, as Inngest's clients send them, and the runs that they started."""

import base64
import binascii
import hashlib
from collections.abc import Sequence

import msgspec
from msgspec import Raw
from starlette.requests import Request
from starlette.responses import Response

from perdure.errors import PayloadError, UnknownEvent
from perdure.history.store import EventQuery
from perdure.sdk.event_input import LATEST_MS, event_from_json, seeded_event_id
from perdure.sdk.hindsight.filters import condition_of, cursor_of
from perdure_connectors.http.answers import hindsight_of, history_of, json_answer, port_of
from perdure_connectors.http.body import json_body
from perdure_connectors.http.problems import problem
from perdure_connectors.http.queries import EVENT_QUERY, limit_of, moment_of, only, page_of
from perdure_connectors.http.shapes import Refusal
from perdure_connectors.http.tracing import traceparent_of
from perdure_schemas.event import EventBody

SEED_HEADER = "x-inngest-event-id-seed"
"""`<milliseconds>,<base64>`: the same in every retry of a request, so that its events keep their ids."""

_decode_list = msgspec.json.Decoder(list[Raw]).decode


async def receive(request: Request) -> Response:
    """One event or a list. Good ones of a list are kept although others are bad.

    200 `{"ids": […], "status": 200}`: all are durable. 207 with `errors: [{index, error}]` and `error` beside the ids
    of the good ones, in their order: so that neither a client that looks at the status nor one that looks at `error`
    (Inngest's do) takes a part for the whole. 400: none was taken.
    """
    body = await json_body(request)
    many = body.lstrip().startswith(b"[")
    items: Sequence[Raw | bytes] = _decode_list(body) if many else [body]
    good, refusals = _sort(items, _seed(request.headers.get(SEED_HEADER, "")), traceparent_of(request))
    ids = await port_of(request).send(good) if good else []
    if not refusals:
        return json_answer({"ids": ids, "status": 200})
    error = _summary(refusals, len(items)) if many else refusals[0].error
    if not good:
        return problem(400, "PayloadError", error, ids=[], errors=refusals)
    return json_answer({"ids": ids, "status": 207, "error": error, "errors": refusals}, 207)


async def listing(request: Request) -> Response:
    """Events that were received, newest first. Asked of history: 501 where the engine keeps none."""
    only(request, *EVENT_QUERY)
    query = request.query_params
    hindsight = history_of(request)
    wanted = EventQuery(
        query.get("name", ""),
        moment_of(request, "since"),
        moment_of(request, "until"),
        condition_of(query.get("where", "")),
        limit_of(query.get("limit")),
        cursor_of(query.get("cursor", "")),
    )
    return json_answer(await hindsight.events(wanted))


async def show(request: Request) -> Response:
    """The event: the runs that it started, what it matched and cancelled, and why it did not do more."""
    only(request)
    return json_answer(await history_of(request).event(request.path_params["event_id"]))


async def runs_of(request: Request) -> Response:
    """Runs that this event started, newest first."""
    event_id = request.path_params["event_id"]
    page = await page_of(request, event_id=event_id)
    known_to = hindsight_of(request) or port_of(request)
    if not page.data and not await known_to.knows_event(event_id):
        raise UnknownEvent(f"no event {event_id!r} is known: it never came, or before the window")
    return json_answer(page)


def _sort(
    items: Sequence[Raw | bytes], seed: tuple[int, bytes] | None, traceparent: str
) -> tuple[list[EventBody], list[Refusal]]:
    good: list[EventBody] = []
    refusals: list[Refusal] = []
    for index, item in enumerate(items):
        try:
            good.append(event_from_json(item, _seeded(seed, index), traceparent))
        except PayloadError as error:
            refusals.append(Refusal(index, str(error)))
    return good, refusals


def _summary(refusals: list[Refusal], total: int) -> str:
    first = refusals[0]
    return f"{len(refusals)} of {total} events refused, the first at index {first.index}: {first.error}"


def _seed(header: str) -> tuple[int, bytes] | None:
    """A header that cannot be read is no reason to lose events: they get ids of chance."""
    ms, _, entropy = header.partition(",")
    try:
        time, chance = int(ms), base64.b64decode(entropy, validate=True)
    except (ValueError, binascii.Error):
        return None
    return (time, chance) if 0 < time <= LATEST_MS and len(chance) >= 8 else None


def _seeded(seed: tuple[int, bytes] | None, index: int) -> str:
    if seed is None:
        return ""
    ms, chance = seed
    return seeded_event_id(ms, hashlib.blake2b(chance + index.to_bytes(4), digest_size=10).digest())
