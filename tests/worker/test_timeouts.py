"""Timeouts of steps, of blocks (`ctx.timeout`) and of whole runs. Those of blocks and runs go by the log's clock."""

import asyncio
import logging
from datetime import timedelta

import pytest

from perdure import App, Context, StepError
from perdure.testing import TestEngine
from perdure.worker import steps as worker_steps
from tests.worker.helpers import both_ways, failure, finished, ops


async def test_a_step_that_takes_too_long_fails_its_attempt() -> None:
    app = App("shop")
    made = 0

    @app.step(timeout="10ms", retries=1)
    async def slow() -> str:
        nonlocal made
        made += 1
        if made == 1:
            await asyncio.sleep(60)
        return "quick"

    @app.background
    async def flow() -> str:
        return await slow()

    run = await finished(app, flow)
    assert (run.output, run.steps[0].attempts) == ("quick", 2)


async def test_a_step_that_always_takes_too_long_is_a_timeout_error() -> None:
    app = App("shop")

    @app.step(timeout="10ms", retries=0)
    async def slow() -> None:
        await asyncio.sleep(60)

    @app.background
    async def flow() -> str:
        try:
            await slow()
        except StepError as error:
            return f"{error.caused_by(TimeoutError)} {error.message}"
        return "quick"

    assert (await finished(app, flow)).output == "True step 'slow' took longer than 0.01s"


async def test_an_inline_step_has_a_timeout_of_its_own() -> None:
    app = App("shop")

    @app.background
    async def flow(ctx: Context) -> None:
        await ctx.step("slow", asyncio.sleep, 60, timeout="10ms", retries=0)

    assert "took longer" in failure(await finished(app, flow))


async def test_a_step_in_time_is_left_alone() -> None:
    app = App("shop")

    @app.step(timeout="1h")
    async def quick() -> int:
        await asyncio.sleep(0)
        return 1

    @app.background
    async def flow() -> int:
        return await quick()

    assert (await finished(app, flow)).output == 1


async def test_a_step_that_swallows_its_timeout_is_left_behind_and_named(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_steps, "GRACE_SECONDS", 0.01)
    app = App("shop")
    over = asyncio.Event()

    @app.step(timeout="10ms", retries=0)
    async def deaf() -> None:
        while not over.is_set():
            try:
                await over.wait()
            except asyncio.CancelledError:
                continue

    @app.background
    async def flow() -> None:
        await deaf()

    with caplog.at_level(logging.WARNING):
        run = await finished(app, flow)
    assert "took longer" in failure(run)
    assert "step 'deaf' of run" in caplog.text
    over.set()


@both_ways
async def test_a_block_that_takes_too_long_raises_timeout_error(evict: bool) -> None:
    app = App("shop")

    @app.background(waits=["never"])
    async def flow(ctx: Context) -> str:
        try:
            async with ctx.timeout("1h"):
                await ctx.wait_for_event("never")
        except TimeoutError:
            return f"late at {ctx.now():%H:%M}"
        return "in time"

    assert (await finished(app, flow, evict=evict)).output == "late at 01:00"


@both_ways
async def test_a_block_in_time_closes_its_timer(evict: bool) -> None:
    app = App("shop")

    @app.background
    async def flow(ctx: Context) -> str:
        async with ctx.timeout("1h"):
            await ctx.sleep("30m")
        await ctx.sleep("2h")
        return "in time"

    async with TestEngine(app, evict=evict) as engine:
        await flow.enqueue()
        await engine.advance("31m")
        (run,) = engine.all_runs(flow)
        detail = await engine.port.run(run.id)
        assert {op.name: op.status for op in detail.ops if op.name == "timeout"} == {"timeout": "closed"}
        await engine.finish()
        assert engine.run(flow).output == "in time"


async def test_the_timeout_survives_a_crash() -> None:
    app = App("shop")

    @app.background(waits=["never"])
    async def flow(ctx: Context) -> str:
        try:
            async with ctx.timeout("1h"):
                await ctx.wait_for_event("never")
        except TimeoutError:
            return f"{ctx.now():%H:%M}"
        return "in time"

    async with TestEngine(app) as engine:
        await flow.enqueue()
        await engine.advance("30m")
        await engine.crash()
        await engine.advance("29m")
        assert engine.run(flow).status == "suspended"
        await engine.advance("2m")
        assert engine.run(flow).output == "01:00"


@both_ways
async def test_a_step_in_a_block_that_is_over_is_cancelled_and_closed(evict: bool) -> None:
    app = App("shop")
    ended: list[str] = []
    begun = asyncio.Event()

    @app.step
    async def slow() -> None:
        try:
            begun.set()
            await asyncio.sleep(600)
        finally:
            ended.append("slow")

    @app.background
    async def flow(ctx: Context) -> str:
        try:
            async with ctx.timeout("1m"):
                await slow()
        except TimeoutError:
            return "late"
        return "in time"

    async with TestEngine(app, evict=evict) as engine:
        starting = asyncio.ensure_future(flow.enqueue())
        await begun.wait()
        while not (opened := await ops(engine, engine.run(flow))):
            await asyncio.sleep(0.001)  # it is on its way to the log
        assert opened == ["0/timeout#1"]
        engine.now += timedelta(minutes=2)
        await starting
        assert engine.run(flow).output == "late"
        assert ended == ["slow"]
        assert engine.run(flow).steps[0].result is None


