"""`f.call(x)` waits for another function's run, `f.enqueue(x)` starts one and goes on; both are ops inside a run."""

import asyncio

from msgspec import Struct

from perdure import App, Context, Event, EventType, NonRetriable, RunFailed
from perdure.testing import TestEngine
from tests.worker.helpers import both_ways, finished, ops


class Sold(Struct):
    item: str


SOLD = EventType("item/sold", Sold)


class SoldOut(NonRetriable):
    pass


@both_ways
async def test_call_gives_the_childs_result(evict: bool) -> None:
    app = App("shop")

    @app.background
    async def child(ctx: Context, n: int) -> int:
        await ctx.sleep("1h")
        return 2 * n

    @app.background
    async def parent() -> int:
        return await child.call(21) + await child.call(n=1)

    assert (await finished(app, parent, evict=evict)).output == 44


@both_ways
async def test_a_failed_child_raises_run_failed(evict: bool) -> None:
    app = App("shop")

    @app.background(retries=0)
    async def child() -> None:
        raise OSError("down")

    @app.background
    async def parent(ctx: Context) -> list[str]:
        try:
            await child.call()
        except RunFailed as error:
            await ctx.sleep("1h")
            return [
                error.message,
                str(error.caused_by(OSError)),
                str(len(error.run_id) > 20),
                str("in child" in error.traceback),
            ]
        return []

    assert (await finished(app, parent, evict=evict)).output == ["down", "True", "True", "True"]


@both_ways
async def test_a_non_retriable_comes_out_as_itself(evict: bool) -> None:
    app = App("shop")

    @app.background
    async def child() -> None:
        raise SoldOut("cups")

    @app.background
    async def parent() -> str:
        try:
            await child.call()
        except SoldOut as error:
            return str(error)
        return "fine"

    assert (await finished(app, parent, evict=evict)).output == "cups"


async def test_an_uncaught_failure_of_a_child_fails_its_parent() -> None:
    app = App("shop")

    @app.background(retries=0)
    async def child() -> None:
        raise OSError("down")

    @app.background
    async def parent() -> None:
        await child.call()

    async with TestEngine(app) as engine:
        await parent.enqueue()
        await engine.finish()
        error = engine.run(parent).error
        assert error is not None
        assert (error.message, error.caused_by(OSError)) == ("down", True)
        assert len(engine.all_runs(child)) == 1  # the parent is not tried again


@both_ways
async def test_side_by_side_with_their_errors(evict: bool) -> None:
    app = App("shop")

    @app.background(retries=0)
    async def child(n: int) -> int:
        if n == 1:
            raise OSError("no one")
        return n

    @app.background
    async def parent() -> list[str]:
        found = await asyncio.gather(*(child.call(n) for n in range(3)), return_exceptions=True)
        return [one.message if isinstance(one, RunFailed) else str(one) for one in found]

    assert (await finished(app, parent, evict=evict)).output == ["0", "no one", "2"]


@both_ways
async def test_enqueue_goes_on_with_a_handle(evict: bool) -> None:
    app = App("shop")

    @app.background
    async def child(ctx: Context, n: int) -> int:
        await ctx.sleep("1h")
        return n

    @app.background
    async def parent(ctx: Context) -> list[str]:
        handle = await child.enqueue(5)
        first = await handle.status()
        await ctx.sleep("2h")
        return [first, await handle.status(), str(await handle.result())]

    run = await finished(app, parent, evict=evict)
    assert run.output[1:] == ["completed", "5"]
    assert run.output[0] in ("queued", "running", "suspended")


async def test_an_enqueued_run_outlives_its_parent() -> None:
    app = App("shop")

    @app.background
    async def child(ctx: Context) -> str:
        await ctx.sleep("1h")
        return "done"

    @app.background
    async def parent() -> None:
        await child.enqueue()

    async with TestEngine(app) as engine:
        await parent.enqueue()
        assert engine.run(parent).status == "completed"
        await engine.finish()
        assert engine.run(child).output == "done"


