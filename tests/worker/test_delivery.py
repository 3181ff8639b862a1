"""Results go to a run one at a time, in log order, the next when the run has settled; live and on replay alike."""

import asyncio
import gc
import random
from typing import Any

import pytest

from perdure import App, Context
from perdure.testing import TestEngine
from perdure.worker.execution import Execution
from tests.worker.helpers import both_ways, finished, ops


async def test_a_run_is_an_ordinary_task_on_the_ordinary_loop() -> None:
    app = App("shop")

    @app.background
    async def flow() -> list[str]:
        task = asyncio.current_task()
        assert task is not None
        return [type(task).__name__, str(asyncio.get_running_loop() is loop)]

    loop = asyncio.get_running_loop()
    assert (await finished(app, flow)).output == ["Task", "True"]


@both_ways
async def test_results_come_in_log_order(evict: bool) -> None:
    """The quick step is recorded first, so its branch moves first: live and on every replay."""
    app = App("shop")

    @app.step
    async def slow() -> str:
        await asyncio.sleep(0.02)
        return "slow"

    @app.step
    async def quick() -> str:
        return "quick"

    @app.background
    async def flow(ctx: Context) -> list[str]:
        came: list[str] = []

        async def branch(step: Any) -> None:
            came.append(await step())

        await asyncio.gather(branch(slow), branch(quick))
        await ctx.sleep("1h")
        return came

    assert (await finished(app, flow, evict=evict)).output == ["quick", "slow"]


@both_ways
async def test_what_a_branch_asks_after_its_result_is_the_same_on_replay(evict: bool) -> None:
    """Branches meet in a list: who appends first decides what is asked next, so the order must not change."""
    app = App("shop")

    @app.step
    async def wait_a_bit(n: int) -> int:
        await asyncio.sleep(random.random() / 200)
        return n

    @app.step
    async def after(first: list[int]) -> list[int]:
        return first

    @app.background
    async def flow() -> list[int]:
        came: list[int] = []

        async def branch(n: int) -> None:
            came.append(await wait_a_bit(n))
            assert await after(list(came)) == came[: len(came)][: came.index(n) + 1]

        await asyncio.gather(*(branch(n) for n in range(5)))
        return came

    run = await finished(app, flow, evict=evict)
    assert run.status == "completed", run.error
    assert sorted(run.output) == list(range(5))


@both_ways
async def test_chains_of_futures_settle(evict: bool) -> None:
    """A result needs a turn of the loop for each link until somebody asks for the next op."""
    app = App("shop")

    @app.step
    async def say(n: int) -> int:
        return n

    @app.background
    async def flow() -> list[int]:
        came: list[int] = []

        async def chained(n: int) -> None:
            found = await asyncio.gather(asyncio.shield(asyncio.shield(asyncio.gather(say(n)))))
            came.append(found[0][0])
            await say(10 + found[0][0])

        async def plain(n: int) -> None:
            came.append(await say(n))
            await say(10 + n)

        await asyncio.gather(chained(1), plain(2), chained(3), plain(4))
        return came

    async with TestEngine(app, evict=evict) as engine:
        await flow.enqueue()
        run = engine.run(flow)
        assert run.status == "completed", run.error
        came = run.output
        first_asked = [int(step.result) for step in run.steps if step.result < 10]
        assert came == first_asked


@both_ways
async def test_a_task_that_polls_does_not_stop_the_run(evict: bool) -> None:
    """It never rests; after enough turns the run counts as settled all the same."""
    app = App("shop")

    @app.step
    async def say(n: int) -> int:
        return n

    @app.background
    async def flow() -> int:
        found: list[int] = []

        async def poll() -> int:
            while not found:
                await asyncio.sleep(0)
            return found[0]

        poller = asyncio.create_task(poll())
        found.append(await say(7))
        return await poller

    assert (await finished(app, flow, evict=evict)).output == 7


async def test_a_busy_step_body_keeps_nobody_waiting() -> None:
    """The moves of step bodies are not the run's: it settles beside them."""
    app = App("shop")
    turns = 0
    done = False

    @app.step
    async def busy(n: int) -> int:
        nonlocal turns
        while not done:
            turns += 1
            await asyncio.sleep(0)
        return n

    @app.step
    async def quick() -> None:
        pass

    @app.background
    async def flow() -> None:
        async def chain() -> None:
            nonlocal done
            for _ in range(10):
                await quick()
            done = True

        await asyncio.gather(busy(1), busy(2), chain())

    assert (await finished(app, flow)).status == "completed"
    assert turns < 1_000


@both_ways
async def test_a_task_group_with_a_queue(evict: bool) -> None:
    app = App("shop")

    @app.step
    async def square(n: int) -> int:
        return n * n

    @app.background
    async def flow() -> int:
        queue: asyncio.Queue[int] = asyncio.Queue(maxsize=2)
        total = 0

        async def work() -> None:
            nonlocal total
            while True:
                found = await square(await queue.get())
                total += found
                queue.task_done()

        async with asyncio.TaskGroup() as group:
            workers = [group.create_task(work()) for _ in range(3)]
            for n in range(8):
                await queue.put(n)
            await queue.join()
            for worker in workers:
                worker.cancel()
        return total

    assert (await finished(app, flow, evict=evict)).output == 140


