"""`def` steps run in threads, and know there what they are."""

import asyncio
import contextvars
import subprocess
import sys
import threading
import time

import pytest

from perdure import App, Context, OutsideRun, current_run, current_step
from perdure.testing import TestEngine
from tests.worker.helpers import both_ways, failure, finished


@both_ways
async def test_a_def_step_runs_in_a_thread(evict: bool) -> None:
    app = App("shop")
    main = threading.current_thread()

    @app.step
    def work(n: int) -> bool:
        return threading.current_thread() is not main

    @app.background
    async def flow() -> bool:
        return await work(1)

    assert (await finished(app, flow, evict=evict)).output is True


async def test_the_loop_goes_on_beside_it() -> None:
    app = App("shop")
    beside = threading.Event()

    @app.step
    def blocks() -> bool:
        return beside.wait(10)

    @app.step
    async def signals() -> None:
        beside.set()

    @app.background
    async def flow() -> bool:
        found, _ = await asyncio.gather(blocks(), signals())
        return found

    assert (await finished(app, flow)).output is True


async def test_threads_know_their_step() -> None:
    app = App("shop")

    @app.step
    def work() -> list[str]:
        info = current_step()
        return [info.key, info.name, str(info.attempt), info.run_id, str(info.cancelled), info.logger.name]

    @app.background
    async def flow() -> list[str]:
        return await work()

    run = await finished(app, flow)
    assert run.output == [f"{run.id}/0/work#1", "work", "1", run.id, "False", "perdure.step.work"]


async def test_context_variables_reach_the_thread() -> None:
    app = App("shop")
    tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant")

    @app.step
    def work() -> str:
        return tenant.get()

    @app.background
    async def flow() -> str:
        tenant.set("acme")
        return await work()

    assert (await finished(app, flow)).output == "acme"


async def test_an_error_in_a_thread_is_a_failure() -> None:
    app = App("shop")

    @app.step(retries=1)
    def work() -> None:
        raise OSError("down")

    @app.background
    async def flow() -> None:
        await work()

    run = await finished(app, flow)
    assert "down" in failure(run)
    assert run.steps[0].attempts == 2
    assert run.error is not None
    assert "in work" in run.error.traceback


async def test_an_exit_in_a_thread_is_a_failure() -> None:
    """A command-line parser in a step must not end the process."""
    app = App("shop")

    @app.step(retries=0)
    def work() -> None:
        sys.exit(2)

    @app.background
    async def flow() -> None:
        await work()

    assert "called sys.exit(2)" in failure(await finished(app, flow))


async def test_a_thread_sees_that_its_run_was_cancelled() -> None:
    app = App("shop")
    began, saw = threading.Event(), threading.Event()

    @app.step
    def work() -> None:
        began.set()
        while not current_step().cancelled:
            time.sleep(0.001)
        saw.set()

    @app.background
    async def flow() -> None:
        await work()

    async with TestEngine(app) as engine:
        sending = asyncio.ensure_future(flow.enqueue())
        while not began.is_set():
            await asyncio.sleep(0.001)
        (handle,) = await engine.runs(flow)
        await handle.cancel()
        await sending
        assert await asyncio.to_thread(saw.wait, 10)
        assert engine.run(flow).status == "cancelled"


async def test_a_thread_sees_that_its_time_is_up() -> None:
    app = App("shop")
    saw = threading.Event()

    @app.step(timeout="10ms", retries=0)
    def work() -> None:
        while not current_step().cancelled:
            time.sleep(0.001)
        saw.set()

    @app.background
    async def flow() -> None:
        await work()

    assert "took longer than 0.01s" in failure(await finished(app, flow))
    assert saw.is_set()


async def test_thousands_of_def_steps_share_few_threads() -> None:
    app = App("shop")
    seen: set[int] = set()

    @app.step
    def work(n: int) -> int:
        seen.add(threading.get_ident())
        return n

    @app.background
    async def flow() -> int:
        return sum(await asyncio.gather(*(work(n) for n in range(1_000))))

    assert (await finished(app, flow)).output == 499_500
    assert len(seen) <= 32


async def test_a_threads_own_asyncio_is_outside_the_run() -> None:
    app = App("shop")

    @app.step
    async def double(n: int) -> int:
        return 2 * n

    @app.step
    def work() -> int:
        async def main() -> int:
            return await double(21)

        return asyncio.run(main())

    @app.background
    async def flow() -> int:
        return await work()

    assert (await finished(app, flow)).output == 42


async def test_current_step_outside_of_steps() -> None:
    app = App("shop")

    @app.background(retries=0)
    async def flow() -> None:
        current_step()

    assert "current_step() is for code of a step" in failure(await finished(app, flow))
    with pytest.raises(OutsideRun):
        current_step()


async def test_current_run_in_a_thread_of_a_step() -> None:
    app = App("shop")

    @app.step(retries=0)
    def work() -> None:
        current_run()

    @app.background
    async def flow() -> None:
        await work()

    assert "current_run() is for code of a function" in failure(await finished(app, flow))


@both_ways
async def test_a_lambda_that_gives_a_coroutine_is_an_async_step(evict: bool) -> None:
    app = App("shop")

    async def double(n: int) -> int:
        assert current_step().name == "double"
        await asyncio.sleep(0)
        return 2 * n

    @app.background
    async def flow(ctx: Context, n: int) -> int:
        return await ctx.step("double", lambda: double(n))

    assert (await finished(app, flow, 21, evict=evict)).output == 42


STUCK = """
import asyncio, threading
from perdure import App, Engine

app = App("shop")
began = threading.Event()

@app.step
def for_ever() -> None:
    began.set()
    threading.Event().wait()

@app.background
async def flow() -> None:
    await for_ever()

async def main() -> None:
    async with Engine(app, log="memory://"):
        await flow.enqueue()
        await asyncio.to_thread(began.wait)

asyncio.run(main())
print("stopped")
"""


def test_a_thread_that_never_ends_does_not_keep_the_process() -> None:
    ran = subprocess.run([sys.executable, "-c", STUCK], capture_output=True, text=True, timeout=60, check=False)
    assert (ran.returncode, ran.stdout) == (0, "stopped\n")
    assert "step 'for_ever' of run" in ran.stderr


SWALLOWS = """
import asyncio
from perdure import App, Engine

app = App("shop")
began = asyncio.Event()

@app.step
async def for_ever() -> None:
    while True:
        began.set()
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            pass

@app.background
async def flow() -> None:
    await for_ever()

async def main() -> None:
    async with Engine(app, log="memory://"):
        await flow.enqueue()
        await began.wait()

import perdure.worker.stragglers
perdure.worker.stragglers.PATIENCE_SECONDS = 0.2
asyncio.run(main())
print("stopped")
"""


def test_a_step_that_swallows_cancellation_does_not_keep_the_process() -> None:
    ran = subprocess.run([sys.executable, "-c", SWALLOWS], capture_output=True, text=True, timeout=60, check=False)
    assert (ran.returncode, ran.stdout) == (0, "stopped\n"), ran.stderr
    assert "goes on in step 'for_ever': it swallows cancellation" in ran.stderr
