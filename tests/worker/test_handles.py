"""Handles: a run seen from outside, or from another run."""

import asyncio

import pytest

from perdure import App, Context, Event, PayloadError, RunFailed, UnknownRun
from perdure.testing import TestEngine
from tests.worker.helpers import both_ways, failure, finished


def made() -> App:
    app = App("shop")

    @app.background
    async def late(ctx: Context, n: int) -> int:
        await ctx.sleep("1h")
        return 2 * n

    return app


async def test_result_waits_for_the_end() -> None:
    app = App("shop")

    @app.background
    async def late(ctx: Context, n: int) -> int:
        await ctx.sleep("1h")
        return 2 * n

    async with TestEngine(app) as engine:
        handle = await late.enqueue(21)
        waiting = asyncio.ensure_future(handle.result())
        await engine.advance("2h")
        assert await waiting == 42


async def test_result_of_a_failed_run_raises() -> None:
    app = App("shop")

    @app.background(retries=0)
    async def broken() -> None:
        raise OSError("down")

    async with TestEngine(app):
        handle = await broken.enqueue()
        with pytest.raises(RunFailed, match="down") as caught:
            await handle.result()
        assert caught.value.run_id == handle.id
        assert caught.value.caused_by(OSError)


async def test_result_may_have_a_timeout() -> None:
    app = App("shop")

    @app.background
    async def late(ctx: Context) -> None:
        await ctx.sleep("1h")

    async with TestEngine(app):
        handle = await late.enqueue()
        with pytest.raises(TimeoutError):
            await handle.result(timeout="10ms")


async def test_call_from_outside_gives_the_result() -> None:
    app = App("shop")

    @app.background
    async def double(n: int) -> int:
        return 2 * n

    async with TestEngine(app):
        assert await double.call(21) == 42


async def test_status_follows_the_run() -> None:
    app = App("shop")

    @app.background
    async def late(ctx: Context) -> None:
        await ctx.sleep("1h")

    async with TestEngine(app) as engine:
        handle = await late.options(delay="1h").enqueue()
        seen = [await handle.status()]
        await engine.advance("61m")
        seen.append(await handle.status())
        await engine.finish()
        seen.append(await handle.status())
        assert seen == ["queued", "suspended", "completed"]


async def test_a_rerun_is_a_new_run_with_the_same_arguments() -> None:
    app = App("shop")

    @app.background
    async def double(n: int) -> int:
        return 2 * n

    async with TestEngine(app) as engine:
        handle = await double.enqueue(21)
        again = await handle.rerun()
        assert again.id != handle.id
        assert await again.result() == 42
        assert [run.output for run in engine.all_runs(double)] == [42, 42]


async def test_a_rerun_of_an_events_run_has_the_same_event() -> None:
    app = App("shop")

    @app.function(on="cart/added")
    async def flow(ctx: Context, event: Event) -> str:
        return f"{event.id} {event.data['n']}"

    async with TestEngine(app) as engine:
        await engine.send("cart/added", {"n": 1})
        again = await flow.handle(engine.run(flow).id).rerun()
        assert await again.result() == "event-1 1"


@both_ways
async def test_a_run_may_run_another_again(evict: bool) -> None:
    app = App("shop")

    @app.background
    async def double(n: int) -> int:
        return 2 * n

    @app.background
    async def flow(ctx: Context) -> list[int]:
        handle = await double.enqueue(21)
        first = await handle.result()
        again = await handle.rerun()
        await ctx.sleep("1h")
        return [first, await again.result()]

    async with TestEngine(app, evict=evict) as engine:
        await flow.enqueue()
        await engine.finish()
        assert engine.run(flow).output == [42, 42]
        assert len(engine.all_runs(double)) == 2


@both_ways
async def test_a_run_sees_the_failure_of_a_run_that_it_watches(evict: bool) -> None:
    app = App("shop")

    @app.background(retries=0)
    async def broken() -> None:
        raise OSError("down")

    @app.background
    async def flow(ctx: Context) -> str:
        handle = await broken.enqueue()
        await ctx.sleep("1h")
        try:
            await handle.result()
        except RunFailed as error:
            return error.message
        return "fine"

    assert (await finished(app, flow, evict=evict)).output == "down"


@pytest.mark.parametrize("run_id", ["nothing", "19952a54c458d8c343d093e1c219e5885f76"])
async def test_an_unknown_run_is_said_to_be_unknown(run_id: str) -> None:
    app = App("shop")

    @app.background
    async def flow() -> None:
        pass

    async with TestEngine(app):
        handle = flow.handle(run_id)
        with pytest.raises(UnknownRun, match=run_id):
            await handle.status()
        with pytest.raises(UnknownRun, match=run_id):
            await handle.result()
        with pytest.raises(UnknownRun, match=run_id):
            await handle.cancel()
        with pytest.raises(UnknownRun, match=run_id):
            await handle.rerun()


