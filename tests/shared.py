"""Servers that all workers of a test run share: whoever asks first starts a keeper, which outlives no test run."""

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_keepers: list[subprocess.Popen[bytes]] = []
"""They outlive whoever started them: one that is forgotten while it runs is a warning, and so an error of some test."""


def shared(folder: Path, keeper: str, failed: type[Exception]) -> str:
    """What the module `keeper` writes to `address` in the folder; it is called with that, and whom to outlive not."""
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / "lock"):
        address = folder / "address"
        if not address.exists():
            # With xdist the parent outlives every worker; without it, this process does.
            pid = os.getppid() if "PYTEST_XDIST_WORKER" in os.environ else os.getpid()
            command = [sys.executable, "-m", keeper, str(folder), str(pid)]
            with open(folder / "keeper", "ab") as said:
                process = subprocess.Popen(
                    command, cwd=Path(__file__).parents[1], stdout=said, stderr=said, start_new_session=True
                )
            _keepers.append(process)
            while not address.exists():
                if process.poll() is not None:
                    raise failed((folder / "keeper").read_text())
                time.sleep(0.05)
        return address.read_text()


def serve_while(pid: int, folder: Path, address: str) -> None:
    """For a keeper: say the address, at once and whole, and return when the process is gone."""
    part = folder / "address.part"
    part.write_text(address)
    part.rename(folder / "address")
    while _lives(pid):
        time.sleep(0.5)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
