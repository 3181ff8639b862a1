"""Damage to the embedded log's files, done for real: no acknowledged record may ever be silently missing."""

import asyncio
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from perdure.errors import LogCorrupt
from perdure.log.embedded import EmbeddedLog
from tests.copies import copy_log, remove_log
from tests.log.test_embedded import child_environment
from tests.log.tools import Record, read_all, write

PARTITIONS = 2
FLIPS = 120


@dataclass
class Victim:
    """A directory as a crash left it, and what was acknowledged in it."""

    path: Path
    records: list[list[Record]]
    state: list[tuple[bytes, bytes]]

    def files(self, *patterns: str) -> list[Path]:
        return sorted(file.relative_to(self.path) for pattern in patterns for file in self.path.glob(f"db/{pattern}"))

    async def outcome(self, path: Path) -> str:
        """`refused`, or `whole`; fails the test for anything between."""
        log = EmbeddedLog(path, PARTITIONS)
        try:
            await log.open()
            records = [read_all(log, partition) for partition in range(PARTITIONS)]
            state = log.store(0).scan(b"")
        except LogCorrupt:
            return "refused"
        finally:
            await log.close()
        for found, acknowledged in zip(records, self.records, strict=True):
            assert found[: len(acknowledged)] == acknowledged
        assert state == self.state
        return "whole"


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victim]:
    """Small buffers, so that there are several tables, and WALs older than the last one that still count."""
    folder = tmp_path_factory.mktemp("victim")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("perdure.log.disk.WRITE_BUFFER_BYTES", 64 << 10)
        yield asyncio.run(_make(folder))


async def _make(folder: Path) -> Victim:
    rng = random.Random(1)
    log = EmbeddedLog(folder / "live", PARTITIONS)
    await log.open()
    store = log.store(0)
    for index in range(550):
        if index % 10 == 0:
            store.write([(b"key %d" % index, rng.randbytes(50)), (b"offset", b"%d" % index)], [])
        await write(log, [rng.randbytes(200)], partition=index % PARTITIONS)
    state = store.scan(b"")
    records = [read_all(log, partition) for partition in range(PARTITIONS)]
    async with asyncio.timeout(60):
        # RocksDB writes its tables on threads of its own, and a busy machine lets them wait.
        while len(list((folder / "live").rglob("*.sst"))) < 2:
            await asyncio.sleep(0.02)
    copy_log(folder / "live", folder / "crashed")
    await log.close()
    return Victim(folder / "crashed", records, state)


