"""RocksDB under the embedded log: how it is set, opened, checked, and what its errors mean.

One database, so one WAL: a checkpoint and the records it stands on become durable in the order of writing.
Column families: `journal` and `side` (records), `state` (the stores).
"""

import os
from contextlib import suppress
from pathlib import Path

from rocksdict import (
    AccessType,
    BlockBasedOptions,
    ColumnFamily,
    DbClosedError,
    DBCompressionType,
    DBRecoveryMode,
    Options,
    Rdict,
    WriteBatch,
)

from perdure.errors import LogCorrupt, LogError, LogFull, LogInUse, LogMismatch
from perdure.log.directory import Mark
from perdure.log.manifest import manifest
from perdure.log.remains import VOUCHER, continues, cut_manifest, find_cut, make_cut
from perdure.log.tails import Tail, tail

_FULL = ("No space left on device", "Disk quota exceeded", "File too large")
_DAMAGED = ("Corruption", "No such file", "does not exist")
_MARGIN_BYTES = 1 << 20
WRITE_BUFFER_BYTES = 32 << 20


class Disk:
    """An open database. `Rdict` objects are public: the log reads them without a layer between."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = directory / "db"
        self.acknowledged = 0
        """All writes up to this sequence number are durable, and somebody may have been told."""
        self._expected = 0
        self._open = False
        self._why_closed = LogError("the log is not open: `await log.open()` first")

    def open(self, at_least: int, mark: Mark) -> None:
        """Open for reading and writing; `at_least` is the sequence number below which something is missing.

        Raises `LogCorrupt`, `LogInUse`, `LogMismatch`, or `LogFull`: then nothing is open.
        """
        self._expected, self._mark = at_least, mark
        try:
            if _in_doubt(self.path):
                at_least = max(at_least, self._cut() or 0)
            try:
                self._connect(at_least)
            except Exception as error:
                sure = self._cut() if isinstance(self.explain(error), LogCorrupt) else None
                if sure is None:
                    raise
                at_least = max(at_least, sure)
                self._connect(at_least)
        except Exception as error:
            raise self.explain(error) from error
        if self.sequence() < at_least:
            missing = at_least - self.sequence()
            self.close()
            raise LogCorrupt(
                f"{self.directory} is shorter than what was acknowledged: its last {missing} writes are missing. "
                "Nothing was skipped and nothing can be: restore the directory from a backup"
            )
        self.acknowledged = self.sequence()  # opening has made tables of it all

    def _connect(self, at_least: int) -> None:
        options = _database(new=at_least == 0)
        self._attach(Rdict(str(self.path), options, _families(), AccessType.read_write()))

    def _cut(self) -> int | None:
        """Take away what a power failure left of unfinished writes. What must be there then, None if nothing was cut.

        Raises `LogCorrupt` if something acknowledged would go.
        """
        mended = cut_manifest(self.path)
        cut = find_cut(self.path, self._expected)
        if cut is None:
            return 0 if mended else None
        self._mark.insist(cut.vouched)
        make_cut(cut)
        return cut.vouched

    def open_read_only(self) -> None:
        """For a disk so full that RocksDB cannot even recover: what is there can still be read."""
        try:
            options = _database()
            self._attach(Rdict(str(self.path), options, _families(), AccessType.read_only(False)))
        except Exception as error:
            raise self.explain(error) from error

    def sync_wals(self) -> None:
        """Make durable what was written and perhaps never synced. Opening for writing does it by itself."""
        try:
            for file in (*self.path.glob("*.log"), self.path):
                fd = os.open(file, os.O_RDONLY)
                try:
                    os.fsync(fd)
                finally:
                    os.close(fd)
        except OSError as error:
            raise self.explain(error) from error

    def reopen(self) -> None:
        """Clear RocksDB's background error, if the disk has room again. Reading goes on, whatever comes.

        Raises `LogFull` while there is no room.
        """
        try:
            has_room = self._has_room()
        except OSError as error:  # the directory went away, or its disk did
            raise self.explain(error) from error
        if not has_room:
            raise LogFull(_full(self.directory, "no room yet"))
        if self._open:
            # What the stores wrote must come back as well: a checkpoint may not vanish under a running engine.
            self._expected = max(self._expected, self.sequence())
            self.close()
        try:
            self.open(self._expected, self._mark)
        except LogFull as error:
            self._why_closed = error
            with suppress(LogError):  # even that writes something, a few bytes
                self.open_read_only()
            raise
        except LogError as error:
            self._why_closed = error
            raise

    def close(self) -> None:
        """Release the directory. RocksDB keeps its lock while any handle of it lives."""
        if self._open:
            self._open = False
            for family in (self.journal, self.side, self.state, self.db):
                # It flushes first, and complains if it cannot. All that was acknowledged is in the WAL already.
                with suppress(Exception):
                    family.close()
            del self.journal, self.side, self.state, self.journal_handle, self.side_handle, self.state_handle, self.db

    def sequence(self) -> int:
        """RocksDB's count of everything ever written."""
        return self.db.latest_sequence_number()

    def batch(self, family: ColumnFamily) -> WriteBatch:
        """An empty batch for this family; it tells how far all is acknowledged, see `remains`."""
        batch = WriteBatch(raw_mode=True)
        batch.put(VOUCHER, self.acknowledged.to_bytes(8, "big"), self.journal_handle)
        batch.set_default_column_family(family)
        return batch

    def write(self, batch: WriteBatch) -> None:
        """Write without waiting for the disk. Raises `LogFull`, `LogCorrupt` or `LogError`; nothing is written then."""
        try:
            self.db.write(batch)
        except Exception as error:
            raise self.explain(error) from error

    def explain(self, error: Exception) -> LogError:
        """What RocksDB said, as an error that says what to do."""
        if isinstance(error, LogError):
            return error
        if not self._open and isinstance(error, (AttributeError, DbClosedError)):
            return type(self._why_closed)(str(self._why_closed))
        text = str(error)
        if any(sign in text for sign in _FULL):
            return LogFull(_full(self.directory, text))
        if any(sign in text for sign in _DAMAGED):
            return LogCorrupt(
                f"{self.directory} is damaged: {text}. Nothing is skipped: restore the directory from a backup"
            )
        if "LOCK" in text:
            return LogInUse(f"{self.directory} is in use by another process: {text}")
        if "olumn famil" in text:
            return LogMismatch(f"{self.directory} was written by another version of perdure: {text}")
        return LogError(f"{self.directory} refuses: {text}")

    def _attach(self, db: Rdict) -> None:
        self.db = db
        self.journal, self.side, self.state = (db.get_column_family(name) for name in ("journal", "side", "state"))
        self.journal_handle = db.get_column_family_handle("journal")
        self.side_handle = db.get_column_family_handle("side")
        self.state_handle = db.get_column_family_handle("state")
        self._open = True

    def _has_room(self) -> bool:
        """Whether recovery may work: it writes what the WAL holds as tables, compressed to a half or less."""
        stat = os.statvfs(self.path)
        wal = sum(file.stat().st_size for file in self.path.glob("*.log"))
        return stat.f_bavail * stat.f_frsize > wal // 2 + _MARGIN_BYTES


