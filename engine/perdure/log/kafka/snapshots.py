"""The compacted topic of snapshots: rounds are transactions, and a partition's writer fences those before it."""

import asyncio
from collections.abc import Sequence

from perdure.errors import Fenced, LogError
from perdure.log.kafka.client import (
    BATCH_BYTES,
    BatchBuilder,
    Client,
    Consumer,
    Partition,
    Producer,
    begin,
    errors,
    explained,
    partition_in,
    stop,
)

COMMIT_SECONDS = 30.0
READ_SECONDS = 30.0
"""Nothing came for so long of a snapshot that is not read to its end."""


class KafkaSnapshots:
    """See `Snapshots`."""

    def __init__(self, client: Client, topic: str) -> None:
        self._client = client
        self._topic = topic
        self._writers: dict[int, Writer] = {}

    async def fence(self, partition: int) -> "Writer":
        old = self._writers.pop(partition, None)
        if old is not None:
            await old.close()
        place = partition_in(self._topic, partition)
        producer = self._client.producer(f"{self._topic}.{partition}")
        writer = Writer(producer, place)
        try:
            with explained():
                async with asyncio.timeout(COMMIT_SECONDS):
                    await begin(producer)
        except BaseException:
            await writer.close()
            raise
        self._writers[partition] = writer
        return writer

    async def read(self, partition: int) -> list[tuple[bytes, bytes]]:
        consumer = self._client.consumer(isolation_level="read_committed")
        try:
            with explained():
                return sorted((await self._rows(consumer, partition_in(self._topic, partition))).items())
        finally:
            await stop(consumer)

    async def _rows(self, consumer: Consumer, place: Partition) -> dict[bytes, bytes]:
        rows: dict[bytes, bytes] = {}
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(READ_SECONDS) as patience:
            await begin(consumer)
            consumer.assign([place])
            position = (await consumer.beginning_offsets([place]))[place]
            end = (await consumer.end_offsets([place]))[place]
            consumer.seek(place, position)
            # By position, not by records: the marks that end a transaction are no records, and have offsets.
            while position < end:
                for records in (await consumer.getmany(place, timeout_ms=200)).values():
                    for record in records:
                        if record.key is not None and record.value is not None:
                            rows[record.key] = record.value
                        elif record.key is not None:
                            rows.pop(record.key, None)
                    patience.reschedule(loop.time() + READ_SECONDS)
                position = await consumer.position(place)
        return rows

    async def close(self) -> None:
        for writer in self._writers.values():
            await writer.close()
        self._writers.clear()


class Writer:
    """See `SnapshotWriter`."""

    def __init__(self, producer: Producer, place: Partition) -> None:
        self._producer = producer
        self._place = place

    async def commit(self, puts: Sequence[tuple[bytes, bytes]], deletes: Sequence[bytes]) -> None:
        rows = [*((key, None) for key in deletes), *puts]
        if not rows:
            return
        known = errors()
        try:
            async with asyncio.timeout(COMMIT_SECONDS):
                await self._commit(rows)
        except (known.ProducerFenced, known.InvalidProducerEpoch, known.InvalidTxnState) as error:
            raise Fenced(f"another process writes the snapshots of partition {self._place.partition} now") from error
        except (known.KafkaError, TimeoutError) as error:
            raise LogError(f"a snapshot of partition {self._place.partition} was not taken: {error!r}") from error

    async def _commit(self, rows: Sequence[tuple[bytes, bytes | None]]) -> None:
        producer = self._producer
        await producer.begin_transaction()
        sent: list[asyncio.Future[object]] = []
        batch: BatchBuilder | None = None
        size = 0
        for key, value in rows:
            grown = len(key) + len(value or b"")
            if batch is None or size + grown > BATCH_BYTES:
                if batch is not None:
                    sent.append(await self._send(batch))
                batch, size = producer.create_batch(), 0
            size += grown
            batch.append(timestamp=None, key=key, value=value)
        assert batch is not None
        sent.append(await self._send(batch))
        await asyncio.gather(*sent)
        await producer.commit_transaction()

    async def _send(self, batch: BatchBuilder) -> "asyncio.Future[object]":
        sent: asyncio.Future[object] = await self._producer.send_batch(
            batch, self._place.topic, partition=self._place.partition
        )
        return sent

    async def close(self) -> None:
        await stop(self._producer)
