"""A clean end of a process: what comes while it leaves is for the next one."""

import asyncio

import msgspec

from perdure import App, Context
from perdure.log.memory import MemoryLog
from perdure.sdk.local_port import LocalPort
from perdure.sdk.node import Node
from perdure.sdk.port import Enqueue

NOTHING = msgspec.Raw(b"[[],{}]")


async def ended(node: Node, run: str) -> str:
    async with asyncio.timeout(10):
        return (await LocalPort(node).result(run)).status


async def test_a_run_that_is_requested_while_its_process_leaves_is_begun_by_the_next() -> None:
    app = App("shop")

    @app.background
    async def flow() -> None: ...

    log = MemoryLog(1)
    node = Node(app, log)
    await node.open()
    run, _ = LocalPort(node).request(Enqueue("flow", NOTHING))
    await node.close()
    node = Node(app, log)
    await node.open()
    assert await ended(node, run) == "completed"
    await node.close()


async def test_a_run_whose_timer_fires_while_its_process_leaves_goes_on_in_the_next() -> None:
    app = App("shop")
    now = 1_000_000

    @app.background
    async def flow(ctx: Context) -> None:
        await ctx.sleep("1h")

    log = MemoryLog(1, clock=lambda: now)
    node = Node(app, log)
    await node.open()
    run = await LocalPort(node).enqueue(Enqueue("flow", NOTHING))
    async with asyncio.timeout(10):
        while (await LocalPort(node).status(run)) != "suspended":
            await asyncio.sleep(0)
            node.tick()
    now += 3_600_000
    node.processors[0].timers.tick()
    await node.close()
    node = Node(app, log)
    await node.open()
    assert await ended(node, run) == "completed"
    await node.close()


async def test_no_checkpoint_passes_what_was_folded_without_being_acted_upon() -> None:
    """Revoked in the midst of its end: effects of what comes then are the next owner's to append."""
    app = App("shop")

    @app.background
    async def flow() -> None: ...

    log = MemoryLog(1)
    node = Node(app, log)
    await node.open()
    processor = node.processors[0]
    closing = asyncio.ensure_future(processor.close())
    await asyncio.sleep(0)
    processor.pause()
    run, ticket = LocalPort(node).request(Enqueue("flow", NOTHING))
    await log.acknowledge(ticket)
    await closing
    await node.kill()
    log.crash()
    node = Node(app, log)
    await node.open()
    assert await ended(node, run) == "completed"
    await node.close()
