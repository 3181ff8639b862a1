"""A cancelled run never completes: its ops raise `RunCancelled` (a `BaseException`) at the next await."""

import asyncio
import gc
import logging
import weakref
from collections.abc import AsyncGenerator, Awaitable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta

import pytest

from perdure import App, CancelOn, Context, Event, RunCancelled, RunFailed, RunHandle
from perdure.testing import TestEngine
from perdure.worker import stragglers
from perdure_schemas.records import RunCancelRequested, V
from tests.worker.helpers import both_ways, ops


@asynccontextmanager
async def running(engine: TestEngine, begun: asyncio.Event, starting: Awaitable[object]) -> AsyncGenerator[None]:
    """While a step of a run is in flight; afterwards nothing more happens by itself."""
    task = asyncio.ensure_future(starting)
    await begun.wait()
    yield
    await task
    await engine.settle()


@both_ways
async def test_a_cancelled_run_is_cancelled_at_once(evict: bool) -> None:
    app = App("shop")

    @app.background
    async def flow(ctx: Context) -> None:
        await ctx.sleep("7d")

    async with TestEngine(app, evict=evict) as engine:
        handle = await flow.enqueue()
        await handle.cancel(reason="changed my mind")
        run = engine.run(flow)
        assert run.status == "cancelled"
        assert run.error is not None
        assert run.error.message == "changed my mind"


async def test_its_op_raises_run_cancelled() -> None:
    app = App("shop")
    raised: list[str] = []

    @app.background
    async def flow(ctx: Context) -> None:
        try:
            await ctx.sleep("7d")
        except Exception as error:
            raised.append(f"Exception: {error!r}")
        except BaseException as error:
            raised.append(type(error).__name__)
            raise

    async with TestEngine(app):
        await (await flow.enqueue()).cancel()
    assert raised == ["RunCancelled"]
    assert not issubclass(RunCancelled, Exception)


async def test_its_later_ops_raise_too() -> None:
    """Nothing can be done durably any more; that is for `on_cancel`."""
    app = App("shop")
    seen: list[str] = []

    @app.step
    async def undo() -> None:
        seen.append("undone")

    @app.background
    async def flow(ctx: Context) -> None:
        try:
            await ctx.sleep("7d")
        finally:
            try:
                await undo()
            except RunCancelled:
                seen.append("refused")

    async with TestEngine(app):
        await (await flow.enqueue()).cancel()
    assert seen == ["refused"]


async def test_a_run_that_swallows_it_is_cancelled_all_the_same() -> None:
    app = App("shop")

    @app.background
    async def flow(ctx: Context) -> str:
        with suppress(RunCancelled):
            await ctx.sleep("7d")
        return "completed"

    async with TestEngine(app) as engine:
        await (await flow.enqueue()).cancel()
        await engine.finish()
        run = engine.run(flow)
        assert run.status == "cancelled"
        assert not run.output


async def test_all_its_tasks_end() -> None:
    app = App("shop")
    ended: list[int] = []

    @app.background
    async def flow(ctx: Context) -> None:
        async def branch(n: int) -> None:
            try:
                await ctx.sleep(f"{n + 1}d")
            finally:
                ended.append(n)

        async with asyncio.TaskGroup() as group:
            for n in range(3):
                group.create_task(branch(n))

    async with TestEngine(app) as engine:
        await (await flow.enqueue()).cancel()
        assert engine.run(flow).status == "cancelled"
    assert sorted(ended) == [0, 1, 2]


async def test_code_that_waits_on_something_of_its_own_is_cancelled() -> None:
    app = App("shop")
    begun, ended = asyncio.Event(), asyncio.Event()

    @app.background
    async def flow(ctx: Context) -> None:
        try:
            begun.set()
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with TestEngine(app) as engine, running(engine, begun, flow.enqueue()):
        (handle,) = await engine.runs(flow)
        await handle.cancel()
        assert engine.run(flow).status == "cancelled"
        await ended.wait()


async def test_a_step_in_flight_is_cancelled_and_leaves_no_result() -> None:
    app = App("shop")
    begun, ended = asyncio.Event(), asyncio.Event()

    @app.step
    async def slow() -> None:
        try:
            begun.set()
            await asyncio.sleep(600)
        finally:
            ended.set()

    @app.background
    async def flow() -> None:
        await slow()

    async with TestEngine(app) as engine:
        async with running(engine, begun, flow.enqueue()):
            (handle,) = await engine.runs(flow)
            await handle.cancel()
        assert ended.is_set()
        run = engine.run(flow)
        assert run.status == "cancelled"
        assert run.steps == []


