"""What a replay of a past run says: each verdict, by a function that comes to it."""

import asyncio
from collections.abc import Callable

import pytest

from perdure import App, Context, Event, NonRetriable, Retry
from perdure.errors import UnknownRun
from perdure.flow.view import View
from perdure.past.moments import ends_of
from perdure.past.replay import Replayed, Replayer
from perdure.testing import TestEngine
from tests.evidence.folding import records
from tests.past.replays import check_replays

GO = Event("go", {"n": 1}, id="e1")
Fill = Callable[[App], None]


def app_of(fill: Fill) -> App:
    """An app with one function, `f`."""
    app = App("past")
    fill(app)
    return app


async def now_on(engine: TestEngine, app: App, *, patience_seconds: float = 0.05) -> Replayed:
    """The run of `f` as the log has it by now, on the code of `app`."""
    before = {partition: list(records(engine.log, partition)) for partition in range(engine.log.partitions)}
    run = engine.run("f").id
    replayer = Replayer(app)
    try:
        for partition, everything in before.items():
            view = View(partition, len(before))
            ends_of(view, everything)
            if view.live(run) is not None:
                return await replayer.replay(view, run, patience_seconds=patience_seconds)
    finally:
        await replayer.close()
        assert before == {partition: list(records(engine.log, partition)) for partition in before}
    raise AssertionError("the run has ended")


def two_steps(first: str, second: str, *more: str) -> Fill:
    """Steps of these names with a sleep of an hour before the last one."""

    def fill(app: App) -> None:
        @app.function(id="f", on="go")
        async def f(ctx: Context, event: Event) -> str:
            for name in (first, second, *more):
                await ctx.step(name, str, name)
            await ctx.sleep("1h")
            return "done"

    return fill


async def asleep(fill: Fill, other: Fill) -> Replayed:
    """Begun on one code until it sleeps, replayed on another."""
    async with TestEngine(app_of(fill)) as engine:
        await engine.send(GO)
        return await now_on(engine, app_of(other))


async def test_a_run_that_sleeps_waits_for_its_sleep() -> None:
    replayed = await asleep(two_steps("a", "b"), two_steps("a", "b"))
    assert replayed.verdict == "waits"
    assert [one.op for one in replayed.at] == ["0/sleep#1"]
    assert [(one.name, one.kind, one.standing) for one in replayed.asked] == [
        ("a", "step", "answered"),
        ("b", "step", "answered"),
        ("sleep", "sleep", "open"),
    ]


async def test_a_step_under_another_name_parks_with_both_sides() -> None:
    replayed = await asleep(two_steps("a", "b"), two_steps("a", "c"))
    assert replayed.verdict == "parks"
    assert replayed.recorded is not None
    assert replayed.requested is not None
    assert (replayed.recorded.op, replayed.requested.op) == ("0/b#1", "0/c#1")


async def test_a_function_that_the_app_lacks_is_held() -> None:
    assert (await asleep(two_steps("a", "b"), lambda app: None)).verdict == "held"


async def test_code_that_waits_on_its_own_clock_is_stuck() -> None:
    def polling(app: App) -> None:
        @app.function(id="f", on="go")
        async def f(ctx: Context, event: Event) -> None:
            await asyncio.get_running_loop().create_future()

    replayed = await asleep(two_steps("a", "b"), polling)
    assert replayed.verdict == "stuck"


async def test_code_that_ends_before_the_log_does_parks() -> None:
    def early(app: App) -> None:
        @app.function(id="f", on="go")
        async def f(ctx: Context, event: Event) -> str:
            for name in ("a", "b"):
                await ctx.step(name, str, name)
            return "early"

    replayed = await asleep(two_steps("a", "b"), early)
    assert replayed.verdict == "parks"
    assert replayed.recorded is not None
    assert replayed.recorded.op == "0/sleep#1"


async def test_a_long_replay_is_not_stuck_however_long_it_takes() -> None:
    def long(app: App) -> None:
        @app.function(id="f", on="go")
        async def f(ctx: Context, event: Event) -> None:
            for _ in range(100):
                await asyncio.gather(ctx.step("a", str, 1), ctx.step("b", str, 2))
            await ctx.sleep("1h")

    async with TestEngine(app_of(long)) as engine:
        await engine.send(GO)
        replayed = await now_on(engine, app_of(long), patience_seconds=0)
        assert (replayed.verdict, len(replayed.asked)) == ("waits", 201)


