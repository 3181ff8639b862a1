"""Bodies are bounded while they are read, and judged before they are decoded."""

import asyncio

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from perdure.errors import PayloadError, PayloadTooLarge
from perdure.sdk.json_guard import REQUEST_LIMIT_BYTES, guard

_IN_THREAD_BYTES = 64 << 10
"""Judging takes about 0.1 s a megabyte: larger bodies must not hold up the loop that runs the user's code."""

_PATIENCE = 8
"""So many times the limit is read and thrown away: a client that is cut off while it sends never reads the answer."""


async def json_body(request: Request, *, limit: int = REQUEST_LIMIT_BYTES) -> bytes:
    """The body, if it is JSON that may be decoded and kept. Raises `PayloadError`, or 415 for compressed ones."""
    body = await raw_body(request, limit=limit)
    await judge(body, limit=limit)
    return body


async def raw_body(request: Request, *, limit: int = REQUEST_LIMIT_BYTES) -> bytes:
    """The body byte by byte, not judged yet. Raises `PayloadTooLarge`, or 415 for compressed ones."""
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        # A few kilobytes can unpack to gigabytes, and events are small: nobody gains by it.
        raise HTTPException(
            415,
            f"a body in content-encoding {encoding!r} is not taken: send it uncompressed",
            {"accept-encoding": "identity"},
        )
    return await _read(request, limit)


async def judge(body: bytes, *, limit: int = REQUEST_LIMIT_BYTES) -> None:
    """Raises `PayloadError` unless it is JSON that may be decoded and kept."""
    if len(body) > _IN_THREAD_BYTES:
        await asyncio.to_thread(guard, body, limit=limit)
    else:
        guard(body, limit=limit)


async def _read(request: Request, limit: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size > limit:
                chunks.clear()
            else:
                chunks.append(chunk)
            if size > limit * _PATIENCE:
                break
    except ClientDisconnect:
        raise PayloadError("the connection closed before the whole body had come") from None
    if size > limit:
        raise PayloadTooLarge(
            f"the body has more than {limit:,} bytes: send fewer events at a time, or keep large data elsewhere"
        )
    return b"".join(chunks)
