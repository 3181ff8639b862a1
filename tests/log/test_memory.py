"""The memory log: conformance, and the crashes that tests put into it."""

import asyncio

import pytest

from perdure.errors import LogError
from perdure.log import open_log
from perdure.log.memory import MemoryLog
from perdure.log.protocol import Log
from tests.log.conformance import Conformance
from tests.log.tools import Reading, read_all, write


class MemoryBench:
    def __init__(self) -> None:
        self.memory = MemoryLog()
        self.log: Log = self.memory

    async def reopen(self) -> Log:
        await self.log.close()
        await self.log.open()
        return self.log

    async def crash(self) -> Log:
        self.memory.crash()
        await self.log.open()
        return self.log


class TestMemory(Conformance):
    @pytest.fixture
    async def bench(self) -> MemoryBench:
        bench = MemoryBench()
        await bench.log.open()
        return bench


@pytest.fixture
async def log() -> MemoryLog:
    log = MemoryLog(2)
    await log.open()
    return log


@pytest.mark.parametrize("last", range(1, 7))
async def test_crash_right_after_any_record(log: MemoryLog, last: int) -> None:
    reading = Reading()
    log.follow(0, 0, reading)
    log.follow(1, 0, reading)
    log.on_append = lambda count: count == last
    for flush in range(2):
        for index in range(3):
            log.append(index % 2, b"%d" % (3 * flush + index))
        log.side("logs", 0, b"%d" % flush)
        await asyncio.sleep(0.001)
    assert log.crashed
    stored = [value for partition in (0, 1) for _, value in read_all(log, partition)]
    assert sorted(stored) == [b"%d" % index for index in range(last)]
    # Only the flush before the crashing one was told of.
    told = 0 if last <= 3 else 3
    assert log.acknowledged == told
    assert len(reading.values) == told
    assert len(await log.read_side("logs", 0, 0)) == told // 3


async def test_while_crashed_nothing_goes_anywhere(log: MemoryLog) -> None:
    store = log.store(0)
    store.write([(b"k", b"kept")], [])
    await write(log, [b"a"])
    waiter = asyncio.create_task(log.acknowledge(2))
    await asyncio.sleep(0)
    log.append(0, b"lost")
    log.crash()
    reading = Reading()
    log.follow(0, 0, reading)
    log.append(0, b"lost too")
    log.side("logs", 0, b"lost as well")
    store.write([(b"k", b"of a dead process")], [])
    await asyncio.sleep(0.001)
    assert not waiter.done()
    waiter.cancel()
    await log.open()
    assert [value for _, value in read_all(log)] == [b"a"]
    assert store.get(b"k") == b"kept"
    assert reading.values == []
    assert await write(log, [b"b"]) == 1
    assert [value for _, value in read_all(log)] == [b"a", b"b"]


async def test_the_hook_counts_from_the_beginning_of_the_object(log: MemoryLog) -> None:
    counts: list[int] = []
    await write(log, [b"a", b"b"])

    def hook(count: int) -> bool:
        counts.append(count)
        return False

    log.on_append = hook
    await write(log, [b"c"])
    log.crash()
    await log.open()
    await write(log, [b"d"])
    assert counts == [3, 4]


async def test_a_clock_of_the_tests_own_that_steps_back() -> None:
    now = 1_000
    log = MemoryLog(1, clock=lambda: now)
    await log.open()
    await write(log, [b"a"])
    now = 500
    assert log.now_ms() == 1_000
    await write(log, [b"b"])
    now = 2_000
    await write(log, [b"c"])
    assert [batch.timestamp_ms for batch in log.read(0, 0)] == [1_000, 1_000, 2_000]


async def test_a_log_that_is_not_open_says_so() -> None:
    with pytest.raises(LogError, match="open"):
        MemoryLog().append(0, b"x")


def test_how_long_the_log_is_kept_for_people() -> None:
    assert open_log("embedded://data", app="shop").retention_ms == 7 * 86_400_000
    assert open_log("embedded://data?retention=36h", app="shop").retention_ms == 36 * 3_600_000
    assert open_log("embedded://data?retention=forever", app="shop").retention_ms is None


def test_urls() -> None:
    assert isinstance(open_log("memory://", app="shop", partitions=7), MemoryLog)
    assert open_log("memory://", app="shop", partitions=7).partitions == 7


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("kafka://", "names no broker.*kafka://localhost:9092"),
        ("kafka://localhost/a b", "namespace 'a b'"),
        ("kafka://localhost?sesion=1s", "no setting 'sesion'.*session"),
        ("kafka://localhost?replication=three", "replication=three: give a number"),
        ("kafka://localhost?session=1", "session"),
        ("redis://localhost", "redis.*embedded.*memory"),
        ("/var/lib/shop", "not a log URL"),
        ("embedded://", "directory"),
        ("embedded://?retention=1d", "directory"),
        ("embedded://data?retain=1d", "no setting 'retain'.*retention=30d"),
        ("embedded://data?retention=300", "or retention=forever"),
    ],
)
def test_urls_that_name_no_log(url: str, message: str) -> None:
    with pytest.raises(LogError, match=message):
        open_log(url, app="shop")
