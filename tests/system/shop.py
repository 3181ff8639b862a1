"""An app for tests of what becomes of its data directory, and what must be there again afterwards."""

import asyncio
from pathlib import Path

from perdure import App, Context, Engine
from perdure.log.directory import partitions_of
from perdure.log.embedded import EmbeddedLog
from tests.evidence.folding import check_store


class Shop:
    """A new app, with what its steps did."""

    def __init__(self) -> None:
        self.app = App("shop")
        self.ran: list[str] = []

        @self.app.step
        async def pack(box: str) -> str:
            self.ran.append(box)
            await asyncio.sleep(0.001)
            return box + "." * 200

        @self.app.background
        async def order(name: str, boxes: int) -> int:
            return sum([len(await pack(f"{name}-{n}")) > 0 for n in range(boxes)])

        @self.app.background
        async def nap(ctx: Context, ms: int) -> str:
            await ctx.sleep(f"{ms}ms")
            return await pack("nap")

        @self.app.background(waits=["paid"])
        async def payment(ctx: Context, name: str) -> str:
            event = await ctx.wait_for_event("paid", match={"data.name": name})
            return str(event.data["by"])

        self.order, self.nap, self.payment = order, nap, payment

    def engine(self, folder: Path, *, partitions: int = 4) -> Engine:
        return Engine(self.app, log=f"embedded://{folder}", partitions=partitions)


async def fill(shop: Shop, engine: Engine, orders: int = 8) -> dict[str, str]:
    """Some finished runs, one that waits; run id → result."""
    runs = [await shop.order.enqueue(f"o{n}", 5) for n in range(orders)]
    waiting = await shop.payment.enqueue("ada")
    results = {run.id: str(await run.result()) for run in runs}
    for n in range(orders):
        await engine.send("noted", {"n": n}, id=f"note-{n}")
    return results | {waiting.id: ""}


async def same_as_before(shop: Shop, folder: Path, results: dict[str, str], notes: int = 8) -> None:
    """Everything that was there is there: the ended runs, the one that waits, the events."""
    async with shop.engine(folder) as engine:
        for run, result in results.items():
            if result:
                assert str(await shop.order.handle(run).result(timeout="20s")) == result
            else:
                await until_suspended(shop, run)
        for n in range(notes):
            assert await engine.port.knows_event(f"note-{n}")


async def until_suspended(shop: Shop, run: str) -> None:
    async with asyncio.timeout(20):
        while await shop.payment.handle(run).status() != "suspended":
            await asyncio.sleep(0.01)


async def check_stores(folder: Path) -> None:
    """I2, I7: what the engine left is what the log folds to, and it stands at its end."""
    partitions = partitions_of(folder)
    assert partitions is not None
    log = EmbeddedLog(folder, partitions)
    await log.open()
    for partition in range(log.partitions):
        assert check_store(log, partition).offset == log.end(partition)
    await log.close()
