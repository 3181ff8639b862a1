"""What `/metrics` counts, once somebody has asked for it: results as they are read back, once each."""

import asyncio

from perdure import App, Context, NonRetriable, StepError
from perdure.sdk.port import Work
from perdure.testing import TestEngine
from perdure.worker.measures import GATHERED, Spread
from tests.worker.helpers import both_ways

APP = App("measured")


@APP.step(queue="gpu")
def pooled() -> None:
    pass


@APP.step(retries=2)
async def flaky(fails: int) -> None:
    TRIES.append(fails)
    if len(TRIES) <= fails:
        raise ValueError("not yet")


@APP.step
async def hopeless() -> None:
    raise NonRetriable("never")


TRIES: list[int] = []
HOUR_US = 3_600_000_000


@APP.background
async def flow(ctx: Context) -> None:
    await pooled()
    await flaky(2)
    await ctx.sleep("1h")
    try:
        await hopeless()
    except (NonRetriable, StepError):
        await ctx.step("tidy", lambda: None)


def work_of(engine: TestEngine) -> Work:
    return engine.port.counts().work["measured"]


@both_ways
async def test_each_result_counts_once_however_often_it_is_replayed(evict: bool) -> None:
    TRIES.clear()
    async with TestEngine(APP, evict=evict) as engine:
        assert work_of(engine).steps_took == {}
        await flow.enqueue()
        await engine.finish()
        assert engine.run(flow).status == "completed"
        work = work_of(engine)
    assert sum(work.steps_took.values()) == 3
    assert (work.steps_failed, work.retries) == (1, 2)
    assert (work.runs_in_memory, work.steps_running) == (0, 0)
    assert work.runs_ended == {"completed": 1}
    assert sum(work.runs_took.values()) == sum(work.runs_waited.values()) == 1
    assert work.runs_took_sum >= HOUR_US, "it slept"


async def test_runs_are_counted_by_their_ends() -> None:
    app = App("measured")

    @app.background
    async def fails(ctx: Context) -> None:
        raise NonRetriable("no")

    @app.background
    async def sleeps(ctx: Context) -> None:
        await ctx.sleep("2h")

    async with TestEngine(app) as engine:
        work_of(engine)
        for one in (fails, fails.options(delay="1h"), sleeps):
            await one.enqueue()
        later = await sleeps.options(delay="1d").enqueue()
        await later.cancel()
        await engine.finish()
        work = work_of(engine)
    assert work.runs_ended == {"failed": 2, "completed": 1, "cancelled": 1}
    assert sum(work.runs_took.values()) == sum(work.runs_waited.values()) == 3, "one never started"
    assert HOUR_US <= work.runs_waited_sum < 2 * HOUR_US <= work.runs_took_sum < 3 * HOUR_US


async def test_what_is_in_hand() -> None:
    app = App("measured")
    began, go_on = asyncio.Event(), asyncio.Event()

    @app.background
    async def works(ctx: Context) -> None:
        async def body() -> None:
            began.set()
            await go_on.wait()

        await ctx.step("body", body)

    @app.background
    async def sleeps(ctx: Context) -> None:
        await ctx.sleep("1h")

    async with TestEngine(app) as engine:
        await sleeps.enqueue()
        working = asyncio.create_task(works.enqueue())
        await began.wait()
        work = work_of(engine)
        assert (work.runs_in_memory, work.steps_running) == (2, 1)
        go_on.set()
        await working
        await engine.settle()
        work = work_of(engine)
        assert (work.runs_in_memory, work.runs_idle, work.steps_running) == (1, 1, 0)


async def test_the_loop_is_looked_at_again_and_again() -> None:
    async with TestEngine(App("measured")) as engine:
        while sum(work_of(engine).loop_delay.values()) < 2:
            await asyncio.sleep(0.01)


def test_values_are_counted_by_their_bits_and_do_not_pile_up() -> None:
    spread = Spread()
    for value in range(GATHERED):
        spread.waiting.append(value)
        spread.gather()
    assert spread.waiting == []
    spread.waiting += [0, 1 << 20]
    counts, total = spread.told()
    assert counts == {0: 2, **{bits: 1 << (bits - 1) for bits in range(1, 13)}, 21: 1}
    assert total == sum(range(GATHERED)) + (1 << 20)
