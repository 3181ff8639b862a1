"""Benchmarks on Kafka, `--log kafka://broker:9092`: topics for one measurement of the engine, or of the floor."""

import asyncio
import importlib
import secrets
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from perdure import App, Engine
from perdure.log.kafka.address import parse
from perdure.log.kafka.client import Client
from perdure.log.kafka.topics import Topics

_PARTITIONS = 4
_REQUEST_BYTES = 4 << 20


@asynccontextmanager
async def engine_of(app: App, folder: Path, log: str) -> AsyncGenerator[Engine]:
    """On an embedded log in the folder; or on `log`, in a namespace of its own, with its state in the folder."""
    if not log:
        async with Engine(app, log=f"embedded://{folder}/log") as engine:
            yield engine
        return
    url = f"{log}/bench-{secrets.token_hex(6)}?data={folder}/state"
    try:
        async with Engine(app, log=url, partitions=_PARTITIONS) as engine:
            yield engine
    finally:
        await delete_topics(url)


async def delete_topics(url: str) -> None:
    """All that a measurement has left in its namespace."""
    await Topics(Client(parse(url))).delete_all()


class KafkaLog:
    """The floor's: what is pending as one batch a partition, all copies of it durable, read back by a consumer."""

    def __init__(self, log: str) -> None:
        self._servers = list(parse(log).servers)
        self._topic = f"floor-{secrets.token_hex(6)}"
        self._library: Any = importlib.import_module("aiokafka")
        self._administration: Any = importlib.import_module("aiokafka.admin")
        self._pending: list[bytes] = []
        self._busy: asyncio.Task[None] | None = None

    async def start(self, read: Callable[[list[bytes]], None]) -> None:
        library, partition = self._library, self._library.TopicPartition
        self._admin = self._administration.AIOKafkaAdminClient(bootstrap_servers=self._servers)
        await self._admin.start()
        await self._admin.create_topics([self._administration.NewTopic(self._topic, _PARTITIONS, 1)])
        self._producer = library.AIOKafkaProducer(
            bootstrap_servers=self._servers,
            acks="all",
            enable_idempotence=True,
            max_batch_size=1 << 20,
            max_request_size=_REQUEST_BYTES,
        )
        self._consumer = library.AIOKafkaConsumer(
            bootstrap_servers=self._servers,
            auto_offset_reset="earliest",
            max_partition_fetch_bytes=_REQUEST_BYTES,
        )
        await self._producer.start()
        await self._consumer.start()
        self._consumer.assign([partition(self._topic, number) for number in range(_PARTITIONS)])
        self._reading = asyncio.ensure_future(self._read(read))

    async def _read(self, read: Callable[[list[bytes]], None]) -> None:
        while True:
            found = await self._consumer.getmany(timeout_ms=200, max_records=5000)
            for records in found.values():
                read([record.value for record in records])

    def append(self, record: bytes) -> None:
        self._pending.append(record)
        if self._busy is None:
            self._busy = asyncio.ensure_future(self._flush())

    async def _flush(self) -> None:
        await asyncio.sleep(0)
        while self._pending:
            pending, self._pending = self._pending, []
            parts: dict[int, list[bytes]] = {}
            for record in pending:
                parts.setdefault(hash(record[8:60]) % _PARTITIONS, []).append(record)
            for number, records in parts.items():
                left = records
                while left:
                    batch = self._producer.create_batch()
                    taken = 0
                    while taken < len(left) and batch.append(key=None, value=left[taken], timestamp=None) is not None:
                        taken += 1
                    await self._producer.send_batch(batch, self._topic, partition=number)
                    left = left[taken:]
        self._busy = None

    async def stop(self) -> None:
        self._reading.cancel()
        await self._producer.stop()
        await self._consumer.stop()
        await self._admin.delete_topics([self._topic])
        await self._admin.close()
