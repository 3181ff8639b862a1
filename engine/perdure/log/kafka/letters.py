"""Dead letters: which records nobody could read, and what became of them.

dead-letters    {"topic", "partition", "offset", "reason"}      put aside: `KafkaEvents.refuse`
                {"topic", "partition", "offset", "event"}       taken in since, as this event
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
from msgspec import Struct

from perdure.errors import PayloadError
from perdure.log.kafka.client import REQUEST_MS, Client, begin, partition_in, stop
from perdure.log.kafka.log import KafkaLog

TOPIC = "dead-letters"


class Letter(Struct, frozen=True, omit_defaults=True):
    """`number` is its offset among the letters; `event`: it was taken in since, as this one."""

    topic: str
    partition: int
    offset: int
    reason: str = ""
    event: str = ""
    number: int = 0
    at: int = 0

    @property
    def place(self) -> str:
        return f"{self.topic}/{self.partition}/{self.offset}"


@dataclass(frozen=True)
class Reread:
    """See `Arrived`; nobody waits for it to be done."""

    value: bytes
    headers: Sequence[tuple[str, bytes]]
    timestamp_ms: int
    origin: tuple[str, int, int]

    def done(self) -> None:
        return


async def letters_of(log: KafkaLog) -> list[Letter]:
    """Each record that was put aside once, and is kept."""
    found: dict[str, Letter] = {}
    offset = 0
    while batches := await log.read_side(TOPIC, 0, offset):
        for batch in batches:
            for index, raw in enumerate(batch.values):
                letter = msgspec.json.decode(raw, type=Letter)
                known = found.get(letter.place)
                if letter.event:
                    if known is not None:
                        found[letter.place] = msgspec.structs.replace(known, event=letter.event)
                elif known is None:
                    number = batch.offset + index
                    found[letter.place] = msgspec.structs.replace(letter, number=number, at=batch.timestamp_ms)
            offset = batch.offset + len(batch.values)
    return list(found.values())


async def reread(log: KafkaLog, letter: Letter) -> Reread:
    """The record itself. Raises `PayloadError` if the brokers have it no more."""
    place = partition_in(letter.topic, letter.partition)
    consumer = Client(log.address).consumer()
    try:
        await begin(consumer)
        consumer.assign([place])
        start = (await consumer.beginning_offsets([place]))[place]
        if letter.offset < start:
            raise PayloadError(f"{letter.place} is gone: that partition begins at offset {start} by now")
        consumer.seek(place, letter.offset)
        async with asyncio.timeout(REQUEST_MS / 1000):
            while not (records := (await consumer.getmany(place, timeout_ms=REQUEST_MS, max_records=1)).get(place)):
                pass
    finally:
        await stop(consumer)
    (record,) = records
    if record.offset != letter.offset:
        raise PayloadError(f"{letter.place} is gone: it was compacted away")
    origin = (letter.topic, letter.partition, letter.offset)
    return Reread(record.value or b"", record.headers, record.timestamp, origin)


def settle(log: KafkaLog, letter: Letter, event: str) -> int:
    """It was taken in as this event. The ticket, as of `Log.append`."""
    said = {"topic": letter.topic, "partition": letter.partition, "offset": letter.offset, "event": event}
    return log.put_side(TOPIC, 0, msgspec.json.encode(said))
