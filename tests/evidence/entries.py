"""What a log holds, read as JSON with nothing of ours: the folds' mistakes would not show to the folds."""

import json
from collections import defaultdict
from collections.abc import Iterable
from typing import Any, NamedTuple


class Entry(NamedTuple):
    """One record: its place, its batch's timestamp, and the largest timestamp of the partition up to it."""

    partition: int
    offset: int
    ms: int
    at: int
    raw: bytes
    record: dict[str, Any]

    @property
    def kind(self) -> str:
        return str(self.record["kind"])


Journal = dict[int, list[Entry]]
"""Partition → its entries in log order."""


def entries_of(partition: int, records: Iterable[tuple[int, int, bytes]]) -> list[Entry]:
    """Entries of (offset, timestamp, record)."""
    found: list[Entry] = []
    at = 0
    for offset, ms, raw in records:
        at = max(at, ms)
        found.append(Entry(partition, offset, ms, at, raw, json.loads(raw)))
    return found


def without_repetitions(journal: Journal) -> tuple[Journal, int]:
    """I3: what one partition sends another is numbered without gaps; a number that comes again is the same record.

    What comes before its time, after a gap, does not count either: it comes again. Returns what counts, and how many
    records do not.
    """
    effective: Journal = {}
    repeated = 0
    for partition, entries in journal.items():
        taken: dict[int, list[Entry]] = defaultdict(list)
        kept = effective[partition] = []
        early: list[Entry] = []
        for entry in entries:
            if "from" not in entry.record:
                kept.append(entry)
                continue
            source, n = entry.record["from"]
            before = taken[source]
            if n > len(before) + 1:
                early.append(entry)
            elif n == len(before) + 1:
                before.append(entry)
                kept.append(entry)
            else:
                first = before[n - 1]
                assert entry.raw == first.raw, f"I3: {source} → {partition} #{n}: {entry.raw!r} was {first.raw!r}"
                repeated += 1
        for entry in early:
            source, n = entry.record["from"]
            in_time = [one.raw for one in taken[source][n - 1 : n]]
            assert in_time == [entry.raw], f"I3: {source} → {partition}: {entry.raw!r} came early only"
        repeated += len(early)
    return effective, repeated
