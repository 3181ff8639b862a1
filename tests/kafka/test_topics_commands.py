"""`perdure topics …` and `perdure dead-letters …`, on a real broker and on an embedded log."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from click.testing import CliRunner, Result

from perdure import App, Context, Engine, Event
from perdure.cli import main
from perdure.log.kafka import KafkaLog, parse
from perdure.log.kafka.client import Client, partition_in
from perdure.log.kafka.topics import Topics

Perdure = Callable[..., Awaitable[Result]]

app = App("shop")


@app.step
async def pack(order: str) -> str:
    return f"{order} packed"


@app.step(queue="gpu")
async def draw(order: str) -> str:
    return order


@app.function(on="shop/order.placed")
async def order(ctx: Context, event: Event) -> str:
    return await pack(event.data["order"])


@pytest.fixture
def url(kafka: str, tmp_path: Path) -> str:
    return f"kafka://{kafka}/test-{uuid4().hex[:12]}?session=1s&data={tmp_path}/data"


@pytest.fixture
def perdure(url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Perdure:
    monkeypatch.setenv("PERDURE_LOG", url)
    monkeypatch.chdir(tmp_path)

    async def call(*args: str) -> Result:
        return await asyncio.to_thread(CliRunner().invoke, main, list(args))

    return call


async def produce(url: str, *values: bytes, headers: Sequence[tuple[str, bytes]] = ()) -> None:
    client = Client(parse(url))
    producer = client.producer()
    await producer.start()
    batch = producer.create_batch()
    for value in values:
        batch.append(timestamp=None, key=None, value=value)
    await (await producer.send_batch(batch, client.address.topic("events"), partition=0))
    await producer.stop()


async def ran(url: str, *orders: str) -> list[str]:
    """One event for each, whose runs come to their end. Their ids."""
    async with Engine(app, log=url, partitions=2) as engine:
        for name in orders:
            await engine.send("shop/order.placed", {"order": name}, id=f"e-{name}")
        async with asyncio.timeout(60):
            while True:
                handles = [handle for name in orders for handle in await engine.runs(order, event_id=f"e-{name}")]
                if len(handles) == len(orders):
                    break
                await asyncio.sleep(0.05)
            for handle in handles:
                await handle.result()
    return [handle.id for handle in handles]


def records(done: Result) -> list[dict[str, Any]]:
    assert done.exit_code == 0, done.output
    return [json.loads(line) for line in done.stdout.splitlines()]


async def test_topics_are_made_once_and_listed(perdure: Perdure, url: str) -> None:
    prefix = parse(url).namespace
    assert (await perdure("topics", "list")).stdout.startswith("no topics")
    names = {f"{prefix}.{name}" for name in ("events", *(f"shop.{kind}" for kind in KINDS), "shop.commands.gpu")}
    made = await perdure("topics", "create", "tests.kafka.test_topics_commands:app", "--partitions", "3", "--json")
    assert made.exit_code == 0, made.output
    assert {row["topic"] for row in json.loads(made.stdout)["data"] if row["made"]} == names
    again = json.loads((await perdure("topics", "create", "shop", "--json")).stdout)["data"]
    assert not any(row["made"] for row in again)
    assert {row["partitions"] for row in again} == {3}
    listed = json.loads((await perdure("topics", "list", "--json")).stdout)["data"]
    assert {row["topic"] for row in listed} == names
    other = await perdure("topics", "create", "shop", "--partitions", "4")
    assert other.exit_code == 5
    assert "has 3 partitions, and 4 were asked for" in other.output


KINDS = ("journal", "snapshots", "logs", "dead-letters")


@pytest.mark.parametrize("kind", ["kafka", "embedded"])
async def test_the_journal_as_people_read_it(perdure: Perdure, url: str, tmp_path: Path, kind: str) -> None:
    log = url if kind == "kafka" else f"embedded://{tmp_path}/log"
    first, second = await ran(log, "o-1", "o-2")
    everything = records(await perdure("topics", "tail", "shop", "--log", log, "--json", "-n", "1000"))
    assert {line["record"]["kind"] for line in everything} > {"app.defined", "event.received", "step.completed"}
    assert [line["at"] for line in everything] == sorted(line["at"] for line in everything)
    assert records(await perdure("topics", "tail", "shop", "--log", log, "--json", "-n", "3")) == everything[-3:]
    of_run = records(await perdure("topics", "tail", "shop", "--log", log, "--run", first, "--json"))
    kinds = [line["record"]["kind"] for line in of_run]
    assert kinds == ["run.requested", "step.completed", "run.finished"]
    of_event = records(await perdure("topics", "tail", "shop", "--log", log, "--event", "e-o-2", "--json"))
    assert {line["record"]["kind"] for line in of_event} >= {"event.received", *kinds}
    assert not any(first in json.dumps(line) for line in of_event)
    told = await perdure("topics", "tail", "shop", "--log", log, "--run", second)
    assert "step.completed  run=" in told.stdout
    assert 'result="o-2 packed"' in told.stdout or "result=o-2 packed" in told.stdout


async def test_a_tail_where_there_is_nothing(perdure: Perdure) -> None:
    done = await perdure("topics", "tail", "shop")
    assert done.exit_code == 5
    assert "there is no journal of app 'shop'" in done.output
    done = await perdure("topics", "tail", "shop", "--log", "nowhere")
    assert done.exit_code == 5
    assert "there is no log in nowhere" in done.output
    assert not Path("nowhere").exists()
    assert (await perdure("topics", "tail", "shop", "--log", "nowhere", "-f")).exit_code == 2


async def test_a_gap_is_acknowledged(perdure: Perdure, url: str) -> None:
    await perdure("topics", "create", "shop", "--partitions", "1")
    await produce(url, b"1", b"2", b"3")
    topics = Topics(Client(parse(url)))
    await topics.trim(partition_in(parse(url).topic("events"), 0), 2)
    for args, words in (
        (("--partition", "1", "--offset", "2"), "--partition 1"),
        (("--partition", "0", "--offset", "1"), "has 2 to 3 by now"),
        (("--partition", "0", "--offset", "4"), "has 2 to 3 by now"),
    ):
        done = await perdure("topics", "skip-gap", "shop", *args)
        assert done.exit_code == 2
        assert words in done.output
    done = await perdure("topics", "skip-gap", "shop", "--partition", "0", "--offset", "2", "--json")
    assert (done.exit_code, json.loads(done.stdout)["offset"]) == (0, 2)
    skipped = await topics.places_of(parse(url).topic("shop", "ingest", "skipped"), parse(url).topic("events"))
    assert skipped == {0: 2}


async def test_dead_letters_are_tried_again(perdure: Perdure, url: str) -> None:
    good = b'{"name": "shop/order.placed", "data": {"order": "o-9"}}'
    await ran(url, "o-1")
    log = KafkaLog(parse(url), "shop", 2, stores=False)
    await log.open()
    await produce(url, b"nonsense", good)
    topic = log.events.topic
    end = await _end(log)
    for offset in (end - 2, end - 1, end - 1):
        letter = {"topic": topic, "partition": 0, "offset": offset, "reason": "an older version could not"}
        await log.acknowledge(log.put_side("dead-letters", 0, json.dumps(letter).encode()))
    await log.close()
    listed = json.loads((await perdure("dead-letters", "list", "shop", "--json")).stdout)["data"]
    assert [one["offset"] for one in listed] == [end - 2, end - 1]
    assert (await perdure("dead-letters", "retry", "shop")).exit_code == 2
    assert (await perdure("dead-letters", "retry", "shop", "99")).exit_code == 2
    done = await perdure("dead-letters", "retry", "shop", "--all", "--json")
    assert done.exit_code == 1
    bad, taken = json.loads(done.stdout)["data"]
    assert "JSON" in bad["error"]
    assert taken["event"] == f"{topic}/0/{end - 1}"
    left = await perdure("dead-letters", "list", "shop")
    assert f"{topic}/0/{end - 2}" in left.stdout
    assert f"{topic}/0/{end - 1}" not in left.stdout
    assert f"as event {taken['event']}" in (await perdure("dead-letters", "list", "shop", "--all")).stdout
    of_event = records(await perdure("topics", "tail", "shop", "--event", taken["event"], "--json"))
    assert of_event[0]["record"]["kind"] == "event.received"


async def _end(log: KafkaLog) -> int:
    return (await log.topics.bounds_of([log.events.topic]))[log.events.topic][0][1]
