"""A disk that is really full: writes are refused, reads are served, and work resumes by itself, in order."""

import asyncio
import os
import resource
from collections.abc import Callable
from pathlib import Path

import pytest

from perdure.errors import LogCorrupt, LogFull
from perdure.log.embedded import EmbeddedLog
from perdure.log.protocol import Store
from tests.evidence.small_disk import SmallDisk, disk
from tests.log.tools import Reading, read_all, write

RECORD = b"." * 1_000

__all__ = ["disk"]


def numbered(begin: int, end: int) -> list[bytes]:
    return [b"%06d" % index + RECORD for index in range(begin, end)]


async def append_until_full(log: EmbeddedLog, begin: int) -> int:
    """One past the number of the last record that was queued."""
    while True:
        try:
            await write(log, numbered(begin, begin + 100))
        except LogFull:
            return begin + 100
        begin += 100


def fill_store(store: Store) -> int:
    """Write until it is refused; how many keys are stored."""
    for number in range(10_000):
        try:
            store.write([(b"%06d" % number, os.urandom(10_000))], [])
        except LogFull:
            return number
    raise AssertionError("the disk was never full")


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


async def test_writes_are_refused_reads_are_served_and_work_resumes(disk: SmallDisk) -> None:
    log = EmbeddedLog(disk.path / "log", 2)
    await log.open()
    reading = Reading()
    log.follow(0, 0, reading)
    store = log.store(0)
    store.write([(b"k", b"0")], [])
    queued = 0
    for cycle in range(3):
        disk.fill(leave=1 << 20)
        queued = await append_until_full(log, queued)
        assert isinstance(log.failure, LogFull)
        assert "Make room, and work goes on by itself" in str(log.failure)

        # Refused: what asks to be told, and what must be stored now. Kept: what is queued.
        end = log.end(0)
        ticket = 0
        for record in numbered(queued, queued + 50):
            ticket = log.append(0, record)
        queued += 50
        log.side("logs", 0, b"dropped")
        with pytest.raises(LogFull):
            await log.acknowledge(ticket)
        with pytest.raises(LogFull):
            store.write([(b"k", b"lost")], [])
        await asyncio.sleep(0.3)  # some attempts to resume go by
        assert isinstance(log.failure, LogFull)

        # Served.
        assert log.end(0) == end
        assert [value for _, value in read_all(log)] == numbered(0, end)
        late = Reading()
        log.follow(0, end - 10, late)
        assert await late.until(10) == numbered(end - 10, end)
        assert store.get(b"k") == b"%d" % cycle

        disk.free()
        await until(lambda: log.failure is None)
        await log.acknowledge(ticket)
        store.write([(b"k", b"%d" % (cycle + 1))], [])
        assert await reading.until(queued) == numbered(0, queued)
        assert [value for _, value in read_all(log)] == numbered(0, queued)
        assert (await late.until(queued - end + 10))[10:] == numbered(end, queued)
    assert await log.read_side("logs", 0, 0) == []
    await log.close()
    await log.open()
    assert [value for _, value in read_all(log)] == numbered(0, queued)
    assert log.store(0).get(b"k") == b"3"
    await log.close()


async def test_a_full_disk_at_the_end_and_at_the_beginning(disk: SmallDisk) -> None:
    log = EmbeddedLog(disk.path / "log", 2)
    await log.open()
    disk.fill(leave=1 << 20)
    queued = await append_until_full(log, 0)
    end = log.end(0)
    await log.close()
    disk.fill(leave=0)
    await log.open()
    assert isinstance(log.failure, LogFull)
    assert log.end(0) == end
    assert [value for _, value in read_all(log)] == numbered(0, end)
    ticket = log.append(0, b"later")
    with pytest.raises(LogFull):
        await log.acknowledge(ticket)
    disk.free()
    await until(lambda: log.failure is None)
    await log.acknowledge(ticket)
    assert [value for _, value in read_all(log)] == [*numbered(0, end), b"later"]
    assert end < queued
    await log.close()


async def test_a_disk_too_full_to_reopen(disk: SmallDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Free space may be a promise that is not kept, with a quota: then recovery itself fails, and reading goes on."""
    log = EmbeddedLog(disk.path / "log", 2)
    await log.open()
    # Closing and opening leaves tables and an empty WAL: recovery has to write what is not there yet.
    await write(log, [os.urandom(4_000_000)])
    disk.fill(leave=1 << 20)
    queued = await append_until_full(log, 0)
    end = log.end(0)
    disk.fill(leave=0)
    with monkeypatch.context() as patch:
        patch.setattr(log._disk, "_has_room", lambda: True)
        await asyncio.sleep(2)
        assert isinstance(log.failure, LogFull)
        assert "no room yet" not in str(log.failure)
        assert [value for _, value in read_all(log)][1:] == numbered(0, end - 1)
    disk.free()
    await until(lambda: log.failure is None)
    await write(log, [b"last"])
    assert [value for _, value in read_all(log)][1:] == [*numbered(0, queued), b"last"]
    await log.close()


async def test_a_store_that_meets_the_full_disk_first(disk: SmallDisk) -> None:
    log = EmbeddedLog(disk.path / "log", 2)
    await log.open()
    store = log.store(1)
    disk.fill(leave=1 << 20)
    written = fill_store(store)
    assert isinstance(log.failure, LogFull)
    assert len(store.scan(b"")) == written
    ticket = log.append(0, b"queued")
    disk.free()
    await until(lambda: log.failure is None)
    await log.acknowledge(ticket)
    assert len(store.scan(b"")) == written
    await log.close()


async def test_a_store_that_fails_while_a_flush_is_under_way(disk: SmallDisk) -> None:
    log = EmbeddedLog(disk.path / "log", 2)
    await log.open()
    disk.fill(leave=1 << 20)
    reading = Reading()
    log.follow(0, 0, reading)
    ticket = log.append(0, b"in flight")
    await asyncio.sleep(0)
    await asyncio.sleep(0)  # written now, its flush is on its way
    fill_store(log.store(0))
    later = log.append(0, b"behind it")
    assert log.acknowledged < ticket < later
    disk.free()
    await until(lambda: log.failure is None)
    await log.acknowledge(later)
    assert await reading.until(2) == [b"in flight", b"behind it"]
    await log.close()


async def test_close_makes_a_last_attempt(disk: SmallDisk) -> None:
    log = EmbeddedLog(disk.path / "log", 2)
    await log.open()
    disk.fill(leave=1 << 20)
    queued = await append_until_full(log, 0)
    disk.free()
    await log.close()
    await log.open()
    assert [value for _, value in read_all(log)] == numbered(0, queued)
    await log.close()


async def test_a_file_that_may_not_grow(tmp_path: Path) -> None:
    """The same without root: a limit on the size of files ends the WAL, and a new one goes on."""
    log = EmbeddedLog(tmp_path, 1)
    await log.open()
    reading = Reading()
    log.follow(0, 0, reading)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        queued = await append_until_full(log, 0)
        await until(lambda: log.failure is None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    await write(log, numbered(queued, queued + 100))
    assert await reading.until(queued + 100) == numbered(0, queued + 100)
    await log.close()


async def test_a_disk_that_goes_away_while_it_is_full(disk: SmallDisk) -> None:
    log = EmbeddedLog(disk.path / "log", 2)
    await log.open()
    try:
        await append_until_full(log, 0)
        (disk.path / "log" / "db").rename(disk.path / "gone")
        await until(lambda: isinstance(log.failure, LogCorrupt))
    finally:
        await log.close()
