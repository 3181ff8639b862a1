"""Suspended runs leave memory under a bound, cheapest replay first; idle means that nothing but an op can move them."""

import asyncio

import pytest

from perdure import App, Context
from perdure.testing import TestEngine
from perdure.worker import worker as worker_module
from tests.worker.helpers import both_ways


def resident(engine: TestEngine) -> int:
    """Runs with their user code in memory."""
    return len(engine.node.worker.executions)


async def rest(engine: TestEngine) -> None:
    """Let runs become idle."""
    await engine.settle()
    engine.node.tick()


def sleeper(bound: int, monkeypatch: pytest.MonkeyPatch) -> App:
    monkeypatch.setattr(worker_module.Worker.__init__, "__kwdefaults__", _with_bound(bound))
    return App("shop")


def _with_bound(bound: int) -> dict[str, object]:
    defaults = worker_module.Worker.__init__.__kwdefaults__ or {}
    return {**defaults, "idle_runs": bound}


async def test_idle_runs_are_kept_under_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    app = sleeper(3, monkeypatch)

    @app.background
    async def flow(ctx: Context, n: int) -> int:
        await ctx.sleep("1h")
        return n

    async with TestEngine(app) as engine:
        for n in range(10):
            await flow.enqueue(n)
        await rest(engine)
        assert resident(engine) == 3
        await engine.finish()
        assert [run.output for run in engine.all_runs(flow)] == list(range(10))


async def test_the_cheapest_to_replay_leave_first(monkeypatch: pytest.MonkeyPatch) -> None:
    app = sleeper(2, monkeypatch)

    @app.step
    async def work() -> None:
        pass

    @app.background
    async def flow(ctx: Context, steps: int) -> int:
        for _ in range(steps):
            await work()
        await ctx.sleep("1h")
        return steps

    async with TestEngine(app) as engine:
        for steps in (5, 0, 9, 1):
            await flow.enqueue(steps)
        await rest(engine)
        found = {run.id: run for run in engine.all_runs(flow)}
        left = sorted(len(found[run].steps) for run in engine.node.worker.executions)
        assert left == [5, 9]


async def test_a_run_that_left_is_shown_as_suspended(monkeypatch: pytest.MonkeyPatch) -> None:
    app = sleeper(0, monkeypatch)

    @app.background
    async def flow(ctx: Context) -> None:
        await ctx.sleep("1h")

    async with TestEngine(app) as engine:
        await flow.enqueue()
        await rest(engine)
        assert (resident(engine), engine.run(flow).status) == (0, "suspended")


async def test_a_run_that_left_can_be_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    app = sleeper(0, monkeypatch)

    @app.background
    async def flow(ctx: Context) -> None:
        await ctx.sleep("1h")

    async with TestEngine(app) as engine:
        handle = await flow.enqueue()
        await rest(engine)
        await handle.cancel()
        assert engine.run(flow).status == "cancelled"


async def test_a_run_with_a_step_in_flight_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    app = sleeper(0, monkeypatch)
    begun, over = asyncio.Event(), asyncio.Event()

    @app.step
    async def slow() -> None:
        begun.set()
        await over.wait()

    @app.background
    async def flow(ctx: Context) -> None:
        await asyncio.gather(slow(), ctx.sleep("1h"))

    async with TestEngine(app) as engine:
        starting = asyncio.ensure_future(flow.enqueue())
        await begun.wait()
        for _ in range(50):
            await asyncio.sleep(0)
            engine.node.tick()
        assert resident(engine) == 1
        over.set()
        await starting
        await rest(engine)
        assert resident(engine) == 0


async def test_a_run_that_waits_on_something_of_its_own_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket, say: nobody can know what will move it."""
    app = sleeper(0, monkeypatch)
    begun, over = asyncio.Event(), asyncio.get_running_loop().create_future()

    @app.background
    async def flow(ctx: Context) -> None:
        begun.set()
        await asyncio.gather(asyncio.shield(over), ctx.sleep("1h"))

    async with TestEngine(app) as engine:
        starting = asyncio.ensure_future(flow.enqueue())
        await begun.wait()
        for _ in range(50):
            await asyncio.sleep(0)
            engine.node.tick()
        assert resident(engine) == 1
        over.set_result(None)
        await starting
        await rest(engine)
        assert resident(engine) == 0


async def test_runs_whose_tasks_wait_for_each_other_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    app = sleeper(0, monkeypatch)

    @app.background
    async def flow(ctx: Context) -> int:
        queue: asyncio.Queue[int] = asyncio.Queue()
        lock = asyncio.Lock()

        async def work() -> None:
            async with lock:
                await ctx.sleep("1h")
                queue.put_nowait(1)

        async with asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(work())
            got = [await queue.get() for _ in range(3)]
        return sum(got)

    async with TestEngine(app) as engine:
        await flow.enqueue()
        await rest(engine)
        assert resident(engine) == 0
        await engine.finish()
        assert engine.run(flow).output == 3


async def test_a_restart_touches_only_runs_with_work() -> None:
    app = App("shop")
    began: list[int] = []

    @app.background(waits=["go"])
    async def flow(ctx: Context, n: int) -> int:
        began.append(n)
        await ctx.wait_for_event("go", match={"data.n": n})
        return n

    async with TestEngine(app) as engine:
        for n in range(5):
            await flow.enqueue(n)
        await rest(engine)
        began.clear()
        await engine.crash()
        assert (began, resident(engine)) == ([], 0)
        await engine.send("go", {"n": 3})
        assert began == [3]
        assert [run.output for run in engine.all_runs(flow) if run.status == "completed"] == [3]


@both_ways
async def test_what_a_run_waits_for_may_come_while_it_is_away(evict: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    app = sleeper(0, monkeypatch)

    @app.background
    async def child(ctx: Context) -> str:
        await ctx.sleep("2h")
        return "child"

    @app.background(waits=["go"])
    async def flow(ctx: Context) -> list[str]:
        found = await asyncio.gather(ctx.sleep("1h"), child.call(), ctx.wait_for_event("go"))
        return [str(found[0]), found[1], found[2].data["n"]]

    async with TestEngine(app, evict=evict) as engine:
        await flow.enqueue()
        await rest(engine)
        await engine.advance("90m")
        await rest(engine)
        await engine.send("go", {"n": "three"})
        await rest(engine)
        assert resident(engine) == 0
        await engine.finish()
        assert engine.run(flow).output == ["None", "child", "three"]


async def test_finally_blocks_run_when_a_run_leaves_and_their_ops_do_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaving memory unwinds user code: what stands in `finally` runs, but nothing of it reaches the log."""
    app = sleeper(0, monkeypatch)
    undone: list[int] = []

    @app.step
    async def undo() -> None:
        undone.append(1)

    @app.background
    async def flow(ctx: Context) -> None:
        try:
            await ctx.sleep("1h")
        finally:
            await undo()

    async with TestEngine(app) as engine:
        await flow.enqueue()
        await rest(engine)
        assert (resident(engine), undone) == (0, [])
        await engine.finish()
        assert undone == [1]
