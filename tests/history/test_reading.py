"""What the projector meets in a log: gaps, other logs, records of newer code, stores that fail."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from pathlib import Path

import msgspec
import pytest

from perdure.flow.routing import partition_of_run, run_id
from perdure.history import projector
from perdure.history.projection import Writes
from perdure.history.projector import Projector
from perdure.history.rows import Changes, Standing
from perdure.history.sqlite import SqliteHistory
from perdure.history.store import RunQuery
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
from tests.history.tools import everything

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


async def caught_up(log: MemoryLog, path: Path) -> Projector:
    """Everything that is there now is read, and the store closed."""
    reading = Projector(log, SqliteHistory(path), retention_ms=None)
    await reading.open()
    try:
        await reading.catch_up()
    finally:
        await reading.close()
    return reading


def status_of(path: Path) -> dict[str, str]:
    history = SqliteHistory(path, writes=False)
    history.open()
    try:
        return {run.id: run.status for run in history.runs(RunQuery(limit=500)).runs}
    finally:
        history.close()


async def test_killed_before_any_transaction_it_comes_to_the_same(app_log: MemoryLog, tmp_path: Path) -> None:
    """It dies before, and right after, each of its transactions in turn."""
    for run in RUNS[:6]:
        await write(app_log, *lived(run))
    await caught_up(app_log, tmp_path / "whole.db")
    whole = everything(tmp_path / "whole.db")
    assert len(whole["runs"]) == 6

    class Mortal(SqliteHistory):
        left = 0
        after = False

        def write(self, partition: int, changes: Changes, state: Writes, standing: Standing) -> None:
            if self.left == 0 and not self.after:
                raise KeyboardInterrupt
            super().write(partition, changes, state, standing)
            if self.left == 0:
                raise KeyboardInterrupt
            self.left -= 1

    small = pytest.MonkeyPatch()
    small.setattr(projector, "SLICE_BYTES", 1)
    try:
        for number in range(4):
            for after in (False, True):
                path = tmp_path / f"{number}{after}.db"
                store = Mortal(path)
                store.left, store.after = number, after
                dying = Projector(app_log, store)
                await dying.open()
                with pytest.raises(KeyboardInterrupt):
                    await dying.catch_up()
                await dying.close()
                await caught_up(app_log, path)
                assert everything(path) == whole
    finally:
        small.undo()


async def test_what_was_trimmed_is_skipped_and_said(
    app_log: MemoryLog, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What another partition sends goes on with higher numbers; who owns the partition is not known any more."""
    path = tmp_path / "h.db"
    await write(app_log, *lived(RUNS[0], n=1), requested(RUNS[1], n=2))
    await caught_up(app_log, path)
    gone = [requested(RUNS[2], n=3), RunFinished(RUNS[1], "completed", v=V)]
    await write(app_log, *gone)
    await app_log.trim(0, app_log.end(0))
    opinion = RunParked(RUNS[4], Owner(7, "t"), "c", "differs", v=V)
    timeout = TimerFired(RUNS[5], "timeout", app_log.end(0) + 5, v=V)
    await write(app_log, *lived(RUNS[3], n=4), requested(RUNS[4], n=5), requested(RUNS[5], n=6), opinion, timeout)
    with caplog.at_level(logging.WARNING, "perdure.history"):
        await caught_up(app_log, path)
    assert "partition 0: records 5 to 6 were trimmed before history read them" in caplog.text
    assert status_of(path) == {
        RUNS[0]: "completed", RUNS[1]: "running", RUNS[3]: "completed", RUNS[4]: "parked", RUNS[5]: "failed",
    }  # fmt: skip
    history = SqliteHistory(path, writes=False)
    history.open()
    pages = {run: history.run(run) for run in (RUNS[0], RUNS[1], RUNS[3])}
    history.close()
    assert {run: page is not None and page.blind for run, page in pages.items()} == {
        RUNS[0]: False, RUNS[1]: True, RUNS[3]: False,
    }  # fmt: skip


