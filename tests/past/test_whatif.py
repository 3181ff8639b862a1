"""What-if: with the definitions of the past nothing differs; with others it goes as the events go with that app."""

from collections.abc import Awaitable, Callable

import pytest

from perdure import App, CancelOn, Context, Event, Trigger
from perdure.past.reading import read_tape
from perdure.past.tape import Tape
from perdure.past.whatif import WhatIf, what_if
from perdure.testing import TestEngine

Story = Callable[[TestEngine], Awaitable[None]]


async def lived(app: App, story: Story) -> Tape:
    """The log of the story."""
    async with TestEngine(app) as engine:
        await story(engine)
        return await read_tape(engine.log)


def shop(where: str | None = None, cancel_on: tuple[CancelOn, ...] = (), timeout: str | None = None) -> App:
    app = App("shop")

    @app.function(on=Trigger("cart/added", where=where) if where else "cart/added", cancel_on=cancel_on, timeout=timeout)
    async def remind(ctx: Context, event: Event[dict[str, object]]) -> None:
        await ctx.sleep("1h")

    return app


async def carts(engine: TestEngine) -> None:
    for n in range(6):
        await engine.send("cart/added", {"cart": n, "total": n * 100})
        await engine.advance("10m")
    for n in range(6):
        await engine.send("cart/bought", {"cart": n})
        await engine.advance("3m")
    await engine.finish()


def of(found: WhatIf) -> dict[str, str]:
    return {one.event_id: f"{one.what}: {one.why}" for one in found.differences}


async def test_it() -> None:
    tape = await lived(shop(), carts)
    print(what_if(tape, None))
    print(what_if(tape, shop().definition()))
    print(of(what_if(tape, shop("event.data.total > 200").definition())))
    print(of(what_if(tape, shop(timeout="20m").definition())))
    print(of(what_if(tape, shop(cancel_on=(CancelOn("cart/bought", match="data.cart"),)).definition())))
    assert 0
