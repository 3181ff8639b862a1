"""What no record takes, on a real broker: refused, or outside the log with its digest in the record."""

from collections.abc import AsyncGenerator
from pathlib import Path
from uuid import uuid4

import pytest

from perdure import App, Engine, PayloadError, StepError
from perdure.log.kafka.address import parse
from perdure.log.kafka.client import Client
from perdure.log.kafka.topics import Topics
from perdure.sdk.json_guard import EVENT_LIMIT_BYTES
from perdure.worker.coding import RECORD_LIMIT_BYTES
from perdure.worker.places import digest_of

HUGE = 20 << 20
app = App("shop")


@app.step
async def render(size: int) -> str:
    return "x" * size


@app.background
async def flow(size: int) -> str:
    try:
        return await render(size)
    except StepError as error:
        return f"{error.attempts}: {error.message}"


@pytest.fixture
async def url(kafka: str, tmp_path: Path) -> AsyncGenerator[str]:
    url = f"kafka://{kafka}/test-{uuid4().hex[:12]}?session=1s&data={tmp_path / 'disk'}"
    yield url
    await Topics(Client(parse(url))).delete_all()


async def test_a_result_of_20_mb(url: str, tmp_path: Path) -> None:
    folder = tmp_path / "payloads"
    async with Engine(app, log=url, partitions=1, payloads=folder.as_uri()) as engine:
        handle = await flow.enqueue(HUGE)
        assert await handle.result(timeout="60s") == "x" * HUGE
        [file] = folder.iterdir()
        assert file.name == digest_of(file.read_bytes())
        values = [value for batch in await engine.nodes[0].log.fetch(0, 0) for value in batch.values]
        stored = b'"result":{"stored":{"digest":"%s","bytes":20971522}}' % file.name.encode()
        # The step's and the run's are one.
        assert sum(stored in value for value in values) == 2
        assert max(map(len, values)) < 10_000


async def test_without_the_setting_it_is_refused_and_what_just_fits_is_not(url: str) -> None:
    async with Engine(app, log=url, partitions=1):
        refused = await flow.enqueue(HUGE)
        taken = await flow.enqueue(RECORD_LIMIT_BYTES - 2)
        answer = await refused.result(timeout="60s")
        assert answer.startswith("1: the result of step 'render' has 20,971,522 bytes, and a record takes 3,145,728")
        assert len(await taken.result(timeout="60s")) == RECORD_LIMIT_BYTES - 2


async def test_an_event_that_its_readers_would_put_aside_is_not_taken(url: str) -> None:
    """With all that stands around its data: what is acknowledged is never lost."""
    async with Engine(app, log=url, partitions=1) as engine:
        for size in (EVENT_LIMIT_BYTES - 20, HUGE):
            with pytest.raises(PayloadError, match=r"event 'order/placed' has .* and may have 1,048,576"):
                await engine.send("order/placed", {"text": "x" * size})
