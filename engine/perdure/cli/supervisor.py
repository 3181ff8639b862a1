"""`perdure dev` itself: runs the engine in a process of its own, and another when the code has changed.

A process and not a reloaded module: only a new one forgets all that the old code left in memory.
"""

import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import msgspec
from watchfiles import PythonFilter, watch

from perdure.cli import exits
from perdure.cli.banner import say
from perdure.cli.listening import listen
from perdure.cli.orders import Orders, Served, Started

LOOK_MS = 100
DRAIN_S = 10.0
"""How long the old code may take to stop on a reload. Killing it then loses nothing: its log is whole."""

SHORTEST_PAUSE_S = 0.25


class Supervisor:
    """Owns the socket, the engine process and the signals."""

    def __init__(self, served: Served, host: str, port: int, *, reload: bool, as_json: bool) -> None:
        self._served = served
        self._host, self._port = host, port
        self._reload = reload
        self._as_json = as_json
        self._listener: socket.socket | None = None
        self._link: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._first = True
        self._asked_at = time.time()
        self._pause_s = SHORTEST_PAUSE_S
        self._watched: list[str] = []
        self._stop = Event()
        self._signals = 0

    def run(self) -> int:
        """Until Ctrl-C, or until the log says that no engine can run on it. The exit code."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._signalled)
        try:
            self._start()
            for changed in self._changes():
                if self._signals:
                    return self._drain()
                if changed:
                    self._reloaded(changed)
                code = self._look()
                if code is not None:
                    return code
            return self._drain()
        finally:
            self._end_process()
            self._close_listener()

    def _signalled(self, number: int, frame: object) -> None:
        self._signals += 1
        self._stop.set()
        if self._signals > 1 and self._process is not None:
            self._process.kill()

    def _changes(self) -> Iterator[set[str]]:
        """Changed files, or nothing a few times a second. Ends when a signal has come."""
        while not self._stop.is_set():
            if not self._reload:
                self._stop.wait(LOOK_MS / 1000)
                yield set()
                continue
            watched = self._watched
            here = Path.cwd()
            for changes in watch(
                here,
                *watched,
                watch_filter=PythonFilter(),
                debounce=300,
                step=50,
                rust_timeout=LOOK_MS,
                yield_on_timeout=True,
                stop_event=self._stop,
                raise_interrupt=False,
                ignore_permission_denied=True,
            ):
                yield {_shown(path, here) for _, path in changes}
                if watched != self._watched:
                    break

    def _start(self) -> None:
        if self._listener is None:
            self._listener = listen(self._host, self._port)
            self._port = int(self._listener.getsockname()[1])  # Port 0 became a port, which stays.
        ours, theirs = socket.socketpair()
        orders = Orders(
            self._served,
            self._listener.fileno(),
            theirs.fileno(),
            self._first,
            self._asked_at,
            self._reload,
            self._as_json,
        )
        with theirs:
            # Not as an argument, which the whole machine may read: URLs hold passwords.
            ours.sendall(msgspec.json.encode(orders) + b"\n")
            self._process = subprocess.Popen(
                [sys.executable, "-m", "perdure.cli.child", str(orders.link)],
                pass_fds=(orders.listener, orders.link),
            )
        self._link = ours

    def _reloaded(self, changed: set[str]) -> None:
        self._asked_at = time.time()
        names = ", ".join(sorted(changed)[:3]) + (" …" if len(changed) > 3 else "")
        say(f"{names} changed", as_json=self._as_json)
        self._end_process()
        self._start()

    def _look(self) -> int | None:
        """Reads what the engine tells, and sees whether it lives. An exit code if all is over."""
        self._read_link()
        code = None if self._process is None else self._process.poll()
        if code is None:
            return None
        self._end_process()
        if code < 0:
            self._crashed(signal.Signals(-code).name)
            return None
        mendable = code == exits.FAILED or (code == exits.USAGE and not self._first)
        if not mendable or not self._reload:
            return code
        # Nobody answers until the code is mended: better refused at once than kept waiting on the socket.
        self._close_listener()
        say("waiting for a change", "bold", as_json=self._as_json)
        return None

    def _crashed(self, reason: str) -> None:
        """One that dies as soon as it has started is not started at once for ever."""
        self._pause_s = SHORTEST_PAUSE_S if time.time() - self._asked_at > 10 else min(self._pause_s * 2, 10)
        say(f"the engine died ({reason}): starting it again in {self._pause_s:g}s", "bold red", as_json=self._as_json)
        self._stop.wait(self._pause_s)
        self._asked_at = time.time()
        if not self._signals:
            self._start()

    def _read_link(self) -> None:
        if self._link is None or not select.select([self._link], [], [], 0)[0]:
            return
        line = self._link.makefile("rb").readline()
        if line:
            self._first = False
            self._watched = msgspec.json.decode(line, type=Started).watch
        else:
            self._link.close()
            self._link = None

    def _drain(self) -> int:
        """After the first Ctrl-C: for as long as it takes, or until the second."""
        if self._process is None:
            return exits.OK
        say("stopping: once more to stop at once", as_json=self._as_json)
        self._process.terminate()
        code = self._process.wait()
        return exits.KILLED if self._signals > 1 else max(code, 0)

    def _end_process(self) -> None:
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            process.terminate()
            deadline = time.monotonic() + DRAIN_S
            while process.poll() is None and time.monotonic() < deadline and self._signals < 2:
                time.sleep(0.02)
            if process.poll() is None:
                process.kill()
                process.wait()
        if self._link is not None:
            self._link.close()
            self._link = None

    def _close_listener(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None


def _shown(path: str, here: Path) -> str:
    found = Path(path)
    return str(found.relative_to(here)) if found.is_relative_to(here) else path
