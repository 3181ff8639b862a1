"""What a power failure leaves of RocksDB's manifest: edits with holes, which go if nobody has acted upon them."""

import asyncio
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from perdure.errors import LogCorrupt
from perdure.log.embedded import EmbeddedLog
from perdure.log.manifest import SECTOR, _edits, manifest
from tests.copies import copy_log

NAMES_TABLE_BYTES = 90
"""At least so long is the edit's record that names the new table; another says which WALs are needed no more."""


@dataclass
class Flushed:
    """A log that was opened before, as a flush begins and when it is over; `edit` is what the manifest was given."""

    before: Path
    after: Path
    manifest: Path
    edit: bytes
    records: list[bytes]


@pytest.fixture(scope="module", params=[False, True], ids=["the first", "a later one"])
def flushed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Flushed:
    return asyncio.run(_flush(tmp_path_factory.mktemp("flushed"), later=request.param))


async def _flush(folder: Path, *, later: bool) -> Flushed:
    """Until an edit lies in two sectors, so that a disk may write half of it."""
    records: list[bytes] = []
    for number in range(40):
        log = EmbeddedLog(folder / "live", 1)
        await log.open()
        named = manifest(folder / "live" / "db")
        assert named is not None
        for _ in range(1 + number * later):
            records.append(b"%d" % len(records) * 40)
            await log.acknowledge(log.append(0, records[-1]))
            log._disk.journal.flush()
        records.append(b"last")
        await log.acknowledge(log.append(0, records[-1]))
        before, after = folder / f"before{number}", folder / f"after{number}"
        copy_log(folder / "live", before)
        log._disk.journal.flush()
        copy_log(folder / "live", after)
        old, edit = edit_between(before, after, named.name)
        # The manifest of the next life names a table by its first key, and so is of another length.
        log.store(0).write([(b"k" * (7 * number + 1), b"")], [])
        await log.close()
        # In a life in which RocksDB compacted meanwhile, there are more edits than the one.
        alone = tables(before) < tables(after) and len(tables(after)) == len(tables(before)) + 1
        if edit and alone and len(old) // SECTOR < (len(old) + NAMES_TABLE_BYTES) // SECTOR:
            break
    else:
        raise AssertionError("no edit lies in two sectors")
    # Tables are synced before the edit that names them.
    for table in after.glob("db/*.sst"):
        shutil.copy(table, before / "db" / table.name)
    return Flushed(before, after, Path("db") / named.name, edit, records)


@pytest.fixture(scope="module")
def compacted(tmp_path_factory: pytest.TempPathFactory) -> Flushed:
    return asyncio.run(_compact(tmp_path_factory.mktemp("compacted")))


async def _compact(folder: Path) -> Flushed:
    """As RocksDB does in the background when a log has just been opened, and nothing was written yet."""
    records: list[bytes] = []
    for number in range(40):
        records.append(b"%d" % number * 40)
        log = EmbeddedLog(folder / "live", 1)
        await log.open()
        await log.acknowledge(log.append(0, records[-1]))
        await log.close()
        await log.open()
        before, after = folder / f"before{number}", folder / f"after{number}"
        copy_log(folder / "live", before)
        log._disk.journal.compact_range(None, None)
        copy_log(folder / "live", after)
        await log.close()
        named = manifest(before / "db")
        assert named is not None
        old, edit = edit_between(before, after, named.name)
        if len([*_edits(edit)]) == 1 and len(old) // SECTOR < (len(old) + len(edit) - 1) // SECTOR:
            return Flushed(before, after, Path("db") / named.name, edit, records)
    raise AssertionError("no edit lies in two sectors")


def edit_between(before: Path, after: Path, manifest: str) -> tuple[bytes, bytes]:
    """What was there before, and what came; nothing came if RocksDB was writing as the first was copied."""
    old, new = ((copy / "db" / manifest).read_bytes() for copy in (before, after))
    return old, new.removeprefix(old) if new.startswith(old) else b""


def tables(copy: Path) -> set[str]:
    return {path.name for path in copy.glob("db/*.sst")}


def torn(flushed: Flushed, half: int) -> bytes:
    """The manifest, with one of the two sectors as it was before."""
    old = (flushed.before / flushed.manifest).read_bytes()
    data = bytearray(old + flushed.edit)
    middle = len(data) - len(data) % SECTOR
    begin, end = ((len(old), middle), (middle, len(data)))[half]
    data[begin:end] = bytes(end - begin)
    return bytes(data)


async def records_in(folder: Path) -> list[bytes]:
    log = EmbeddedLog(folder, 1)
    await log.open()
    try:
        return [raw for batch in log.read(0, 0) for raw in batch.values]
    finally:
        await log.close()


@pytest.mark.parametrize("half", [0, 1])
def test_an_edit_that_was_never_synced(flushed: Flushed, tmp_path: Path, half: int) -> None:
    """No WAL was removed because of it yet: they have it all."""
    copy_log(flushed.before, tmp_path / "log")
    (tmp_path / "log" / flushed.manifest).write_bytes(torn(flushed, half))
    for _ in range(2):
        assert asyncio.run(records_in(tmp_path / "log")) == flushed.records


@pytest.mark.parametrize("half", [0, 1])
def test_an_edit_that_is_gone_and_was_acted_upon(flushed: Flushed, tmp_path: Path, half: int) -> None:
    copy_log(flushed.after, tmp_path / "log")
    (tmp_path / "log" / flushed.manifest).write_bytes(torn(flushed, half))
    with pytest.raises(LogCorrupt, match="is damaged"):
        asyncio.run(records_in(tmp_path / "log"))


@pytest.mark.parametrize("half", [0, 1])
def test_an_edit_that_was_never_synced_before_the_first_write(compacted: Flushed, tmp_path: Path, half: int) -> None:
    """Compaction is no matter of WALs: there is one, and nothing is in it."""
    copy_log(compacted.before, tmp_path / "log")
    (tmp_path / "log" / compacted.manifest).write_bytes(torn(compacted, half))
    for _ in range(2):
        assert asyncio.run(records_in(tmp_path / "log")) == compacted.records