@both_ways
@pytest.mark.parametrize("run_id", ["nothing", "19952a54c458d8c343d093e1c219e5885f76"])
async def test_an_unknown_run_is_unknown_inside_of_a_run_too(run_id: str, evict: bool) -> None:
    app = App("shop")

    @app.background
    async def flow(ctx: Context) -> list[str]:
        said: list[str] = []
        handle = flow.handle(run_id)
        for ask in (handle.status, handle.result):
            try:
                await ask()
            except UnknownRun as error:
                said.append(str(run_id in str(error)))
        await ctx.sleep("1h")
        return said

    assert (await finished(app, flow, evict=evict)).output == ["True", "True"]


async def test_handles_of_one_run_are_equal() -> None:
    app = App("shop")

    @app.background
    async def flow() -> None:
        pass

    async with TestEngine(app):
        handle = await flow.enqueue()
        assert handle == flow.handle(handle.id)
        assert len({handle, flow.handle(handle.id)}) == 1
        assert handle.id in repr(handle)


async def test_runs_lists_handles_newest_first() -> None:
    app = App("shop")

    @app.background
    async def flow(n: int) -> int:
        return n

    async with TestEngine(app) as engine:
        made = [await flow.enqueue(n) for n in range(3)]
        assert await engine.runs(flow) == made[::-1]
        assert await engine.runs(flow, status="failed") == []
        assert await engine.runs(flow, status="completed") == made[::-1]


async def test_runs_of_one_event() -> None:
    app = App("shop")

    @app.function(on="cart/added")
    async def flow(ctx: Context, event: Event) -> str:
        return event.id

    async with TestEngine(app) as engine:
        await engine.send("cart/added", {}, id="a")
        await engine.send("cart/added", {}, id="b")
        (handle,) = await engine.runs(flow, event_id="b")
        assert await handle.result() == "b"


async def test_a_function_that_was_enqueued_twice_by_one_key_ran_once() -> None:
    app = App("shop")

    @app.background
    async def flow(n: int) -> int:
        return n

    async with TestEngine(app) as engine:
        first = await flow.options(idempotency_key="k").enqueue(1)
        second = await flow.options(idempotency_key="k").enqueue(2)
        assert first == second
        assert await second.result() == 1
        assert engine.run(flow).output == 1


async def test_a_delayed_run_that_could_not_start_in_time_is_discarded() -> None:
    """The engine was down when it was due, and for longer than it is worth running."""
    app = App("shop")
    began: list[int] = []

    @app.background
    async def flow() -> None:
        began.append(1)

    async with TestEngine(app) as engine:
        handle = await flow.options(delay="1h", discard_after="10m").enqueue()
        await engine.node.close()
        engine.now = engine.now.replace(hour=3)
        await engine.crash()
        assert await handle.status() == "discarded"
        with pytest.raises(RunFailed, match="could not start in time"):
            await handle.result()
    assert began == []


async def test_a_delayed_run_in_time_is_not_discarded() -> None:
    app = App("shop")

    @app.background
    async def flow() -> int:
        return 1

    async with TestEngine(app) as engine:
        await flow.options(delay="1h", discard_after="10m").enqueue()
        await engine.finish()
        assert engine.run(flow).output == 1


async def test_metadata_is_seen_inside_and_outside() -> None:
    app = App("shop")

    @app.background
    async def flow(ctx: Context) -> str:
        return ctx.metadata["who"]

    async with TestEngine(app) as engine:
        await flow.options(metadata={"who": "ada"}).enqueue()
        assert engine.run(flow).output == "ada"
        assert (await engine.port.runs())[0][0].metadata == {"who": "ada"}


async def test_a_result_that_does_not_fit_its_function_any_more_is_an_error() -> None:
    """The type changed after the run had ended; what is in the log does not."""
    before, after = App("shop"), App("shop")

    @before.background(id="flow")
    async def old() -> str:
        return "text"

    @after.background(id="flow")
    async def new() -> int:
        return 1

    async with TestEngine(before):
        handle = await old.enqueue()
        with pytest.raises(PayloadError, match=r"the result of run .* does not fit int"):
            await new.handle(handle.id).result()


async def test_a_wait_for_a_run_of_a_missing_type_fails_the_run_that_waits() -> None:
    app = App("shop")

    @app.background(id="text")
    async def text() -> str:
        return "text"

    other = App("shop")

    @other.background(id="text")
    async def number() -> int:
        return 1

    @app.background
    async def flow() -> int:
        handle = await text.enqueue()
        return await number.handle(handle.id).result()

    assert "does not fit int" in failure(await finished(app, flow))
