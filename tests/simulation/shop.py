"""A small app for tests of the simulator: every kind of op once, in two versions."""

import asyncio
from datetime import timedelta
from typing import Any

from perdure import App, Context, Event
from tests.simulation.world import World, world


def made(version: int = 1) -> App:
    """`version` 2 does the same with one step more, where no run of version 1 can be."""
    app = App("shop")

    @app.step
    async def charge(order: int) -> int:
        world().happened(f"charge {order}")
        await asyncio.sleep(0.05)
        return order * 2

    @app.step
    def pack(order: int) -> str:
        world().happened(f"pack {order}")
        return f"packed {order}"

    @app.step(retries=12)
    async def fragile(order: int) -> str:
        if world().draw(f"fragile {order} {world().time}").random() < 0.3:
            raise RuntimeError("dropped")
        return "whole"

    @app.background
    async def label(order: int) -> str:
        return await pack(order) + await fragile(order)

    async def begun(ctx: Context, event: Event[Any]) -> list[object]:
        n = event.data["n"]
        paid = await charge(n)
        await ctx.sleep(timedelta(minutes=n))
        return [paid, *await asyncio.gather(label.call(n), charge(n + 100))]

    if version == 1:

        @app.function(id="ship", on="order/placed")
        async def ship(ctx: Context, event: Event[Any]) -> list[object]:
            return await begun(ctx, event)

    else:

        @app.function(id="ship", on="order/placed")
        async def ship_more(ctx: Context, event: Event[Any]) -> list[object]:
            done = await begun(ctx, event)
            return [*done, await pack(-event.data["n"])]

    @app.function(on="cart/filled")
    async def remind(ctx: Context, event: Event[Any]) -> str:
        bought = await ctx.wait_for_event("cart/bought", match="data.cart", timeout="1h")
        return "reminded" if bought is None else "bought"

    return app


async def story(here: World) -> None:
    """Orders and carts while faults strike; then none, and everything ends."""
    rng = here.draw("story")
    for n in range(6):
        await here.send("order/placed", {"n": n}, id=f"order-{n}")
        await here.send("cart/filled", {"cart": n}, id=f"filled-{n}")
        await here.sleep(rng.random() * 2)
        if rng.random() < 0.5:
            await here.send("cart/bought", {"cart": n}, id=f"bought-{n}")
    await here.sleep(5 * rng.random())
    here.heal()
    await here.finish()


def check(here: World) -> None:
    """Every run is there once, and ended as it should."""
    assert not here.problems, here.problems
    found: dict[str, list[str]] = {}
    for _, processor in here.owned():
        for state in processor.view.runs.values():
            found.setdefault(state.function, []).append(state.status)
    assert {name: len(runs) for name, runs in found.items()} == {"ship": 6, "label": 6, "remind": 6}, found
    assert {status for runs in found.values() for status in runs} == {"completed"}, found
