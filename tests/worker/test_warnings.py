"""What works, but not as its author thinks, is named in a warning."""

import asyncio
import logging
import time
from asyncio import sleep
from typing import cast

import pytest

from perdure import App, Context
from perdure.testing import TestEngine
from perdure.worker import Worker, watchdog
from perdure.worker.telemetry import Telemetry
from tests.worker.helpers import finished

pytestmark = pytest.mark.usefixtures("warnings_shown")


@pytest.fixture
def warnings_shown(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)


async def blocked(caplog: pytest.LogCaptureFixture) -> None:
    """Block the loop's thread until the watchdog has spoken."""
    deadline = time.monotonic() + 20
    while "blocks the event loop" not in caplog.text and time.monotonic() < deadline:
        time.sleep(0.01)


@pytest.fixture
def quick_watchdog(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "BLOCKED_SECONDS", 0.02)


@pytest.mark.usefixtures("quick_watchdog")
async def test_a_step_that_blocks_the_loop_is_named(caplog: pytest.LogCaptureFixture) -> None:
    app = App("shop")

    @app.step
    async def resize() -> None:
        await asyncio.sleep(0.02)  # the watchdog begins with the loop's first heartbeat
        await blocked(caplog)

    @app.background
    async def flow() -> None:
        await resize()

    await finished(app, flow)
    assert "step 'resize' of 'flow' blocks the event loop" in caplog.text
    assert "test_warnings.py:" in caplog.text


@pytest.mark.usefixtures("quick_watchdog")
async def test_a_step_in_a_task_is_named(caplog: pytest.LogCaptureFixture) -> None:
    app = App("shop")

    @app.step(timeout="1h")
    async def resize() -> None:
        await asyncio.sleep(0.02)
        await blocked(caplog)

    @app.background
    async def flow() -> None:
        await asyncio.gather(resize(), resize())

    await finished(app, flow)
    assert "step 'resize' of 'flow' blocks the event loop" in caplog.text


@pytest.mark.usefixtures("quick_watchdog")
async def test_a_step_of_a_queue_is_named(caplog: pytest.LogCaptureFixture) -> None:
    app = App("shop")

    async def resize() -> None:
        await asyncio.sleep(0.02)
        await blocked(caplog)

    resize.__qualname__ = "resize"
    step = app.step(queue="gpu")(resize)

    @app.background
    async def flow() -> None:
        await step()

    await finished(app, flow)
    assert "step 'resize' of queue 'gpu' blocks the event loop" in caplog.text


@pytest.mark.usefixtures("quick_watchdog")
async def test_code_outside_of_steps_that_blocks_is_named(caplog: pytest.LogCaptureFixture) -> None:
    app = App("shop")

    @app.background
    async def flow() -> None:
        await asyncio.sleep(0.02)
        await blocked(caplog)

    await finished(app, flow)
    assert "code of 'flow' outside of steps blocks the event loop" in caplog.text


@pytest.mark.usefixtures("quick_watchdog")
async def test_code_that_is_not_ours_is_not_named(caplog: pytest.LogCaptureFixture) -> None:
    app = App("shop")

    @app.background
    async def flow() -> None:
        pass

    async with TestEngine(app):
        await asyncio.sleep(0.02)
        time.sleep(0.1)
        assert caplog.text == ""


@pytest.mark.usefixtures("quick_watchdog")
async def test_a_def_step_blocks_nobody(caplog: pytest.LogCaptureFixture) -> None:
    app = App("shop")

    @app.step
    def resize() -> None:
        time.sleep(0.1)

    @app.background
    async def flow() -> None:
        await resize()

    await finished(app, flow)
    assert caplog.text == ""


@pytest.mark.usefixtures("quick_watchdog")
async def test_the_watchdog_of_a_loop_that_is_no_more_ends(caplog: pytest.LogCaptureFixture) -> None:
    """Its heartbeat stands still for ever; the next loop of the thread is another's business."""

    class OfADeadLoop:
        def __init__(self) -> None:
            self.loop = asyncio.new_event_loop()
            self.executions: dict[str, object] = {}
            self.telemetry = Telemetry(None)

    def leave() -> watchdog.Watchdog:
        worker = OfADeadLoop()
        left = watchdog.Watchdog(cast("Worker", worker))
        left._tick()
        worker.loop.close()
        return left

    left = leave()
    assert left._thread is not None
    await asyncio.to_thread(left._thread.join, 10)
    assert not left._thread.is_alive()
    assert caplog.text == ""


