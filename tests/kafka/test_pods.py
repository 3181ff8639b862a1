"""Pods that come with an empty disk, and deploys under load, on a real Kafka."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest

from perdure import App, Context, Engine, Event
from perdure.partition import snapshots
from tests.kafka.keeping import keep_events
from tests.log.tools import fetch_all

PARTITIONS = 2


@pytest.fixture
async def url(kafka: str, tmp_path: Path) -> str:
    """Nothing is kept for people, so that a journal is trimmed as soon as a snapshot has what it held."""
    own = f"kafka://{kafka}/test-{uuid4().hex[:12]}?session=2s&retention=1ms&data={tmp_path}"
    await keep_events(own, PARTITIONS)
    return own


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
            while not _all_wait(first, len(numbers)):
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


def _all_wait(engine: Engine, count: int) -> bool:
    """By the folds: what a run did is read from the journal, which may be trimmed by now."""
    views = [processor.view for processor in engine.nodes[0].processors]
    return sum(bool(state.waits) for view in views for state in view.runs.values()) == count


async def _results(engine: Engine, function: str, count: int) -> list[Any]:
    async with asyncio.timeout(60):
        while True:
            runs, _ = await engine.port.runs(function=function, status="completed", limit=1000)
            if len(runs) == count:
                results = [(await engine.port.result(run.id)).result for run in runs]
                return sorted(msgspec.json.decode(result) for result in results if isinstance(result, msgspec.Raw))
            await asyncio.sleep(0.1)


def shop(version: str) -> App:
    """Old: kept, changed, removed. New: kept, changed, added."""
    app = App("shop")

    @app.step
    async def work(n: int) -> int:
        await asyncio.sleep(0.02)
        return n

    @app.function(on="shop/order")
    async def kept(ctx: Context, event: Event[dict[str, Any]]) -> int:
        for n in range(4):
            await work(n)
            await ctx.sleep("100ms")
        return len(version)

    async def as_it_was(ctx: Context, event: Event[dict[str, Any]]) -> int:
        for n in range(4):
            await work(n)
            await ctx.sleep("100ms")
        return len(version)

    async def as_it_is(ctx: Context, event: Event[dict[str, Any]]) -> int:
        for n in range(4):
            await work(n)
            if ctx.patched("checked"):
                await work(10 + n)
            await ctx.sleep("100ms")
        return len(version)

    app.function(on="shop/order", id="changed")(as_it_was if version == "old" else as_it_is)

    async def other(ctx: Context, event: Event[dict[str, Any]]) -> int:
        await work(1)
        await ctx.sleep("500ms")
        return await work(2)

    app.function(on="shop/order", id="removed" if version == "old" else "added")(other)
    return app


async def test_a_rolling_deploy_under_load_parks_nothing(url: str) -> None:
    """What only the old code has waits, once its last pod is gone, and goes on when one comes back."""
    url = url.replace("retention=1ms", "retention=1h")
    order = 0

    async def load(engine: Engine, seconds: float) -> None:
        nonlocal order
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            order += 1
            await engine.send(Event("shop/order", {}, id=f"order{order}"))
            await asyncio.sleep(0.02)

    async with AsyncExitStack() as first_old, AsyncExitStack() as second_old, AsyncExitStack() as news:
        first = await first_old.enter_async_context(pod(shop("old"), url, "a"))
        second = await second_old.enter_async_context(pod(shop("old"), url, "b"))
        await load(first, 1)
        third = await news.enter_async_context(pod(shop("new"), url, "c"))
        await asyncio.gather(load(second, 2), first_old.aclose())
        await load(third, 1)
        fourth = await news.enter_async_context(pod(shop("new"), url, "d"))
        await asyncio.gather(load(third, 2), second_old.aclose())
        await load(fourth, 1)
        ended = await _ended((third, fourth), ("kept", "changed", "added"))
        assert {function: len(events) for function, events in ended.items()} == {
            "kept": order,
            "changed": order,
            "added": len(ended["added"]),
        }
        await news.aclose()
    async with pod(shop("old"), url, "e") as back:
        held = (await _ended((back,), ("removed",)))["removed"]
        # Each order started one or the other, as the code was that was active when it came.
        assert held.isdisjoint(ended["added"])
        assert len(held | ended["added"]) == order
        assert held
        assert ended["added"]
        log = back.nodes[0].log
        records = [record for partition in range(PARTITIONS) for record in await fetch_all(log, partition)]
        assert [record for record in records if b'"run.parked"' in record[1]] == []


async def _ended(engines: Sequence[Engine], functions: Sequence[str]) -> dict[str, set[str]]:
    """Function → events of its runs, once all of them that these pods know have completed."""
    async with asyncio.timeout(60):
        while True:
            runs = [run for engine in engines for run in (await engine.port.runs(limit=10_000))[0]]
            mine = [run for run in runs if run.function in functions]
            statuses = {run.status for run in mine}
            assert "parked" not in statuses
            owned = {one.partition for engine in engines for one in engine.nodes[0].processors if one.performing}
            if statuses == {"completed"} and len(owned) == PARTITIONS:
                return {one: {run.event_id for run in mine if run.function == one} for one in functions}
            await asyncio.sleep(0.1)
