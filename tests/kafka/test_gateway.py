"""`perdure gateway` shows and steers what workers do: from the history that they write, or from one of its own."""

import json
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode
from uuid import uuid4

import pytest

from perdure.history.postgres import PostgresHistory, schema_named
from perdure.history.postgres_shelf import PostgresShelf
from tests.kafka.roles import Start, roles
from tests.system.engine_process import EngineProcess, wait_until

SHOP = """
from perdure import App, Context, Event

app = App("shop")


@app.step
async def pack(order: str) -> str:
    return f"{order} packed"


@app.step(queue="gpu")
async def draw(order: str) -> str:
    return order


@app.function(on="shop/order.placed")
async def order(ctx: Context, event: Event) -> str:
    packed = await pack(event.data["order"])
    await ctx.wait_for_event("shop/order.collected", match="data.order", timeout="1d")
    return packed


@app.background
async def picture(order: str) -> str:
    return await draw(order)


@app.background
async def mail(to: str) -> str:
    return to


@app.cron("0 6 * * *")
async def sweep() -> None: ...
"""
Options = dict[str, list[str]]
"""Role → what it is told of the history."""


@pytest.fixture
def options(request: pytest.FixtureRequest, namespace: str) -> Iterator[Options]:
    """Where the gateway's history lies."""
    if request.param == "own":
        yield {"worker": [], "gateway": ["--data", "gateway"]}
        return
    url: str = request.getfixturevalue("postgres")
    if request.param == "nobody writes it":
        yield {"worker": [], "gateway": ["--history", url]}
        PostgresShelf(url, schema_named(f"{namespace}.shop.jobs")).drop()
        return
    yield {"worker": ["--history", url], "gateway": ["--history", url]}
    PostgresHistory(url, schema_named(f"{namespace}.shop")).drop()
    PostgresShelf(url, schema_named(f"{namespace}.shop.jobs")).drop()


@pytest.fixture
def namespace() -> str:
    return f"test-{uuid4().hex[:12]}"


@pytest.fixture
def start(tmp_path: Path, kafka: str, namespace: str, options: Options) -> Iterator[Start]:
    tmp_path.joinpath("shop.py").write_text(SHOP)
    with roles(tmp_path, f"kafka://{kafka}/{namespace}?session=1s") as begin:
        yield lambda role, *args: begin(role, *options[role], *args)


def found(gateway: EngineProcess, **wanted: str) -> list[str]:
    """Ids of runs, by filters."""
    return [run["id"] for run in gateway.ask(f"/v1/runs?{urlencode(wanted)}")["data"]]


def the_one(gateway: EngineProcess, **wanted: str) -> str:
    """The id of a run that comes to be the only one that fits."""
    wait_until(lambda: len(found(gateway, **wanted)) == 1, f"to be known, {wanted}", gateway)
    return found(gateway, **wanted)[0]


def refused(gateway: EngineProcess, path: str) -> int:
    with pytest.raises(urllib.error.HTTPError) as raised:
        urllib.request.urlopen(f"http://127.0.0.1:{gateway.port}{path}", timeout=60)
    with raised.value:
        return raised.value.code


@contextmanager
def told(gateway: EngineProcess) -> Iterator[Iterator[dict[str, Any]]]:
    """What changes, from here on."""
    with urllib.request.urlopen(f"http://127.0.0.1:{gateway.port}/v1/live?timeout=60s", timeout=60) as stream:
        assert stream.readline() == b": perdure\n"
        yield (one for line in stream if line.startswith(b"data: [") for one in json.loads(line[6:]))


@pytest.mark.parametrize("options", ["nobody writes it"], indirect=True)
def test_what_workers_do_not_write_is_waited_for(start: Start) -> None:
    """A gateway may start before the first worker writes; it takes events and calls all the same."""
    worker = start("worker", "--partitions", "2")
    gateway = start("gateway")
    for path in ("/v1/runs", "/v1/events", "/v1/overview", "/v1/functions", "/v1/runs/r1"):
        said = gateway.ask(path)
        assert (said["status"], said["type"]) == (503, "urn:perdure:error:NoHistory"), path
        assert "there is no history at postgresql://" in said["detail"]
    mail = gateway.ask("/v1/functions/mail/runs", {"args": ["ada"]})["run_id"]
    assert gateway.ask(f"/v1/runs/{mail}/result?timeout=30s")["result"] == "ada"
    assert [gateway.stop(signal.SIGTERM), worker.stop(signal.SIGTERM)] == [0, 0]


