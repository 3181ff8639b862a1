"""What user code cancels is closed in the log: a race's loser, the siblings of a failed task."""

import asyncio
import gc
from collections.abc import Callable

import pytest

from perdure import App, Context, Event, StepError
from perdure.testing import Run, TestEngine
from tests.worker.helpers import both_ways, failure, finished

app = App("shop")


async def statuses(engine: TestEngine, run: Run[object]) -> dict[str, str]:
    """Op name → its status in the log."""
    return {op.name: op.status for op in (await engine.port.run(run.id)).ops}


@both_ways
async def test_the_first_to_end_wins_a_race(evict: bool) -> None:
    app = App("shop")

    @app.step
    async def say(text: str) -> str:
        return text

    @app.background
    async def flow(ctx: Context) -> str:
        index, value = await ctx.race(ctx.sleep("1h"), say("quick"))
        return f"{index} {value}"

    assert (await finished(app, flow, evict=evict)).output == "1 quick"


@both_ways
async def test_the_loser_is_closed(evict: bool) -> None:
    app = App("shop")

    @app.background(waits=["go"])
    async def flow(ctx: Context) -> int:
        index, _ = await ctx.race(ctx.sleep("1h"), ctx.wait_for_event("go"), ctx.sleep("2h"))
        await ctx.sleep("5h")
        return index

    async with TestEngine(app, evict=evict) as engine:
        await flow.enqueue()
        await engine.advance("90m")
        detail = await engine.port.run(engine.run(flow).id)
        found = {op.op: op.status for op in detail.ops}
        assert found == {
            "0/sleep#1": "completed", "0/wait:go#1": "closed", "0/sleep#2": "closed", "0/sleep#3": "open"
        }  # fmt: skip
        await engine.finish()
        assert engine.run(flow).output == 0


async def test_a_race_of_five() -> None:
    app = App("shop")

    @app.background
    async def flow(ctx: Context) -> int:
        index, _ = await ctx.race(*(ctx.sleep(f"{hours}h") for hours in (5, 4, 1, 3, 2)))
        return int(index)

    assert (await finished(app, flow)).output == 2


@both_ways
async def test_an_error_may_win_a_race(evict: bool) -> None:
    app = App("shop")

    @app.step(retries=0)
    async def broken() -> None:
        raise OSError("down")

    @app.background
    async def flow(ctx: Context) -> str:
        try:
            await ctx.race(ctx.sleep("1h"), broken())
        except StepError as error:
            return error.message
        return "fine"

    assert (await finished(app, flow, evict=evict)).output == "down"


