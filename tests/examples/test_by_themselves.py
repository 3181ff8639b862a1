"""Each example runs by itself, as its docstring says, in a process of its own."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("lost_customers", ["mail to bob@x.org", "bought", "reminded", "cancelled"]),
        ("digest", ["3 digests enqueued", "mail to ada@x.org"]),
        ("order_saga", ["parcel-tea", "CardDeclined", "refunded"]),
        ("reviews", ["d-2 200", "d-4 401", "reviewed by ada", "comment on https://github.example/pull/2"]),
        ("contacts_import", ["3376 of 3376 contacts imported"]),
    ],
)
def test_it_shows_what_it_does(name: str, said: list[str], tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "examples" / f"{name}.py")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert [text for text in said if text not in done.stdout] == []
    assert done.stderr == ""


def test_the_demo_holds_what_it_promises(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "examples" / "demo.py")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SIGKILL at" in done.stdout
    assert "✗" not in done.stdout


class Service:
    """`python examples/onboarding.py FOLDER`, which can be killed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when it answers."""
        with (self.folder / "output.txt").open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, str(ROOT / "examples" / "onboarding.py"), str(self.folder / "data")],
                env=os.environ | {"PORT": str(self.port)},
                stdout=output,
                stderr=output,
            )
        wait_until(self.answers)

    def stop(self, number: signal.Signals) -> int:
        """Its exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(timeout=30)

    def answers(self) -> bool:
        """Whether it is up; its output, if it never will be."""
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / "output.txt").read_text()
        try:
            self.ask("/openapi.json")
        except OSError:
            return False
        return True

    def ask(self, path: str, body: object = None, method: str | None = None) -> Any:
        """GET, or POST if there is a body."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data, method=method)
        request.add_header("content-type", "application/json")
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.loads(answer.read())


def wait_until(condition: Callable[[], object]) -> None:
    """Looks again for half a minute."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def test_the_onboarding_service_survives_sigkill(tmp_path: Path) -> None:
    """The docstring's session: sign up, kill, start again, cancel, run again."""
    service = Service(tmp_path)
    service.start()
    try:
        run_id = service.ask("/signup", {"email": "ada@x.org", "company": "acme", "team": ["bob@x.org"]})["run_id"]
        service.stop(signal.SIGKILL)
        service.start()
        wait_until(lambda: service.ask(f"/runs/{run_id}") == {"status": "suspended"})
        wait_until(lambda: service.ask("/users/ada@x.org") == {"status": "ready, 1 invited"})
        service.ask(f"/runs/{run_id}/cancel", method="POST")
        wait_until(lambda: service.ask("/users/ada@x.org") == {"status": "onboarding cancelled"})
        again = service.ask(f"/runs/{run_id}/rerun", method="POST")["run_id"]
        wait_until(lambda: service.ask("/users/ada@x.org") == {"status": "ready, 1 invited"})
        wait_until(lambda: service.ask(f"/runs/{again}") == {"status": "suspended"})
        assert service.ask(f"/runs/{run_id}") == {"status": "cancelled"}
        assert service.stop(signal.SIGTERM) in {0, -signal.SIGTERM}
    finally:
        if service.process is not None:
            service.process.kill()
            service.process.wait()