@pytest.mark.parametrize("options", ["postgres", "own"], indirect=True)
def test_runs_are_seen_and_steered(start: Start) -> None:
    worker = start("worker", "--partitions", "2", "--no-queues")
    gateway = start("gateway")
    with told(gateway) as changes:
        gateway.ask("/e/key", {"name": "shop/order.placed", "data": {"order": "o-1"}, "id": "e1"})
        run = the_one(gateway, event_id="e1")
        assert next(change["function"] for change in changes if change["id"] == run) == "order"

    def waits() -> bool:
        page = gateway.ask(f"/v1/runs/{run}")
        return [op["type"] for op in page["ops"]] == ["step", "wait"] and "an event" in page["waiting"][0]["why"]

    wait_until(waits, "to wait for an event", gateway)
    for wanted in (
        {"function": "order", "status": "running", "since": "1h"},
        {"where": 'event.data.order == "o-1"'},
    ):
        assert found(gateway, **wanted) == [run]
    assert found(gateway, function="order", status="failed") == []
    assert gateway.ask("/v1/events/e1")["decisions"][0]["decision"] == "started"
    state = json.loads(gateway.perdure("state", run, "--json").stdout)  # of records that the gateway reads itself
    assert [line["op"] for line in state["lines"]] == ["0/pack#1", "0/wait:shop/order.collected#1"]
    assert refused(gateway, "/v1/events/nothing/runs") == refused(gateway, "/v1/runs/nothing") == 404

    steered(gateway, run)
    forked(gateway, run)
    queued(gateway)
    assert [gateway.stop(signal.SIGTERM), worker.stop(signal.SIGTERM)] == [0, 0]


def views(gateway: EngineProcess) -> dict[str, dict[str, Any]]:
    return {view["id"]: view for view in gateway.ask("/v1/functions")["data"]}


def paused_mail(gateway: EngineProcess) -> str:
    """A run of `mail` that waits. The pause is durable, and its partition may not have heard of it: then another."""

    def waits() -> bool:
        return views(gateway)["mail"].get("waiting") == 1

    def waits_or_ended(mail: str) -> bool:
        return waits() or mail in found(gateway, status="completed")

    while True:
        mail: str = gateway.ask("/v1/functions/mail/runs", {"args": ["ada"]})["run_id"]
        wait_until(partial(waits_or_ended, mail), "to wait, or to end", gateway)
        if waits():
            return mail


def steered(gateway: EngineProcess, run: str) -> None:
    """Pausing, cancelling, and running again what was cancelled."""
    gateway.ask("/v1/functions/mail/pause", method="POST")
    mail = paused_mail(gateway)
    assert views(gateway)["mail"]["paused_since"]
    assert views(gateway)["order"]["running"] == 1
    assert views(gateway)["sweep"]["next_fire"]
    assert gateway.ask("/v1/overview")["waits"]["paused"] == {"mail": 1}
    gateway.ask("/v1/functions/mail/resume", method="POST")
    assert gateway.ask(f"/v1/runs/{mail}/result?timeout=30s")["result"] == "ada"

    gateway.ask(f"/v1/runs/{run}?reason={quote('the customer called')}", method="DELETE")
    assert the_one(gateway, function="order", status="cancelled") == run
    job = gateway.ask("/v1/jobs", {"action": "rerun", "function": "order", "status": "cancelled"})
    wait_until(lambda: gateway.ask(f"/v1/jobs/{job['id']}")["state"] == "finished", "to run it again", gateway)
    again = the_one(gateway, function="order", status="running")
    assert gateway.ask(f"/v1/runs/{again}")["run"]["rerun_of"] == run
    assert [one["id"] for one in gateway.ask("/v1/jobs")["data"]] == [job["id"]]


def forked(gateway: EngineProcess, run: str) -> None:
    """The cancelled one from its wait on, which is over: of records that the gateway reads, by some that it writes."""
    asked = {"at": "0/wait:shop/order.collected#1", "timeout": True}
    new: str = gateway.ask(f"/v1/runs/{run}/fork", asked)["run_id"]
    assert gateway.ask(f"/v1/runs/{new}/result?timeout=30s")["result"] == "o-1 packed"
    assert the_one(gateway, function="order", status="completed") == new
    page = gateway.ask(f"/v1/runs/{new}")
    assert (page["run"]["cause"], page["run"]["rerun_of"]) == ("fork", run)
    assert [(op["name"], op["status"]) for op in page["ops"]] == [
        ("pack", "completed"),
        ("wait:shop/order.collected", "completed"),
    ]


def queued(gateway: EngineProcess) -> None:
    """A step that no member of its pool has taken, and how far each partition is."""
    gateway.ask("/v1/functions/picture/runs", {"args": ["o-1"]})
    waiting = [{"queue": "gpu", "waiting": 1, "taken": 0, "resting": 0}]
    wait_until(lambda: gateway.ask("/v1/overview")["waits"]["queues"] == waiting, "to stand in its queue", gateway)
    overview = gateway.ask("/v1/overview")
    assert (set(overview["lag"]), overview["live"]["running"]) == ({"0", "1"}, 2)