async def test_a_race_that_is_cancelled_while_it_cleans_up_still_hears_its_losers(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """asyncio says of an error that nobody asked for that it was never retrieved."""
    app = App("shop")

    async def win() -> None: ...

    async def fail() -> None:
        raise ValueError("lost")

    @app.background(retries=0)
    async def flow(ctx: Context) -> None:
        async def late() -> None:
            await asyncio.sleep(0)
            raise ValueError("the run fails")

        await asyncio.gather(ctx.race(win(), fail(), ctx.sleep("1h")), late())

    run = await finished(app, flow)
    assert "the run fails" in failure(run)
    gc.collect()
    assert "never retrieved" not in caplog.text


async def test_a_step_that_loses_is_cancelled() -> None:
    app = App("shop")
    ended: list[str] = []

    @app.step
    async def slow() -> None:
        try:
            await asyncio.sleep(600)
        finally:
            ended.append("slow")

    @app.step
    async def quick() -> None:
        await asyncio.sleep(0)

    @app.background
    async def flow(ctx: Context) -> int:
        index, _ = await ctx.race(slow(), quick())
        return index

    async with TestEngine(app) as engine:
        await flow.enqueue()
        assert engine.run(flow).output == 1
        assert ended == ["slow"]
        assert (await statuses(engine, engine.run(flow)))["slow"] == "closed"


@both_ways
async def test_a_called_run_that_loses_is_cancelled(evict: bool) -> None:
    app = App("shop")

    @app.background
    async def child(ctx: Context) -> None:
        await ctx.sleep("7d")

    @app.background
    async def flow(ctx: Context) -> int:
        index, _ = await ctx.race(child.call(), ctx.sleep("1h"))
        await ctx.sleep("1h")
        return index

    async with TestEngine(app, evict=evict) as engine:
        await flow.enqueue()
        await engine.advance("3h")
        assert (engine.run(flow).output, engine.run(child).status) == (1, "cancelled")


@both_ways
async def test_a_wait_that_loses_gives_its_event_back(evict: bool) -> None:
    """Whoever of the two is first: the event is consumed once, and not lost."""
    app = App("shop")

    @app.step
    async def say(text: str) -> str:
        return text

    @app.background(waits=["go"])
    async def flow(ctx: Context) -> list[bool]:
        await ctx.sleep("1h")
        index, _ = await ctx.race(say("quick"), ctx.wait_for_event("go"))
        later = await ctx.wait_for_event("go", timeout="1h")
        return [index == 1, later is not None]

    async with TestEngine(app, evict=evict) as engine:
        await flow.enqueue()
        await engine.send("go", {})
        await engine.finish()
        assert sorted(engine.run(flow).output) == [False, True]


@both_ways
async def test_the_siblings_of_a_failed_task_are_closed(evict: bool) -> None:
    app = App("shop")

    @app.step(retries=0)
    async def broken() -> None:
        raise OSError("down")

    @app.background
    async def flow(ctx: Context) -> list[str]:
        messages: list[str] = []
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(ctx.sleep("7d"))
                group.create_task(broken())
        except* StepError as errors:
            messages = [error.message for error in errors.exceptions if isinstance(error, StepError)]
        await ctx.sleep("1h")
        return messages

    async with TestEngine(app, evict=evict) as engine:
        await flow.enqueue()
        assert await statuses(engine, engine.run(flow)) == {"broken": "failed", "sleep": "open"}
        detail = await engine.port.run(engine.run(flow).id)
        assert {op.op: op.status for op in detail.ops}["0/sleep#1"] == "closed"
        await engine.finish()
        assert engine.run(flow).output == ["down"]


@both_ways
async def test_map_keeps_to_its_limit_and_to_the_order(evict: bool) -> None:
    app = App("shop")
    running = 0
    most = 0

    @app.step
    async def work(n: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.001 * (n % 3))
        running -= 1
        return n * n

    @app.background
    async def flow(ctx: Context) -> list[int]:
        return await ctx.map(work, range(12), limit=3)

    assert (await finished(app, flow, evict=evict)).output == [n * n for n in range(12)]
    assert most == 3


@both_ways
async def test_map_stops_at_the_first_error(evict: bool) -> None:
    app = App("shop")
    began: set[int] = set()

    @app.step(retries=0)
    async def work(n: int) -> int:
        began.add(n)
        if n == 1:
            raise OSError(f"no {n}")
        return n

    @app.background
    async def flow(ctx: Context) -> str:
        try:
            await ctx.map(work, range(100), limit=2)
        except StepError as error:
            return error.message
        return "fine"

    assert (await finished(app, flow, evict=evict)).output == "no 1"
    assert max(began) < 10


@both_ways
async def test_map_may_give_errors_in_their_places(evict: bool) -> None:
    app = App("shop")

    @app.step(retries=0)
    async def work(n: int) -> int:
        if n % 2:
            raise OSError(f"no {n}")
        return n

    @app.background
    async def flow(ctx: Context) -> list[str]:
        found = await ctx.map(work, range(4), return_exceptions=True)
        return [one.message if isinstance(one, StepError) else str(one) for one in found]

    assert (await finished(app, flow, evict=evict)).output == ["0", "no 1", "2", "no 3"]


async def test_map_over_functions() -> None:
    app = App("shop")

    @app.background
    async def double(n: int) -> int:
        return 2 * n

    @app.background
    async def flow(ctx: Context) -> list[int]:
        return await ctx.map(double.call, [1, 2, 3], limit=2)

    assert (await finished(app, flow)).output == [2, 4, 6]


async def test_map_over_nothing() -> None:
    app = App("shop")

    @app.background
    async def flow(ctx: Context) -> list[str]:
        return await ctx.map(lambda text: asyncio.sleep(0, text), list[str]())

    assert (await finished(app, flow)).output == []


async def test_map_wants_a_limit_of_at_least_one() -> None:
    app = App("shop")

    @app.background
    async def flow(ctx: Context) -> None:
        await ctx.map(lambda text: asyncio.sleep(0, text), ["a"], limit=0)

    assert "limit=0: at least one at a time" in failure(await finished(app, flow))


Forgetful = Callable[[Context], object]


@app.step
async def remind() -> None:
    pass


@app.background
async def child() -> None:
    pass


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda ctx: remind(), "remind"),
        (lambda ctx: ctx.step("inline", lambda: None), "inline"),
        (lambda ctx: ctx.sleep("1h"), "sleep"),
        (lambda ctx: child.call(), "child"),
        (lambda ctx: child.enqueue(), "child"),
        (lambda ctx: ctx.wait_for_event("go"), "wait:go"),
        (lambda ctx: ctx.send("go", {}), "send:go"),
        (lambda ctx: ctx.send_many([Event("go", {})]), "send:go"),
        (lambda ctx: ctx.map(ctx.sleep, ["1h"]), "map"),
        (lambda ctx: ctx.race(ctx.sleep("1h"), ctx.sleep("2h")), "sleep"),
        (lambda ctx: ctx.report(done=1), "report"),
    ],
)
async def test_what_was_never_awaited_is_named(call: Forgetful, name: str) -> None:
    forgetful = App("shop")
    forgetful.functions |= app.functions

    @forgetful.background(waits=["go"])
    async def flow(ctx: Context) -> None:
        call(ctx)

    async with TestEngine(forgetful) as engine:
        await flow.enqueue()
        assert f"'flow' returned but {name!r} was never awaited" in failure(engine.run(flow))


