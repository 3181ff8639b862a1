"""`perdure dev` and `serve` with a real engine on a real log: reload, crash, drain."""

import json
import os
import signal
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.system.engine_process import EngineProcess, wait_until

SHOP = '''
import asyncio
from pathlib import Path
from typing import Any

from perdure import App, Context, Event

app = App("shop")


@app.step
async def charge(order: str) -> str:
    with Path("charges.txt").open("a") as file:
        file.write(order + "\\n")
    return f"{order} charged"


@app.step
async def pack(order: str) -> str:
    await asyncio.sleep(0.2)
    return f"{order} packed"


@app.function(on="shop/order.placed")
async def order(ctx: Context, event: Event) -> dict[str, Any]:
    """The version of this code: ONE."""
    charged = await charge(event.data["order"])
    paid = await ctx.wait_for_event("shop/order.paid", match="data.order", timeout="1d")
    return {"charged": charged, "paid": paid is not None, "version": "ONE"}


@app.background
async def mail(to: str, *, copies: int = 1) -> str:
    return f"{copies} to {to}: {await pack(to)}"
'''


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tmp_path.joinpath("shop.py").write_text(SHOP)
    return tmp_path


@pytest.fixture
def dev(folder: Path) -> Iterator[EngineProcess]:
    engine = EngineProcess(folder, "dev", "shop:app")
    engine.start()
    yield engine
    engine.end()


@pytest.fixture
def serve(folder: Path) -> Iterator[EngineProcess]:
    engine = EngineProcess(folder, "serve", "shop:app", "--log", "log")
    engine.start()
    yield engine
    engine.end()


def place(engine: EngineProcess, order: str) -> str:
    """Sends the event and gives the id of its run."""
    (event,) = engine.ask("/e/key", {"name": "shop/order.placed", "data": {"order": order}})["ids"]
    runs: list[dict[str, Any]] = []

    def started() -> bool:
        runs[:] = engine.ask(f"/v1/events/{event}/runs").get("data", [])
        return bool(runs)

    wait_until(started, "to start the run", engine)
    return str(runs[0]["id"])


def wait_for_wait(engine: EngineProcess, run: str) -> None:
    def waits() -> bool:
        return any(op["type"] == "wait" for op in engine.ask(f"/v1/runs/{run}").get("ops", []))

    wait_until(waits, "to wait for the payment", engine)


def pay(engine: EngineProcess, order: str, run: str) -> dict[str, Any]:
    """Sends the payment and gives how the run ended."""
    engine.ask("/e/key", {"name": "shop/order.paid", "data": {"order": order}})
    outcome: dict[str, Any] = engine.ask(f"/v1/runs/{run}/result?timeout=20s")
    return outcome


def test_from_the_first_event_to_the_result(dev: EngineProcess) -> None:
    ready = dev.readies()[0]
    assert {view["id"] for view in ready["functions"]} == {"mail", "order"}
    sent = dev.perdure("send", "shop/order.placed", "--data", '{"order": "o-1"}', "--id", "e1")
    assert (sent.returncode, sent.stdout) == (0, "e1\n")
    listed = json.loads(dev.perdure("functions", "--json").stdout)["data"]
    assert [view["id"] for view in listed] == [view["id"] for view in ready["functions"]]
    run = json.loads(dev.perdure("runs", "list", "--event", "e1", "--json").stdout)["data"][0]["id"]
    wait_for_wait(dev, run)
    outcome = pay(dev, "o-1", run)
    assert outcome["status"] == "completed", outcome
    assert outcome["result"] == {"charged": "o-1 charged", "paid": True, "version": "ONE"}
    shown = dev.perdure("runs", "show", run)
    assert shown.returncode == 0
    assert '("o-1") → "o-1 charged"' in shown.stdout
    assert "completed" in shown.stdout
    again = dev.perdure("runs", "rerun", run)
    assert again.returncode == 0
    assert dev.perdure("runs", "cancel", again.stdout.strip()).returncode == 0
    assert dev.ask(f"/v1/runs/{again.stdout.strip()}/result?timeout=20s")["status"] == "cancelled"
    assert dev.perdure("runs", "show", "nope").returncode == 3


def test_a_background_run_over_http(dev: EngineProcess) -> None:
    body = {"args": ["ada"], "kwargs": {"copies": 2}, "idempotency_key": "k1"}
    first = dev.ask("/v1/functions/mail/runs", body)["run_id"]
    assert dev.ask("/v1/functions/mail/runs", body)["run_id"] == first
    outcome = dev.ask(f"/v1/runs/{first}/result?timeout=20s")
    assert outcome["result"] == "2 to ada: ada packed"
    assert dev.ask("/v1/functions/male/runs", {})["status"] == 404
    assert dev.ask("/v1/functions/mail/runs", {"args": [1, 2, 3]})["status"] == 400


