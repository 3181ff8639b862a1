"""Records into aiokafka's batches and out of them, without what the library does for each record.

It has a call of Python's for each record that is written, and an object of eleven fields for each that is read: of a
step's time that was 2 µs, as much as its fold. Here a batch is filled, and unpacked, in one go. Both reach behind what
the library promises (`_builder`, `_fetcher`), as far as its version is fixed; the conformance suite would notice.
"""

import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

from perdure.log.kafka.client import BatchBuilder, Consumer, Partition, Record, errors
from perdure.log.protocol import Batch

_BY_THE_BROKER = 1
"""Type of timestamp: one for the whole batch, when it was appended."""


def fill(batch: BatchBuilder, values: Iterable[bytes]) -> int:
    """As many of the first as there is room for; how many those are."""
    inside: Any = batch
    append = inside._builder.append
    now_ms, count = int(time.time() * 1000), 0
    headers: list[tuple[str, bytes]] = []
    for value in values:
        if append(count, now_ms, None, value, headers) is None:
            break
        count += 1
    inside._relative_offset = count
    return count


def unpack_batches(consumer: Consumer) -> None:
    """From here on `fetched_batches` reads from this consumer. It was started, and has fetched nothing yet."""
    fetcher: Any = getattr(consumer, "_fetcher")  # noqa: B009
    fetcher._records = _Fetched(fetcher._records)


async def fetched_batches(
    consumer: Consumer, *, timeout_ms: int, most: int
) -> Mapping[Partition, Sequence[Sequence[Batch]]]:
    """`getmany`: of at most so many batches as they were written, the parts that have one time and no gap."""
    found = await consumer.getmany(timeout_ms=timeout_ms, max_records=most)
    return cast("Mapping[Partition, Sequence[Sequence[Batch]]]", found)


class _Fetched(OrderedDict[Partition, Any]):
    """The fetcher's own answers by partition, until they are asked for."""

    def __setitem__(self, place: Partition, answer: Any) -> None:
        fetched = getattr(answer, "_partition_records", None)  # an error has none
        if fetched is not None:
            fetched._records_iterator = _unpacked(place.partition, fetched)
        super().__setitem__(place, answer)


def _unpacked(partition: int, fetched: Any) -> Iterator[list[Batch]]:
    """As aiokafka's own, of a consumer that reads uncommitted records too."""
    packed = fetched._records
    while packed.has_next():
        batch = packed.next_batch()
        if not batch.validate_crc():
            raise errors().CorruptRecordException(f"Invalid CRC - {fetched._tp}")
        following = batch.next_offset
        if not batch.is_control_batch:
            records: list[Record] = list(batch)
            wanted = fetched.next_fetch_offset
            if records and records[0].offset < wanted:
                records = [record for record in records if record.offset >= wanted]
            if records:
                fetched.next_fetch_offset = following
                yield _whole(partition, records, following) or batches_of(partition, records)
        fetched.next_fetch_offset = following


def _whole(partition: int, records: Sequence[Record], following: int) -> list[Batch]:
    """One batch, if that can be seen from its first record; which it nearly always can."""
    first = records[0]
    if first.timestamp_type != _BY_THE_BROKER or first.offset + len(records) != following:
        return []
    return [Batch(partition, first.offset, first.timestamp, [record.value or b"" for record in records])]


def batches_of(partition: int, records: Iterable[Record]) -> list[Batch]:
    """Consecutive records of one time are one batch."""
    found: list[Batch] = []
    values: list[bytes] = []
    offset, following, stamp = 0, -1, -1
    for record in records:
        if record.offset != following or record.timestamp != stamp:
            if values:
                found.append(Batch(partition, offset, stamp, values))
            values, offset, stamp = [], record.offset, record.timestamp
        values.append(record.value or b"")
        following = record.offset + 1
    if values:
        found.append(Batch(partition, offset, stamp, values))
    return found