@both_ways
async def test_locks_events_and_semaphores(evict: bool) -> None:
    app = App("shop")

    @app.step
    async def say(n: int) -> int:
        return n

    @app.background
    async def flow(ctx: Context) -> list[int]:
        two, ready = asyncio.Semaphore(2), asyncio.Event()
        came: list[int] = []

        async def branch(n: int) -> None:
            await ready.wait()
            async with two:
                came.append(await say(n))
                await ctx.sleep("1m")

        tasks = [asyncio.create_task(branch(n)) for n in range(5)]
        await ctx.sleep("1h")
        ready.set()
        await asyncio.gather(*tasks)
        return came

    assert (await finished(app, flow, evict=evict)).output == [0, 1, 2, 3, 4]


@both_ways
async def test_as_completed_yields_in_log_order(evict: bool) -> None:
    app = App("shop")

    @app.step
    async def wait(n: int) -> int:
        await asyncio.sleep(n / 200)
        return n

    @app.background
    async def flow(ctx: Context) -> list[int]:
        came = [await one for one in asyncio.as_completed([wait(5), wait(1), wait(3)])]
        await ctx.sleep("1h")
        return came

    assert (await finished(app, flow, evict=evict)).output == [1, 3, 5]


async def test_code_outside_steps_runs_again_on_every_replay() -> None:
    app = App("shop")
    outside: list[int] = []
    inside: list[int] = []

    @app.step
    async def say(n: int) -> None:
        inside.append(n)

    @app.background
    async def flow() -> None:
        for n in range(3):
            outside.append(n)
            await say(n)

    await finished(app, flow, evict=True)
    assert inside == [0, 1, 2]
    assert outside == [0, 0, 1, 0, 1, 2, 0, 1, 2]


async def test_a_function_without_a_step_works() -> None:
    app = App("shop")

    @app.background
    async def flow(n: int) -> int:
        return n + 1

    assert (await finished(app, flow, 1)).output == 2


async def test_a_plain_function_runs_in_a_thread() -> None:
    import threading

    app = App("shop")

    @app.background
    def flow(n: int) -> str:
        return threading.current_thread().name

    assert (await finished(app, flow, 1)).output.startswith("perdure-step")


@both_ways
async def test_a_result_is_a_private_copy(evict: bool) -> None:
    """What the function does to a result changes nothing of what a replay gets."""
    app = App("shop")
    kept: list[int] = []

    @app.step
    async def numbers() -> list[int]:
        return kept

    @app.background
    async def flow(ctx: Context) -> list[int]:
        found = await numbers()
        found.append(1)
        await ctx.sleep("1h")
        return found

    assert (await finished(app, flow, evict=evict)).output == [1]
    assert kept == []


async def test_steps_of_side_by_side_branches_overlap() -> None:
    app = App("shop")
    running = 0
    most = 0

    @app.step
    async def work(n: int) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1

    @app.background
    async def flow() -> None:
        await asyncio.gather(*(work(n) for n in range(5)))

    await finished(app, flow)
    assert most == 5


@both_ways
async def test_a_task_left_behind_ends_with_the_run(evict: bool) -> None:
    app = App("shop")

    @app.background
    async def flow(ctx: Context) -> str:
        task = asyncio.create_task(ctx.sleep("7d"))
        await ctx.sleep("1h")
        return f"{task.done()}"

    async with TestEngine(app, evict=evict) as engine:
        await flow.enqueue()
        await engine.finish()
        assert engine.run(flow).output == "False"
        assert (await ops(engine, engine.run(flow))).count("0/sleep#1") == 1


@both_ways
async def test_a_run_that_ends_with_results_unread_is_not_parked(evict: bool) -> None:
    app = App("shop")

    @app.step
    async def work(n: int) -> int:
        await asyncio.sleep(n / 200)
        return n

    @app.background
    async def flow() -> int:
        tasks = [asyncio.create_task(work(n)) for n in range(3)]
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return next(iter(done)).result()

    assert (await finished(app, flow, evict=evict)).output == 0


async def test_what_leaves_memory_leaves_quietly(caplog: pytest.LogCaptureFixture) -> None:
    """Neither tasks whose exception nobody asked for, nor coroutines that nobody awaited."""
    app = App("shop")

    @app.step
    async def say(text: str) -> str:
        return text

    @app.background
    async def flow(ctx: Context) -> str:
        async def branch(text: str) -> str:
            await ctx.sleep("1h")
            return await say(text)

        task = asyncio.create_task(branch("task"))
        later, call = branch("later"), say("call")
        both = "".join(await asyncio.gather(branch("a"), branch("b")))
        return both + await later + await call + await task

    async with TestEngine(app, evict=True) as engine:
        await flow.enqueue()
        await engine.finish()
        assert engine.run(flow).output == "ablatercalltask"
    gc.collect()
    await asyncio.sleep(0)
    assert [record.getMessage() for record in caplog.records] == []


async def test_a_run_that_left_memory_is_forgotten_whole() -> None:
    app = App("shop")

    @app.background(id="forgotten")
    async def flow(ctx: Context) -> None:
        await ctx.sleep("1h")

    async with TestEngine(app, evict=True) as engine:
        await flow.enqueue()
        await engine.finish()
        gc.collect()
        left = [one for one in gc.get_objects() if type(one) is Execution and one.function.id == "forgotten"]
        assert left == []
