"""User data on their way into records and out of them.

    bytes ─► the app's codec ─► small: into the record, as base64 in a JSON string if a codec made them
                             └► large: into the engine's place for payloads; the record has their digest

Without a place what is too large for a record is refused.
"""

import asyncio
import base64
from typing import Protocol

import msgspec
from msgspec import Raw

from perdure.errors import PayloadTooLarge, PayloadUnavailable
from perdure.worker.places import Place, digest_of
from perdure_schemas.payload import Payload, Stored

RECORD_LIMIT_BYTES = 3 << 20
"""One payload in a record, on every log: the same app runs on all of them. Kafka takes records of 4 MiB."""
STORED_FROM_BYTES = 1 << 18
"""Results above this are stored outside the log, where there is a place: a log is read whole, by many."""


class Codec(Protocol):
    def encode(self, payload: bytes, /) -> bytes: ...

    def decode(self, payload: bytes, /) -> bytes: ...


class Payloads:
    """See the module's text."""

    def __init__(self, codec: Codec | None = None, place: Place | None = None) -> None:
        self._codec = codec
        self._place = place
        self.coded = codec is not None

    def inline(self, raw: bytes | Raw, what: str) -> Payload:
        """Into the record, whatever its size. Raises `PayloadTooLarge`."""
        return self._inline(self._coded(bytes(raw)), what, "keep it elsewhere and pass its key")

    async def put(self, raw: bytes, what: str) -> Payload:
        """Into the record, or durable outside the log when this returns.

        Raises `PayloadTooLarge`, and `PayloadUnavailable` if the place does not take it at present.
        """
        if len(raw) <= STORED_FROM_BYTES and self._codec is None:
            return Payload(Raw(raw))
        data = self._coded(raw)
        if self._place is None or len(data) <= STORED_FROM_BYTES:
            return self._inline(
                data,
                what,
                'give the engine a place for what is large, Engine(…, payloads="file:///folder"), or keep it '
                "elsewhere and return its key",
            )
        digest = await asyncio.get_running_loop().run_in_executor(None, _write, self._place, data, what)
        return Payload(encoded=self.coded, stored=Stored(digest, len(data)))

    def json_of(self, payload: Payload) -> Raw:
        """What user code gets, of a payload that is no reference. Raises `PayloadUnavailable`."""
        if payload.stored is not None:
            data = self._read(payload.stored)
            return Raw(self._codec.decode(data) if payload.encoded and self._codec is not None else data)
        assert isinstance(payload.inline, Raw), "references within the journal are the caller's to follow"
        if not payload.encoded or self._codec is None:
            return payload.inline
        return Raw(self._codec.decode(base64.b64decode(msgspec.json.decode(payload.inline, type=str))))

    def _coded(self, raw: bytes) -> bytes:
        return raw if self._codec is None else self._codec.encode(raw)

    def _inline(self, data: bytes, what: str, instead: str) -> Payload:
        raw = data if self._codec is None else msgspec.json.encode(base64.b64encode(data).decode())
        if len(raw) > RECORD_LIMIT_BYTES:
            raise PayloadTooLarge(
                f"{what} has {len(raw):,} bytes, and a record takes {RECORD_LIMIT_BYTES:,}: {instead}"
            )
        return Payload(Raw(raw), encoded=self.coded)

    def _read(self, stored: Stored) -> bytes:
        if self._place is None:
            raise PayloadUnavailable(
                f"payload {stored.digest} ({stored.bytes:,} bytes) lies outside the log, and this process does not "
                "know where: give it payloads=, or PERDURE_PAYLOADS, as the one that wrote it has"
            )
        try:
            data = self._place.read(stored.digest)
        except Exception as error:
            raise PayloadUnavailable(
                f"payload {stored.digest} ({stored.bytes:,} bytes) cannot be read from {self._place.url}: {error!r}"
            ) from error
        if digest_of(data) != stored.digest:
            raise PayloadUnavailable(
                f"payload {stored.digest} in {self._place.url} is damaged: it has {len(data):,} bytes of "
                f"{stored.bytes:,}, and other content than what was written"
            )
        return data


def _write(place: Place, data: bytes, what: str) -> str:
    digest = digest_of(data)
    try:
        place.write(digest, data)
    except Exception as error:
        raise PayloadUnavailable(f"{what} ({len(data):,} bytes) cannot be put into {place.url}: {error!r}") from error
    return digest
