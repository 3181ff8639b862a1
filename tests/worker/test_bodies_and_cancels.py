"""What the body of a step does to its task's cancels, and how long it takes to end, is not seen by the run."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from perdure import App, Context, StepError
from perdure.testing import TestEngine
from tests.worker.helpers import both_ways, finished


async def until(true: Callable[[], bool]) -> None:
    while not true():
        await asyncio.sleep(0)


@both_ways
async def test_a_cancel_that_a_body_leaves_behind_is_not_the_runs(evict: bool) -> None:
    """Some libraries' timeouts cancel the task and never take it back; a replay does not run the body again."""
    app = App("shop")

    @app.step
    async def careless() -> str:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().call_soon(task.cancel)
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return "timed out"
        return "in time"

    @app.background(retries=0)
    async def flow(ctx: Context) -> str:
        try:
            async with ctx.timeout("1h"):
                assert await careless() == "timed out"
                await ctx.sleep("2h")
        except TimeoutError:
            return f"late at {ctx.now():%H:%M}"
        return "in time"

    assert (await finished(app, flow, evict=evict)).output == "late at 01:00"


@both_ways
async def test_a_body_that_raises_cancelled_error_by_itself_fails_although_its_task_is_being_cancelled(
    evict: bool,
) -> None:
    """In the clean-up of a block that timed out; the op was closed, and its replay waited in vain."""
    app = App("shop")
    ran = 0

    @app.step(retries=1)
    async def clean() -> str:
        nonlocal ran
        ran += 1
        if ran < 2:
            raise asyncio.CancelledError
        return "clean"

    @app.background(waits=["never"], retries=0)
    async def flow(ctx: Context) -> str:
        said = ""
        try:
            async with ctx.timeout("1h"):
                try:
                    await ctx.wait_for_event("never")
                finally:
                    said = await clean()
        except TimeoutError:
            return said
        return "in time"

    assert (await finished(app, flow, evict=evict)).output == "clean"


@both_ways
async def test_a_cancel_on_its_way_when_a_body_begins_is_the_runs(evict: bool) -> None:
    app = App("shop")
    ran = 0

    @app.step
    async def slow() -> None:
        nonlocal ran
        ran += 1
        await asyncio.sleep(0)

    @app.step
    async def quick() -> str:
        return "after"

    @app.background
    async def flow() -> str:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        try:
            await slow()
        except asyncio.CancelledError:
            task.uncancel()
            return await quick()
        except StepError:
            return "failed"
        return "went on"

    assert (await finished(app, flow, evict=evict)).output == "after"


async def test_results_wait_while_a_cancelled_body_ends() -> None:
    """A replay closes the step at once: what follows its end comes before the next result there, and so here."""
    app = App("shop")
    ending, let_go = asyncio.Event(), asyncio.Event()

    @app.step
    async def slow() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ending.set()
            await let_go.wait()

    @app.step
    async def note(order: list[str]) -> list[str]:
        return order

    @app.background(waits=["first", "second", "third"])
    async def flow(ctx: Context) -> list[str]:
        order: list[str] = []

        async def racing() -> None:
            await ctx.race(ctx.wait_for_event("first"), slow())
            order.append("racing")

        async def waiting() -> None:
            await ctx.wait_for_event("second")
            order.append("waiting")

        await asyncio.gather(racing(), waiting())
        await note(order)
        await ctx.wait_for_event("third")
        return await note(order)

    async def in_background(work: Awaitable[object]) -> None:
        await work

    async with TestEngine(app) as engine:
        tasks = [asyncio.create_task(in_background(flow.enqueue()))]
        await until(lambda: bool(engine.all_runs(flow)))
        tasks.append(asyncio.create_task(in_background(engine.send("first", {}))))
        await ending.wait()
        tasks.append(asyncio.create_task(in_background(engine.send("second", {}))))
        for _ in range(200):
            await asyncio.sleep(0)
        let_go.set()
        await asyncio.gather(*tasks)
        await engine.crash()
        await engine.send("third", {})
        run = engine.run(flow)
        assert (run.status, run.output) == ("completed", ["racing", "waiting"])


@both_ways
@pytest.mark.parametrize("raises", [False, True])
async def test_a_cancel_that_a_body_swallows_is_over_and_the_run_goes_on_from_there(evict: bool, raises: bool) -> None:
    """As in any task. A replay cancelled the step instead, asked for nothing that came after, and was parked."""
    app = App("shop")
    cancelled = 0

    @app.step(retries=0)
    async def stubborn() -> str:
        nonlocal cancelled
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled += 1
        if raises:
            raise ValueError("half done")
        return "kept"

    @app.step
    async def note(text: str) -> str:
        return text

    async def work() -> str:
        try:
            text = await stubborn()
        except StepError:
            text = "failed"
        task = asyncio.current_task()
        assert task is not None
        return f"{await note(text)} {task.cancelling()}"

    @app.background(waits=["go"])
    async def flow(ctx: Context) -> str:
        working = asyncio.create_task(work())
        await note("begun")
        working.cancel()
        text = await working
        await ctx.wait_for_event("go")
        return text

    async with TestEngine(app, evict=evict) as engine:
        run = await flow.enqueue()
        await engine.send("go", {})
        assert await run.result() == ("failed 0" if raises else "kept 0")
        await engine.crash()
        assert await run.status() == "completed"
    assert cancelled == 1


@both_ways
async def test_a_cancel_that_was_swallowed_stays_so_for_the_next_attempts(evict: bool) -> None:
    app = App("shop")
    ran = 0

    @app.step(retries=2)
    async def stubborn() -> int:
        nonlocal ran
        ran += 1
        if ran == 1:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                raise ValueError("half done") from None
        return ran

    @app.step
    async def note(n: int) -> int:
        return n

    async def work() -> int:
        return await note(await stubborn())

    @app.background(waits=["go"])
    async def flow(ctx: Context) -> int:
        working = asyncio.create_task(work())
        await note(0)
        working.cancel()
        found = await working
        await ctx.wait_for_event("go")
        return found

    async with TestEngine(app, evict=evict) as engine:
        run = await flow.enqueue()
        await engine.advance("1h")
        await engine.send("go", {})
        assert await run.result() == 2
