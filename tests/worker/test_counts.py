"""Runs that wait for somebody are counted where they are at hand."""

from perdure import App, Context, Event
from perdure.testing import TestEngine
from tests.worker.helpers import deploy


async def sleepy(ctx: Context, event: Event) -> None:
    await ctx.sleep("1h")
    await ctx.sleep("10h")


async def hasty(ctx: Context, event: Event) -> None:
    await ctx.sleep("1s")


def shop(first: bool = True) -> App:
    app = App("shop")
    app.function(id="second", on="shop/opened")(sleepy if first else hasty)
    if first:
        app.function(id="first", on="shop/opened")(sleepy)
    return app


async def test_held_and_parked_runs() -> None:
    async with TestEngine(shop()) as engine:
        await engine.send("shop/opened", {})
        assert _sums(engine) == (0, 0, 0)
        await deploy(engine, shop(first=False))
        await engine.advance("2h")
        assert _sums(engine) == (0, 1, 1)
        await deploy(engine, shop())
        assert _sums(engine) == (0, 0, 0)
        assert {run.status for run in (await engine.port.runs())[0]} == {"suspended"}


def _sums(engine: TestEngine) -> tuple[int, int, int]:
    counts = engine.port.counts()
    return sum(counts.halted.values()), sum(counts.held.values()), sum(counts.parked.values())
