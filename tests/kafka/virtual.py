"""A log on a real Kafka for `TestEngine`: its records are stamped by the test's clock, and can be read at once.

The topics are of type `CreateTime` here, where an app's have the brokers' clock. All the rest is the log as it ships.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, cast

import pytest

from perdure.log.kafka import client, topics, writer
from perdure.log.kafka import log as kafka_log
from perdure.log.kafka.address import Address, parse
from perdure.log.kafka.client import Client, Partition, Producer
from perdure.log.kafka.hands import Hands
from perdure.log.kafka.lanes import Lane
from perdure.log.kafka.log import KafkaLog
from perdure.log.protocol import Batch
from perdure.testing import TestEngine, engine

PARTITIONS = 2
_settings_of = topics.settings_of


def put_under(test_engine: type[TestEngine], url: str, patch: pytest.MonkeyPatch) -> list["VirtualKafkaLog"]:
    """Every test engine that is made from here on has a namespace of its own on these brokers; their logs."""
    made: list[VirtualKafkaLog] = []

    def make_log(under: TestEngine, clock: Callable[[], int]) -> VirtualKafkaLog:
        place: dict[str, Any] = {**vars(parse(url)), "clock": clock}
        place["namespace"] += f"-{len(made)}"
        made.append(VirtualKafkaLog(Clocked(**place), under.app.name))
        return made[-1]

    patch.setattr(kafka_log, "Client", Stamping)
    patch.setattr(topics, "settings_of", settings_of)
    patch.setattr(topics, "refusal", lambda *_: "")
    patch.setattr(topics, "warnings", lambda _: [])
    patch.setattr(client, "REQUEST_MS", 60_000)  # a slow machine's disk may hold up a broker for long
    patch.setattr(engine, "PATIENCE_SECONDS", 120.0)
    patch.setattr(writer, "fill", fill)
    patch.setattr(test_engine, "_make_log", make_log)
    return made


def settings_of(kind: str, retention_ms: int | None) -> dict[str, str]:
    """The test's clock leaps, and nothing may be thrown away for its age by that of the brokers."""
    ours = {"message.timestamp.type": "CreateTime", "message.timestamp.after.max.ms": str((1 << 63) - 1)}
    return _settings_of(kind, retention_ms) | ours | {"retention.ms": "-1"}


@dataclass(frozen=True, kw_only=True)
class Clocked(Address):
    clock: Callable[[], int]


class Stamping(Client):
    """Its batches know the test's clock."""

    def producer(self, transactional_id: str | None = None) -> Producer:
        producer: Any = super().producer(transactional_id)
        make = producer.create_batch

        def create_batch() -> Any:
            batch = make()
            batch.clock = cast("Clocked", self.address).clock
            return batch

        producer.create_batch = create_batch
        return cast("Producer", producer)


def fill(batch: Any, values: Iterable[bytes]) -> int:
    """As `packing.fill`."""
    now_ms = batch.clock()
    for value in values:
        if batch.append(timestamp=now_ms, key=None, value=value) is None:
            break
    return cast("int", batch.record_count())


class VirtualKafkaLog(KafkaLog):
    """See `TestLog`, and this module's text."""

    def __init__(self, address: Clocked, app: str) -> None:
        super().__init__(address, app, PARTITIONS)
        self._now_ms = address.clock
        self.on_append: Callable[[int], bool] | None = None
        self.crashed = False
        self._durable = 0
        self._stands: dict[Partition, int] = {}
        """Topic and partition → the end of what stands there, all of it ours."""
        self._mirror: list[dict[int, tuple[int, bytes]]] = [{} for _ in range(PARTITIONS)]
        """By partition: offset → time and record, of all that anybody was given."""

    def now_ms(self) -> int:
        return self._now_ms()

    async def open(self) -> None:
        if self.crashed and self._opened:
            # The group hears of it: what is tested here does not need to wait for the end of a session.
            await self._group.leave()
            await self.abandon()
        self.crashed = False
        await super().open()

    def crash(self) -> None:
        """Nothing is written from here on."""
        self.crashed = True

    def append(self, partition: int, value: bytes) -> int:
        return self._lanes.ticket if self.crashed else super().append(partition, value)

    def _put(self, place: Partition, value: bytes) -> int:
        return self._lanes.ticket if self.crashed else super()._put(place, value)

    @property
    def unflushed(self) -> bool:
        return self._lanes.acknowledged < self._lanes.ticket or any(map(self._behind, self._members._hands))

    def _behind(self, hands: Hands) -> bool:
        """Whether its topic has what was not given out yet."""
        given = {partition: progress.position for partition, progress in hands._progress.items()}
        ends = {place.partition: end for place, end in self._stands.items() if place.topic == hands._topic}
        return any(given.get(partition, 0) < end for partition, end in ends.items())

    def _landed(self, lane: Lane, offset: int, count: int, stamp_ms: int) -> None:
        if self.crashed:
            return
        self._stands[lane.place] = offset + count
        for _ in range(count):
            self._durable += 1
            if self.on_append is not None and self.on_append(self._durable):
                self.crash()
                return
        super()._landed(lane, offset, count, stamp_ms)

    def _seen(self, batch: Batch) -> None:
        self._keep(batch)
        super()._seen(batch)

    async def fetch(self, partition: int, offset: int, *, limit_bytes: int = 1 << 20) -> list[Batch]:
        """Whoever catches up is given what the feed may never read."""
        found = await super().fetch(partition, offset, limit_bytes=limit_bytes)
        for batch in found:
            self._keep(batch)
        return found

    def _keep(self, batch: Batch) -> None:
        kept = self._mirror[batch.partition]
        kept.update((batch.offset + index, (batch.timestamp_ms, value)) for index, value in enumerate(batch.values))

    def read(self, partition: int, offset: int, *, limit_bytes: int = 1 << 20) -> list[Batch]:
        kept, found, place = self._mirror[partition], list[Batch](), offset
        while place in kept:
            stamp_ms, value = kept[place]
            found.append(Batch(partition, place, stamp_ms, [value]))
            place += 1
        assert place >= max(kept, default=0), f"nobody was given offset {place} of partition {partition}"
        return found
