"""Batches as they are filled, and as they are read of what a fetch brought; no broker is needed for it."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import CorruptRecordException  # type: ignore[import-untyped]
from aiokafka.producer.message_accumulator import BatchBuilder  # type: ignore[import-untyped]
from aiokafka.record.memory_records import MemoryRecords  # type: ignore[import-untyped]
from aiokafka.record.util import calc_crc32c  # type: ignore[import-untyped]
from aiokafka.structs import TopicPartition  # type: ignore[import-untyped]

from perdure.log.kafka.packing import _Fetched, fill  # pyright: ignore[reportPrivateUsage]
from perdure.log.protocol import Batch

PLACE: Any = TopicPartition("journal", 3)
_CRC, _ATTRIBUTES = 17, 21
_STAMPED_BY_BROKER, _CONTROL = 0x08, 0x20


def written(values: Sequence[bytes], offset: int, *, attributes: int = _STAMPED_BY_BROKER) -> bytes:
    """A batch as a broker gives it out."""
    builder = BatchBuilder(1 << 20, 0)
    assert fill(builder, values) == builder.record_count() == len(values)
    raw = bytearray(builder._build())
    raw[:8] = offset.to_bytes(8, "big")
    raw[_ATTRIBUTES + 1] |= attributes
    raw[_CRC:_ATTRIBUTES] = calc_crc32c(raw[_ATTRIBUTES:]).to_bytes(4, "big")
    return bytes(raw)


def fetched(raw: bytes, wanted: int) -> Any:
    """What aiokafka keeps of a fetch from `wanted` on."""
    records = SimpleNamespace(_tp=PLACE, _records=MemoryRecords(raw), next_fetch_offset=wanted, _records_iterator=None)
    _Fetched()[PLACE] = SimpleNamespace(_partition_records=records)
    return records


def read(records: Any) -> list[Batch]:
    return [batch for parts in records._records_iterator for batch in parts]


def test_a_batch_that_is_full_takes_the_first_of_what_there_is() -> None:
    values = [b"x" * 400] * 5
    assert 0 < fill(BatchBuilder(1_000, 0), values) < len(values)


def test_batches_are_read_as_they_were_written() -> None:
    records = fetched(written([b"a", b"b"], 7) + written([b"c"], 9), 7)
    first, second = read(records)
    assert (first.partition, first.offset, first.values) == (3, 7, [b"a", b"b"])
    assert (second.offset, second.values) == (9, [b"c"])
    assert records.next_fetch_offset == 10


def test_reading_begins_where_it_was_asked_to() -> None:
    records = fetched(written([b"a", b"b", b"c"], 7), 8)
    assert [(one.offset, one.values) for one in read(records)] == [(8, [b"b", b"c"])]


def test_records_with_times_of_their_own_are_parted_by_them() -> None:
    builder = BatchBuilder(1 << 20, 0)
    for stamp, value in ((5, b"a"), (5, b"b"), (4, b"c")):
        builder.append(timestamp=stamp, key=None, value=value)
    found = read(fetched(bytes(builder._build()), 0))
    assert [(one.offset, one.timestamp_ms, one.values) for one in found] == [(0, 5, [b"a", b"b"]), (2, 4, [b"c"])]


def test_what_brokers_write_for_themselves_is_passed_over() -> None:
    records = fetched(written([b"mark"], 0, attributes=_CONTROL) + written([b"a"], 1), 0)
    assert [(one.offset, one.values) for one in read(records)] == [(1, [b"a"])]


def test_a_batch_that_was_damaged_is_refused() -> None:
    raw = bytearray(written([b"a"], 0))
    raw[-2] ^= 1
    with pytest.raises(CorruptRecordException):
        read(fetched(bytes(raw), 0))
