"""Copies of logs that are, or were just now, open.

RocksDB removes old tables on threads of its own, also for a while after a close, and for as long as something that was
raised holds a handle. A walk over the directory may so find that a file has gone meanwhile, or has come.
"""

import shutil
from errno import ENOENT, ENOTEMPTY
from pathlib import Path

_TRIES = 20


def copy_log(log: Path, copy: Path) -> None:
    """The directory as SIGKILL would leave it: what was written is in the files, synced or not."""
    for last in (*[False] * (_TRIES - 1), True):
        try:
            shutil.copytree(log, copy)
        except shutil.Error:
            if last:
                raise
            remove_log(copy)
        else:
            return


def remove_log(log: Path) -> None:
    for last in (*[False] * (_TRIES - 1), True):
        try:
            shutil.rmtree(log)
        except OSError as error:
            if last or error.errno not in (ENOENT, ENOTEMPTY):
                raise
        else:
            return
