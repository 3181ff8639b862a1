"""`perdure worker` and `perdure gateway` as processes, on a real broker."""

import asyncio
import json
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from click.testing import CliRunner

from perdure.cli import main
from perdure.log.kafka import KafkaLog, parse
from perdure.log.kafka.client import Client, partition_in
from perdure.log.kafka.topics import Topics
from tests.kafka.broker import Broker, NoKafka
from tests.kafka.roles import Start, roles
from tests.system.engine_process import EngineProcess, environment, wait_until

SHOP = """
import asyncio
import os
from pathlib import Path

from perdure import App, Context, Event

app = App("shop")


@app.step
async def pack(order: str) -> str:
    with Path("packed.txt").open("a") as file:
        file.write(order + "\\n")
    while not Path("go").exists():
        await asyncio.sleep(0.01)
    return f"{order} packed"


@app.step(queue="gpu")
async def draw(order: str) -> int:
    return os.getpid()


@app.function(on="shop/order.placed")
async def order(ctx: Context, event: Event) -> str:
    return await pack(event.data["order"])


@app.background
async def picture(order: str) -> int:
    return await draw(order)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tmp_path.joinpath("shop.py").write_text(SHOP)
    return tmp_path


@pytest.fixture
def start(folder: Path, kafka: str) -> Iterator[Start]:
    with roles(folder, f"kafka://{kafka}/test-{uuid4().hex[:12]}?session=1s") as begin:
        yield begin


def answer(engine: EngineProcess, path: str, body: object = None) -> tuple[int, Any, str]:
    """Status, content, Retry-After."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{engine.port}{path}", data)
    try:
        with urllib.request.urlopen(request, timeout=60) as given:
            return given.status, json.loads(given.read()), ""
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read()), error.headers.get("retry-after", "")


def is_ready(engine: EngineProcess) -> bool:
    return answer(engine, "/readyz")[0] == 200


def test_a_gateway_takes_what_workers_do(start: Start, folder: Path) -> None:
    folder.joinpath("go").touch()
    worker = start("worker", "--partitions", "3")
    wait_until(lambda: is_ready(worker), "to be ready", worker)
    assert answer(worker, "/healthz")[0] == 200
    text = metrics(worker)
    assert {f'perdure_partition_lag{{partition="{one}"}}' in text for one in range(3)} == {True}
    gateway = start("gateway")
    assert [view["id"] for view in gateway.readies()[0]["functions"]] == ["order", "picture"]
    assert answer(gateway, "/e/key", {"name": "shop/order.placed", "data": {"order": "o-1"}})[0] == 200
    wait_until(lambda: folder.joinpath("packed.txt").exists(), "to run the step", worker)
    run = answer(gateway, "/v1/functions/picture/runs", {"args": ["o-2"]})[1]["run_id"]
    outcome = answer(gateway, f"/v1/runs/{run}/result?timeout=30s")[1]
    assert outcome["status"] == "completed", outcome
    assert worker.process is not None
    assert outcome["result"] == worker.process.pid
    assert [answer(gateway, path)[0] for path in ("/v1/runs", f"/v1/runs/{run}", "/v1/runs/nope/result")] == [
        501,
        501,
        404,
    ]
    assert answer(gateway, "/v1/functions/pictures/runs", {})[0] == 404
    assert [gateway.stop(signal.SIGTERM), worker.stop(signal.SIGTERM)] == [0, 0]


