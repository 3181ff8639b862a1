"""Where a flush runs: on the flusher's thread, or on the loop's while the disk is quick."""

import asyncio
import contextvars
import threading
from collections.abc import AsyncIterator

import pytest

from perdure.log.flusher import QUICK_IN_A_ROW, QUICK_NS, Flusher

MARK: contextvars.ContextVar[bool] = contextvars.ContextVar("mark", default=False)


class Disk:
    """Flushes that take as long as they are told, and where each ran."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.takes_ns = QUICK_NS
        self.error: Exception | None = None
        self.threads: list[int] = []
        self.ended: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        self.flusher = Flusher(asyncio.get_running_loop(), self.done, lambda: self.now_ns)

    def sync(self, wait: bool) -> None:
        assert wait
        self.threads.append(threading.get_ident())
        self.now_ns += self.takes_ns
        if self.error is not None:
            raise self.error

    def done(self, error: Exception | None) -> None:
        assert threading.get_ident() == threading.main_thread().ident
        assert not MARK.get(), "the run that appended does not own what the flush resumes"
        self.ended.set_result(error)

    async def flush(self, times: int = 1) -> bool:
        """Whether the last one ran on the loop's thread."""
        for _ in range(times):
            self.ended = asyncio.get_running_loop().create_future()
            self.flusher.flush(self.sync)
            assert not self.ended.done(), "never before `flush` has returned"
            assert await self.ended is self.error
        return self.threads[-1] == threading.get_ident()


@pytest.fixture
async def disk() -> AsyncIterator[Disk]:
    disk = Disk()
    MARK.set(True)
    yield disk
    disk.flusher.stop()


async def test_a_disk_that_has_been_quick_for_a_while_is_flushed_by_the_loop(disk: Disk) -> None:
    assert not await disk.flush(QUICK_IN_A_ROW)
    assert await disk.flush()
    assert await disk.flush(3)


async def test_the_first_slow_flush_ends_that(disk: Disk) -> None:
    await disk.flush(QUICK_IN_A_ROW)
    disk.takes_ns += 1
    assert await disk.flush(), "nobody knew before"
    assert not await disk.flush()
    disk.takes_ns -= 1
    assert not await disk.flush(QUICK_IN_A_ROW), "it has to prove itself again"
    assert await disk.flush()


async def test_a_slow_disk_never_holds_up_the_loop(disk: Disk) -> None:
    disk.takes_ns += 1
    for _ in range(2 * QUICK_IN_A_ROW):
        assert not await disk.flush()


async def test_errors_come_from_either_place(disk: Disk) -> None:
    disk.error = OSError("full")
    assert not await disk.flush(QUICK_IN_A_ROW)
    assert await disk.flush()
