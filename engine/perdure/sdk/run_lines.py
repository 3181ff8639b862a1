"""Lines of one run, read from the side topic `logs`, where those of a whole partition stand by time."""

import msgspec

from perdure.errors import PayloadError
from perdure.flow.routing import partition_of_run
from perdure.log.protocol import Batch, Log
from perdure.sdk.port import LinePage
from perdure.worker.run_logs import LEVELS
from perdure_schemas.records import AnyLogged, LogLevel, RunLogged

SCAN_BYTES = 4 << 20
"""Looked through for one page. Where the lines of other runs fill that, the page ends early, and is not the last."""
SLACK_MS = 60_000
"""Clocks of pods differ, and what a run left behind may still log after its end."""
NEAR = 64
_TOPIC = "logs"
_decode = msgspec.json.Decoder(AnyLogged).decode


def place_of(cursor: str) -> int | None:
    """An offset, from a cursor that a page gave; None from an empty one. Raises `PayloadError`."""
    if not cursor:
        return None
    if not cursor.isascii() or not cursor.isdigit() or len(cursor) > 18:
        raise PayloadError(f"cursor={cursor[:40]!r}: one is needed that an earlier page of lines gave")
    return int(cursor)


async def page_of(
    log: Log, run: str, level: LogLevel, offset: int | None, limit: int, since_ms: int, until_ms: int | None
) -> LinePage:
    """Lines from `offset` on. Without one, from about `since_ms` on; none that came long after `until_ms`."""
    partition = partition_of_run(run, log.partitions)
    if offset is None:
        offset = await _first_since(log, partition, since_ms - SLACK_MS)
    found: list[RunLogged] = []
    scanned = 0
    while scanned < SCAN_BYTES:
        batches = await log.read_side(_TOPIC, partition, offset)
        if not batches:
            return LinePage(found, str(offset), end=True)
        for batch in batches:
            if until_ms is not None and batch.timestamp_ms > until_ms + SLACK_MS:
                return LinePage(found, str(offset), end=True)
            for index, value in enumerate(batch.values):
                scanned += len(value)
                line = _line(value, run)
                if line is not None and LEVELS[line.level] >= LEVELS[level]:
                    found.append(line)
                    if len(found) == limit:
                        return LinePage(found, str(batch.offset + index + 1), end=False)
            offset = batch.offset + len(batch.values)
    return LinePage(found, str(offset), end=False)


def _line(value: bytes, run: str) -> RunLogged | None:
    """The record, if it is a line of this run. Most are other runs', and are not decoded."""
    if run.encode() not in value:
        return None
    try:
        record = _decode(value)
    except msgspec.ValidationError:
        return None  # a newer perdure's kind of record
    return record if isinstance(record, RunLogged) and record.run == run else None


async def _first_since(log: Log, partition: int, since_ms: int) -> int:
    """An offset at or a little before the first record that is not older."""

    async def at(offset: int) -> Batch | None:
        batches = await log.read_side(_TOPIC, partition, offset, limit_bytes=1)
        return batches[0] if batches else None

    first = await at(0)
    if first is None or first.timestamp_ms >= since_ms:
        return 0 if first is None else first.offset
    low, step = first.offset, NEAR
    # Where it ends nobody says: ever further, then back by halves.
    while (found := await at(low + step)) is not None and found.timestamp_ms < since_ms:
        low, step = low + step, step * 2
    high = low + step
    while high - low > NEAR:
        middle = (low + high) // 2
        found = await at(middle)
        if found is not None and found.timestamp_ms < since_ms:
            low = middle
        else:
            high = middle
    return low
