"""What a power failure leaves of WALs, made by hand: what was promised is refused if it is not there, the rest goes."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from perdure.errors import LogCorrupt
from perdure.log.embedded import EmbeddedLog
from perdure.log.manifest import first_wal
from perdure.log.remains import VOUCHER, Cut, continues, find_cut, make_cut
from perdure.log.tails import BLOCK, HEADER, checksum_of


@dataclass
class Batch:
    """So many writes from sequence number `first` on."""

    first: int
    writes: int = 1
    vouched: int = 0
    size: int = 100

    def payload(self) -> bytes:
        voucher = b"\x05\x01\x02" + VOUCHER + b"\x08" + self.vouched.to_bytes(8, "big")
        return self.first.to_bytes(8, "little") + self.writes.to_bytes(4, "little") + voucher + b"." * self.size


def wal(path: Path, batches: Sequence[Batch]) -> list[int]:
    """Write a WAL as RocksDB does; where each batch begins, and where the last one ends."""
    data = bytearray()
    begins: list[int] = []
    for batch in batches:
        left, first = batch.payload(), True
        begins.append(len(data) if BLOCK - len(data) % BLOCK >= HEADER else -(-len(data) // BLOCK) * BLOCK)
        while first or left:
            room = BLOCK - len(data) % BLOCK
            if room < HEADER:
                data += b"\0" * room
                continue
            piece, left = left[: room - HEADER], left[room - HEADER :]
            kind = (1 if first else 4) if not left else (2 if first else 3)
            record = bytes([kind]) + piece
            data += checksum_of(record) + len(piece).to_bytes(2, "little") + record
            first = False
    path.write_bytes(data)
    return [*begins, len(data)]


def hole(path: Path, begin: int, end: int) -> None:
    data = bytearray(path.read_bytes())
    data[begin:end] = b"\0" * (end - begin)
    path.write_bytes(data)


# Two flights that are acknowledged, one that is not, a write of a store behind it.
STORY = (Batch(1, 3, 0), Batch(4, 2, 3), Batch(6, 4, 5, 50_000), Batch(10, 1, 5), Batch(11, 1, 5))


@pytest.fixture
def one(tmp_path: Path) -> Path:
    return tmp_path / "000004.log"


def test_what_is_whole_is_left_alone(one: Path, tmp_path: Path) -> None:
    wal(one, STORY)
    assert find_cut(tmp_path, 5) is None
    assert find_cut(tmp_path, 0) is None


@pytest.mark.parametrize(("begin", "end"), [(0, 512), (0, 8), (4_096, 8_192), (BLOCK - 512, BLOCK + 512)])
def test_a_hole_that_nobody_was_told_of(one: Path, tmp_path: Path, begin: int, end: int) -> None:
    """In the third batch, at its beginning, in its middle, across its records: the two behind it go as well."""
    begins = wal(one, STORY)
    hole(one, begins[2] + begin, begins[2] + end)
    cut = find_cut(tmp_path, 5)
    assert cut is not None
    assert cut == Cut([one], begins[2], 5)
    make_cut(cut)
    assert find_cut(tmp_path, 5) is None
    assert one.stat().st_size == begins[2]


@pytest.mark.parametrize("mark", [0, 5])
def test_a_hole_in_what_was_acknowledged(one: Path, tmp_path: Path, mark: int) -> None:
    """The mark knows, or if the power failure left an old one, any later batch."""
    begins = wal(one, STORY)
    hole(one, begins[1], begins[1] + 20)
    with pytest.raises(LogCorrupt, match=r"000004.log is damaged at byte 133, before the end of what was acknowledged"):
        find_cut(tmp_path, mark)


def test_a_hole_before_all_that_was_acknowledged(one: Path, tmp_path: Path) -> None:
    """What must be there is known only by what goes: it is told before that, and compared with what RocksDB finds."""
    begins = wal(one, STORY)
    hole(one, 0, begins[2] + 1)
    assert find_cut(tmp_path, 3) == Cut([one], 0, 5)


@pytest.mark.parametrize("mark", [10, 11])
def test_the_mark_forbids_a_cut(one: Path, tmp_path: Path, mark: int) -> None:
    begins = wal(one, STORY)
    hole(one, begins[3], begins[3] + 8)
    with pytest.raises(LogCorrupt, match="is damaged"):
        find_cut(tmp_path, mark)
    wal(one, STORY)
    hole(one, begins[2] + 600, begins[2] + 700)
    assert find_cut(tmp_path, mark) is None  # of what was acknowledged RocksDB compares all checksums itself


@pytest.mark.parametrize("size", [1, 7, 50, 40_000])
def test_a_torn_end(one: Path, tmp_path: Path, size: int) -> None:
    begins = wal(one, STORY[:3])
    with one.open("r+b") as file:
        file.truncate(begins[2] + size)
    assert find_cut(tmp_path, 5) == Cut([one], begins[2], 5 if size > 50 else 3)
    with pytest.raises(LogCorrupt):
        find_cut(tmp_path, 6)


@pytest.mark.parametrize("left", range(HEADER - 1, 36))
def test_a_block_that_ends_within_a_voucher(one: Path, tmp_path: Path, left: int) -> None:
    """Whichever of its bytes are the last of the block, it is read, and as it was written."""
    before = Batch(6, 4, 5)
    padding = BLOCK - left - wal(one, [*STORY[:2], before])[-1]
    story = [*STORY[:2], Batch(6, 4, 5, before.size + padding), Batch(10, 1, 9), Batch(11, 1, 7)]
    begins = wal(one, story)
    with one.open("r+b") as file:
        file.truncate(begins[4] + 20)  # of the last batch there is not even its voucher
    assert begins[3] == (BLOCK - left if left >= HEADER else BLOCK)
    assert find_cut(tmp_path, 5) == Cut([one], begins[4], 9)
    hole(one, begins[2] + HEADER, begins[2] + HEADER + 600)
    with pytest.raises(LogCorrupt, match="is damaged"):
        find_cut(tmp_path, 9)


def test_the_end_of_an_earlier_wal_is_missing(one: Path, tmp_path: Path) -> None:
    """As a whole, so that nothing but the numbers tells."""
    later = tmp_path / "000011.log"
    begins = wal(one, STORY[:3])
    wal(later, STORY[3:])
    assert continues([one, later])
    assert find_cut(tmp_path, 5) is None
    with one.open("r+b") as file:
        file.truncate(begins[2])
    assert not continues([one, later])
    cut = find_cut(tmp_path, 5)
    assert cut is not None
    assert cut == Cut([one, later], begins[2], 5)
    make_cut(cut)
    assert not later.exists()
    assert find_cut(tmp_path, 5) is None


def manifest(folder: Path, *edits: bytes) -> None:
    data = b""
    for edit in edits:
        record = b"\x01" + edit
        data += checksum_of(record) + len(edit).to_bytes(2, "little") + record
    (folder / "MANIFEST-000003").write_bytes(data)
    (folder / "CURRENT").write_text("MANIFEST-000003\n")


def test_wals_that_were_removed_and_are_there_again(one: Path, tmp_path: Path) -> None:
    """Removing a file is sure only once its folder was synced; of what lies in tables nothing need be there."""
    begins = wal(one, [Batch(1, 2, 0), Batch(3, 2, 2)])
    hole(one, begins[1], begins[1] + 9)
    later = tmp_path / "000011.log"
    begins = wal(later, [Batch(40, 2, 39), Batch(42, 2, 41)])
    assert not continues([one, later])
    with pytest.raises(LogCorrupt, match=r"000004.log is damaged"):
        find_cut(tmp_path, 0)
    # Numbers for a comparator, a name, one of the fields to be ignored; then that WALs below 11 are in tables.
    manifest(tmp_path, b"\x01\x03abc", b"\x81\x40\x02xy\x03\x90\x01", b"\xc8\x01\x01\x02\x05\x0a\x0b")
    assert find_cut(tmp_path, 0) is None
    hole(later, begins[1], begins[1] + 9)
    assert find_cut(tmp_path, 0) == Cut([later], begins[1], 39)


def test_what_counts_is_what_rocksdb_says(tmp_path: Path) -> None:
    """The manifest is read as it is written by this version of RocksDB, tables, families and all."""

    async def main() -> None:
        log = EmbeddedLog(tmp_path, 2)
        for _ in range(3):
            await log.open()
            for number in range(20):
                log.store(1).write([(b"%d" % number, b"." * 20_000)], [])
                await log.acknowledge(log.append(0, b"." * 5_000))
            for family in (log._disk.journal, log._disk.side, log._disk.state):
                family.flush()  # nothing of it is under way from here on
            assert first_wal(tmp_path / "db") > 4
            assert first_wal(tmp_path / "db") == log._disk.db.property_int_value("rocksdb.min-log-number-to-keep")
            await log.close()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("perdure.log.disk.WRITE_BUFFER_BYTES", 64 << 10)
        asyncio.run(main())


def test_nothing_at_all(one: Path, tmp_path: Path) -> None:
    one.touch()
    assert continues([one])
    assert find_cut(tmp_path, 0) is None
    (tmp_path / "000010.log").write_bytes(b"\0" * 70_000)
    assert find_cut(tmp_path, 9) == Cut([tmp_path / "000010.log"], 0, 0)


def test_a_batch_behind_the_rest_of_another_counts(one: Path, tmp_path: Path) -> None:
    """The block after a hole begins with the end of a batch; the next one in it still says what was acknowledged."""
    begins = wal(one, [Batch(1, 1, 0), Batch(2, 1, 0, 60_000), Batch(3, 1, 2)])
    hole(one, begins[1], begins[1] + 512)
    with pytest.raises(LogCorrupt):
        find_cut(tmp_path, 0)
