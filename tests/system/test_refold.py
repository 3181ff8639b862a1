"""I2: what the engine keeps equals a fold of its log from the first record, in any batching; I7, I8 beside it.

The logs are those of all examples and of random programs, with crashes after random records. More programs:

    PERDURE_PROGRAMS=500 python -m pytest tests/system/test_refold.py
"""

import os
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

import examples.contacts_import
import examples.digest
import examples.lost_customers
import examples.onboarding
import examples.order_saga
from examples.contacts_import import REVIEWED, UPLOADED, Review, Upload
from examples.onboarding import Signup, onboard
from examples.order_saga import PLACED, Order, fulfil
from perdure import App, Function
from perdure.flow import decode, fold
from perdure.flow.states import TERMINAL, RunState
from perdure.flow.view import View
from perdure.log.embedded import EmbeddedLog
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
from tests.system.folding import assert_all_arrived, assert_same, check_store, fold_again, records
from tests.system.programs import KEYS, make_app, random_program

PROGRAMS = int(os.environ.get("PERDURE_PROGRAMS", "16"))
FIRST = int(os.environ.get("PERDURE_SEED", "0"))
Scenario = Callable[[TestEngine], Awaitable[object]]


@pytest.fixture(autouse=True)
def databases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The examples keep their data here."""
    monkeypatch.setenv("CONTACTS_DB", str(tmp_path / "contacts.db"))
    monkeypatch.setenv("ORDERS_DB", str(tmp_path / "orders.db"))
    monkeypatch.setenv("ONBOARDING_DATA", str(tmp_path / "onboarding"))


def check_refold(engine: TestEngine, rng: random.Random, scratch: Log | None = None) -> None:
    """The live state, the checkpoint, and folds in batches, each against one fold of it all.

    `scratch`: a log whose first store the folds in batches may use; one in memory otherwise.
    """
    assert_all_arrived([processor.view for processor in engine.node.processors])
    for processor in engine.node.processors:
        partition, log = processor.partition, engine.log
        assert not processor.halted
        assert processor.offset == log.end(partition)
        again = fold_again(log, partition)
        assert_same(processor.view, again.view, f"partition {partition}, as it lives")
        check_store(log, partition)
        batched = Batches(log, partition, rng, scratch or MemoryLog(1)).fold()
        assert_same(batched, again.view, f"partition {partition}, in batches")
        repeated = fold_with_repetitions(log, partition, rng)
        assert_same(repeated, again.view, f"I3: partition {partition}, with repetitions")
        counts = processor.records
        assert counts["read"] == counts["folded"] + counts["ignored"], "I8"


REPEATED = (
    *(EventReceived, RunRequested, RunErrored, RunFinished, StepCompleted, StepFailed),
    *(OpOpened, OpClosed, TimerFired, CronScheduled, OwnerStarted, OwnerReleased),
)
"""What user code, outsiders, timers and owners may write twice. Whatever has a number is ignored by that."""
PASSED_ON = (RunCancelRequested, RunRerunRequested)
"""Orders from outside that may be passed on, each time that they come: where they go to, the second does nothing."""
SOON_MS = 3_600_000


def fold_with_repetitions(log: Log, partition: int, rng: random.Random) -> View:
    """Some records come again a little later, as they were: they change nothing (I3)."""
    view = View(partition, log.partitions)
    again: list[tuple[int, int, bytes]] = []
    for offset, stamp_ms, raw in records(log, partition):
        record = decode(raw)
        fold(view, record, raw, offset, stamp_ms)
        if rng.random() < 0.2 and (record.from_ is not None or isinstance(record, (*REPEATED, *PASSED_ON))):
            again.append((offset, view.at, raw))
        while again and rng.random() < 0.3:
            first, at, copy = again.pop(rng.randrange(len(again)))
            if view.at < at + SOON_MS:
                order, sent = decode(copy), dict(view.meta.outseq)
                fold(view, order, copy, first, view.at)
                if isinstance(order, PASSED_ON):
                    view.meta.outseq = sent
        view.effects.acts.clear()
        view.effects.sends.clear()
    return view


class Batches:
    """A fold with checkpoints between any two records: some are written later than sealed, some end in a restart."""

    def __init__(self, log: Log, partition: int, rng: random.Random, scratch: Log) -> None:
        self._log = log
        self._partition = partition
        self._rng = rng
        scratch.drop_store(0)
        self._store = scratch.store(0)
        self._records = list(records(log, partition))
        self._sealed: tuple[list[tuple[bytes, bytes]], list[bytes], list[bytes]] | None = None
        self._stands = (0, 0, 0)
        self._next = (0, 0, 0)
        self.view = self._open()

    def _open(self) -> View:
        """What the store holds; `_stands` is the index of the record after it, and the times there."""
        view = View(self._partition, self._log.partitions, self._store)
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


# The examples


async def test_lost_customers(tmp_path: Path) -> None:
    async def scenario(engine: TestEngine) -> None:
        for name in ("ada", "bob", "cleo"):
            user = {"email": f"{name}@x.org"}
            await engine.send("cart/product.added", {"cart_id": name}, id=f"added-{name}", user=user)
        await engine.advance("6h")
        await engine.send("cart/purchased", {"cart_id": "ada"}, id="bought-ada")
        await engine.send("cart/product.added", {"cart_id": "cleo"}, id="added-more", user={"email": "cleo@x.org"})
        await engine.finish()
        await engine.advance("3d")

    await with_crashes(examples.lost_customers.app, scenario, tmp_path)


async def test_digest(tmp_path: Path) -> None:
    async def scenario(engine: TestEngine) -> None:
        await engine.advance("4d")

    await with_crashes(examples.digest.app, scenario, tmp_path)


async def test_contacts_import(tmp_path: Path) -> None:
    table = Path(examples.contacts_import.__file__).parent / "data" / "airports.csv"
    lines = table.read_text(encoding="utf-8").splitlines()

    async def scenario(engine: TestEngine) -> None:
        for name, approved in (("u1", True), ("u2", False), ("u3", None)):
            path = tmp_path / name
            path.write_text("\n".join(lines[:60] + ["BAD,Beyond the pole,A,B,C,91,0"] * (name == "u1")) + "\n")
            await engine.send(UPLOADED(Upload(name, str(path)), id=name, user={"id": "ada"}))
            if approved is not None:
                await engine.send(REVIEWED(Review(name, approved=approved), id=f"review-{name}"))
        await engine.finish()

    await with_crashes(examples.contacts_import.app, scenario, tmp_path)


async def test_order_saga(tmp_path: Path) -> None:
    async def scenario(engine: TestEngine) -> None:
        await engine.send(PLACED(Order("tea", 900), id="tea"))
        await engine.send(PLACED(Order("piano", 900_000), id="piano"))
        examples.order_saga.warehouse.closed = True
        await engine.send(PLACED(Order("cup", 1_500), id="cup"))
        await engine.send(PLACED(Order("kettle", 4_000), id="kettle"))
        for handle in await engine.runs(fulfil, event_id="cup"):
            await handle.cancel()
        await engine.finish()

    await with_crashes(examples.order_saga.app, scenario, tmp_path)


async def test_onboarding(tmp_path: Path) -> None:
    async def scenario(engine: TestEngine) -> None:
        for number, company in enumerate(("acme", "unknown", "acme")):
            user = Signup(email=f"u{number}@x.org", company=company, team=["bob@x.org", "cleo@x.org"])
            run = await onboard.options(idempotency_key=user.email).enqueue(user)
            if number == 2:
                await run.cancel()
        await engine.finish()

    await with_crashes(examples.onboarding.app, scenario, tmp_path)


async def with_crashes(app: App, scenario: Scenario, folder: Path) -> None:
    """The scenario in one piece, then a few times with crashes after random records.

    The folds in batches are kept in RocksDB, those of random programs in memory.
    """
    for seed in range(4):
        rng = random.Random(seed)
        async with TestEngine(app, evict=seed % 2 == 1) as engine:
            if seed:
                engine.log.on_append = lambda record, rng=rng: rng.random() < 0.03
            await scenario(engine)
            engine.log.on_append = None
            await engine.settle()
            scratch = EmbeddedLog(folder / f"scratch{seed}", 1)
            await scratch.open()
            check_refold(engine, rng, scratch)
            await scratch.close()


# Random programs


@pytest.mark.parametrize("seed", range(FIRST, FIRST + PROGRAMS))
async def test_random_programs(seed: int) -> None:
    rng = random.Random(seed)
    async with TestEngine(make_app(), evict=rng.random() < 0.3) as engine:
        crashing = rng.choice((0.0, 0.002, 0.02))
        engine.log.on_append = lambda record: rng.random() < crashing
        for _ in range(rng.randint(5, 20)):
            await one_move(engine, rng)
        engine.log.on_append = None
        await engine.finish(within="2h")
        check_refold(engine, rng)
        await engine.crash()
        check_refold(engine, rng)
        await engine.finish()
        check_refold(engine, rng)
        parked = [state.parked.message for state in all_runs(engine) if state.parked is not None]
        assert not parked, f"I16: {parked}"
        left = [state for state in all_runs(engine) if state.status not in TERMINAL]
        assert not left, f"I14: {left}"
        await engine.advance("4000d")  # a test engine keeps for ten years what has ended
        await nothing_is_left(engine)
        check_refold(engine, rng)


async def nothing_is_left(engine: TestEngine) -> None:
    """I14: beyond the window a partition keeps nothing of what has ended. Log time passes with what is appended."""
    for n in range(60):
        await engine.send("late", {}, id=f"late-{n}")
    for processor in engine.node.processors:
        left = [key for key in processor.view.logical() if not key.startswith(("at", "#", "d/", "e/late-"))]
        left = [key for key in left if "late-" not in key]
        assert not left, f"I14: {left}"


def all_runs(engine: TestEngine) -> list[RunState]:
    return [state for processor in engine.node.processors for _, state in processor.view.runs.items()]


async def one_move(engine: TestEngine, rng: random.Random) -> None:
    """Something from outside."""
    play, begun = engine.app.functions["play"], engine.app.functions["begun"]
    move = rng.random()
    if move < 0.25:
        await play.enqueue(random_program(rng, rng.choice((1, 3, 8, 12, 30))))
    elif move < 0.5:
        data = {"k": rng.randrange(KEYS), "again": rng.randrange(3), "program": random_program(rng, rng.randint(1, 8))}
        # An id may come again: the second one changes nothing.
        await engine.send("begin", data, id=f"begin-{rng.randrange(12)}")
    elif move < 0.7:
        await engine.send("go", {"k": rng.randrange(KEYS), "n": rng.randrange(5)})
    elif move < 0.75:
        await engine.send("stop", {"k": rng.randrange(KEYS)})
    elif move < 0.9:
        await engine.advance(rng.choice(("1ms", "1s", "2m", "1h")))
    elif move < 0.94:
        await engine.crash()
    elif move < 0.96:
        # Other code after the crash, or the same again, or code that was there before.
        engine.app = make_app(rng.randrange(3))
        await engine.crash()
    else:
        await meddle(engine, rng, rng.choice((play, begun)))


async def meddle(engine: TestEngine, rng: random.Random, function: Function[..., Any]) -> None:
    """Cancel or run again what there is."""
    runs = await engine.runs(function)
    if runs:
        run = rng.choice(sorted(runs, key=lambda one: one.id))
        await (run.cancel() if rng.random() < 0.5 else run.rerun())
        await engine.settle()
