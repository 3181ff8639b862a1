"""What the projector meets in a log: gaps, other logs, records of newer code, stores that fail."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from operator import methodcaller

import msgspec
import pytest

from perdure.flow.routing import partition_of_run, run_id
from perdure.history import projector
from perdure.history.projection import Writes
from perdure.history.projector import Projector
from perdure.history.rows import Changes, Standing
from perdure.history.store import History, RunQuery
from perdure.log.memory import MemoryLog
from perdure_schemas.event import EventBody
from perdure_schemas.payload import ErrorInfo, Payload
from perdure_schemas.records import (
    EventReceived,
    Owner,
    Record,
    RunFinished,
    RunParked,
    RunRequested,
    StepCompleted,
    StepFailed,
    TimerFired,
    V,
)
from tests.history.tools import Shelf

_ENCODE = msgspec.json.Encoder().encode
RUNS = [run for number in range(200) if partition_of_run(run := run_id("r", str(number)), 2) == 0]
"""Of partition 0."""


def payload(value: object) -> Payload:
    return Payload(msgspec.Raw(_ENCODE(value)))


def requested(run: str, *, n: int | None = None) -> RunRequested:
    sent = None if n is None else (1, n)
    return RunRequested(run, "ship", "enqueue", arguments=payload([[1], {}]), metadata={"t": "a"}, from_=sent, v=V)


def lived(run: str, *, n: int | None = None) -> list[Record]:
    """A run from its request to its end."""
    return [
        requested(run, n=n),
        StepFailed(run, "0/a#1", 1, "d", ErrorInfo("E", "no"), 0, took_us=5_000, v=V),
        StepCompleted(run, "0/b#1", 1, "d", payload("b"), took_us=7_000, v=V),
        RunFinished(run, "completed", payload(1), v=V),
    ]


@pytest.fixture
async def app_log() -> AsyncGenerator[MemoryLog]:
    log = MemoryLog(2)
    await log.open()
    yield log
    await log.close()


async def write(log: MemoryLog, *records: Record) -> None:
    tickets = [log.append(0, _ENCODE(record)) for record in records]
    await log.acknowledge(max(tickets))


async def caught_up(log: MemoryLog, shelf: Shelf, name: str = "h") -> Projector:
    """Everything that is there now is read, and the store closed."""
    reading = Projector(log, shelf.of(name), retention_ms=None)
    await reading.open()
    try:
        await reading.catch_up()
    finally:
        await reading.close()
    return reading


def status_of(shelf: Shelf) -> dict[str, str]:
    page = shelf.asked("h", lambda history: history.runs(RunQuery(limit=500)))
    return {run.id: run.status for run in page.runs}


async def test_killed_before_any_transaction_it_comes_to_the_same(
    app_log: MemoryLog, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It dies before, and right after, each of its transactions in turn."""
    for run in RUNS[:6]:
        await write(app_log, *lived(run))
    await caught_up(app_log, shelf, "whole")
    whole = shelf.everything("whole")
    assert len(whole["runs"]) == 6
    monkeypatch.setattr(projector, "SLICE_BYTES", 1)
    for number in range(4):
        for after in (False, True):
            name = f"{number}{after}".lower()
            store = shelf.of(name)
            monkeypatch.setattr(store, "write", mortal(store, number, after=after))
            dying = Projector(app_log, store)
            await dying.open()
            with pytest.raises(KeyboardInterrupt):
                await dying.catch_up()
            await dying.close()
            await caught_up(app_log, shelf, name)
            assert shelf.everything(name) == whole


def mortal(store: History, lives: int, *, after: bool) -> Callable[[int, Changes, Writes, Standing], None]:
    """`write`, at which somebody dies after so many; before or after the last."""
    write_rows, left = store.write, lives

    def write(partition: int, changes: Changes, state: Writes, standing: Standing) -> None:
        nonlocal left
        if left == 0 and not after:
            raise KeyboardInterrupt
        write_rows(partition, changes, state, standing)
        if left == 0:
            raise KeyboardInterrupt
        left -= 1

    return write


async def test_what_was_trimmed_is_skipped_and_said(
    app_log: MemoryLog, shelf: Shelf, caplog: pytest.LogCaptureFixture
) -> None:
    """What another partition sends goes on with higher numbers; who owns the partition is not known any more."""
    await write(app_log, *lived(RUNS[0], n=1), requested(RUNS[1], n=2))
    await caught_up(app_log, shelf)
    gone = [requested(RUNS[2], n=3), RunFinished(RUNS[1], "completed", v=V)]
    await write(app_log, *gone)
    await app_log.trim(0, app_log.end(0))
    opinion = RunParked(RUNS[4], Owner(7, "t"), "c", "differs", v=V)
    timeout = TimerFired(RUNS[5], "timeout", app_log.end(0) + 5, v=V)
    await write(app_log, *lived(RUNS[3], n=4), requested(RUNS[4], n=5), requested(RUNS[5], n=6), opinion, timeout)
    with caplog.at_level(logging.WARNING, "perdure.history"):
        await caught_up(app_log, shelf)
    assert "partition 0: records 5 to 6 were trimmed before history read them" in caplog.text
    assert status_of(shelf) == {
        RUNS[0]: "completed", RUNS[1]: "running", RUNS[3]: "completed", RUNS[4]: "parked", RUNS[5]: "failed",
    }  # fmt: skip
    pages = {run: shelf.asked("h", methodcaller("run", run)) for run in (RUNS[0], RUNS[1], RUNS[3])}
    assert {run: page is not None and page.blind for run, page in pages.items()} == {
        RUNS[0]: False, RUNS[1]: True, RUNS[3]: False,
    }  # fmt: skip


