"""An app's codec around payloads: base64 in a JSON string, so that records stay JSON."""

import base64
from typing import Protocol

import msgspec
from msgspec import Raw

from perdure_schemas.payload import Payload


class Codec(Protocol):
    def encode(self, payload: bytes, /) -> bytes: ...

    def decode(self, payload: bytes, /) -> bytes: ...


def coded(codec: Codec | None, raw: Raw) -> Payload:
    """What the log gets."""
    if codec is None:
        return Payload(raw)
    text = base64.b64encode(codec.encode(bytes(raw))).decode()
    return Payload(Raw(msgspec.json.encode(text)), encoded=True)


def decoded(codec: Codec | None, raw: bytes, *, encoded: bool) -> bytes:
    """What user code gets."""
    if not encoded or codec is None:
        return raw
    return codec.decode(base64.b64decode(msgspec.json.decode(raw, type=str)))
