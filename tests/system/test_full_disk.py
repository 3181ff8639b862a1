"""A full disk: writes are refused with 507, reads are served, and work goes on by itself when there is room."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest

from perdure import Engine, LogFull
from perdure.log.embedded import EmbeddedLog
from perdure.sdk.node import Node
from tests.evidence.small_disk import SmallDisk, disk
from tests.system.shop import Shop, check_stores

__all__ = ["disk"]


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


async def send_until_full(engine: Engine, acknowledged: list[str]) -> None:
    for n in range(2_000):
        event = f"fill-{len(acknowledged)}-{n}"
        try:
            await engine.send("noted", {"n": n, "text": "." * 20_000}, id=event)
        except LogFull:
            return
        acknowledged.append(event)
    raise AssertionError("the disk was never full")


async def test_a_full_disk(disk: SmallDisk, stack: AsyncExitStack) -> None:
    """Writes are refused with 507, reads are served, and the runs that stood still go on by themselves."""
    shop = Shop()
    engine = await stack.enter_async_context(shop.engine(disk.path / "log"))
    transport = httpx.ASGITransport(engine.asgi(), client=("127.0.0.1", 5))
    http = await stack.enter_async_context(httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8288"))
    before = await shop.order.enqueue("before", 3)
    assert await before.result(timeout="20s") == 3
    payment = await shop.payment.enqueue("ada")
    acknowledged: list[str] = []
    for cycle in range(2):
        long = await shop.order.enqueue(f"long-{cycle}", 400)
        nap = await shop.nap.enqueue(300)
        disk.fill(leave=1 << 20)
        await send_until_full(engine, acknowledged)

        refused = await http.post("/e/key", json={"name": "noted", "data": {}})
        assert refused.status_code == 507, refused.text
        assert "Make room" in refused.json()["detail"]
        with pytest.raises(LogFull, match="Make room, and work goes on by itself"):
            await shop.order.enqueue("refused", 1)
        with pytest.raises(LogFull):
            await before.cancel()
        assert (await http.get("/readyz")).status_code == 503

        assert (await http.get("/livez")).status_code == 200
        listed = await http.get("/v1/runs")
        assert listed.status_code == 200
        assert before.id in listed.text
        shown = await http.get(f"/v1/runs/{before.id}")
        assert shown.status_code == 200
        assert "before-0" in shown.text
        assert await before.result() == 3
        assert await engine.port.knows_event(acknowledged[0])
        await asyncio.sleep(0.5)  # the nap is over by now, but nobody can write that
        assert await nap.status() != "completed"
        assert await long.status() != "completed"

        disk.free()
        assert (await nap.result(timeout="30s")).startswith("nap.")
        assert await long.result(timeout="30s") == 400
        accepted = await http.post("/e/key", json={"name": "noted", "data": {}, "id": f"again-{cycle}"})
        assert accepted.status_code == 200
        assert (await http.get("/readyz")).status_code == 200
    await engine.send("paid", {"name": "ada", "by": "card"})
    assert await payment.result(timeout="20s") == "card"
    for event in acknowledged:
        assert await engine.port.knows_event(event)
    boxes = [box for box in shop.ran if box.startswith("long")]
    assert len(boxes) == len(set(boxes)) == 800, "a step ran twice although no process died"


async def test_a_disk_that_is_full_when_the_engine_stops_and_starts(
    disk: SmallDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = Shop()
    folder = disk.path / "log"
    acknowledged: list[str] = []
    async with shop.engine(folder) as engine:
        long = await shop.order.enqueue("long", 400)
        disk.fill(leave=1 << 20)
        await send_until_full(engine, acknowledged)
    with pytest.raises(LogFull, match="Make room"):
        await Shop().engine(folder).__aenter__()
    ticks: list[Node] = []
    monkeypatch.setattr(Node, "tick", lambda node: ticks.append(node))
    await asyncio.sleep(0.3)
    monkeypatch.undo()
    assert not ticks, "an engine that did not open goes on"
    disk.free()
    again = Shop()
    async with again.engine(folder) as engine:
        assert await again.order.handle(long.id).result(timeout="30s") == 400
        for event in acknowledged:
            assert await engine.port.knows_event(event)
    await check_stores(folder)


async def test_a_disk_that_fills_up_during_the_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last word cannot be written: the stop counts as a crash, and the directory is free all the same."""

    async def full(log: EmbeddedLog, ticket: int) -> None:
        raise LogFull("no room for a last word")

    shop = Shop()
    with monkeypatch.context() as patched:
        async with shop.engine(tmp_path):
            run = await shop.payment.enqueue("ada")
            patched.setattr(EmbeddedLog, "acknowledge", full)
    again = Shop()
    async with again.engine(tmp_path) as engine:
        await engine.send("paid", {"name": "ada", "by": "card"})
        assert await again.payment.handle(run.id).result(timeout="20s") == "card"
