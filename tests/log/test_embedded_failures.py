"""Failures between the embedded log and RocksDB that no file system can be asked for: a flush that fails, a hole."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from perdure.errors import LogCorrupt, LogError, LogFull
from perdure.log.embedded import EmbeddedLog
from perdure.log.encoding import KEY
from tests.log.test_embedded_full import until
from tests.log.tools import Reading, read_all, write


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[EmbeddedLog]:
    log = EmbeddedLog(tmp_path / "log", 2)
    await log.open()
    yield log
    await log.close()


def fail_flushes(log: EmbeddedLog, monkeypatch: pytest.MonkeyPatch, times: int, message: str) -> None:
    """The first `times` flushes sync nothing and raise; the write before each of them is in the file."""
    real = log._flusher.flush
    left = times

    def flush(work: Callable[[bool], None]) -> None:
        nonlocal left

        def refuse(_: bool) -> None:
            raise OSError(message)

        left -= 1
        real(work if left < 0 else refuse)

    monkeypatch.setattr(log._flusher, "flush", flush)


@pytest.mark.parametrize(
    ("message", "error"),
    [("IO error: No space left on device: x.log", LogFull), ("IO error: Input/output error: x.log", LogError)],
)
async def test_a_flush_that_fails_is_made_again(
    log: EmbeddedLog, monkeypatch: pytest.MonkeyPatch, message: str, error: type[LogError]
) -> None:
    reading = Reading()
    log.follow(0, 0, reading)
    await write(log, [b"before"])
    log.store(0).write([(b"k", b"v")], [])
    fail_flushes(log, monkeypatch, 2, message)
    log.side("logs", 0, b"dropped, or kept at its place")
    with pytest.raises(error):
        await write(log, [b"a", b"b"])
    assert type(log.failure) is error
    assert log.end(0) == 1
    later = log.append(0, b"c")
    await until(lambda: log.failure is None)
    await log.acknowledge(later)
    assert await reading.until(4) == [b"before", b"a", b"b", b"c"]
    assert [value for _, value in read_all(log)] == [b"before", b"a", b"b", b"c"]
    assert log.store(0).get(b"k") == b"v"


async def test_after_a_failed_flush_a_shorter_database_is_refused(
    log: EmbeddedLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel may drop what it could not sync: then a checkpoint that the engine relies on is gone."""
    await write(log, [b"before"])
    fail_flushes(log, monkeypatch, 1, "IO error: Input/output error: x.log")
    monkeypatch.setattr(log._disk, "_expected", log._disk.sequence() + 100)
    with pytest.raises(LogError, match="Input/output"):
        await write(log, [b"a"])
    await until(lambda: isinstance(log.failure, LogCorrupt))
    ticket = log.append(0, b"b")
    with pytest.raises(LogCorrupt, match="writes are missing"):
        await log.acknowledge(ticket)
    with pytest.raises(LogCorrupt):
        log.store(0).write([(b"k", b"v")], [])
    await asyncio.sleep(0.3)  # and no attempt is made to go on
    assert isinstance(log.failure, LogCorrupt)


async def test_a_record_that_is_no_bytes_is_loud(log: EmbeddedLog) -> None:
    with pytest.raises(LogError, match="bytes"):
        await write(log, ["text"])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("row", [0, 1, 2])
async def test_a_hole_is_never_read_over(log: EmbeddedLog, row: int) -> None:
    """No way is known to make one: RocksDB's checksums, the mark and the look at the tails come before."""
    for index in range(3):
        await write(log, [b"%d" % index] * 2)
    log._disk.journal.delete(KEY.pack(0, 2 * row))
    reasons: list[Exception] = []
    reading = Reading()
    log.follow(0, 0, reading, failed=reasons.append)
    with pytest.raises(LogCorrupt, match=rf"record at offset {2 * row} of journal, partition 0, is missing"):
        read_all(log)
    with pytest.raises(LogCorrupt, match="missing"):
        log.read(0, 2 * row + 1)
    await until(lambda: bool(reasons))
    assert isinstance(reasons[0], LogCorrupt)
    assert reading.values == []


async def test_a_reader_outlives_a_disk_that_cannot_even_be_read(
    log: EmbeddedLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RocksDB's background error is cleared by opening it again, and on a full disk every way to do that may fail."""
    await write(log, [b"%d" % index for index in range(2_000)])

    def refuse(*_: object) -> None:
        raise LogFull("no room at all")

    gone: list[Exception] = []
    reading = Reading()
    with monkeypatch.context() as patch:
        patch.setattr(log._disk, "_connect", refuse)
        patch.setattr(log._disk, "open_read_only", refuse)
        fail_flushes(log, patch, 1, "IO error: No space left on device: x.log")
        with pytest.raises(LogFull):
            await write(log, [b"queued"])
        await until(lambda: not log._disk._open)
        with pytest.raises(LogFull, match="no room at all"):
            log.read(0, 0)
        log.follow(0, 0, reading, failed=gone.append)
        await asyncio.sleep(0.3)
    assert await reading.until(2_001) == [*(b"%d" % index for index in range(2_000)), b"queued"]
    assert not gone