async def test_runs_after_a_gap_are_as_if_there_were_none(app_log: MemoryLog, shelf: Shelf) -> None:
    for number, run in enumerate(RUNS[:6], 1):
        await write(app_log, *lived(run, n=number))
    await caught_up(app_log, shelf, "whole")
    await app_log.trim(0, 8)
    await caught_up(app_log, shelf, "late")
    whole, late = shelf.everything("whole"), shelf.everything("late")
    for name in ("runs", "data", "ops", "marks", "metadata"):
        assert [row for row in whole[name] if row[0] in RUNS[2:6]] == late[name]


async def test_another_log_is_read_from_its_beginning(shelf: Shelf, caplog: pytest.LogCaptureFixture) -> None:
    for run in RUNS[:2]:
        log = MemoryLog(2)
        await log.open()
        await write(log, *lived(run)[: 4 if run == RUNS[0] else 2])
        await caught_up(log, shelf)
        await log.close()
    assert "it is another log" in caplog.text
    assert status_of(shelf) == {RUNS[1]: "running"}


async def test_a_record_of_newer_code_stops_its_partition_alone(
    app_log: MemoryLog, shelf: Shelf, caplog: pytest.LogCaptureFixture
) -> None:
    """What came before it is there, and what other partitions have."""
    await write(app_log, *lived(RUNS[0]))
    app_log.append(0, b'{"kind":"run.blessed","v":9,"run":"x"}')
    await write(app_log, *lived(RUNS[1]))
    event = EventReceived(EventBody("e1", "x", msgspec.Raw(b"{}")), v=V)
    await app_log.acknowledge(app_log.append(1, _ENCODE(event)))
    reading = await caught_up(app_log, shelf)
    assert list(reading.halted) == [0]
    assert "stands still until newer code runs" in caplog.text
    assert status_of(shelf) == {RUNS[0]: "completed"}
    assert [row[0] for row in shelf.everything()["events"]] == ["e1"]


async def test_it_goes_on_after_its_store_failed(
    app_log: MemoryLog, shelf: Shelf, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A full disk, say. Meanwhile the engine does not notice."""
    monkeypatch.setattr(projector, "AGAIN_S", 0.01)
    monkeypatch.setattr(projector, "IDLE_S", 0.01)
    store = shelf.of()
    failures = 3
    write_rows = store.write

    def failing(partition: int, changes: Changes, state: Writes, standing: Standing) -> None:
        nonlocal failures
        failures -= 1
        if failures >= 0:
            raise OSError("no space left")
        write_rows(partition, changes, state, standing)

    monkeypatch.setattr(store, "write", failing)
    reading = Projector(app_log, store)
    await reading.open()
    running = asyncio.create_task(reading.run())
    await write(app_log, *lived(RUNS[0]))
    while failures > -1:
        await asyncio.sleep(0.01)
    await write(app_log, *lived(RUNS[1]))
    while reading._written.get(0) != app_log.end(0):
        await asyncio.sleep(0.01)
    reading.stop()
    await running
    await reading.close()
    assert "history stands still (OSError: no space left)" in caplog.text
    assert status_of(shelf) == {RUNS[0]: "completed", RUNS[1]: "completed"}


async def test_the_loop_turns_while_a_transaction_lasts(
    app_log: MemoryLog, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    turned, loop = asyncio.Event(), asyncio.get_running_loop()

    store = shelf.of()
    write_rows = store.write

    def slow(partition: int, changes: Changes, state: Writes, standing: Standing) -> None:
        asyncio.run_coroutine_threadsafe(_set(turned), loop).result()
        write_rows(partition, changes, state, standing)

    monkeypatch.setattr(store, "write", slow)
    reading = Projector(app_log, store)
    await reading.open()
    await write(app_log, *lived(RUNS[0]))
    await reading.catch_up()
    await reading.close()
    assert turned.is_set()


async def _set(event: asyncio.Event) -> None:
    event.set()


async def test_batches_of_any_length_are_read_in_parts(app_log: MemoryLog, shelf: Shelf) -> None:
    await write(app_log, *(record for run in RUNS[:20] for record in lived(run)))
    assert len((await app_log.fetch(0, 0))[0].values) > projector.AT_ONCE
    await caught_up(app_log, shelf)
    assert status_of(shelf) == dict.fromkeys(RUNS[:20], "completed")


async def test_what_is_over_for_long_goes(app_log: MemoryLog, shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs stays, whatever its age."""
    event = EventReceived(EventBody("e1", "x", msgspec.Raw(b"{}")), v=V)
    await write(app_log, *lived(RUNS[0]), requested(RUNS[1]), event)
    now = app_log.now_ms()
    monkeypatch.setattr(app_log, "now_ms", lambda: now + 100_000)
    reading = Projector(app_log, shelf.of(), retention_ms=50_000)
    await reading.open()
    await reading.catch_up()
    await reading.close()
    rows = shelf.everything()
    assert status_of(shelf) == {RUNS[1]: "running"}
    assert [len(rows[name]) for name in ("data", "metadata", "ops", "marks", "events", "uses")] == [1, 1, 0, 0, 0, 0]