@both_ways
async def test_the_inner_of_two_blocks_is_over_first(evict: bool) -> None:
    app = App("shop")

    @app.background(waits=["never"])
    async def flow(ctx: Context) -> list[str]:
        came: list[str] = []
        try:
            async with ctx.timeout("2h"):
                try:
                    async with ctx.timeout("1h"):
                        await ctx.wait_for_event("never")
                except TimeoutError:
                    came.append(f"inner {ctx.now():%H:%M}")
                await ctx.wait_for_event("never")
        except TimeoutError:
            came.append(f"outer {ctx.now():%H:%M}")
        return came

    assert (await finished(app, flow, evict=evict)).output == ["inner 01:00", "outer 02:00"]


@both_ways
async def test_the_outer_of_two_blocks_may_be_over_first(evict: bool) -> None:
    app = App("shop")

    @app.background(waits=["never"])
    async def flow(ctx: Context) -> str:
        try:
            async with ctx.timeout("1h"):
                try:
                    async with ctx.timeout("2h"):
                        await ctx.wait_for_event("never")
                except TimeoutError:
                    return "the inner one"
        except TimeoutError:
            return f"the outer one, {ctx.now():%H:%M}"
        return "none"

    assert (await finished(app, flow, evict=evict)).output == "the outer one, 01:00"


@both_ways
async def test_an_error_in_a_block_passes(evict: bool) -> None:
    app = App("shop")

    @app.step(retries=0)
    async def broken() -> None:
        raise OSError("down")

    @app.background
    async def flow(ctx: Context) -> str:
        try:
            async with ctx.timeout("1h"):
                await broken()
        except StepError as error:
            return error.message
        return "fine"

    assert (await finished(app, flow, evict=evict)).output == "down"


@both_ways
async def test_blocks_of_branches_are_apart(evict: bool) -> None:
    app = App("shop")

    @app.background
    async def flow(ctx: Context) -> list[str]:
        async def branch(hours: int) -> str:
            try:
                async with ctx.timeout("2h"):
                    await ctx.sleep(f"{hours}h")
            except TimeoutError:
                return f"{hours} late"
            return f"{hours} in time"

        return await ctx.map(branch, [1, 3])

    assert (await finished(app, flow, evict=evict)).output == ["1 in time", "3 late"]


async def test_a_run_that_takes_too_long_fails() -> None:
    app = App("shop")

    @app.background(timeout="1h")
    async def flow(ctx: Context) -> None:
        await ctx.sleep("7d")

    async with TestEngine(app) as engine:
        await flow.enqueue()
        await engine.advance("59m")
        assert engine.run(flow).status == "suspended"
        await engine.advance("2m")
        run = engine.run(flow)
        assert run.status == "failed"
        assert run.error is not None
        assert run.error.caused_by(TimeoutError)


async def test_a_runs_time_begins_when_it_starts() -> None:
    app = App("shop")

    @app.background(timeout="1h")
    async def flow(ctx: Context) -> str:
        await ctx.sleep("50m")
        return "in time"

    async with TestEngine(app) as engine:
        await flow.options(delay="3h").enqueue()
        await engine.finish()
        assert engine.run(flow).output == "in time"


async def test_a_runs_time_is_not_begun_anew_by_a_crash() -> None:
    app = App("shop")

    @app.background(timeout="1h")
    async def flow(ctx: Context) -> None:
        await ctx.sleep("7d")

    async with TestEngine(app) as engine:
        await flow.enqueue()
        await engine.advance("50m")
        await engine.crash()
        await engine.advance("11m")
        assert engine.run(flow).status == "failed"


async def test_a_run_whose_time_is_up_while_a_step_never_ends_fails_at_once() -> None:
    app = App("shop")
    begun = asyncio.Event()

    @app.step
    async def for_ever() -> None:
        begun.set()
        await asyncio.sleep(3600)

    @app.background(timeout="1h")
    async def flow() -> None:
        await for_ever()

    async with TestEngine(app) as engine:
        starting = asyncio.ensure_future(flow.enqueue())
        await begun.wait()
        engine.now += timedelta(minutes=61)
        await starting
        assert engine.run(flow).status == "failed"


async def test_a_wait_for_a_result_may_have_a_timeout_in_a_run() -> None:
    app = App("shop")

    @app.background
    async def child(ctx: Context) -> None:
        await ctx.sleep("7d")

    @app.background
    async def flow(ctx: Context) -> str:
        handle = await child.enqueue()
        try:
            await handle.result(timeout="1h")
        except TimeoutError:
            return f"late at {ctx.now():%H:%M}"
        return "in time"

    async with TestEngine(app) as engine:
        await flow.enqueue()
        await engine.advance("2h")
        assert engine.run(flow).output == "late at 01:00"
