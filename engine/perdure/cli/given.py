"""JSON as the command line is given it: as it stands, from a file, or from standard input."""

import sys
from pathlib import Path

from msgspec import Raw

from perdure.cli.exits import UsageProblem
from perdure.errors import PayloadError
from perdure.sdk.json_guard import EVENT_LIMIT_BYTES, compact, guard


def json_of(text: str, option: str) -> Raw:
    """`text`: JSON, `@FILE` or `-`. Raises `PayloadError`, `UsageProblem`."""
    raw = _content(text, option)
    guard(raw, limit=EVENT_LIMIT_BYTES, what=option)
    return compact(raw.strip())


def object_of(text: str, option: str) -> Raw:
    """`json_of` an object."""
    raw = json_of(text, option)
    if not bytes(raw).startswith(b"{"):
        raise PayloadError(f'{option} must be a JSON object such as \'{{"cart_id": "c1"}}\', in single quotes')
    return raw


def _content(text: str, option: str) -> bytes:
    if text == "-":
        return sys.stdin.buffer.read(EVENT_LIMIT_BYTES + 1)
    if not text.startswith("@"):
        return text.encode("utf-8", "surrogateescape")
    try:
        with Path(text[1:]).open("rb") as file:
            return file.read(EVENT_LIMIT_BYTES + 1)
    except OSError as error:
        raise UsageProblem(f"{option} {text}: {error.strerror or error}") from None
