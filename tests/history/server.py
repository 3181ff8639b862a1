"""A real PostgreSQL for tests: one for all workers of a test run, or one that a test may stop.

`PERDURE_TEST_POSTGRES` names one that is there (postgresql://…, whose role may make databases); else the programs of
Debian's `postgresql`, or those on the PATH, make one in a folder of its own, which listens on a Unix socket there.
"""

import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psycopg

from tests.shared import serve_while, shared

START_SECONDS = 60
_SETTINGS = {
    "listen_addresses": "",
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": "60",
    "shared_buffers": "32MB",
}


class NoPostgres(Exception):
    """It cannot be started here; the text says what is missing."""


def programs() -> Path:
    """The folder of `initdb` and `postgres`."""
    on_path = shutil.which("initdb")
    folders = [Path(on_path).resolve().parent] if on_path else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: float(folder.parent.name))
    for folder in reversed(folders):
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    raise NoPostgres(
        "the tests of history on PostgreSQL need its programs (Debian: apt install postgresql), or "
        "PERDURE_TEST_POSTGRES=postgresql://… of a server that is there"
    )


class Server:
    """It keeps its data over `stop` and `start`, until `close`. PostgreSQL does not run as root: then as another."""

    def __init__(self, within: Path | None = None) -> None:
        self._programs = programs()
        self.folder = Path(tempfile.mkdtemp(prefix="perdure-postgres-", dir=within or _roomy()))
        self._user = None
        if os.getuid() == 0:
            names = {one.pw_name for one in pwd.getpwall()}
            self._user = "postgres" if "postgres" in names else "nobody"
            shutil.chown(self.folder, self._user)
        self._process: subprocess.Popen[bytes] | None = None
        made = self._run("initdb", "-D", "data", "-A", "trust", "-U", "perdure", "-E", "UTF8", "--no-locale", "-N")
        if made.wait(START_SECONDS):
            raise NoPostgres(f"initdb failed: {self.said()}")

    @property
    def url(self) -> str:
        return f"postgresql://perdure@/postgres?host={self.folder}"

    def start(self) -> None:
        """Returns when it answers."""
        settings = [f"--{name}={value}" for name, value in _SETTINGS.items()]
        self._process = self._run("postgres", "-D", "data", "-k", str(self.folder), *settings)
        until = time.monotonic() + START_SECONDS
        while True:
            try:
                psycopg.connect(self.url, connect_timeout=2).close()
            except psycopg.OperationalError:
                if self._process.poll() is not None or time.monotonic() > until:
                    raise NoPostgres(f"PostgreSQL did not start: {self.said()}") from None
                time.sleep(0.05)
            else:
                return

    def stop(self) -> None:
        """At once: sessions are cut off."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(START_SECONDS)
            self._process = None

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def said(self) -> str:
        return (self.folder / "said").read_text(errors="replace")[-2000:]

    def _run(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        with open(self.folder / "said", "ab") as said:
            return subprocess.Popen(
                [self._programs / program, *arguments],
                cwd=self.folder,
                stdout=said,
                stderr=said,
                user=self._user,
                start_new_session=True,
            )


def shared_server(folder: Path) -> str:
    """The URL of the server that all workers of this test run share; the first that asks starts it."""
    given = os.environ.get("PERDURE_TEST_POSTGRES")
    if given:
        return given
    programs()
    return shared(folder, "tests.history.server", NoPostgres)


def _roomy() -> Path | None:
    """No disk need be behind it, if the machine has room."""
    memory = Path("/dev/shm")
    try:
        return memory if shutil.disk_usage(memory).free > 1 << 29 else None
    except OSError:  # not on this system
        return None


def _keep(folder: Path, pid: int) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    server = Server()
    try:
        server.start()
        serve_while(pid, folder, server.url)
    finally:
        server.close()


if __name__ == "__main__":
    _keep(Path(sys.argv[1]), int(sys.argv[2]))
