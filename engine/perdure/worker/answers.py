"""What owners answer to the claims of this process: read in the journals of the claimed steps' runs.

A partition is followed only while a claim of ours stands there, and from its records only the answers are looked at.
"""

import logging
from collections.abc import Callable

import msgspec

from perdure.log.protocol import Batch, Log, Reader
from perdure_schemas.records import StepAnswered

log = logging.getLogger("perdure.worker")
Told = Callable[[StepAnswered], None]
_ANSWER = b'{"kind":"step.answered"'
_decode = msgspec.json.Decoder(StepAnswered).decode


class Answers:
    def __init__(self, log: Log) -> None:
        self._log = log
        self._claims: dict[int, dict[str, Told]] = {}
        self._readers: dict[int, Reader] = {}

    def watch(self, partition: int, claim: str, told: Told) -> None:
        """From here on `told` is called with each answer to the claim. Ask after this, and no answer is missed."""
        self._claims.setdefault(partition, {})[claim] = told
        if partition not in self._readers:
            self._follow(partition)

    def _follow(self, partition: int) -> None:
        self._readers[partition] = self._log.follow(
            partition, self._log.end(partition), self._read, failed=lambda error: self._failed(partition, error)
        )

    def forget(self, partition: int, claim: str) -> None:
        claims = self._claims.get(partition, {})
        claims.pop(claim, None)
        reader = self._readers.get(partition)
        if not claims and reader is not None:
            del self._readers[partition]
            reader.close()

    def close(self) -> None:
        self._claims.clear()
        for reader in self._readers.values():
            reader.close()
        self._readers.clear()

    def _read(self, batch: Batch) -> None:
        claims = self._claims.get(batch.partition, {})
        for raw in batch.values:
            if raw.startswith(_ANSWER):
                answer = _decode(raw)
                told = claims.get(answer.claim)
                if told is not None:
                    told(answer)

    def _failed(self, partition: int, error: Exception) -> None:
        """Trimmed before it was read, or damaged. Claims are asked for again, and those at work give signs of life."""
        log.warning("answers in partition %d cannot be read: %s", partition, error)
        self._readers.pop(partition, None)
        if self._claims.get(partition):
            self._follow(partition)
