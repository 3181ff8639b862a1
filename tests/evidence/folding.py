"""Folding logs again, to compare with what the engine keeps (I2, I7, I8)."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from xxhash import xxh3_64_hexdigest

from perdure.flow import FOLD_VERSION, decode, fold
from perdure.flow.view import View
from perdure.log.protocol import Batch, LocalLog
from perdure.partition.checkpoint import POSITION_KEY, Position, read_position


class Folded(NamedTuple):
    """A view that has folded all records below `offset`, and how many of them changed something."""

    view: View
    offset: int
    folded: int
    ignored: int


def records(log: LocalLog, partition: int, upto: int | None = None) -> Iterator[tuple[int, int, bytes]]:
    """(offset, timestamp, record) from the first one on, below `upto`."""
    end = log.end(partition) if upto is None else upto
    offset = log.start(partition)
    while offset < end:
        for batch in log.read(partition, offset):
            yield from _cut(batch, end)
            offset = batch.offset + len(batch.values)


def _cut(batch: Batch, end: int) -> Iterator[tuple[int, int, bytes]]:
    for index, raw in enumerate(batch.values):
        if batch.offset + index < end:
            yield batch.offset + index, batch.timestamp_ms, raw


def fold_again(log: LocalLog, partition: int, upto: int | None = None) -> Folded:
    """A new view, from the first record on."""
    return fold_records(records(log, partition, upto), partition, log.partitions)


def fold_records(records: Iterable[tuple[int, int, bytes]], partition: int, partitions: int) -> Folded:
    """The same, of (offset, timestamp, record)."""
    view = View(partition, partitions)
    folded = ignored = offset = 0
    for offset, stamp_ms, raw in records:
        if fold(view, decode(raw), raw, offset, stamp_ms):
            folded += 1
        else:
            ignored += 1
        view.effects.acts.clear()
        view.effects.sends.clear()
    return Folded(view, folded + ignored, folded, ignored)


def stored(log: LocalLog, partition: int) -> tuple[View, Position]:
    """What the last checkpoint holds."""
    position = read_position(log.store(partition).get(POSITION_KEY)) or Position(0, 0, 0, "", FOLD_VERSION)
    view = View(partition, log.partitions, log.store(partition))
    view.at, view.stamp = position.at, position.stamp
    return view, position


def check_store(log: LocalLog, partition: int) -> Folded:
    """The checkpoint equals a fold of the log up to it (I2), and names the record that it folded last (I7)."""
    view, position = stored(log, partition)
    again = fold_again(log, partition, position.offset)
    assert again.folded + again.ignored == position.offset - log.start(partition), "I8"
    assert_same(view, again.view, f"partition {partition}, checkpoint at {position.offset}")
    if position.offset > log.start(partition):
        last = log.read(partition, position.offset - 1, limit_bytes=1)[0].values[0]
        assert xxh3_64_hexdigest(last) == position.anchor, f"I7: partition {partition} at {position.offset}"
    return again


def assert_all_arrived(views: Sequence[View]) -> None:
    """At rest, what each partition has sent to each other one has been taken there: nothing is on its way, or lost."""
    for view in views:
        for to, n in view.meta.outseq.items():
            taken = views[to].meta.inseq.get(view.partition, 0)
            assert taken == n, f"I1: partition {view.partition} sent {n} records to {to}, which took {taken}"


def assert_same(one: View, other: View, where: str) -> None:
    """I2, with the first difference in words."""
    left, right = one.logical(), other.logical()
    for key in sorted({*left, *right}):
        assert left.get(key) == right.get(key), f"I2: {where}: {key}: {_short(left, key)} ≠ {_short(right, key)}"


def _short(state: dict[str, bytes], key: str) -> str:
    return repr(state[key])[:1_000] if key in state else "nothing"
