"""What others write with, kcat, a CloudEvents SDK and Java's console producer, starts runs."""

import asyncio
import json
import shutil
import subprocess
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from perdure import App, Context, Engine, Event
from perdure.log.kafka.address import parse
from perdure.log.kafka.client import Client, partition_in
from perdure.log.kafka.log import KafkaLog
from perdure.log.kafka.topics import Topics
from tests.kafka.broker import NoKafka, java_tool

VALUE = b'{"name": "order/placed", "data": {"order": 7}}'
Send = Callable[..., None]


class Shop:
    """An app that notes what its runs were started with, in an engine on topics of its own."""

    def __init__(self, kafka: str, disk: Path) -> None:
        self.kafka = kafka
        self.namespace = f"test-{uuid4().hex[:12]}"
        self.events = f"{self.namespace}.events"
        self.seen: list[Any] = []
        self.app = App("shop")
        self.url = f"kafka://{kafka}/{self.namespace}?session=1s&data={disk}"

        @self.app.function(on="order/*")
        async def placed(ctx: Context, event: Event[Any]) -> None:
            self.seen.append(event.data)

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[KafkaLog]:
        async with Engine(self.app, log=self.url, partitions=1) as engine:
            log = engine.nodes[0].log
            assert isinstance(log, KafkaLog)
            yield log

    async def until(self, count: int) -> list[Any]:
        async with asyncio.timeout(60):
            while len(self.seen) < count:
                await asyncio.sleep(0.01)
        return self.seen


@pytest.fixture
async def shop(kafka: str, tmp_path: Path) -> AsyncGenerator[Shop]:
    shop = Shop(kafka, tmp_path / "disk")
    yield shop
    await Topics(Client(parse(shop.url))).delete_all()


def run(command: list[str], line: bytes) -> None:
    done = subprocess.run(command, input=line + b"\n", capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr.decode()


@pytest.fixture
def kcat() -> Send:
    if shutil.which("kcat") is None:
        pytest.skip("kcat is missing (Debian: apt install kcat)")

    def send(shop: Shop, value: bytes, *, key: str = "", headers: Mapping[str, str] | None = None) -> None:
        given = [f"-H{name}={text}" for name, text in (headers or {}).items()]
        keyed = ["-K", "\t"] if key else []
        line = b"\t".join((key.encode(), value)) if key else value
        # -Z: what is empty has no value at all, as what a compacted topic forgets.
        run(["kcat", "-P", "-Z", "-b", shop.kafka, "-t", shop.events, *keyed, *given], line)

    return send


@pytest.fixture
def java() -> Send:
    """Java's console producer."""
    try:
        java_tool("")
    except NoKafka as error:
        pytest.skip(str(error))

    def send(shop: Shop, value: bytes, *, key: str = "", headers: Mapping[str, str] | None = None) -> None:
        given = ",".join(f"{name}:{text}" for name, text in (headers or {}).items())
        line = b"\t".join([part.encode() for part in (given, key) if part] + [value])
        asked = [f"parse.headers={'true' if given else 'false'}", f"parse.key={'true' if key else 'false'}"]
        where = ["--bootstrap-server", shop.kafka, "--topic", shop.events]
        properties = [word for one in asked for word in ("--property", one)]
        run(java_tool("org.apache.kafka.tools.ConsoleProducer", *where, *properties), line)

    return send


@pytest.mark.parametrize("key", ["", "customer-1"])
@pytest.mark.parametrize("by", ["kcat", "java"])
async def test_a_plain_event(shop: Shop, by: str, key: str, request: pytest.FixtureRequest) -> None:
    send: Send = request.getfixturevalue(by)
    async with shop.opened():
        await asyncio.to_thread(send, shop, VALUE, key=key)
        assert await shop.until(1) == [{"order": 7}]


@pytest.mark.parametrize("by", ["kcat", "java"])
async def test_a_cloud_event_in_headers(shop: Shop, by: str, request: pytest.FixtureRequest) -> None:
    send: Send = request.getfixturevalue(by)
    headers = {"ce_specversion": "1.0", "ce_type": "order/placed", "ce_source": "till", "ce_id": "1"}
    async with shop.opened():
        await asyncio.to_thread(send, shop, b'{"order": 8}', key="a", headers=headers)
        assert await shop.until(1) == [{"order": 8}]


@pytest.mark.parametrize("key", [None, "customer-1"])
@pytest.mark.parametrize("mode", ["binary", "structured"])
async def test_a_cloud_event_by_its_sdk(shop: Shop, mode: str, key: str | None) -> None:
    binding = pytest.importorskip("cloudevents.core.bindings.kafka")
    CloudEvent = pytest.importorskip("cloudevents.core.v1.event").CloudEvent
    JSONFormat = pytest.importorskip("cloudevents.core.formats.json").JSONFormat
    event = CloudEvent({"type": "order/placed", "source": "/till/1", "partitionkey": key}, {"order": 9})
    message = {"binary": binding.to_binary, "structured": binding.to_structured}[mode](event, JSONFormat())
    async with shop.opened():
        producer = pytest.importorskip("aiokafka").AIOKafkaProducer(bootstrap_servers=shop.kafka)
        await producer.start()
        # Twice: its source and id say that it is one.
        for _ in range(2):
            given = None if message.key is None else str(message.key).encode()
            await producer.send_and_wait(shop.events, message.value, key=given, headers=list(message.headers.items()))
        await producer.send_and_wait(shop.events, b'{"name": "order/last", "data": {}}')
        await producer.stop()
        assert await shop.until(2) == [{"order": 9}, {}]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"not JSON", "the event is not JSON"),
        (b"", "the event is empty"),
        (b'{"name": "order/placed", "data": {"a": 1, "a": 2}}', "the key 'a' is twice"),
        (b'{"specversion": "0.3", "type": "order/placed", "id": "1"}', "a CloudEvent of version 0.3"),
        (b"\xff\xfe", "the event is not UTF-8"),
    ],
)
async def test_what_nobody_can_read_is_put_aside_and_the_app_goes_on(
    shop: Shop, kcat: Send, value: bytes, reason: str
) -> None:
    async with shop.opened() as log:
        await asyncio.to_thread(kcat, shop, value, key="a")
        await asyncio.to_thread(kcat, shop, VALUE)
        assert await shop.until(1) == [{"order": 7}]
        async with asyncio.timeout(60):
            while not (letters := await log.read_side("dead-letters", 0, 0)):
                await asyncio.sleep(0.05)
    [letter] = [json.loads(value) for batch in letters for value in batch.values]
    assert (letter["topic"], letter["partition"], letter["offset"]) == (shop.events, 0, 0)
    assert reason in letter["reason"]


async def test_a_record_that_is_read_twice_starts_one_run(shop: Shop, kcat: Send) -> None:
    """An app that dies between taking an event in and saying so reads it again."""
    async with shop.opened() as log:
        await asyncio.to_thread(kcat, shop, VALUE)
        await shop.until(1)
    await log.topics.place_group(f"{shop.namespace}.shop.ingest", partition_in(shop.events, 0), 0)
    async with shop.opened() as log:
        await asyncio.to_thread(kcat, shop, b'{"name": "order/last", "data": {}}')
        assert await shop.until(2) == [{"order": 7}, {}]
        received = [
            value
            for batch in await log.fetch(0, 0)
            for value in batch.values
            if b'"event.received"' in value and b'"order/placed"' in value
        ]
        assert len(received) == 2, "it was read twice"
