"""Pods that come with an empty disk, and deploys under load, on a real Kafka."""

import asyncio
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest

from perdure import App, Context, Engine, Event
from perdure.partition import snapshots

PARTITIONS = 2


@pytest.fixture
def url(kafka: str, tmp_path: Path) -> str:
    """Nothing is kept for people, so that a journal is trimmed as soon as a snapshot has what it held."""
    return f"kafka://{kafka}/test-{uuid4().hex[:12]}?session=2s&retention=1ms&data={tmp_path}"


def pod(app: App, url: str, name: str) -> Engine:
    return Engine(app, log=f"{url}/{name}", partitions=PARTITIONS)


def sleepy() -> App:
    app = App("sleepy")

    @app.step
    async def double(n: int) -> int:
        return 2 * n

    @app.function(on="sleepy/go")
    async def sleeper(ctx: Context, event: Event[dict[str, Any]]) -> int:
        before = await double(event.data["n"])
        await ctx.wait_for_event("sleepy/wake", match="data.n")
        return before + await double(1)

    @app.function(on="sleepy/noise")
    async def noise(ctx: Context, event: Event[dict[str, Any]]) -> int:
        return await double(0)

    return app


async def test_a_pod_with_an_empty_disk_finishes_what_slept_longer_than_the_journal_reaches(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "ROUND_MS", 200)
    numbers = range(10)
    async with pod(sleepy(), url, "a") as first:
        log = first.nodes[0].log
        await first.send_many([Event("sleepy/go", {"n": n}, id=f"go{n}") for n in numbers])
        async with asyncio.timeout(60):
            while not await _all_wait(first, len(numbers)):
                await asyncio.sleep(0.1)
            slept = [log.end(partition) for partition in range(PARTITIONS)]
            count = 0
            while any(log.start(partition) <= end for partition, end in enumerate(slept)):
                count += 1
                await first.send(Event("sleepy/noise", {}, id=f"noise{count}"))
                await asyncio.sleep(0.05)
    async with pod(sleepy(), url, "b") as second:
        log = second.nodes[0].log
        assert all(log.start(partition) > end for partition, end in enumerate(slept))
        await second.send_many([Event("sleepy/wake", {"n": n}, id=f"wake{n}") for n in numbers])
        assert await _results(second, "sleeper", len(numbers)) == [2 * n + 2 for n in numbers]


async def _all_wait(engine: Engine, count: int) -> bool:
    found = 0
    for run in (await engine.port.runs(function="sleeper", limit=1000))[0]:
        detail = await engine.port.run(run.id)
        found += any("wait" in op.op for op in detail.ops)
    return found == count


async def _results(engine: Engine, function: str, count: int) -> list[Any]:
    async with asyncio.timeout(60):
        while True:
            runs, _ = await engine.port.runs(function=function, status="completed", limit=1000)
            if len(runs) == count:
                results = [(await engine.port.result(run.id)).result for run in runs]
                return sorted(msgspec.json.decode(result) for result in results if isinstance(result, msgspec.Raw))
            await asyncio.sleep(0.1)
