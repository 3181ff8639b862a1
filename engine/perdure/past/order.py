"""The records of all partitions in an order in which they can have been written."""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from perdure.flow import decode
from perdure.past.tape import Entry, Part
from perdure_schemas.records import AnyRecord


class Stood(NamedTuple):
    """A record and where it stood."""

    entry: Entry
    record: AnyRecord


WaitsFor = Callable[[Stood], int | None]
"""The partition that has yet to go on before this record can be taken."""


def ordered(parts: Mapping[int, Part], waits_for: WaitsFor) -> Iterator[Stood]:
    """By time; where partitions' clocks are apart, what led to a record comes before it."""
    sources = {partition: iter(part.entries) for partition, part in parts.items()}
    heads: dict[int, Stood] = {}

    def go_on(partition: int) -> None:
        entry = next(sources[partition], None)
        if entry is None:
            heads.pop(partition, None)
        else:
            heads[partition] = Stood(entry, decode(entry.raw))

    for partition in sources:
        go_on(partition)
    while heads:
        following = _first(heads, waits_for)
        yield following
        go_on(following.entry.partition)


def _first(heads: Mapping[int, Stood], waits_for: WaitsFor) -> Stood:
    found = earliest = min(heads.values(), key=lambda head: head.entry.at)
    for _ in heads:
        source = waits_for(found)
        if source is None:
            return found
        if source not in heads:
            break
        found = heads[source]
    return earliest  # What led to it is not there: a part of a log.