async def test_what_raises_is_to_be_tried_again() -> None:
    def raises(app: App) -> None:
        @app.function(id="f", on="go")
        async def f(ctx: Context, event: Event) -> None:
            raise RuntimeError("new code")

    replayed = await asleep(two_steps("a", "b"), raises)
    assert (replayed.verdict, replayed.error and replayed.error.message) == ("retries", "new code")
    assert not replayed.goes_well  # with its last attempt it parks: the log holds what it never asks for


async def test_all_that_runs_do_comes_out_as_recorded() -> None:
    """Failures, retries of steps and functions, children, sends, races, chance and the clock."""
    app = App("past")
    failed: list[str] = []

    @app.step(retries=Retry(3, first="1s"))
    async def flaky(what: str) -> str:
        failed.append(what)
        if failed.count(what) < 3:
            raise ConnectionError(what)
        return what

    @app.background(id="child")
    async def child(n: int) -> int:
        return n + 1

    @app.function(id="whole", on="go", retries=2)
    async def whole(ctx: Context, event: Event) -> list[object]:
        first = await flaky("f")
        failed.append("whole")
        if failed.count("whole") < 2:
            raise RuntimeError("once more")
        both = await asyncio.gather(flaky("g"), child.call(1), ctx.step("r", lambda: 3))
        won, _ = await ctx.race(ctx.sleep("1m"), ctx.wait_for_event("never"))
        handle = await child.enqueue(5)
        await ctx.send("other", {"x": ctx.random.random()})
        result = await handle.result()
        return [first, both, won, result, str(ctx.now()), str(ctx.uuid())]

    @app.function(id="cancelled", on="go")
    async def cancelled(ctx: Context, event: Event) -> None:
        try:
            await ctx.sleep("1d")
        finally:
            failed.append("unwound")

    @app.function(id="final", on="go", retries=3)
    async def final(ctx: Context, event: Event) -> None:
        await ctx.step("x", lambda: 1)
        raise NonRetriable("no")

    @app.function(id="timely", on="go", timeout="1h")
    async def timely(ctx: Context, event: Event) -> None:
        ctx.logger.info("it waits")
        await ctx.report(waits=True)
        await ctx.wait_for_event("never")

    async with TestEngine(app) as engine:
        await engine.send(GO)
        await engine.advance("10s")
        (handle,) = await engine.runs(cancelled, event_id="e1")
        await handle.cancel()
        await engine.finish()
        so_far = list(failed)
        replayed = {one.function: one for one in await check_replays(engine)}
        ended = {function: (one.end.status if one.end else "") for function, one in replayed.items()}
        assert ended == {
            "whole": "completed",
            "child": "completed",
            "cancelled": "cancelled",
            "final": "failed",
            "timely": "failed",
        }
        assert replayed["whole"].status == "completed"
        assert "flaky" not in {one.name for one in replayed["cancelled"].asked}
        # Code outside of steps runs again; no step does.
        assert sorted(set(failed[len(so_far) :])) == ["unwound", "whole"]


async def test_what_goes_on_and_what_ends_otherwise() -> None:
    def ends(with_: str, *, more: bool = False) -> Fill:
        def fill(app: App) -> None:
            @app.function(id="f", on="go")
            async def f(ctx: Context, event: Event) -> str:
                await ctx.step("a", lambda: 1)
                if more:
                    await ctx.step("b", lambda: 2)
                return with_

        return fill

    async with TestEngine(app_of(ends("x"))) as engine:
        await engine.send(GO)
        for other, message in (
            (ends("y"), "another result"),
            (ends("x", more=True), "goes on at 0/b#1"),
        ):
            engine.app = app_of(other)
            with pytest.raises(AssertionError, match=message):
                await check_replays(engine)
        engine.app = app_of(ends("x"))
        assert [one.verdict for one in await check_replays(engine)] == ["as_recorded"]


async def test_a_run_that_is_not_there() -> None:
    replayer = Replayer(app_of(two_steps("a", "b")))
    with pytest.raises(UnknownRun):
        await replayer.replay(View(0, 1), "nobody")
    await replayer.close()
