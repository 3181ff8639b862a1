"""Where jobs are kept: each with its runs, written once, and how far it is."""

import os
from collections.abc import Iterable
from pathlib import Path
from threading import Lock
from typing import Protocol


class Shelf(Protocol):
    """Methods do their I/O where they are called. They raise `NoHistory` while a database does not answer."""

    shared: bool
    """Other processes have it too, and do jobs of it."""

    def all(self) -> list[bytes]:
        """All jobs, in any order."""
        ...

    def find(self, job: str) -> bytes | None: ...

    def runs(self, job: str) -> bytes:
        """What `make` was given."""
        ...

    def make(self, job: str, content: bytes, runs: bytes) -> bool:
        """False if there is one of this name, which stays as it is."""
        ...

    def keep(self, job: str, content: bytes, done: int, *, finished: bool) -> None:
        """How far it is; nothing, where another is farther."""
        ...

    def take(self, job: str) -> bool:
        """Whether it is for this process to do from now on; not while another does it, or if it is over."""
        ...

    def leave(self, job: str) -> None:
        """It is done."""
        ...

    def forget(self, jobs: Iterable[str]) -> None: ...

    def close(self) -> None: ...


class FileShelf:
    """A folder of one process: `JOB.job` and `JOB.runs`."""

    shared = False

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._making = Lock()

    def all(self) -> list[bytes]:
        found = (self.find(path.stem) for path in self._folder.glob("*.job"))
        return [content for content in found if content is not None]

    def find(self, job: str) -> bytes | None:
        try:
            return self._file(job, "job").read_bytes()
        except FileNotFoundError:
            return None

    def runs(self, job: str) -> bytes:
        return self._file(job, "runs").read_bytes()

    def make(self, job: str, content: bytes, runs: bytes) -> bool:
        self._folder.mkdir(parents=True, exist_ok=True)
        with self._making:
            if self.find(job) is not None:
                return False
            # The job last: who finds it finds its runs.
            _write(self._file(job, "runs"), runs)
            _write(self._file(job, "job"), content)
            return True

    def keep(self, job: str, content: bytes, done: int, *, finished: bool) -> None:
        _write(self._file(job, "job"), content)

    def take(self, job: str) -> bool:
        return True

    def leave(self, job: str) -> None:
        """Nobody else waits for it."""

    def forget(self, jobs: Iterable[str]) -> None:
        for job in jobs:
            # The runs first: what is left of it after a crash is forgotten the next time.
            self._file(job, "runs").unlink(missing_ok=True)
            self._file(job, "job").unlink(missing_ok=True)

    def close(self) -> None:
        """Nothing is open."""

    def _file(self, job: str, suffix: str) -> Path:
        return self._folder / f"{job}.{suffix}"


def _write(path: Path, content: bytes) -> None:
    """Whole, or as it was."""
    making = path.with_name(path.name + ".making")
    with making.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    making.replace(path)
