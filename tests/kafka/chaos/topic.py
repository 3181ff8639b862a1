"""The topics with nothing of ours: aiokafka and json. One writes events, the other reads all of the journal."""

import asyncio
import json
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition  # type: ignore[import-untyped]
from aiokafka.admin import AIOKafkaAdminClient, NewTopic  # type: ignore[import-untyped]

from tests.evidence.entries import Entry, Journal

DEADLINE_S = 10.0
REQUEST_MS = 5_000
"""An answer that takes longer was lost; so `start` and `stop` come to their end by themselves."""


async def _whole(doing: Coroutine[Any, Any, None]) -> None:
    """aiokafka's `start` and `stop` forget connections that are open if they are cut off."""
    task = asyncio.ensure_future(doing)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.gather(task, return_exceptions=True)
        raise


async def _begin(client: Any) -> None:
    try:
        await _whole(client.start())
    except BaseException:
        await _end(client)
        raise


async def _end(client: Any) -> None:
    """Of a client whose brokers may be away."""
    with suppress(Exception):
        await _whole(client.stop())


async def make_topic(bootstrap: str, topic: str, partitions: int) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    stamped = {"message.timestamp.type": "LogAppendTime"}
    await admin.create_topics([NewTopic(topic, partitions, 1, topic_configs=stamped)])
    await admin.close()


class Writing:
    """Any service: events with ids as plain JSON, again until the brokers have them."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self._bootstrap, self._topic = bootstrap, topic
        self._producer: AIOKafkaProducer | None = None
        self._making = asyncio.Lock()

    async def send(self, event: Mapping[str, Any]) -> None:
        value = json.dumps(event).encode()
        while True:
            try:
                producer = await self._made()
                async with asyncio.timeout(DEADLINE_S):
                    await producer.send_and_wait(self._topic, value, key=event["id"].encode())
                    return
            except Exception:
                await self.close()
                await asyncio.sleep(0.2)

    async def close(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            await _end(producer)

    async def _made(self) -> AIOKafkaProducer:
        """One for all events that are on their way."""
        async with self._making:
            if self._producer is None:
                made = AIOKafkaProducer(bootstrap_servers=self._bootstrap, acks="all", request_timeout_ms=REQUEST_MS)
                await _begin(made)
                self._producer = made
            return self._producer


class Tail:
    """Reads the journal from its first record on, before anybody trims it. Offsets have no gaps."""

    def __init__(self, bootstrap: str, topic: str, partitions: int) -> None:
        self._bootstrap = bootstrap
        self._places = [TopicPartition(topic, number) for number in range(partitions)]
        self.journal: Journal = {number: [] for number in range(partitions)}
        self.run_of: dict[str, str] = {}
        """Event → the run that it started first."""
        self.finished: set[str] = set()
        self._task = asyncio.ensure_future(self._follow())

    def ended(self, event: str) -> bool:
        return self.run_of.get(event, "") in self.finished

    def __len__(self) -> int:
        return sum(map(len, self.journal.values()))

    async def complete(self) -> None:
        """Until it has read what the journal holds by now."""
        consumer = await self._consumer()
        try:
            ends = await consumer.end_offsets(self._places)
        finally:
            await _end(consumer)
        async with asyncio.timeout(60):
            while any(len(self.journal[place.partition]) < end for place, end in ends.items()):
                self.check()
                await asyncio.sleep(0.05)

    def save(self, path: Path) -> None:
        """For people."""
        lines = [
            f"{entry.partition} {entry.offset} {entry.ms} {entry.raw.decode()}"
            for entries in self.journal.values()
            for entry in entries
        ]
        path.write_text("\n".join(lines))

    def check(self) -> None:
        if self._task.done():
            self._task.result()

    async def close(self) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    async def _consumer(self) -> AIOKafkaConsumer:
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self._bootstrap,
            auto_offset_reset="none",
            enable_auto_commit=False,
            request_timeout_ms=REQUEST_MS,
        )
        await _begin(consumer)
        consumer.assign(self._places)
        for place in self._places:
            consumer.seek(place, len(self.journal[place.partition]))
        return consumer

    async def _follow(self) -> None:
        while True:
            consumer: AIOKafkaConsumer | None = None
            try:
                consumer = await self._consumer()
                while True:
                    for place, records in (await consumer.getmany(timeout_ms=500)).items():
                        for record in records:
                            self._read(place.partition, record.offset, record.timestamp, record.value or b"")
            except (OSError, RuntimeError):
                # Broker away: aiokafka's errors are RuntimeErrors.
                await asyncio.sleep(0.2)
            finally:
                if consumer is not None:
                    await _end(consumer)

    def _read(self, partition: int, offset: int, ms: int, raw: bytes) -> None:
        entries = self.journal[partition]
        assert offset == len(entries), f"partition {partition}: offset {len(entries)} is followed by {offset}"
        record = json.loads(raw)
        entries.append(Entry(partition, offset, ms, max(ms, entries[-1].at if entries else 0), raw, record))
        if record["kind"] == "run.requested":
            self.run_of.setdefault(record["event_id"], record["run"])
        elif record["kind"] == "run.finished":
            self.finished.add(record["run"])
