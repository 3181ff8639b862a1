"""The embedded log: conformance, and the directory that it lives in."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path

import pytest

from perdure.errors import LogCorrupt, LogError, LogInUse, LogMismatch
from perdure.log import open_log
from perdure.log.embedded import EmbeddedLog
from perdure.log.memory import MemoryLog
from perdure.log.protocol import Log
from tests.copies import copy_log
from tests.log.conformance import Conformance
from tests.log.tools import Reading, read_all, side, values, write


class EmbeddedBench:
    def __init__(self, folder: Path) -> None:
        self._paths = (folder / f"log{number}" for number in count())
        self._path = next(self._paths)
        self._opened: list[Log] = []

    async def open(self) -> Log:
        self.log: Log = EmbeddedLog(self._path)
        await self.log.open()
        self._opened.append(self.log)
        return self.log

    async def reopen(self) -> Log:
        await self.log.close()
        return await self.open()

    async def crash(self) -> Log:
        # The directory as SIGKILL would leave it: what was written is in the files, synced or not.
        before, self._path = self._path, next(self._paths)
        copy_log(before, self._path)
        return await self.open()

    async def close(self) -> None:
        for log in self._opened:
            await log.close()


class TestEmbedded(Conformance):
    @pytest.fixture
    async def bench(self, tmp_path: Path) -> AsyncIterator[EmbeddedBench]:
        bench = EmbeddedBench(tmp_path)
        await bench.open()
        yield bench
        await bench.close()


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[EmbeddedLog]:
    log = EmbeddedLog(tmp_path / "log", 2)
    await log.open()
    yield log
    await log.close()


async def test_one_object_opens_and_closes_many_times(log: EmbeddedLog) -> None:
    for life in range(4):
        assert await write(log, [b"%d" % life]) == 1
        await log.close()
        await log.open()
        await log.open()
    assert [value for _, value in read_all(log)] == [b"0", b"1", b"2", b"3"]


async def test_a_flush_larger_than_one_value(log: EmbeddedLog) -> None:
    reading = Reading()
    log.follow(0, 0, reading)
    records = [bytes([index]) * 3_000_000 for index in range(10)]
    await write(log, records)
    assert await reading.until(10) == records
    assert len(reading.batches) > 1
    assert [value for _, value in read_all(log)] == records


async def test_more_records_than_one_flush_takes(log: EmbeddedLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perdure.log.embedded._FLUSH_RECORDS", 100)
    await log.close()
    await log.open()
    readings = [Reading(), Reading()]
    for partition, reading in enumerate(readings):
        log.follow(partition, 0, reading)
    ticket = 0
    for index in range(1_050):
        ticket = log.append(index % 2, b"%d" % index)
        if index in (100, 200, 777):
            await asyncio.sleep(0)
    await log.acknowledge(ticket)
    for partition, reading in enumerate(readings):
        assert await reading.until(525) == [b"%d" % index for index in range(partition, 1_050, 2)]
        assert max(len(batch.values) for batch in reading.batches) <= 100


async def test_handed_to_readers_is_the_batch_that_was_appended(log: EmbeddedLog) -> None:
    reading = Reading()
    log.follow(0, 0, reading)
    record = b"not read again: " + os.urandom(8)
    await write(log, [record])
    await reading.until(1)
    assert reading.values[0] is record


async def test_in_use_in_this_process(log: EmbeddedLog, tmp_path: Path) -> None:
    with pytest.raises(LogInUse, match=rf"{tmp_path / 'log'} is in use by process {os.getpid()}"):
        await EmbeddedLog(tmp_path / "log", 2).open()
    await write(log, [b"still works"])
    await log.close()
    other = EmbeddedLog(tmp_path / "log", 2)
    await other.open()
    await other.close()


async def test_in_use_by_another_process(log: EmbeddedLog, tmp_path: Path) -> None:
    code = """if True:
        import asyncio, sys
        from perdure.errors import LogInUse
        from perdure.log.embedded import EmbeddedLog
        try:
            asyncio.run(EmbeddedLog(sys.argv[1], 2).open())
        except LogInUse as error:
            print(error)
    """
    command = [sys.executable, "-c", code, str(tmp_path / "log")]
    ran = subprocess.run(command, capture_output=True, text=True, env=child_environment(), check=True)
    assert f"{tmp_path / 'log'} is in use by process {os.getpid()}" in ran.stdout


async def test_another_partition_count(log: EmbeddedLog, tmp_path: Path) -> None:
    await log.close()
    with pytest.raises(LogMismatch, match=r"has 2 partitions, and 8 were asked for.*partitions=2"):
        await EmbeddedLog(tmp_path / "log", 8).open()
    await log.open()


async def test_a_newer_format(log: EmbeddedLog, tmp_path: Path) -> None:
    await log.close()
    (tmp_path / "log" / "perdure.json").write_text(json.dumps({"format": 2, "partitions": 2, "news": True}))
    with pytest.raises(LogMismatch, match=r"format 2.*reads format 1: install"):
        await log.open()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 1}', '{"format": "one", "partitions": 2}'])
async def test_a_damaged_description(log: EmbeddedLog, tmp_path: Path, text: str) -> None:
    await log.close()
    (tmp_path / "log" / "perdure.json").write_text(text)
    with pytest.raises(LogCorrupt, match=r"perdure\.json is damaged"):
        await log.open()


async def test_a_missing_description(log: EmbeddedLog, tmp_path: Path) -> None:
    await log.close()
    (tmp_path / "log" / "perdure.json").unlink()
    with pytest.raises(LogCorrupt, match=r"perdure\.json is missing"):
        await log.open()


@pytest.mark.parametrize("partitions", [0, -1, 65_536])
def test_partition_counts_that_cannot_be(tmp_path: Path, partitions: int) -> None:
    with pytest.raises(LogError, match="from 1 to 65535"):
        EmbeddedLog(tmp_path, partitions)


async def test_a_directory_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(LogError, match="file"):
        await EmbeddedLog(tmp_path / "file").open()


async def test_a_closed_log_says_so(log: EmbeddedLog) -> None:
    await log.close()
    store = log.store(0)
    with pytest.raises(LogError, match="not open"):
        log.append(0, b"x")
    with pytest.raises(LogError, match="not open"):
        await log.acknowledge(1)
    with pytest.raises(LogError, match="not open"):
        log.read(0, 0)
    with pytest.raises(LogError, match="not open"):
        store.get(b"k")
    with pytest.raises(LogError, match="not open"):
        store.scan(b"k")
    with pytest.raises(LogError, match="not open"):
        store.write([(b"k", b"v")], [])
    log.side("logs", 0, b"dropped")


async def test_urls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for url, path in ((f"embedded://{tmp_path}/deep/a", "deep/a"), ("embedded://deep/b", "deep/b")):
        log = open_log(url, app="shop", partitions=3)
        assert log.partitions == 3
        await log.open()
        await log.close()
        assert (tmp_path / path / "db" / "CURRENT").exists()


def child_environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


@pytest.mark.parametrize("kind", ["embedded", "memory"])
async def test_trimming_takes_old_lines_of_side_topics_with_it(tmp_path: Path, kind: str) -> None:
    """All that is older than the retention but the last of each topic, whose end must stay known. Commands stay."""
    now = 1_000_000
    log: Log = (
        EmbeddedLog(tmp_path / "log", 2, retention_ms=0)
        if kind == "embedded"
        else MemoryLog(2, clock=lambda: now, retention_ms=0)
    )
    await log.open()
    assert log.commands is not None
    for index in range(5):
        now += 10
        for topic in ("logs", "dead-letters"):
            log.side(topic, 0, b"%d" % index)
        log.side("logs", 1, b"%d" % index)
        log.commands.put("gpu", "k", b"%d" % index)
        await write(log, [b"record"])
        await side(log, "logs", 1, index + 1)
        while log.now_ms() == (await log.read_side("logs", 1, index))[0].timestamp_ms:
            now += 1
    now += 10
    await log.trim(0, 2)
    for topic in ("logs", "dead-letters"):
        assert values(await log.read_side(topic, 0, 0)) == [b"4"]
        assert await log.read_side(topic, 0, 5) == []
    assert len(await log.read_side("logs", 1, 0)) == 5
    taken: list[bytes] = []
    log.commands.subscribe("gpu", lambda command: taken.append(command.value), limit=9)
    while len(taken) < 5:
        await asyncio.sleep(0)
    log.side("logs", 0, b"5")
    await write(log, [b"record"], 1)
    assert values(await log.read_side("logs", 0, 4)) == [b"4", b"5"]
    await log.close()


async def test_what_was_trimmed_is_room_again(tmp_path: Path) -> None:
    log = EmbeddedLog(tmp_path / "log", 1)
    await log.open()
    for _ in range(120):
        await write(log, [os.urandom(1 << 20)])
        await log.trim(0, log.end(0) - 1)
    await log.close()
    assert sum(file.stat().st_size for file in (tmp_path / "log" / "db").iterdir()) < 80 << 20
