"""What changes, as it changes: server-sent events."""

import asyncio
import secrets
from collections.abc import AsyncGenerator
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from perdure.sdk.hindsight.live import Told, Watch, Watched
from perdure_connectors.http.answers import history_of
from perdure_connectors.http.queries import duration_ms, only

HEARTBEAT_S = 15.0
"""Proxies close what is silent; and a reader that is gone is noticed."""
_STREAM = secrets.token_hex(4)
"""Numbers of another process say nothing here."""
_encode = msgspec.json.Encoder().encode


async def changes(request: Request) -> Response:
    """Runs that changed, as server-sent events, until the engine closes; `?timeout=20s` for no longer than that.

    `event: runs` has `[{id, function, status, n}, …]`, each as it is by then; `n` is how many changes that stands for.
    `event: resync`: more changed than can be told; load anew what you show. So it begins if the `Last-Event-ID` that
    you send is not the last one that there was. Three times a second at most.
    """
    only(request, "timeout")
    watched = history_of(request).watched
    timeout = request.query_params.get("timeout")
    seconds = None if timeout is None else duration_ms(timeout, "timeout") / 1000
    closing: asyncio.Event = request.app.state.closing
    last = request.headers.get("last-event-id", "")
    return StreamingResponse(
        _stream(watched, last, closing, seconds),
        media_type="text/event-stream",
        headers={"cache-control": "no-store", "x-content-type-options": "nosniff", "x-accel-buffering": "no"},
    )


async def _stream(watched: Watched, last: str, closing: asyncio.Event, seconds: float | None) -> AsyncGenerator[bytes]:
    watch = watched.open()
    ended = asyncio.ensure_future(_ended(closing, seconds))
    try:
        yield b": perdure\n\n"
        if last and last != _id(watched.number):
            watch.miss()
        while not ended.done():
            told = await _next(watch, ended)
            yield b": heartbeat\n\n" if told is None else _message(told)
    finally:
        ended.cancel()
        watched.close(watch)


async def _next(watch: Watch, ended: asyncio.Future[None]) -> Told | None:
    """None if nothing came for so long, or no more is to come."""
    some = asyncio.ensure_future(watch.next())
    try:
        waited: set[asyncio.Future[Any]] = {some, ended}
        await asyncio.wait(waited, timeout=HEARTBEAT_S, return_when=asyncio.FIRST_COMPLETED)
        return some.result() if some.done() else None
    finally:
        some.cancel()


def _message(told: Told) -> bytes:
    kind, data = (b"resync", b"{}") if told.runs is None else (b"runs", _encode(told.runs))
    return b"event: %b\nid: %b\ndata: %b\n\n" % (kind, _id(told.number).encode(), data)


def _id(number: int) -> str:
    return f"{_STREAM}-{number}"


async def _ended(closing: asyncio.Event, seconds: float | None) -> None:
    try:
        async with asyncio.timeout(seconds):
            await closing.wait()
    except TimeoutError:
        pass
