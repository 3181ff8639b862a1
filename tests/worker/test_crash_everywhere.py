"""Every way to run things side by side survives a crash after each append, with and without eviction."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from perdure import App, Context, Event, NonRetriable, StepError
from perdure.testing import TestEngine, crash_everywhere

pytestmark = pytest.mark.parametrize("evict", [False, True], ids=["resident", "evicted"])


def shop() -> App:
    return App("shop")


async def enqueue_and_finish(engine: TestEngine, start: Callable[[], Awaitable[object]]) -> None:
    await start()
    await engine.finish()


async def test_parallel_branches(evict: bool) -> None:
    app = shop()

    @app.step
    async def double(n: int) -> int:
        return 2 * n

    @app.background
    async def flow(n: int) -> int:
        async def branch(i: int) -> int:
            return await double(await double(i))

        return sum(await asyncio.gather(*(branch(i) for i in range(n))))

    await crash_everywhere(
        app, scenario=lambda engine: enqueue_and_finish(engine, lambda: flow.enqueue(4)), evict=evict
    )


async def test_as_completed(evict: bool) -> None:
    app = shop()

    @app.step
    async def square(n: int) -> int:
        return n * n

    @app.background
    async def flow() -> list[int]:
        found: list[int] = []
        for next_one in asyncio.as_completed([square(i) for i in range(4)]):
            value = await next_one
            found.append(await square(value))
        return sorted(found)

    await crash_everywhere(app, scenario=lambda engine: enqueue_and_finish(engine, flow.enqueue), evict=evict)


async def test_a_queue_and_its_workers(evict: bool) -> None:
    app = shop()

    @app.step
    async def square(n: int) -> int:
        return n * n

    @app.background
    async def flow(ctx: Context) -> int:
        queue: asyncio.Queue[int | None] = asyncio.Queue()
        total = 0

        async def work() -> None:
            nonlocal total
            while (n := await queue.get()) is not None:
                total += await square(n)

        async with asyncio.TaskGroup() as group:
            for _ in range(2):
                group.create_task(work())
            for n in range(5):
                queue.put_nowait(n)
                if n == 2:
                    await ctx.sleep("1h")
            for _ in range(2):
                queue.put_nowait(None)
        return total

    await crash_everywhere(app, scenario=lambda engine: enqueue_and_finish(engine, flow.enqueue), evict=evict)


async def test_a_task_group_that_fails(evict: bool) -> None:
    app = shop()

    @app.step(retries=0)
    async def broken() -> None:
        raise ValueError("no")

    @app.step
    async def fine(n: int) -> int:
        return n

    @app.background
    async def flow(ctx: Context) -> str:
        async def slow() -> None:
            await fine(1)
            await ctx.sleep("1 day")
            await fine(2)

        failed: list[str] = []
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(slow())
                group.create_task(broken())
        except* StepError as errors:
            failed = [error.step for error in errors.exceptions if isinstance(error, StepError)]
        return f"failed: {failed}"

    await crash_everywhere(app, scenario=lambda engine: enqueue_and_finish(engine, flow.enqueue), evict=evict)


async def test_a_race(evict: bool) -> None:
    app = shop()

    @app.step
    async def note(text: str) -> str:
        return text

    @app.background(waits=["go"])
    async def flow(ctx: Context) -> str:
        winner, value = await ctx.race(ctx.sleep("1h"), ctx.wait_for_event("go"))
        second, _ = await ctx.race(ctx.sleep("2h"), note("quick"))
        return await note(f"{winner} {value is None} {second}")

    async def scenario(engine: TestEngine) -> None:
        await flow.enqueue()
        await flow.enqueue()
        await engine.send("go", {})
        await engine.finish()
        assert {run.output for run in engine.all_runs(flow)} == {"1 False 1"}

    await crash_everywhere(app, scenario=scenario, evict=evict)


async def test_children(evict: bool) -> None:
    app = shop()

    @app.step
    async def square(n: int) -> int:
        return n * n

    @app.background
    async def child(n: int) -> int:
        if n == 3:
            raise NonRetriable("three")
        return await square(n)

    @app.background
    async def parent(ctx: Context) -> list[str]:
        found = await asyncio.gather(*(child.call(n) for n in range(5)), return_exceptions=True)
        handle = await child.enqueue(7)
        await ctx.sleep("1h")
        return [repr(one) for one in found] + [str(await handle.result()), await handle.status()]

    await crash_everywhere(app, scenario=lambda engine: enqueue_and_finish(engine, parent.enqueue), evict=evict)


async def test_a_step_error_that_is_caught(evict: bool) -> None:
    app = shop()

    @app.step(retries=2)
    async def broken(n: int) -> int:
        raise ValueError(f"no {n}")

    @app.step
    async def undo(n: int) -> int:
        return -n

    @app.function(on="order/placed")
    async def flow(ctx: Context, event: Event) -> int:
        try:
            return await broken(1)
        except StepError as error:
            return await undo(error.attempts if error.caused_by(ValueError) else 0)

    async def scenario(engine: TestEngine) -> None:
        await engine.send("order/placed", {})
        await engine.finish()
        assert engine.run(flow).output == -3

    await crash_everywhere(app, scenario=scenario, evict=evict)


async def test_map_with_a_limit(evict: bool) -> None:
    app = shop()

    @app.step(retries=1)
    async def insert(n: int) -> int:
        if n == 4:
            raise ValueError("bad row")
        return n

    @app.background
    async def flow(ctx: Context) -> list[str]:
        return [str(one) for one in await ctx.map(insert, range(8), limit=3, return_exceptions=True)]

    async def scenario(engine: TestEngine) -> None:
        await flow.enqueue()
        await engine.finish()
        assert engine.run(flow).output == ["0", "1", "2", "3", "ValueError: bad row", "5", "6", "7"]

    await crash_everywhere(app, scenario=scenario, evict=evict)


async def test_a_durable_timeout(evict: bool) -> None:
    app = shop()

    @app.step
    async def note(text: str) -> str:
        return text

    @app.background(waits=["never"])
    async def flow(ctx: Context) -> str:
        async with ctx.timeout("2h"):
            first = await note("in time")
        try:
            async with ctx.timeout("1h"):
                await ctx.wait_for_event("never")
        except TimeoutError:
            return await note(f"{first}, then too late")
        return "never comes"

    async def scenario(engine: TestEngine) -> None:
        await flow.enqueue()
        await engine.finish()
        assert engine.run(flow).output == "in time, then too late"

    await crash_everywhere(app, scenario=scenario, evict=evict)