def test_changed_code_is_loaded_and_runs_go_on_with_it(dev: EngineProcess, folder: Path) -> None:
    run = place(dev, "o-1")
    wait_for_wait(dev, run)
    folder.joinpath("shop.py").write_text(SHOP.replace("ONE", "TWO"))
    dev.wait_for_line("shop.py changed")
    dev.wait_for_ready(2)
    assert pay(dev, "o-1", run)["result"]["version"] == "TWO"
    assert folder.joinpath("charges.txt").read_text() == "o-1\n"


def test_broken_code_is_shown_and_mended_code_goes_on(dev: EngineProcess, folder: Path) -> None:
    run = place(dev, "o-1")
    wait_for_wait(dev, run)
    folder.joinpath("shop.py").write_text(SHOP + "\ndef broken(:\n")
    dev.wait_for_line("waiting for a change")
    assert any("SyntaxError" in line for line in dev.lines())
    refused = dev.perdure("functions")
    assert refused.returncode == 4
    assert "no engine answers" in refused.stderr
    folder.joinpath("shop.py").write_text(SHOP)
    dev.wait_for_ready(2)
    assert pay(dev, "o-1", run)["status"] == "completed"


def test_an_engine_that_is_killed_is_started_again_and_loses_nothing(dev: EngineProcess, folder: Path) -> None:
    run = place(dev, "o-1")
    wait_for_wait(dev, run)
    assert dev.process is not None
    (child,) = children(dev.process.pid)
    os.kill(child, signal.SIGKILL)
    dev.wait_for_line("the engine died (SIGKILL)")
    dev.wait_for_ready(2)
    assert pay(dev, "o-1", run)["status"] == "completed"
    assert folder.joinpath("charges.txt").read_text() == "o-1\n"


def test_a_killed_supervisor_takes_its_engine_along(dev: EngineProcess, folder: Path) -> None:
    run = place(dev, "o-1")
    wait_for_wait(dev, run)
    dev.kill()
    dev.start()
    assert pay(dev, "o-1", run)["status"] == "completed"
    assert folder.joinpath("charges.txt").read_text() == "o-1\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_dev_drains(dev: EngineProcess, number: int) -> None:
    assert dev.process is not None
    (child,) = children(dev.process.pid)
    assert dev.stop(number) == 0
    assert not Path(f"/proc/{child}").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serve_drains_and_goes_on(serve: EngineProcess, folder: Path, number: int) -> None:
    run = place(serve, "o-1")
    wait_for_wait(serve, run)
    assert serve.stop(number) == 0
    assert folder.joinpath("log").is_dir()
    serve.start()
    assert pay(serve, "o-1", run)["status"] == "completed"
    assert folder.joinpath("charges.txt").read_text() == "o-1\n"


def test_a_long_poll_does_not_hold_the_stop(serve: EngineProcess) -> None:
    run = place(serve, "o-1")
    with socket.create_connection(("127.0.0.1", serve.port)) as poll:
        poll.sendall(f"GET /v1/runs/{run}/result?timeout=60s HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        time.sleep(0.3)
        began = time.monotonic()
        assert serve.stop() == 0
        assert time.monotonic() - began < 5
        assert poll.recv(100).startswith(b"HTTP/1.1 202")


def test_two_engines_on_one_log_or_one_port(serve: EngineProcess, folder: Path) -> None:
    other = serve.perdure("serve", "shop:app", "--log", "log", "--port", "0")
    assert other.returncode == 5
    assert other.stderr.startswith("error: ")
    taken = serve.perdure("serve", "shop:app", "--log", "other", "--port", str(serve.port))
    assert taken.returncode == 1
    assert "another --port" in taken.stderr


def test_a_page_elsewhere_is_refused_and_inngest_clients_are_not(serve: EngineProcess) -> None:
    request = urllib.request.Request(f"http://127.0.0.1:{serve.port}/e/key", b'{"name":"a"}', {"Host": "evil.example"})
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(request)
    assert serve.ask("/e/key", [{"name": "a"}, {"name": 5}])["status"] == 207


def test_what_was_mistyped_ends_at_once(folder: Path) -> None:
    engine = EngineProcess(folder, "dev", "shp:app")
    done = engine.perdure("dev", "shp:app", "--port", "0")
    assert done.returncode == 2
    assert "did you mean 'shop'?" in done.stderr


def children(pid: int) -> list[int]:
    """Processes that it started."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split()]