@both_ways
async def test_a_step_that_was_given_up_does_not_run_again(evict: bool) -> None:
    """I6: the function is retried whole, and gives the step up again."""
    app, ran = App("shop"), list[str]()

    @app.step
    async def work() -> None:
        ran.append("work")
        await asyncio.sleep(0.001)

    async def fails() -> None:
        raise ValueError("no")

    @app.background(retries=1)
    async def flow() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(work())
            group.create_task(fails())

    assert "no" in failure(await finished(app, flow, evict=evict))
    assert ran == ["work"]


async def test_who_waits_for_what_was_given_up_is_parked() -> None:
    """What is retried whole goes another way than before: nothing would ever come for it."""
    app, fails = App("shop"), [True]

    @app.step
    async def work() -> None:
        await asyncio.sleep(0.001)

    async def flaky() -> None:
        if fails.pop():
            fails.append(False)
            raise ValueError("now and then")

    @app.background(retries=1)
    async def flow() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(work())
            group.create_task(flaky())

    async with TestEngine(app) as engine:
        await flow.enqueue()
        await engine.finish()
        run = engine.run(flow)
        assert run.status == "parked"
        assert "was closed before, and is waited for now" in (await engine.port.run(run.id)).parked


@both_ways
async def test_a_timeout_around_what_fails_at_once(evict: bool) -> None:
    """Its timer is given up before it was asked for: nobody forgot to await it."""
    app = App("shop")

    @app.background
    async def flow(ctx: Context) -> str:
        try:
            async with ctx.timeout("1h"):
                raise KeyError("gone")
        except KeyError:
            return "caught"

    assert (await finished(app, flow, evict=evict)).output == "caught"