def test_a_gap_in_events_is_seen_and_acknowledged(start: Start, folder: Path) -> None:
    folder.joinpath("go").touch()
    first = start("worker", "--partitions", "1")
    wait_until(lambda: is_ready(first), "to be ready", first)
    url = first.readies()[0]["log"]
    asyncio.run(produced(url, "o-1"))
    wait_until(lambda: folder.joinpath("packed.txt").exists(), "to run the step", first)
    assert first.stop(signal.SIGTERM) == 0
    asyncio.run(produced(url, "o-2", "o-3", "o-4"))
    asyncio.run(gone(url, 3))
    second = start("worker")
    wait_until(lambda: "events partition 0" in answer(second, "/readyz")[1]["waiting"], "to see the gap", second)
    status, said, _ = answer(second, "/readyz")
    assert status == 503
    command = "perdure topics skip-gap shop --partition 0 --offset 3"
    assert "its records 1 to 2 are gone and were never taken in" in said["waiting"]["events partition 0"]
    assert command in said["waiting"]["events partition 0"]
    assert 'perdure_events_gone{partition="0"} 2' in metrics(second)
    done = CliRunner().invoke(main, [*command.split()[1:], "--log", url])
    assert done.exit_code == 0, done.output
    wait_until(lambda: is_ready(second), "to go on", second)
    wait_until(lambda: "o-4" in folder.joinpath("packed.txt").read_text(), "to take in what comes after", second)
    assert "perdure_events_gone{" not in metrics(second)
    assert second.stop(signal.SIGTERM) == 0


def test_a_partition_that_halts_is_seen(start: Start) -> None:
    worker = start("worker", "--partitions", "2")
    wait_until(lambda: is_ready(worker), "to be ready", worker)
    assert 'perdure_partition_halted{partition="1"} 0' in metrics(worker)
    asyncio.run(appended(worker.readies()[0]["log"], 1, b'{"kind": "run.dreamt", "v": 99}'))
    wait_until(lambda: not is_ready(worker), "to halt", worker)
    assert "install the version of perdure that wrote" in answer(worker, "/readyz")[1]["waiting"]["partition 1"]
    assert 'perdure_partition_halted{partition="0"} 0' in metrics(worker)
    assert 'perdure_partition_halted{partition="1"} 1' in metrics(worker)


async def produced(url: str, *orders: str) -> None:
    client = Client(parse(url))
    producer = client.producer()
    await producer.start()
    batch = producer.create_batch()
    for order in orders:
        value = json.dumps({"name": "shop/order.placed", "data": {"order": order}}).encode()
        batch.append(timestamp=None, key=None, value=value)
    await (await producer.send_batch(batch, client.address.topic("events"), partition=0))
    await producer.stop()


async def gone(url: str, below: int) -> None:
    await Topics(Client(parse(url))).trim(partition_in(parse(url).topic("events"), 0), below)


async def appended(url: str, partition: int, record: bytes) -> None:
    log = KafkaLog(parse(url), "shop", 2, stores=False)
    await log.open()
    await log.acknowledge(log.append(partition, record))
    await log.close()


def metrics(engine: EngineProcess) -> str:
    text: bytes = urllib.request.urlopen(f"http://127.0.0.1:{engine.port}/metrics", timeout=60).read()
    return text.decode()


def test_a_member_of_a_pool_owns_nothing(start: Start) -> None:
    worker = start("worker", "--no-queues")
    gateway = start("gateway")
    pool = start("worker", "--queue", "gpu=1", "--name", "painter")
    ready = pool.readies()[0]
    assert (ready["role"], ready["queues"]) == ("pool", {"gpu": 1})
    run = answer(gateway, "/v1/functions/picture/runs", {"args": ["o-2"]})[1]["run_id"]
    outcome = answer(gateway, f"/v1/runs/{run}/result?timeout=30s")[1]
    assert pool.process is not None
    assert outcome["result"] == pool.process.pid
    assert not pool.folder.joinpath("data2").exists()
    assert [pool.stop(signal.SIGTERM), worker.stop(signal.SIGTERM)] == [0, 0]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["worker", "shop:app"], "--log is missing: a log that processes share is needed"),
        (["worker", "shop:app", "--log", "embedded://data"], "on one machine `perdure serve` does without"),
        (["worker", "shop:app", "--log", "kafka://x", "--queue", "gpu=0"], "such as --queue gpu=1"),
        (["worker", "shop:app", "--log", "kafka://x", "--grace", "30"], "30"),
        (["gateway", "shop:app", "--log", "kafka://x", "--host", "0.0.0.0"], "other machines reach it"),
    ],
)
def test_wrong_usage(folder: Path, monkeypatch: pytest.MonkeyPatch, args: list[str], words: str) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    done = CliRunner().invoke(main, args)
    assert done.exit_code == 2
    assert words in done.output.replace("\n", " ")


