"""The stores of a pod: RocksDB on its own disk, beside a journal that is elsewhere.

Nothing here need outlive the disk: state that is gone is restored from snapshots and the journal's tail. So it is
written without syncs, and damage means that it is made anew.
"""

import logging
import shutil
from pathlib import Path

from perdure.errors import LogCorrupt, LogError
from perdure.log.directory import Lock, Mark, make_directories, prepare
from perdure.log.disk import Disk
from perdure.log.embedded_store import EmbeddedStore

log = logging.getLogger("perdure.log.kafka")


class StateDisk:
    """The stores of all partitions, and the lock on their directory."""

    def __init__(self, directory: Path, partitions: int) -> None:
        """Raises `LogInUse`, `LogMismatch`, `LogError`."""
        try:
            make_directories(directory)
            self._lock = Lock(directory)
        except OSError as error:
            raise LogError(f"{directory} cannot hold state: {error}. Give a directory that can be written") from error
        try:
            self._disk = _opened(directory, partitions)
        except BaseException:
            self._lock.release()
            raise
        self.stores = [EmbeddedStore(self._disk, number, self._disk.write) for number in range(partitions)]

    def close(self) -> None:
        self._disk.close()
        self._lock.release()


def _opened(directory: Path, partitions: int) -> Disk:
    prepare(directory, partitions)
    try:
        return _open(directory)
    except LogCorrupt as error:
        log.warning("state is made anew, from snapshots and the journal: %s", error)
        shutil.rmtree(directory / "db", ignore_errors=True)
        (directory / "acknowledged").unlink(missing_ok=True)
        return _open(directory)


def _open(directory: Path) -> Disk:
    mark = Mark(directory)
    try:
        disk = Disk(directory)
        disk.open(0, mark)
    finally:
        mark.close()
    return disk
