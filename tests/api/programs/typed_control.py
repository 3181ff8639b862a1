"""Waiting, racing, mapping, sleeping: every durable form of what asyncio has, and asyncio's own gather."""

import asyncio
import random
import uuid
from datetime import UTC, datetime, timedelta
from typing import Literal, assert_type

from perdure import App, Context, Event, EventType

app = App("control")
APPROVED = EventType("doc/approved", str)


@app.step
async def size(name: str) -> int:
    return len(name)


@app.step
def title(name: str) -> str:
    return name.title()


@app.function(on="doc/uploaded")
async def handle(ctx: Context, event: Event) -> None:
    assert_type(await asyncio.gather(size("a"), title("b")), tuple[int, str])
    async with asyncio.TaskGroup() as group:
        task = group.create_task(size("a"))
    assert_type(task.result(), int)

    assert_type(await ctx.map(size, ["a", "b"]), list[int])
    assert_type(await ctx.map(size, ["a", "b"], limit=5, return_exceptions=True), list[int | Exception])

    won = await ctx.race(size("a"), ctx.wait_for_event(APPROVED))
    assert_type(won, tuple[Literal[0], int] | tuple[Literal[1], Event[str]])
    if won[0] == 1:
        assert_type(won[1].data, str)
    await ctx.race(size("a"), title("b"), ctx.sleep("1h"))

    await ctx.sleep("2h45m")
    await ctx.sleep(timedelta(minutes=3))
    await ctx.sleep(datetime(2030, 1, 1, tzinfo=UTC))
    async with ctx.timeout("30s"):
        await size("a")

    assert_type(ctx.now(), datetime)
    assert_type(ctx.uuid(), uuid.UUID)
    assert_type(ctx.random, random.Random)
    await ctx.report(done=3, of=10, note=None, share=0.3, finished=False)
    if ctx.patched("second mail"):
        await title(event.name)
    await ctx.continue_as(event)