async def test_runs_after_a_gap_are_as_if_there_were_none(app_log: MemoryLog, tmp_path: Path) -> None:
    for number, run in enumerate(RUNS[:6], 1):
        await write(app_log, *lived(run, n=number))
    await caught_up(app_log, tmp_path / "whole.db")
    await app_log.trim(0, 8)
    await caught_up(app_log, tmp_path / "late.db")
    whole, late = everything(tmp_path / "whole.db"), everything(tmp_path / "late.db")
    for name in ("runs", "data", "ops", "marks", "metadata"):
        assert [row for row in whole[name] if row[0] in RUNS[2:6]] == late[name]


async def test_another_log_is_read_from_its_beginning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "h.db"
    for run in RUNS[:2]:
        log = MemoryLog(2)
        await log.open()
        await write(log, *lived(run)[: 4 if run == RUNS[0] else 2])
        await caught_up(log, path)
        await log.close()
    assert "it is another log" in caplog.text
    assert status_of(path) == {RUNS[1]: "running"}


async def test_a_record_of_newer_code_stops_its_partition_alone(
    app_log: MemoryLog, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What came before it is there, and what other partitions have."""
    path = tmp_path / "h.db"
    await write(app_log, *lived(RUNS[0]))
    app_log.append(0, b'{"kind":"run.blessed","v":9,"run":"x"}')
    await write(app_log, *lived(RUNS[1]))
    event = EventReceived(EventBody("e1", "x", msgspec.Raw(b"{}")), v=V)
    await app_log.acknowledge(app_log.append(1, _ENCODE(event)))
    reading = await caught_up(app_log, path)
    assert list(reading.halted) == [0]
    assert "stands still until newer code runs" in caplog.text
    assert status_of(path) == {RUNS[0]: "completed"}
    assert [row[0] for row in everything(path)["events"]] == ["e1"]


async def test_it_goes_on_after_its_store_failed(
    app_log: MemoryLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A full disk, say. Meanwhile the engine does not notice."""
    monkeypatch.setattr(projector, "AGAIN_S", 0.01)
    monkeypatch.setattr(projector, "IDLE_S", 0.01)
    path = tmp_path / "h.db"
    store = SqliteHistory(path)
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
    while store.standing(0).offset < app_log.end(0):
        await asyncio.sleep(0.01)
    reading.stop()
    await running
    await reading.close()
    assert "history stands still (OSError: no space left): trying again" in caplog.text
    assert status_of(path) == {RUNS[0]: "completed", RUNS[1]: "completed"}


async def test_the_loop_turns_while_a_transaction_lasts(app_log: MemoryLog, tmp_path: Path) -> None:
    turned, loop = asyncio.Event(), asyncio.get_running_loop()

    class Slow(SqliteHistory):
        def write(self, partition: int, changes: Changes, state: Writes, standing: Standing) -> None:
            asyncio.run_coroutine_threadsafe(_set(turned), loop).result()
            super().write(partition, changes, state, standing)

    store = Slow(tmp_path / "h.db")
    reading = Projector(app_log, store)
    await reading.open()
    await write(app_log, *lived(RUNS[0]))
    await reading.catch_up()
    await reading.close()
    assert turned.is_set()


async def _set(event: asyncio.Event) -> None:
    event.set()


async def test_what_is_over_for_long_goes(app_log: MemoryLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs stays, whatever its age."""
    path = tmp_path / "h.db"
    event = EventReceived(EventBody("e1", "x", msgspec.Raw(b"{}")), v=V)
    await write(app_log, *lived(RUNS[0]), requested(RUNS[1]), event)
    now = app_log.now_ms()
    monkeypatch.setattr(app_log, "now_ms", lambda: now + 100_000)
    reading = Projector(app_log, SqliteHistory(path), retention_ms=50_000)
    await reading.open()
    await reading.catch_up()
    await reading.close()
    rows = everything(path)
    assert status_of(path) == {RUNS[1]: "running"}
    assert [len(rows[name]) for name in ("data", "metadata", "ops", "marks", "events", "uses")] == [1, 1, 0, 0, 0, 0]