async def helper() -> None:
    await sleep(60)


async def opening(app: App) -> None:
    async with TestEngine(app):
        pass


async def test_asyncio_sleep_names_ctx_sleep(caplog: pytest.LogCaptureFixture) -> None:
    app = App("shop")

    @app.background
    async def flow() -> None:
        await asyncio.sleep(60)

    await opening(app)
    assert "function 'flow' uses asyncio.sleep outside of steps" in caplog.text
    assert "use ctx.sleep" in caplog.text
    assert f"test_warnings.py:{flow.fn.__code__.co_firstlineno + 2}" in caplog.text


async def test_asyncio_timeout_names_ctx_timeout(caplog: pytest.LogCaptureFixture) -> None:
    app = App("shop")

    @app.background
    async def flow(ctx: Context) -> None:
        async with asyncio.timeout(60):
            await ctx.sleep("1h")

    await opening(app)
    assert "function 'flow' uses asyncio.timeout outside of steps" in caplog.text
    assert "use ctx.timeout or ctx.race" in caplog.text


async def test_asyncio_wait_for_names_ctx_timeout(caplog: pytest.LogCaptureFixture) -> None:
    app = App("shop")

    @app.background
    async def flow(ctx: Context) -> None:
        async def branch() -> None:
            await asyncio.wait_for(ctx.sleep("1h"), 60)

        await asyncio.gather(branch(), branch())

    await opening(app)
    assert "function 'flow' uses asyncio.wait_for outside of steps" in caplog.text


async def test_asyncio_wait_with_a_timeout_is_named(caplog: pytest.LogCaptureFixture) -> None:
    app = App("shop")

    @app.background
    async def flow(ctx: Context) -> None:
        await asyncio.wait([asyncio.create_task(ctx.sleep("1h"))], timeout=3)

    await opening(app)
    assert "uses asyncio.wait(timeout=…) outside of steps" in caplog.text


async def test_a_helper_that_is_called_counts(caplog: pytest.LogCaptureFixture) -> None:
    app = App("shop")

    @app.background
    async def flow() -> None:
        await helper()

    await opening(app)
    assert "function 'flow' uses asyncio.sleep outside of steps" in caplog.text


async def test_one_warning_for_a_function(caplog: pytest.LogCaptureFixture) -> None:
    app = App("shop")

    @app.background
    async def flow() -> None:
        await asyncio.sleep(1)
        await asyncio.sleep(2)

    await opening(app)
    assert len(caplog.records) == 1


async def test_steps_may_use_asyncios_clocks(caplog: pytest.LogCaptureFixture) -> None:
    app = App("shop")

    @app.step
    async def nap() -> None:
        await asyncio.sleep(0.001)
        async with asyncio.timeout(60):
            await asyncio.wait_for(asyncio.sleep(0.001), 60)

    @app.background
    async def flow(ctx: Context) -> None:
        @app.step
        async def inner() -> None:
            await asyncio.sleep(0.001)

        async def inline() -> None:
            await asyncio.sleep(0.001)

        await nap()
        await inner()
        await ctx.step("inline", inline)
        await ctx.step("lambda", lambda: asyncio.sleep(0.001))
        await ctx.step("helper", asyncio.sleep, 0.001)
        await asyncio.sleep(0)

    assert (await finished(app, flow)).status == "completed"
    assert caplog.text == ""


async def test_a_run_that_waits_on_asyncios_clock_is_named(caplog: pytest.LogCaptureFixture) -> None:
    """What the source does not show: here the clock comes as an argument."""
    app = App("shop")
    naps = [asyncio.sleep]

    @app.background
    async def flow(ctx: Context) -> None:
        async def branch() -> None:
            await naps[0](0.2)

        await asyncio.gather(ctx.sleep("1h"), branch())

    assert (await finished(app, flow)).status == "completed"
    assert "function 'flow' waits on asyncio.sleep (" in caplog.text
    assert "use ctx.sleep" in caplog.text