async def test_a_step_that_never_ends_keeps_nothing_from_its_end(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run's end is in the log at once; the straggler is named."""
    monkeypatch.setattr(stragglers, "PATIENCE_SECONDS", 0.01)
    app = App("shop")
    begun, over = asyncio.Event(), asyncio.Event()

    @app.step
    async def deaf() -> None:
        begun.set()
        while not over.is_set():
            try:
                await over.wait()
            except asyncio.CancelledError:
                continue

    @app.background
    async def flow() -> None:
        await deaf()

    with caplog.at_level(logging.WARNING):
        async with TestEngine(app) as engine:
            async with running(engine, begun, flow.enqueue()):
                (handle,) = await engine.runs(flow)
                await handle.cancel()
                assert engine.run(flow).status == "cancelled"
                await asyncio.sleep(0.02)
            await engine.settle()
            assert f"run {handle.id} of 'flow' was told to stop and goes on in step 'deaf'" in caplog.text
            over.set()
            await asyncio.sleep(0)
            assert engine.run(flow).status == "cancelled"


async def test_what_goes_on_is_not_closed_in_the_midst_of_another_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """The collector would: a `finally` that begins tasks would take their places in the other run's lineage."""
    monkeypatch.setattr(stragglers, "PATIENCE_SECONDS", 0.0)
    app = App("shop")
    known: list[weakref.ref[asyncio.Event]] = []

    @app.step
    async def work(n: int) -> int:
        return n

    @app.background
    async def deaf(ctx: Context) -> None:
        try:
            await ctx.sleep("1h")
        finally:
            over = asyncio.Event()
            known.append(weakref.ref(over))
            try:
                await over.wait()
            finally:
                asyncio.ensure_future(asyncio.sleep(0))  # noqa: RUF006 - whose task it is, is what this is about

    async def helped(n: int) -> int:
        return await work(n)

    @app.background
    async def flow() -> None:
        gc.collect()
        await asyncio.gather(helped(1), helped(2))

    async with TestEngine(app) as engine:
        run = await deaf.enqueue()
        await run.cancel()
        await engine.advance("1s")
        await flow.enqueue()
        assert await ops(engine, engine.run(flow)) == ["0.1/work#1", "0.2/work#1"]
        over = known[0]()
        assert over is not None
        over.set()


async def test_no_step_starts_after_the_cancel() -> None:
    app = App("shop")
    began: list[int] = []

    @app.step
    async def work(n: int) -> None:
        began.append(n)

    @app.background
    async def flow(ctx: Context) -> None:
        for n in range(100):
            await work(n)
            await ctx.sleep("1h")

    async with TestEngine(app) as engine:
        handle = await flow.enqueue()
        await engine.advance("150m")
        await handle.cancel()
        await engine.finish()
    assert began == [0, 1, 2]


async def test_a_retry_that_is_due_at_the_moment_of_the_cancel_does_not_begin() -> None:
    """I6: both are read in one batch, the fire first."""
    app, began = App("shop"), list[int]()

    @app.step
    async def fragile() -> None:
        began.append(1)
        raise ConnectionError

    @app.background
    async def flow() -> None:
        await fragile()

    async with TestEngine(app) as engine:
        run = await flow.enqueue()
        engine.now += timedelta(minutes=1)
        engine.node.tick()
        engine.node.processor_of(run.id).append(RunCancelRequested(run.id, v=V))
        await engine.settle()
        assert began == [1]
        assert engine.run(flow).status == "cancelled"


async def test_who_called_it_gets_run_failed_that_says_so() -> None:
    app = App("shop")

    @app.background
    async def child(ctx: Context) -> None:
        await ctx.sleep("7d")

    @app.background
    async def parent() -> str:
        try:
            await child.call()
        except RunFailed as error:
            return f"{error.error_type} {error.message}"
        return "fine"

    async with TestEngine(app) as engine:
        await parent.enqueue()
        await child.handle(engine.run(child).id).cancel(reason="enough")
        assert engine.run(parent).output == "perdure.errors.RunCancelled enough"


async def test_who_waits_from_outside_gets_run_failed_that_says_so() -> None:
    app = App("shop")

    @app.background
    async def flow(ctx: Context) -> None:
        await ctx.sleep("7d")

    async with TestEngine(app):
        handle = await flow.enqueue()
        await handle.cancel(reason="enough")
        with pytest.raises(RunFailed, match="enough"):
            await handle.result()


async def test_called_runs_are_cancelled_with_their_parent_enqueued_ones_are_not() -> None:
    app = App("shop")

    @app.background
    async def grandchild(ctx: Context) -> None:
        await ctx.sleep("7d")

    @app.background
    async def called(ctx: Context) -> None:
        await grandchild.call()

    @app.background
    async def enqueued(ctx: Context) -> None:
        await ctx.sleep("7d")

    @app.background
    async def parent() -> None:
        await enqueued.enqueue()
        await called.call()

    async with TestEngine(app) as engine:
        handle = await parent.enqueue()
        await handle.cancel()
        assert [engine.run(one).status for one in (parent, called, grandchild)] == ["cancelled"] * 3
        assert engine.run(enqueued).status == "suspended"


async def test_called_runs_end_with_a_parent_that_fails() -> None:
    app = App("shop")

    @app.background
    async def child(ctx: Context) -> None:
        await ctx.sleep("7d")

    @app.background(timeout="1h")
    async def parent() -> None:
        await child.call()

    async with TestEngine(app) as engine:
        await parent.enqueue()
        await engine.advance("2h")
        assert (engine.run(parent).status, engine.run(child).status) == ("failed", "cancelled")


async def test_a_run_that_has_not_started_never_does() -> None:
    app = App("shop")
    began: list[int] = []

    @app.background
    async def flow() -> None:
        began.append(1)

    async with TestEngine(app) as engine:
        handle = await flow.options(delay="1h").enqueue()
        assert await handle.status() == "queued"
        await handle.cancel()
        await engine.finish()
        assert await handle.status() == "cancelled"
    assert began == []


async def test_a_cancel_of_an_ended_run_changes_nothing() -> None:
    app = App("shop")

    @app.background
    async def flow() -> int:
        return 1

    async with TestEngine(app) as engine:
        handle = await flow.enqueue()
        await handle.cancel()
        assert (engine.run(flow).status, engine.run(flow).output) == ("completed", 1)


async def test_a_second_cancel_changes_nothing() -> None:
    app = App("shop")

    @app.background
    async def flow(ctx: Context) -> None:
        await ctx.sleep("7d")

    async with TestEngine(app) as engine:
        handle = await flow.enqueue()
        await handle.cancel(reason="first")
        await handle.cancel(reason="second")
        error = engine.run(flow).error
        assert error is not None
        assert error.message == "first"


async def test_a_cancel_survives_a_crash() -> None:
    app = App("shop")

    @app.background
    async def flow(ctx: Context) -> None:
        await ctx.sleep("1h")

    async with TestEngine(app) as engine:
        await (await flow.enqueue()).cancel()
        await engine.crash()
        await engine.finish()
        assert engine.run(flow).status == "cancelled"


@both_ways
async def test_a_run_may_cancel_another(evict: bool) -> None:
    app = App("shop")

    @app.background
    async def other(ctx: Context) -> None:
        await ctx.sleep("7d")

    @app.background
    async def flow(ctx: Context) -> str:
        handle = await other.enqueue()
        await ctx.sleep("1h")
        await handle.cancel(reason="late")
        await ctx.sleep("1h")
        return await handle.status()

    async with TestEngine(app, evict=evict) as engine:
        await flow.enqueue()
        await engine.advance("3h")
        assert engine.run(flow).output == "cancelled"


async def test_a_run_may_cancel_itself() -> None:
    app = App("shop")

    @app.background
    async def flow(ctx: Context) -> str:
        await RunHandle(flow, ctx.run_id).cancel(reason="enough")
        await ctx.sleep("1h")
        return "completed"

    async with TestEngine(app) as engine:
        await flow.enqueue()
        assert engine.run(flow).status == "cancelled"


def carts(rule: CancelOn | list[CancelOn]) -> tuple[App, "object"]:
    app = App("shop")

    @app.function(on="cart/added", cancel_on=rule)
    async def flow(ctx: Context, event: Event) -> None:
        await ctx.sleep("7d")

    return app, flow


async def statuses(rule: CancelOn | list[CancelOn], *events: Event) -> str:
    """How the run of a cart fares after these events."""
    app, _ = carts(rule)
    async with TestEngine(app) as engine:
        await engine.send("cart/added", {"cart_id": "c1", "total": 10})
        for event in events:
            await engine.send(event)
        return engine.run("flow").status


REMOVED = "cart/removed"


@pytest.mark.parametrize(
    ("rule", "data", "status"),
    [
        (CancelOn(REMOVED, match="data.cart_id"), {"cart_id": "c1"}, "cancelled"),
        (CancelOn(REMOVED, match="data.cart_id"), {"cart_id": "c2"}, "suspended"),
        (CancelOn(REMOVED, match="data.cart_id"), {}, "suspended"),
        (CancelOn(REMOVED), {}, "cancelled"),
        (CancelOn(REMOVED, match={"data.why": "empty"}), {"why": "empty"}, "cancelled"),
        (CancelOn(REMOVED, match={"data.why": "empty"}), {"why": "full"}, "suspended"),
        (CancelOn(REMOVED, where="async.data.n > event.data.total"), {"n": 11}, "cancelled"),
        (CancelOn(REMOVED, where="async.data.n > event.data.total"), {"n": 9}, "suspended"),
        (CancelOn(REMOVED, match="data.cart_id", where="async.data.n > 1"), {"cart_id": "c1", "n": 2}, "cancelled"),
        (CancelOn(REMOVED, match="data.cart_id", where="async.data.n > 1"), {"cart_id": "c1", "n": 1}, "suspended"),
        ([CancelOn("other"), CancelOn(REMOVED)], {}, "cancelled"),
    ],
)
async def test_cancel_on(rule: CancelOn | list[CancelOn], data: dict[str, object], status: str) -> None:
    assert await statuses(rule, Event(REMOVED, data)) == status


@pytest.mark.parametrize(("after", "status"), [("59m", "cancelled"), ("61m", "suspended")])
async def test_cancel_on_with_a_timeout_counts_only_so_long(after: str, status: str) -> None:
    app, _ = carts(CancelOn(REMOVED, match="data.cart_id", timeout="1h"))
    async with TestEngine(app) as engine:
        await engine.send("cart/added", {"cart_id": "c1"})
        await engine.advance(after)
        await engine.send(REMOVED, {"cart_id": "c1"})
        assert engine.run("flow").status == status


async def test_its_own_trigger_never_cancels_a_run() -> None:
    assert await statuses(CancelOn("cart/added", match="data.cart_id")) == "suspended"


async def test_the_later_of_two_triggers_of_one_cart_lives_on() -> None:
    app, _ = carts(CancelOn("cart/added", match="data.cart_id"))
    async with TestEngine(app) as engine:
        await engine.send("cart/added", {"cart_id": "c1"}, id="first")
        await engine.send("cart/added", {"cart_id": "c1"}, id="second")
        assert [run.status for run in await summaries(engine)] == ["cancelled", "suspended"]


async def summaries(engine: TestEngine) -> "list[RunOf]":
    """Runs in the order of their events' names."""
    page, _ = await engine.port.runs()
    return sorted((RunOf(run.event_id, run.status) for run in page), key=lambda run: run.event)


class RunOf:
    def __init__(self, event: str, status: str) -> None:
        self.event = event
        self.status = status


@both_ways
@pytest.mark.parametrize("seed", range(8))
async def test_of_two_triggers_in_one_millisecond_exactly_the_later_lives(seed: int, evict: bool) -> None:
    """Later in the order of the matcher's partition, whatever partitions the two events came through."""
    app, _ = carts(CancelOn("cart/added", match="data.cart_id"))
    ids = [f"a{seed}", f"b{seed}"]
    async with TestEngine(app, evict=evict) as engine:
        await engine.send_many([Event("cart/added", {"cart_id": "c1"}, id=id) for id in ids])
        found = {run.event: run.status for run in await summaries(engine)}
        assert sorted(found.values()) == ["cancelled", "suspended"]
        assert found[later(engine, ids)] == "suspended"


def later(engine: TestEngine, ids: list[str]) -> str:
    """Whose copy is the later one in the journal of the key's partition."""
    log = engine.log
    for partition in range(log.partitions):
        raws = [raw for batch in log.read(partition, 0) for raw in batch.values if b'"event.keyed"' in raw]
        if raws:
            assert len(raws) == 2
            return next(id for id in ids if f'"{id}"'.encode() in raws[-1])
    raise AssertionError("no copies")


async def test_a_busy_loop_of_steps_can_be_cancelled() -> None:
    app = App("shop")
    begun = asyncio.Event()

    @app.step
    async def work() -> None:
        begun.set()
        await asyncio.sleep(0)

    @app.background
    async def flow() -> None:
        while True:
            await work()

    async with TestEngine(app) as engine, running(engine, begun, flow.enqueue()):
        (handle,) = await engine.runs(flow)
        await handle.cancel()
        assert engine.run(flow).status == "cancelled"


async def test_code_that_polls_can_be_cancelled() -> None:
    app = App("shop")
    begun = asyncio.Event()

    @app.background
    async def flow() -> None:
        while True:
            begun.set()
            await asyncio.sleep(0)

    async with TestEngine(app) as engine, running(engine, begun, flow.enqueue()):
        (handle,) = await engine.runs(flow)
        await handle.cancel()
        assert engine.run(flow).status == "cancelled"
