"""Untrusted JSON is judged before anything decodes it: what passes here can be stored as it is and read back alike.

A body that passes is UTF-8, no larger and no deeper than allowed, and means the same to every parser: no key twice in
an object (parsers disagree on which one counts), no NaN or Infinity (not JSON), no integer beyond 64 bit (readers in
other languages round it), no half of a surrogate pair (cannot be written again).
"""

import json
import math
import re
from collections.abc import Iterator
from itertools import accumulate
from typing import Any, NoReturn

import msgspec
from msgspec import Raw

from perdure.errors import PayloadError, PayloadTooLarge

EVENT_LIMIT_BYTES = 1 << 20
"""One event. Larger data belongs in a file or a bucket, with its key in the event."""

REQUEST_LIMIT_BYTES = 8 << 20
"""One request, which may bring a list of events."""

DEPTH_LIMIT = 64
"""Objects and arrays within each other. Decoders recurse: a deep body could end the process that reads it."""

_INT_RANGE = range(-(1 << 63), 1 << 64)
_INT_CHARACTERS = 20
_MANY_DIGITS = re.compile(rb"\d{19}")
_STRINGS = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_STEP = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_TOKEN = re.compile(
    r'(?P<string>"(?:[^"\\]|\\.)*")(?P<key>\s*:)?|(?P<open>[\[{])|(?P<close>[\]}])'
    r"|(?P<word>-?Infinity|NaN)|(?P<number>-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)",
    re.DOTALL,
)


class _Refused(Exception):
    """Something that the full scan finds again, with its place."""


def guard(raw: bytes, *, limit: int = REQUEST_LIMIT_BYTES, what: str = "the body") -> None:
    """Raises `PayloadError`, with the place and what to do, unless `raw` is JSON that is safe to decode and to keep."""
    if len(raw) > limit:
        raise PayloadTooLarge(
            f"{what} has {len(raw):,} bytes and may have {limit:,}: "
            "keep large data elsewhere and send its key, or send fewer events at a time"
        )
    if not raw.strip():
        raise PayloadError(f"{what} is empty: JSON is needed")
    text = _text(raw, what)
    _check_depth(raw, text, what)
    try:
        (_loads_counting if _MANY_DIGITS.search(raw) else _loads)(text)
        msgspec.json.decode(raw)  # Python's own parser lets 1e400 and halves of surrogate pairs through.
    except json.JSONDecodeError as error:
        raise PayloadError(f"{what} is not JSON: {error.msg.removesuffix(' at')}, {_place(text, error.pos)}") from None
    except (_Refused, msgspec.DecodeError) as error:
        _refuse(text, what, error)


def compact(raw: Raw | bytes) -> Raw:
    """The same JSON on one line. Records are joined by newlines, so none may stand between the tokens of a payload."""
    content = bytes(raw)
    if b"\n" in content or b"\r" in content:
        content = msgspec.json.format(content, indent=-1)
    return Raw(content)


def _text(raw: bytes, what: str) -> str:
    if raw.startswith(b"\xef\xbb\xbf"):
        raise PayloadError(f"{what} begins with a byte order mark: send plain UTF-8 without it")
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        found = f"byte 0x{raw[error.start]:02x} at position {error.start}"
        raise PayloadError(f"{what} is not UTF-8: {found} ({error.reason}); encode the text as UTF-8") from None


def _check_depth(raw: bytes, text: str, what: str) -> None:
    if raw.count(b"[") + raw.count(b"{") <= DEPTH_LIMIT:
        return
    brackets = _STRINGS.sub(b"", raw).translate(None, _NOT_BRACKETS)
    if any(depth > DEPTH_LIMIT for depth in accumulate(map(_STEP.__getitem__, brackets))):
        _refuse(text, what, _Refused("nested too deep"))


def _pairs(pairs: list[tuple[str, Any]]) -> None:
    if len(dict(pairs)) != len(pairs):
        raise _Refused


def _integer(digits: str) -> None:
    if not _fits(digits):
        raise _Refused


def _fits(digits: str) -> bool:
    # By length first: turning a million digits into a number takes seconds.
    return len(digits) <= _INT_CHARACTERS and int(digits) in _INT_RANGE


def _constant(word: str) -> NoReturn:
    raise _Refused


_loads = json.JSONDecoder(object_pairs_hook=_pairs, parse_constant=_constant).decode
_loads_counting = json.JSONDecoder(object_pairs_hook=_pairs, parse_int=_integer, parse_constant=_constant).decode
"""Calls back for every integer, which costs as much as all the rest: used where a body has many digits in a row."""


def _refuse(text: str, what: str, cause: Exception) -> NoReturn:
    """The slow way through a body that is known to be bad, for the place of its first fault."""
    for position, fault in _faults(text):
        raise PayloadError(f"{what}: {fault}, {_place(text, position)}")
    raise PayloadError(f"{what} is not JSON that can be kept: {cause}")


def _faults(text: str) -> Iterator[tuple[int, str]]:
    objects: list[set[str]] = []
    for token in _TOKEN.finditer(text):
        kind, found = token.lastgroup, token.group()
        string = token["string"]
        if string and "\\u" in string and _is_half(json.loads(string, strict=False)):
            yield token.start(), "half of a surrogate pair: write the character whole, or both \\u escapes of it"
        if kind == "open":
            objects.append(set())
            if len(objects) > DEPTH_LIMIT:
                yield token.start(), f"nested deeper than {DEPTH_LIMIT} levels: flatten it, or send it as a text"
        elif kind == "close" and objects:
            objects.pop()
        elif kind == "word":
            yield token.start(), f"{found} is not JSON: send null, or the number as a text"
        elif kind == "number" and not found.lstrip("-").isdigit():
            if math.isinf(float(found)):
                yield token.start(), f"the number {_short(found)} is too large: send it as a text"
        elif kind == "number" and not _fits(found):
            yield token.start(), f"the integer {_short(found)} does not fit 64 bit: send it as a text"
        elif kind == "key" and objects:
            key = json.loads(string, strict=False)
            if key in objects[-1]:
                yield token.start(), f"the key {_short(key)!r} is twice in one object: keep one of them"
            objects[-1].add(key)


def _is_half(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _place(text: str, position: int) -> str:
    line = text.count("\n", 0, position) + 1
    return f"at line {line}, column {position - text.rfind(chr(10), 0, position)}"


def _short(text: str) -> str:
    return text if len(text) <= 40 else text[:40] + "…"
