"""Bodies are bounded while they are read, and judged before they are decoded."""

import asyncio
import zlib
from typing import TypeVar

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from perdure.errors import PayloadError, PayloadTooLarge
from perdure.sdk.json_guard import REQUEST_LIMIT_BYTES, guard

T = TypeVar("T", bound=msgspec.Struct)
_IN_THREAD_BYTES = 64 << 10
"""Judging takes about 0.1 s a megabyte: larger bodies must not hold up the loop that runs the user's code."""

_GZIP = 16 + zlib.MAX_WBITS
"""With its header and checksum, and neither zlib's nor bare deflate."""

_PATIENCE = 8
"""So many times the limit is read and thrown away: a client that is cut off while it sends never reads the answer."""


async def json_body(request: Request, *, limit: int = REQUEST_LIMIT_BYTES) -> bytes:
    """The body, if it is JSON that may be decoded and kept. It may come as gzip. Raises `PayloadError`, 415."""
    gzipped = _encoding(request, "gzip") == "gzip"
    body = await _read(request, limit)
    if gzipped:
        body = await asyncio.to_thread(_unpacked, body, limit)
    await judge(body, limit=limit)
    return body


def fitting(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """The body as the struct that the decoder makes. Raises `PayloadError`, with the fields that there are."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        fields = ", ".join(decoder.type.__struct_fields__)
        raise PayloadError(f"the body does not fit: {error}; it may have {fields}") from None


async def raw_body(request: Request, *, limit: int = REQUEST_LIMIT_BYTES) -> bytes:
    """The body byte by byte, not judged yet. Raises `PayloadTooLarge`, or 415 for compressed ones."""
    _encoding(request)
    return await _read(request, limit)


async def judge(body: bytes, *, limit: int = REQUEST_LIMIT_BYTES) -> None:
    """Raises `PayloadError` unless it is JSON that may be decoded and kept."""
    if len(body) > _IN_THREAD_BYTES:
        await asyncio.to_thread(guard, body, limit=limit)
    else:
        guard(body, limit=limit)


def _encoding(request: Request, *known: str) -> str:
    encoding = request.headers.get("content-encoding", "").strip().lower()
    if encoding not in ("", "identity", *known):
        taken = " or ".join(["uncompressed", *known])
        raise HTTPException(
            415,
            f"a body in content-encoding {encoding[:40]!r} is not taken: send it {taken}",
            {"accept-encoding": ", ".join([*known, "identity"])},
        )
    return encoding


def _unpacked(packed: bytes, limit: int) -> bytes:
    """Never more than the limit in memory: a few kilobytes can unpack to gigabytes."""
    reader = zlib.decompressobj(_GZIP)
    try:
        body = reader.decompress(packed, limit + 1)
    except zlib.error as error:
        raise PayloadError(f"the body is said to be gzip, and is not: {error}") from None
    if len(body) > limit:
        raise PayloadTooLarge(f"the body unpacks to more than {limit:,} bytes: send fewer events at a time")
    if not reader.eof or reader.unused_data:
        raise PayloadError("the body is not one whole gzip stream: send it as one, to its end")
    return body


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
