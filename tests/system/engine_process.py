"""`perdure dev` and `serve` as processes, as users start them."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
PATIENCE_S = 30.0


def tell(process: "subprocess.Popen[bytes]", order: Mapping[str, Any]) -> bool:
    """A line for a child that takes orders; False if it is gone, and gets none."""
    assert process.stdin is not None
    try:
        process.stdin.write(json.dumps(order).encode() + b"\n")
        process.stdin.flush()
    except BrokenPipeError:
        return False
    return True


class EngineProcess:
    """A process of the command line, on a port of its own, with what it printed."""

    def __init__(self, folder: Path, *args: str, port_option: str = "--port", output: str = "output.txt") -> None:
        self.folder = folder
        self.args = args
        self.port = 0
        self.port_option = port_option
        self.output = folder / output
        self._seen = 0
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when it takes requests. The second start takes the port of the first."""
        self._seen = self.output.stat().st_size if self.output.exists() else 0
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "perdure", *self.args, self.port_option, str(self.port), "--json"],
                cwd=self.folder,
                env=environment(),
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        ready = self.wait_for_ready()
        self.port = int(ready["url"].rpartition(":")[2])

    def lines(self) -> list[str]:
        """What was printed since the last start."""
        with self.output.open("rb") as output:
            output.seek(self._seen)
            return output.read().decode().splitlines()

    def readies(self) -> list[dict[str, Any]]:
        """Each time that it was ready."""
        return [json.loads(line)["ready"] for line in self.lines() if line.startswith('{"ready"')]

    def wait_for_ready(self, times: int = 1) -> dict[str, Any]:
        """What it says when it is ready, for the `times`-th time."""
        wait_until(lambda: len(self.readies()) >= times or self.ended(), f"to be ready ({times})", self)
        assert len(self.readies()) >= times, "\n".join(self.lines())
        return self.readies()[times - 1]

    def wait_for_line(self, words: str) -> None:
        """Until it prints a line with these words."""
        wait_until(lambda: any(words in line for line in self.lines()), f"to say {words!r}", self)

    def ended(self) -> bool:
        """Whether there is no process any more."""
        return self.process is None or self.process.poll() is not None

    def kill(self) -> None:
        """SIGKILL for the process that was started, and no word to those that it started."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def stop(self, number: int = signal.SIGINT) -> int:
        """As a supervisor would; the exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        code = self.process.wait(PATIENCE_S)
        self.process = None
        return code

    def end(self) -> None:
        """Whatever is left of it."""
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def ask(self, path: str, body: object = None, method: str | None = None) -> Any:
        """GET, or POST if there is a body."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data, method=method)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            return json.loads(error.read())

    def perdure(self, *args: str) -> subprocess.CompletedProcess[str]:
        """The command line, pointed at this engine."""
        return subprocess.run(
            [sys.executable, "-m", "perdure", *args],
            cwd=self.folder,
            env=environment() | {"PERDURE_URL": f"http://127.0.0.1:{self.port}"},
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )


def environment() -> dict[str, str]:
    """The packages of this checkout, and no settings of whoever runs the tests."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("PERDURE_")}
    return own | {"PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in ("engine", "connectors", "schemas"))}


def wait_until(condition: Callable[[], object], what: str, engine: EngineProcess) -> None:
    """Looks every few milliseconds; says what the process printed if it was in vain."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited for it {what}\n" + "\n".join(engine.lines()[-40:])
        time.sleep(0.02)
