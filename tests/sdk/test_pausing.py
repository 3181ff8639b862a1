"""Pausing a function of a running engine: what comes waits, over crashes and restarts too, and nothing is lost."""

import pytest

from perdure import App, Context, Engine, Event, UnknownFunction
from perdure.sdk.port import FunctionView
from perdure.testing import TestEngine


@pytest.fixture
def app() -> App:
    return App("shop")


async def view_of(engine: TestEngine | Engine, function: str) -> FunctionView:
    return next(view for view in await engine.port.functions() if view.id == function)


async def test_runs_wait_and_then_all_of_them_run(app: App) -> None:
    ran: list[int] = []

    @app.step
    async def ship(order: int) -> None:
        ran.append(order)

    @app.function(on="order/placed")
    async def order(ctx: Context, event: Event) -> None:
        await ship(event.data["order"])

    async with TestEngine(app) as engine:
        await engine.send("order/placed", {"order": 0})
        await engine.port.pause("order")
        for n in range(1, 6):
            await engine.send("order/placed", {"order": n})
        await engine.advance("1h")
        assert ran == [0]
        shown = await view_of(engine, "order")
        assert (shown.waiting, shown.running, shown.paused_since is not None) == (5, 5, True)
        assert {run.status for run in engine.all_runs(order)} == {"completed", "queued"}
        await engine.crash()
        assert ran == [0]
        await engine.port.resume("order")
        assert sorted(ran) == [0, 1, 2, 3, 4, 5]
        shown = await view_of(engine, "order")
        assert (shown.waiting, shown.running, shown.paused_since) == (0, 0, None)


async def test_what_has_started_goes_on_and_who_calls_waits(app: App) -> None:
    @app.background
    async def child(n: int) -> int:
        return n + 1

    @app.background
    async def parent(ctx: Context) -> int:
        await ctx.sleep("1h")
        return await child.call(1)

    async with TestEngine(app) as engine:
        await parent.enqueue()
        await engine.port.pause("parent")
        await engine.port.pause("child")
        await engine.advance("2h")
        assert engine.run(child).status == "queued"
        assert engine.run(parent).status == "suspended"
        await engine.port.resume("child")
        assert engine.run(parent).output == 2


async def test_schedules_go_on_asking(app: App) -> None:
    fired: list[str] = []

    @app.cron("0 * * * *")
    async def hourly() -> None:
        fired.append("ran")

    async with TestEngine(app) as engine:
        await engine.port.pause("hourly")
        await engine.advance("3h")
        assert fired == []
        await engine.port.resume("hourly")
        assert fired == ["ran"] * 3


async def test_functions_that_are_not_there_cannot_be_paused(app: App) -> None:
    @app.background
    async def work() -> None: ...

    async with TestEngine(app) as engine:
        for function in ("nobody", "perdure/notice"):
            with pytest.raises(UnknownFunction, match="has work"):
                await engine.port.pause(function)
            with pytest.raises(UnknownFunction):
                await engine.port.resume(function)


async def test_it_stays_paused_when_the_engine_starts_again(app: App, durable_url: str) -> None:
    @app.background
    async def work(n: int) -> int:
        return n

    async with Engine(app, log=durable_url) as engine:
        await engine.port.pause("work")
        waiting = await work.enqueue(7)
    async with Engine(app, log=durable_url) as engine:
        assert await engine.port.status(waiting.id) == "queued"
        assert (await view_of(engine, "work")).waiting == 1
        await engine.port.resume("work")
        assert await waiting.result() == 7
