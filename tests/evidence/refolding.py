"""I2: what the engine keeps equals a fold of its log from the first record, in any batching; I3, I7, I8 beside it."""

import random
from collections.abc import Sequence

from perdure.flow import decode, fold
from perdure.flow.effects import Refused
from perdure.flow.view import View
from perdure.log.memory import MemoryLog
from perdure.log.protocol import Log
from perdure.testing import TestEngine
from perdure_schemas.records import (
    CronScheduled,
    EventReceived,
    OpClosed,
    OpOpened,
    OwnerReleased,
    OwnerStarted,
    RunCancelRequested,
    RunErrored,
    RunFinished,
    RunRequested,
    RunRerunRequested,
    StepCompleted,
    StepFailed,
    TimerFired,
)
from tests.evidence.folding import assert_all_arrived, assert_same, check_store, fold_records, records

Records = Sequence[tuple[int, int, bytes]]
"""(offset, timestamp, record) of a partition, from its first one on."""


def check_refold(engine: TestEngine, rng: random.Random, scratch: Log | None = None) -> None:
    """The live state, the checkpoint, and folds in batches, each against one fold of it all.

    `scratch`: a log whose first store the folds in batches may use; one in memory otherwise.
    """
    assert_all_arrived([processor.view for processor in engine.node.processors])
    for processor in engine.node.processors:
        partition, log = processor.partition, engine.log
        assert not processor.halted
        assert processor.offset == log.end(partition)
        everything = list(records(log, partition))
        again = fold_records(everything, partition, log.partitions)
        assert_same(processor.view, again.view, f"partition {partition}, as it lives")
        check_store(log, partition)
        check_other_ways(everything, again.view, rng, scratch)
        counts = processor.records
        assert counts["read"] == counts["folded"] + counts["ignored"], "I8"


def check_other_ways(everything: Records, once: View, rng: random.Random, scratch: Log | None = None) -> None:
    """Folding in batches gives what folding at once gave (I2), and so does folding with repetitions (I3)."""
    where = f"partition {once.partition}"
    batched = Batches(everything, once.partition, once.partitions, rng, scratch or MemoryLog(1)).fold()
    assert_same(batched, once, f"{where}, in batches")
    repeated = fold_with_repetitions(everything, once.partition, once.partitions, rng)
    assert_same(repeated, once, f"I3: {where}, with repetitions")


REPEATED = (
    *(EventReceived, RunRequested, RunErrored, RunFinished, StepCompleted, StepFailed),
    *(OpOpened, OpClosed, TimerFired, CronScheduled, OwnerStarted, OwnerReleased),
)
"""What user code, outsiders, timers and owners may write twice. Whatever has a number is ignored by that."""
PASSED_ON = (RunCancelRequested, RunRerunRequested)
"""Orders from outside that may be passed on, each time that they come: where they go to, the second does nothing."""
SOON_MS = 3_600_000


CLOSELY = 12
"""So many repetitions of a partition are looked at by themselves: what they change may not last until the end."""


def fold_with_repetitions(everything: Records, partition: int, partitions: int, rng: random.Random) -> View:
    """Some records come again a little later, as they were: they change nothing (I3)."""
    view = View(partition, partitions)
    again: list[tuple[int, int, bytes]] = []
    repeated, stride = 0, len(everything) // (5 * CLOSELY) + 1
    for offset, stamp_ms, raw in everything:
        record = decode(raw)
        source, n = record.from_ or (0, 0)
        gap = n > view.meta.inseq.get(source, 0) + 1
        fold(view, record, raw, offset, stamp_ms)
        # A fire that came early is refused, and so is what overtook another of its source. They count when they come
        # again: so it is meant.
        refused = gap or any(isinstance(act, Refused) for act in view.effects.acts)
        if rng.random() < 0.2 and (record.from_ is not None or isinstance(record, (*REPEATED, *PASSED_ON))):
            again += [] if refused else [(offset, view.at, raw)]
        while again and rng.random() < 0.3:
            first, at, copy = again.pop(rng.randrange(len(again)))
            if view.at < at + SOON_MS:
                repeated += 1
                _repeat(view, copy, first, closely=repeated % stride == 0)
        view.effects.acts.clear()
        view.effects.sends.clear()
    return view


def _repeat(view: View, raw: bytes, offset: int, *, closely: bool) -> None:
    before = view.logical() if closely else {}
    order, sent = decode(raw), dict(view.meta.outseq)
    fold(view, order, raw, offset, view.at)
    if isinstance(order, PASSED_ON):
        view.meta.outseq = sent
    if closely:
        after = view.logical()
        changed = [key for key in {*before, *after} if before.get(key) != after.get(key)]
        assert not changed, f"I3: partition {view.partition}: {raw!r} came again and changed {changed}"


class Batches:
    """A fold with checkpoints between any two records: some are written later than sealed, some end in a restart."""

    def __init__(self, everything: Records, partition: int, partitions: int, rng: random.Random, scratch: Log) -> None:
        self._partition, self._partitions = partition, partitions
        self._rng = rng
        scratch.drop_store(0)
        self._store = scratch.store(0)
        self._records = everything
        self._sealed: tuple[list[tuple[bytes, bytes]], list[bytes], list[bytes]] | None = None
        self._stands = (0, 0, 0)
        self._next = (0, 0, 0)
        self.view = self._open()

    def _open(self) -> View:
        """What the store holds; `_stands` is the index of the record after it, and the times there."""
        view = View(self._partition, self._partitions, self._store)
        _, view.at, view.stamp = self._stands
        return view

    def fold(self) -> View:
        index = 0
        while index < len(self._records):
            offset, stamp_ms, raw = self._records[index]
            fold(self.view, decode(raw), raw, offset, stamp_ms)
            self.view.effects.acts.clear()
            self.view.effects.sends.clear()
            index += 1
            chance = self._rng.random()
            if self._sealed is None and chance < 0.2:
                self._seal(index)
            elif self._sealed is not None and chance < 0.5:
                self._write()
            elif chance > 0.99:
                # Dies here, with what was sealed and not written: back to the checkpoint.
                self._sealed = None
                self.view = self._open()
                index = self._stands[0]
        return self.view

    def _seal(self, index: int) -> None:
        self._sealed = [], [], []
        self.view.seal(*self._sealed)
        self._next = index, self.view.at, self.view.stamp

    def _write(self) -> None:
        """As the checkpointer and the processor do it; which runs are resident is up to chance."""
        assert self._sealed is not None
        self._store.write(*self._sealed)
        self._sealed, self._stands = None, self._next
        for run in self.view.written():
            if self._rng.random() < 0.7 and self.view.runs.forget(run):
                self.view.lines.release(run)