def _full(directory: Path, text: str) -> str:
    return (
        f"the disk of {directory} is full: writes are refused and reads are served. Make room, and work goes on by "
        f"itself ({text})"
    )


def _in_doubt(path: Path) -> bool:
    """Whether RocksDB would drop something without a word, or recover around a hole. Raises `LogCorrupt`."""
    named = manifest(path)
    if named is not None and tail(named) is Tail.DAMAGED and not cut_manifest(path):
        raise LogCorrupt(
            f"{named} is damaged near its end: the length of a record is not what was written. Opening it would "
            "drop what follows: restore the directory from a backup"
        )
    wals = sorted(path.glob("*.log"), key=lambda file: int(file.stem))
    return any(tail(file) is not Tail.WHOLE for file in wals) or not continues(wals)


def _database(*, new: bool = False) -> Options:
    options = Options(raw_mode=True)  # the other mode unpickles what it reads
    # Never where a log has been: RocksDB would remove, as not its own, all that the lost files had named.
    options.create_if_missing(new)
    options.create_missing_column_families(True)
    # The default drops what follows a flipped byte without a word.
    options.set_wal_recovery_mode(DBRecoveryMode.tolerate_corrupted_tail_records())
    options.set_keep_log_file_num(3)
    options.set_max_log_file_size(1 << 20)
    options.set_stats_dump_period_sec(0)
    options.set_stats_persist_period_sec(0)
    # A checkpoint of a quiet partition would keep all WALs since alive, and with them the time to open.
    options.set_max_total_wal_size(128 << 20)
    return options


def _families() -> dict[str, Options]:
    return {"journal": _records(), "side": _records(), "state": _state()}


def _family() -> Options:
    options = Options(raw_mode=True)
    options.set_compression_type(DBCompressionType.lz4())
    # RocksDB brakes writers by sleeping in `write`, which holds the GIL and so the whole process. Let tables pile up.
    options.set_write_buffer_size(WRITE_BUFFER_BYTES)
    options.set_max_write_buffer_number(6)
    options.set_level_zero_slowdown_writes_trigger(64)
    options.set_level_zero_stop_writes_trigger(128)
    return options


def _records() -> Options:
    return _family()


def _state() -> Options:
    options = _family()
    # Most lookups are for what is not there (a new run): the filters answer them, in memory and on disk.
    options.set_memtable_prefix_bloom_ratio(0.1)
    options.set_memtable_whole_key_filtering(True)
    table = BlockBasedOptions()
    table.set_bloom_filter(10, False)
    options.set_block_based_table_factory(table)
    return options