def test_nobody_answers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    done = CliRunner().invoke(main, ["worker", "shop:app", "--log", "kafka://127.0.0.1:1", "--json"])
    assert done.exit_code == 5
    assert "no Kafka broker answers at 127.0.0.1:1" in json.loads(done.stdout)["error"]["detail"]


def test_a_stop_lets_steps_come_to_their_end(start: Start, folder: Path) -> None:
    worker = start("worker")
    gateway = start("gateway")
    packed = folder / "packed.txt"
    answer(gateway, "/e/key", {"name": "shop/order.placed", "data": {"order": "o-1"}})
    wait_until(packed.exists, "to run the step", worker)
    assert worker.process is not None
    worker.process.send_signal(signal.SIGTERM)
    worker.wait_for_line("stopping")
    folder.joinpath("go").touch()
    assert worker.process.wait(30) == 0
    second = start("worker")
    wait_until(lambda: is_ready(second), "to be ready", second)
    run = answer(gateway, "/v1/functions/picture/runs", {"args": ["o-2"]})[1]["run_id"]
    assert answer(gateway, f"/v1/runs/{run}/result?timeout=30s")[1]["status"] == "completed"
    assert packed.read_text() == "o-1\n"


def test_the_end_of_the_grace_period_ends_the_process(start: Start, folder: Path) -> None:
    worker = start("worker", "--grace", "200ms")
    gateway = start("gateway")
    answer(gateway, "/e/key", {"name": "shop/order.placed", "data": {"order": "o-1"}})
    wait_until(folder.joinpath("packed.txt").exists, "to run the step", worker)
    assert worker.stop(signal.SIGTERM) == 130


def test_a_gateway_acknowledges_nothing_while_the_brokers_are_away(start: Start, folder: Path) -> None:
    try:
        broker = Broker(folder / "broker")
    except NoKafka as error:
        pytest.skip(str(error))
    broker.start()
    try:
        folder.joinpath("go").touch()
        log = f"kafka://{broker.bootstrap}/away?session=1s"
        worker, gateway = start("worker", log=log), start("gateway", log=log)
        wait_until(lambda: is_ready(worker), "to be ready", worker)
        event = {"name": "shop/order.placed", "data": {"order": "o-1"}, "id": "e1"}
        broker.kill()
        status, problem, later = answer(gateway, "/e/key", event)
        assert (status, later) == (503, "1"), problem
        assert answer(gateway, "/readyz")[0] == 503
        broker.start()
        wait_until(lambda: answer(gateway, "/e/key", event)[0] == 200, "to take events again", gateway)
        wait_until(folder.joinpath("packed.txt").exists, "to run the step", worker)
        gateway.stop(signal.SIGTERM)
        worker.stop(signal.SIGTERM)
    finally:
        broker.kill()


def test_a_tail_goes_on_with_what_comes(start: Start, folder: Path) -> None:
    folder.joinpath("go").touch()
    worker, gateway = start("worker"), start("gateway")
    log = worker.args[3]
    with folder.joinpath("tail.txt").open("wb") as told:
        command = [sys.executable, "-m", "perdure", "topics", "tail", "shop", "--log", log, "-f", "--event", "e1"]
        tail = subprocess.Popen(command, cwd=folder, env=environment(), stdout=told, stderr=subprocess.STDOUT)
    try:
        wait_until(lambda: is_ready(worker), "to be ready", worker)
        answer(gateway, "/e/key", {"name": "shop/order.placed", "data": {"order": "o-1"}, "id": "e1"})
        wait_until(lambda: "run.finished" in folder.joinpath("tail.txt").read_text(), "to end the run", worker)
        tail.send_signal(signal.SIGINT)
        assert tail.wait(30) == 130
        assert "Traceback" not in folder.joinpath("tail.txt").read_text()
    finally:
        tail.kill()