def flip(path: Path, position: int, mask: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= mask
    path.write_bytes(data)


async def test_the_victim_is_worth_damaging(victim: Victim, tmp_path: Path) -> None:
    assert len(victim.files("*.sst")) >= 2
    assert len(victim.files("*.log")) >= 2
    copy_log(victim.path, tmp_path / "copy")
    assert await victim.outcome(tmp_path / "copy") == "whole"


@pytest.mark.parametrize("pattern", ["*.log", "*.sst", "MANIFEST-*", "CURRENT"])
async def test_flipped_bits_are_never_passed_over(victim: Victim, tmp_path: Path, pattern: str) -> None:
    rng = random.Random(pattern)
    files = victim.files(pattern)
    refused = 0
    for trial in range(FLIPS):
        copy = tmp_path / str(trial)
        copy_log(victim.path, copy)
        file = copy / rng.choice(files)
        flip(file, rng.randrange(file.stat().st_size), 1 << rng.randrange(8))
        refused += await victim.outcome(copy) == "refused"
        remove_log(copy)
    # A few bits mean nothing: of a name that nobody compares, of a filter that only saves time.
    assert refused > FLIPS * 0.9


@pytest.mark.parametrize("pattern", ["*.log", "MANIFEST-*"])
@pytest.mark.parametrize(
    ("position", "mask"),
    [
        pytest.param(5, 0x80, id="a length beyond the file, which RocksDB takes for a torn write"),
        pytest.param(6, 0x04, id="a type of recycled files, which ends a WAL and hangs on a manifest"),
        pytest.param(6, 0x01, id="a type of none, which means free space if the length is zero"),
    ],
)
async def test_damaged_headers(victim: Victim, tmp_path: Path, pattern: str, position: int, mask: int) -> None:
    for file in victim.files(pattern):
        for number, header in enumerate(headers(victim.path / file)):
            if number % 7 and pattern == "*.log":
                continue
            copy = tmp_path / "copy"
            copy_log(victim.path, copy)
            flip(copy / file, header + position, mask)
            assert await victim.outcome(copy) == "refused"
            remove_log(copy)


def headers(path: Path) -> Iterator[int]:
    """Where the records of a WAL or manifest begin."""
    data = path.read_bytes()
    at = 0
    while at + 7 <= len(data):
        if (32 << 10) - at % (32 << 10) < 7:
            at += (32 << 10) - at % (32 << 10)
            continue
        yield at
        at += 7 + int.from_bytes(data[at + 4 : at + 6], "little")


@pytest.mark.parametrize("pattern", ["CURRENT", "MANIFEST-*", "*.sst", "*"])
async def test_missing_files_are_noticed_and_nothing_else_is_removed(
    victim: Victim, tmp_path: Path, pattern: str
) -> None:
    copy_log(victim.path, tmp_path / "copy")
    for file in victim.files(pattern):
        (tmp_path / "copy" / file).unlink()
    for _ in range(2):
        assert await victim.outcome(tmp_path / "copy") == "refused"
    left = {file.relative_to(tmp_path / "copy") for file in (tmp_path / "copy").glob("db/*.sst")}
    assert left == (set() if pattern in ("*", "*.sst") else set(victim.files("*.sst")))


async def test_a_wal_cut_below_the_mark_is_refused(victim: Victim, tmp_path: Path) -> None:
    last = victim.files("*.log")[-1]
    size = (victim.path / last).stat().st_size
    for cut in (1, 8, 100, size // 2, size):
        copy = tmp_path / "copy"
        copy_log(victim.path, copy)
        with (copy / last).open("r+b") as file:
            file.truncate(size - cut)
        for _ in range(2):  # and refused again: opening it once has repaired nothing
            with pytest.raises(LogCorrupt, match=r"what was acknowledged"):
                await EmbeddedLog(copy, PARTITIONS).open()
        remove_log(copy)


async def test_an_older_wal_cut_leaves_no_hole(victim: Victim, tmp_path: Path) -> None:
    older = victim.files("*.log")[0]
    for cut in (1, 8, 100):
        copy = tmp_path / "copy"
        copy_log(victim.path, copy)
        with (copy / older).open("r+b") as file:
            file.truncate(file.seek(0, 2) - cut)
        assert await victim.outcome(copy) == "refused"
        remove_log(copy)


async def test_a_torn_write_that_nobody_was_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = EmbeddedLog(tmp_path / "live", 1)
    await log.open()
    await write(log, [b"acknowledged"] * 3)
    wal = max((tmp_path / "live" / "db").glob("*.log"))
    acknowledged = wal.stat().st_size
    # The write reaches the file, the flush never happens: as if the machine stopped between the two.
    monkeypatch.setattr(log._flusher, "flush", lambda _: None)
    log.append(0, b"written, not acknowledged " * 100)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    written = wal.stat().st_size
    assert written > acknowledged + 2_000
    for size in (
        written,
        written - 1,
        written - 1_000,
        acknowledged + 8,
        acknowledged + 7,
        acknowledged + 1,
        acknowledged,
    ):
        copy = tmp_path / f"cut at {size}"
        copy_log(tmp_path / "live", copy)
        with (copy / "db" / wal.name).open("r+b") as file:
            file.truncate(size)
        torn = EmbeddedLog(copy, 1)
        await torn.open()
        assert torn.end(0) == (4 if size == written else 3)
        await write(torn, [b"next"])
        values = [value for _, value in read_all(torn)]
        assert values[:3] == [b"acknowledged"] * 3
        assert values[-1] == b"next"
        await torn.close()
    log._done(None)  # let it end in peace
    await log.close()


async def test_a_flipped_bit_under_a_running_log_ends_its_readers(tmp_path: Path) -> None:
    log = EmbeddedLog(tmp_path, 1)
    await log.open()
    await write(log, [random.Random(5).randbytes(5_000) for _ in range(20)])
    await log.close()
    await log.open()  # closing leaves a WAL; opening makes a table of it
    await log.close()
    table = max((tmp_path / "db").glob("*.sst"), key=lambda file: file.stat().st_size)
    flip(table, table.stat().st_size // 2, 4)
    reasons: list[Exception] = []
    try:
        await log.open()
    except LogCorrupt:
        return
    log.follow(0, 0, lambda _: None, failed=reasons.append)
    async with asyncio.timeout(30):
        while not reasons:
            await asyncio.sleep(0.01)
    assert isinstance(reasons[0], LogCorrupt)
    await log.close()


async def test_a_damaged_mark(victim: Victim, tmp_path: Path) -> None:
    for position in range(20):
        copy = tmp_path / str(position)
        copy_log(victim.path, copy)
        flip(copy / "acknowledged", position, 1)
        with pytest.raises(LogCorrupt, match=r"acknowledged is damaged.*remove this file"):
            await EmbeddedLog(copy, PARTITIONS).open()
        (copy / "acknowledged").unlink()
        assert await victim.outcome(copy) == "whole"


_CHILD = """if True:
    import asyncio, sys
    from perdure.log.embedded import EmbeddedLog

    async def main():
        log = EmbeddedLog(sys.argv[1], 2)
        await log.open()
        n = log.end(0)
        while True:
            last = [log.append(0, b"%d" % (n + i)) for i in range(50)][-1]
            log.store(0).write([(b"n", b"%d" % n)], [])
            n += 50
            await log.acknowledge(last)
            print(n, flush=True)

    asyncio.run(main())
"""


async def test_kill_nine(tmp_path: Path) -> None:
    total = 0
    for life in range(3):
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _CHILD, str(tmp_path), stdout=subprocess.PIPE, env=child_environment()
        )
        assert child.stdout is not None
        told = 0
        for _ in range(20 + 30 * life):
            told = int(await child.stdout.readline())
        child.kill()
        for line in (await child.stdout.read()).splitlines(keepends=True):
            told = int(line) if line.endswith(b"\n") else told
        await child.wait()
        log = EmbeddedLog(tmp_path, 2)
        await log.open()
        total = log.end(0)
        assert total >= told
        assert [value for _, value in read_all(log)] == [b"%d" % index for index in range(total)]
        assert int(log.store(0).get(b"n") or 0) >= told - 50
        await log.close()
    assert total >= 150