@both_ways
async def test_a_child_is_started_once_whatever_crashes(evict: bool) -> None:
    app = App("shop")

    @app.background
    async def child(n: int) -> int:
        return n

    @app.background
    async def parent(ctx: Context) -> int:
        first = await child.call(1)
        await child.enqueue(2)
        await ctx.sleep("1h")
        return first

    async with TestEngine(app, evict=evict) as engine:
        await parent.enqueue()
        await engine.crash()
        await engine.finish()
        assert engine.run(parent).output == 1
        assert len(engine.all_runs(child)) == 2


async def test_children_of_children() -> None:
    app = App("shop")

    @app.background
    async def factorial(n: int) -> int:
        if n <= 1:
            return 1
        found: int = await factorial.call(n - 1)
        return n * found

    async with TestEngine(app) as engine:
        await factorial.enqueue(6)
        await engine.finish()
        assert max(run.output for run in engine.all_runs(factorial)) == 720


async def test_an_event_function_can_be_called_with_an_event() -> None:
    app = App("shop")

    @app.function(on=SOLD)
    async def ship(ctx: Context, event: Event[Sold]) -> str:
        return f"{event.name} {event.data.item}"

    @app.background
    async def parent() -> str:
        return await ship.call(SOLD(Sold("cup")))

    assert (await finished(app, parent)).output == "item/sold cup"


async def test_a_cron_function_can_be_called() -> None:
    app = App("shop")

    @app.cron("0 8 * * *")
    async def daily() -> str:
        return "done"

    @app.background
    async def parent() -> str:
        return await daily.call()

    async with TestEngine(app) as engine:
        await parent.enqueue()
        assert engine.run(parent).output == "done"


async def test_a_step_may_enqueue_and_is_then_outside_of_the_run() -> None:
    """In a step a call is a client's: the run that it starts is nobody's child."""
    app = App("shop")

    @app.background
    async def child() -> str:
        return "done"

    @app.step
    async def start() -> str:
        handle = await child.enqueue()
        return handle.id

    @app.background
    async def parent() -> str:
        return await start()

    async with TestEngine(app) as engine:
        await parent.enqueue()
        run = engine.run(parent)
        assert run.output == engine.run(child).id
        assert await ops(engine, run) == ["0/start#1"]


async def test_the_options_of_an_enqueue_inside_a_run() -> None:
    app = App("shop")

    @app.background
    async def child(ctx: Context) -> list[str]:
        return [f"{ctx.now():%H}", ctx.metadata.get("who", "")]

    @app.background
    async def parent() -> list[str]:
        later = child.options(delay="3h", metadata={"who": "ada"})
        return await (await later.enqueue()).result()

    assert (await finished(app, parent)).output == ["03", "ada"]


@both_ways
async def test_an_idempotency_key_gives_the_same_run_inside_and_outside(evict: bool) -> None:
    app = App("shop")

    @app.background
    async def child(n: int) -> int:
        return n

    @app.background
    async def parent(ctx: Context) -> str:
        first = await child.options(idempotency_key="k").enqueue(1)
        await ctx.sleep("1h")
        second = await child.options(idempotency_key="k").enqueue(1)
        return first.id if first == second else "two"

    async with TestEngine(app, evict=evict) as engine:
        outside = await child.options(idempotency_key="k").enqueue(1)
        await parent.enqueue()
        await engine.finish()
        assert engine.run(parent).output == outside.id
        assert len(engine.all_runs(child)) == 1


async def test_a_call_with_an_idempotency_key_gets_the_first_ones_result() -> None:
    app = App("shop")

    @app.background
    async def child(n: int) -> int:
        return n

    @app.background
    async def parent() -> list[int]:
        keyed = child.options(idempotency_key="k")
        return [await keyed.call(1), await keyed.call(2)]

    assert (await finished(app, parent)).output == [1, 1]


async def test_five_hundred_children() -> None:
    app = App("shop")

    @app.background
    async def child(n: int) -> int:
        return n

    @app.background
    async def parent() -> int:
        return sum(await asyncio.gather(*(child.call(n) for n in range(500))))

    assert (await finished(app, parent)).output == 124_750


async def test_a_step_may_call_and_wait() -> None:
    app = App("shop")

    @app.background
    async def child() -> str:
        return "done"

    @app.step
    async def ask() -> str:
        return await child.call()

    @app.background
    async def parent() -> str:
        return await ask()

    assert (await finished(app, parent)).output == "done"
