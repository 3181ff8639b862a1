"""What a log has promised so far, by what was said, and whether a directory keeps it. Nothing here asks the log's code
more than to open, to read, and to scan.
"""

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from zlib import crc32

from perdure.log.embedded import EmbeddedLog
from tests.system.faults.records import PARTITIONS, POSITION, Fold, Record, parse


@dataclass
class Promises:
    acknowledged: dict[int, list[int]] = field(default_factory=dict[int, list[int]])
    """By life: how many of the records that it gave to each partition are durable."""
    tickets: dict[int, int] = field(default_factory=dict[int, int])
    """By life: the last ticket that is durable."""
    ends: list[int] = field(default_factory=lambda: [0] * PARTITIONS)
    stored: list[int] = field(default_factory=lambda: [0] * PARTITIONS)
    known: list[dict[int, int]] = field(default_factory=lambda: [{} for _ in range(PARTITIONS)])
    """By partition: offset → checksum of the record that a reader was given there."""
    troubles: int = 0

    def copy(self) -> "Promises":
        return deepcopy(self)

    def hear(self, life: int, said: bytes) -> None:
        """What life number `life` said, all of it from its beginning; a line that the kill cut off was not said."""
        self.acknowledged.setdefault(life, [0] * PARTITIONS)
        self.tickets.setdefault(life, 0)
        for line in said[: said.rfind(b"\n") + 1].splitlines():
            word, *rest = line.split(b" ")
            if word == b"troubled":
                self.troubles += 1
                continue
            numbers = list(map(int, rest))
            if word == b"opened":
                self.ends = _higher(self.ends, numbers)
            elif word == b"told":
                self.tickets[life] = max(self.tickets[life], numbers[0])
                self.acknowledged[life] = _higher(self.acknowledged[life], numbers[1 : 1 + PARTITIONS])
                self.stored = _higher(self.stored, numbers[1 + PARTITIONS :])
            else:
                self._given(*numbers)

    def _given(self, partition: int, offset: int, *checks: int) -> None:
        known = self.known[partition]
        for where, check in enumerate(checks, offset):
            assert known.setdefault(where, check) == check, f"I1: partition {partition} changed at offset {where}"

    async def check(self, folder: Path) -> list[list[bytes]]:
        """The records by partition. `folder` is opened, and so changed."""
        log = EmbeddedLog(folder, PARTITIONS)
        await log.open()
        try:
            journal = [read(log, partition) for partition in range(PARTITIONS)]
            for partition, raws in enumerate(journal):
                self._check_given(partition, raws)
                self._check_store(partition, raws, log.store(partition).scan(b""))
            self._check_order(journal)
            await self._check_side(log)
        finally:
            await log.close()
        return journal

    def _check_given(self, partition: int, raws: list[bytes]) -> None:
        end = len(raws)
        assert end >= self.ends[partition], f"I1: partition {partition} had {self.ends[partition]} records, now {end}"
        for offset, check in self.known[partition].items():
            assert offset < end, f"I1: a reader was given offset {offset} of partition {partition}, which ends at {end}"
            assert crc32(raws[offset]) == check, f"I1: partition {partition} changed at offset {offset}"

    def _check_store(self, partition: int, raws: list[bytes], rows: list[tuple[bytes, bytes]]) -> None:
        found = dict(rows)
        offset = int(found.get(POSITION, b"0 0").split()[0])
        assert offset <= len(raws), f"I7: partition {partition} ends at {len(raws)}, its store stands at {offset}"
        least = self.stored[partition]
        assert offset >= least, f"I7: partition {partition}: the checkpoint at {least} was durable, found {offset}"
        fold = Fold()
        for raw in raws[:offset]:
            fold.take(raw)
        assert found == (fold.everything() if found else {}), f"I2: partition {partition}, checkpoint at {offset}"

    def _check_order(self, journal: list[list[bytes]]) -> None:
        """Of each life there are its tickets up to some number: all, once, in order, and no fewer than it was told."""
        tickets: dict[int, list[int]] = {}
        for partition, raws in enumerate(journal):
            before = Record(-1, partition, -1, 0)
            for offset, raw in enumerate(raws):
                record = parse(raw)
                where = f"partition {partition}, offset {offset}: {record} after {before}"
                assert record.partition == partition, where
                if record.life == before.life:
                    assert record.number == before.number + 1 and record.ticket > before.ticket, where  # noqa: PT018
                else:
                    assert record.life > before.life and record.number == 0, where  # noqa: PT018
                tickets.setdefault(record.life, []).append(record.ticket)
                before = record
        for life, told in self.tickets.items():
            found = sorted(tickets.get(life, []))
            assert found == list(range(1, len(found) + 1)), f"a hole: of life {life} there are tickets {found[-50:]}"
            assert len(found) >= told, f"I1: life {life} was told of ticket {told}, and {len(found)} are there"

    async def _check_side(self, log: EmbeddedLog) -> None:
        for partition in range(PARTITIONS):
            notes: list[tuple[int, ...]] = []
            while batches := await log.read_side("notes", partition, len(notes)):
                for batch in batches:
                    notes += [tuple(map(int, raw.split())) for raw in batch.values]
            assert notes == sorted(set(notes)), f"side topic of partition {partition}: {notes[-20:]}"


def _higher(one: list[int], other: Iterable[int]) -> list[int]:
    return [max(pair) for pair in zip(one, other, strict=True)]


def read(log: EmbeddedLog, partition: int) -> list[bytes]:
    """All records; log time never goes back in them."""
    raws: list[bytes] = []
    stamp = 0
    while batches := log.read(partition, len(raws)):
        for batch in batches:
            assert batch.offset == len(raws)
            assert batch.timestamp_ms >= stamp, f"log time went back: {stamp}, then {batch.timestamp_ms}"
            stamp = batch.timestamp_ms
            raws += batch.values
    assert len(raws) == log.end(partition)
    return raws
