"""Tests of durable functions: a virtual clock, fakes that fit what they stand for, crashes everywhere."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, assert_type

from perdure import App, Context, Event, Failed, RunStatus
from perdure.testing import Run, StepRecord, TestEngine, crash_everywhere

app = App("shop")


@app.step
async def charge(cents: int) -> str:
    return str(cents)


@app.background
async def refund(cents: int) -> bool:
    return cents > 0


@app.function(on="order/placed")
async def fulfil(ctx: Context, event: Event) -> str:
    await ctx.sleep("1d")
    return await charge(3)


async def pretend(cents: int) -> str:
    return f"fake {cents}"


async def test_fulfil() -> None:
    async with TestEngine(app, start=datetime(2026, 1, 1, tzinfo=UTC), evict=True) as engine:
        assert_type(engine, TestEngine)
        engine.fake(charge, pretend)
        engine.fake(charge, lambda cents: "plain")
        engine.fake(refund, lambda cents: True)
        await engine.send("order/placed", {"id": "o1"})
        await engine.advance(timedelta(days=1))
        await engine.finish(within="30d")
        run = engine.run(fulfil)
        assert_type(run, Run[str])
        assert_type(run.output, str)
        assert_type(run.status, RunStatus)
        assert_type(run.error, Failed | None)
        assert_type(run.steps, Sequence[StepRecord])
        assert_type(engine.run("fulfil"), Run[Any])
        assert_type(engine.all_runs(refund), list[Run[bool]])
        assert_type(engine.now, datetime)
        await engine.crash()


async def drive(engine: TestEngine) -> None:
    await engine.send("order/placed", {})


async def test_crashes() -> None:
    await crash_everywhere(app, Event("order/placed", {"id": "o1"}), evict=True)
    await crash_everywhere(app, scenario=drive)
