"""Large records that state refers to, as the log has them: a row of the store for each, by its offset.

Whatever a run still needs is in the state, not in the journal alone, which is trimmed. What is small stands in the
entity itself; what is large would be written again with its entity at each checkpoint, and so stands here.
"""

from collections.abc import Iterator

import msgspec

from perdure.flow.tables import Backing
from perdure_schemas.payload import Payload
from perdure_schemas.records import Ending, OpOpened, RunFinished, RunRequested

PREFIX = b"w/"
"""Sorts after runs, so that what a run refers to does not expire before it."""
Whole = RunRequested | RunFinished | OpOpened
_DECODE_REQUEST = msgspec.json.Decoder(RunRequested).decode
_DECODE = msgspec.json.Decoder(Whole).decode


def row_of(offset: int) -> bytes:
    return PREFIX + offset.to_bytes(8, "big")


def payload_in(raw: bytes, field: str) -> Payload | None:
    """The payload that a reference to this record, made for `field`, stands for."""
    record = _DECODE(raw)
    if isinstance(record, RunRequested):
        return record.event if field == "event" else record.arguments
    return record.result if isinstance(record, RunFinished) else getattr(record.opening, "arguments", None)


def ending_in(raw: bytes) -> Ending | None:
    """What a run.requested says of the run whose handler it asks for."""
    return _DECODE_REQUEST(raw).ending


class Wholes:
    """Records of a partition, by offset."""

    def __init__(self, backing: Backing) -> None:
        self._backing = backing
        self._new: dict[int, bytes] = {}
        self._gone: dict[int, None] = {}
        self._sealed: dict[int, bytes] = {}
        self._sealed_gone: dict[int, None] = {}

    def add(self, offset: int, raw: bytes) -> None:
        self._new[offset] = raw

    def get(self, offset: int) -> bytes | None:
        raw = self._new.get(offset)
        if raw is not None or offset in self._gone:
            return raw
        raw = self._sealed.get(offset)
        if raw is not None or offset in self._sealed_gone:
            return raw
        return self._backing.get(row_of(offset))

    def delete(self, offset: int) -> None:
        if self._new.pop(offset, None) is None:
            self._gone[offset] = None

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """Every record by its row, in order."""
        found = dict(self._backing.scan(PREFIX, PREFIX))
        found.update((row_of(offset), raw) for offset, raw in self._sealed.items())
        for offset in (*self._sealed_gone, *self._gone):
            found.pop(row_of(offset), None)
        found.update((row_of(offset), raw) for offset, raw in self._new.items())
        yield from sorted(found.items())

    def seal(self, puts: list[tuple[bytes, bytes]], deletes: list[bytes]) -> None:
        """Hand over what changed since the last seal, for one write."""
        if self._new:
            puts.extend((row_of(offset), raw) for offset, raw in self._new.items())
        if self._gone:
            deletes.extend(map(row_of, self._gone))
        self._sealed, self._new = self._new, {}
        self._sealed_gone, self._gone = self._gone, {}

    def written(self) -> None:
        self._sealed, self._sealed_gone = {}, {}
