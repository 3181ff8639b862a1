"""`TestEngine`: the engine as it ships, on a log in memory whose clock the test moves."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest

from perdure import App, Context, DefinitionError, Event, OutsideRun, PerdureError, Retry, RunFailed, RunHandle
from perdure.sdk.node import Node
from perdure.testing import TestEngine
from perdure.testing import engine as testing_engine


@pytest.fixture
def app() -> App:
    return App("shop")


# Time


async def test_send_returns_when_nothing_more_can_happen_by_itself(app: App) -> None:
    came: list[str] = []

    @app.step
    async def work(what: str) -> None:
        await asyncio.sleep(0.001)
        came.append(what)

    @app.function(on="cart/added")
    async def flow(ctx: Context, event: Event) -> None:
        await work("before")
        await ctx.sleep("1h")
        await work("after")

    async with TestEngine(app) as engine:
        await engine.send("cart/added", {})
        assert came == ["before"]
        await engine.advance("1h")
        assert came == ["before", "after"]


async def test_the_clock_stands_still_unless_it_is_moved(app: App) -> None:
    @app.background
    async def flow(ctx: Context) -> None:
        await ctx.sleep("1ms")

    async with TestEngine(app) as engine:
        await flow.enqueue()
        await asyncio.sleep(0.01)
        assert engine.run(flow).status == "suspended"


async def test_advance_goes_from_timer_to_timer(app: App) -> None:
    @app.background
    async def flow(ctx: Context) -> list[str]:
        seen: list[str] = []
        for _ in range(3):
            await ctx.sleep("20m")
            seen.append(f"{ctx.now():%H:%M}")
        return seen

    async with TestEngine(app) as engine:
        await flow.enqueue()
        await engine.advance("2h")
        assert engine.run(flow).output == ["00:20", "00:40", "01:00"]
        assert engine.now >= datetime(2026, 1, 1, 2, tzinfo=UTC)


async def test_finish_jumps_to_the_end(app: App) -> None:
    @app.background
    async def flow(ctx: Context) -> str:
        for _ in range(100):
            await ctx.sleep("1d")
        return f"{ctx.now():%Y-%m-%d}"

    async with TestEngine(app) as engine:
        await flow.enqueue()
        await engine.finish()
        assert engine.run(flow).output == "2026-04-11"


async def test_finish_goes_no_further_than_within(app: App) -> None:
    @app.background
    async def flow(ctx: Context) -> None:
        await ctx.sleep("10d")

    async with TestEngine(app) as engine:
        await flow.enqueue()
        await engine.finish(within="9d")
        assert engine.run(flow).status == "suspended"


async def test_finish_stops_where_only_an_event_could_help(app: App) -> None:
    @app.background(waits=["go"])
    async def flow(ctx: Context) -> None:
        await ctx.wait_for_event("go")

    async with TestEngine(app) as engine:
        await flow.enqueue()
        await engine.finish()
        assert engine.run(flow).status == "suspended"
        assert engine.now < datetime(2026, 1, 2, tzinfo=UTC)


async def test_a_schedule_alone_keeps_finish_from_nothing(app: App) -> None:
    ran: list[str] = []

    @app.cron("0 8 * * *")
    async def daily(ctx: Context) -> None:
        ran.append(f"{ctx.now():%d %H:%M}")

    async with TestEngine(app) as engine:
        await engine.finish()
        assert ran == []
        await engine.advance("2d")
        assert ran == ["01 08:00", "02 08:00"]


async def test_the_start_can_be_chosen(app: App) -> None:
    @app.background
    async def flow(ctx: Context) -> str:
        return f"{ctx.now():%Y-%m-%d %H:%M}"

    async with TestEngine(app, start=datetime(2030, 6, 1, 12, tzinfo=UTC)) as engine:
        await flow.enqueue()
        assert engine.run(flow).output == "2030-06-01 12:00"


def test_a_naive_start_is_refused(app: App) -> None:
    with pytest.raises(DefinitionError, match="naive datetime: give it a time zone"):
        TestEngine(app, start=datetime(2030, 6, 1))  # noqa: DTZ001


async def test_the_clock_may_be_set_ahead_by_hand(app: App) -> None:
    @app.background
    async def flow(ctx: Context) -> None:
        await ctx.sleep("1h")

    async with TestEngine(app) as engine:
        await flow.enqueue()
        engine.now += timedelta(hours=2)
        await engine.settle()
        assert engine.run(flow).status == "completed"


async def test_what_is_stuck_is_named(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(testing_engine, "PATIENCE_SECONDS", 0.05)

    @app.step
    async def for_ever() -> None:
        await asyncio.Event().wait()

    @app.background
    async def flow() -> None:
        await for_ever()

    async with TestEngine(app) as engine:
        with pytest.raises(PerdureError, match=r"these runs wait for something outside the log: flow .* in step"):
            await flow.enqueue()
        assert engine.run(flow).status == "running"


# Looking


async def test_run_is_the_only_one(app: App) -> None:
    @app.background
    async def flow(n: int) -> int:
        return n

    async with TestEngine(app) as engine:
        with pytest.raises(PerdureError, match="wants the only run, there are 0: none"):
            engine.run(flow)
        await flow.enqueue(1)
        assert engine.run(flow).output == engine.run("flow").output == 1
        await flow.enqueue(2)
        with pytest.raises(PerdureError, match=r"there are 2: .* use all_runs"):
            engine.run(flow)
        assert [run.output for run in engine.all_runs(flow)] == [1, 2]


async def test_a_run_shows_its_steps(app: App) -> None:
    @app.step(retries=Retry(limit=1, first="1h"))
    async def charge(cents: int) -> int:
        if cents > 100:
            raise OSError("too much")
        return cents

    @app.background
    async def flow(cents: int) -> int:
        return await charge(1) + await charge(cents)

    async with TestEngine(app) as engine:
        await flow.enqueue(200)
        first, second = engine.run(flow).steps
        assert (first.name, first.result, first.error, first.attempts) == ("charge", 1, None, 1)
        assert (second.result, second.attempts) == (None, 1)
        assert second.error is not None
        assert second.error.message == "too much"
        await engine.finish()
        run = engine.run(flow)
        assert (run.status, run.steps[1].attempts) == ("failed", 2)
        assert run.error is not None
        assert run.error.caused_by(OSError)


async def test_ids_of_events_are_given_in_order(app: App) -> None:
    async with TestEngine(app) as engine:
        assert await engine.send("a", {}) == "event-1"
        assert await engine.send("a", {}, id="mine") == "mine"
        assert await engine.send_many([Event("a", {}), Event("a", {})]) == ["event-3", "event-4"]


async def test_it_is_a_client(app: App) -> None:
    @app.background(retries=0)
    async def broken() -> None:
        raise OSError("down")

    async with TestEngine(app) as engine:
        with pytest.raises(RunFailed, match="down"):
            await broken.call()
        (handle,) = await engine.runs(broken, status="failed")
        assert await handle.status() == "failed"


async def test_before_and_after_it_serves_nobody(app: App) -> None:
    @app.background
    async def flow() -> None:
        pass

    engine = TestEngine(app)
    with pytest.raises(DefinitionError, match="this TestEngine is not open"):
        engine.run(flow)
    async with engine:
        await flow.call()
    with pytest.raises(OutsideRun):
        await flow.call()


async def test_each_engine_begins_with_nothing(app: App) -> None:
    @app.background
    async def flow() -> None:
        pass

    for _ in range(2):
        async with TestEngine(app) as engine:
            await flow.enqueue()
            assert len(engine.all_runs(flow)) == 1


# Fakes


async def test_a_faked_step(app: App) -> None:
    @app.step
    async def charge(cents: int) -> int:
        raise AssertionError("no card in tests")

    @app.background
    async def flow() -> int:
        return await charge(7)

    async with TestEngine(app) as engine:
        engine.fake(charge, lambda cents: cents * 2)
        await flow.enqueue()
        assert engine.run(flow).output == 14


async def test_a_fake_may_be_async_and_fail(app: App) -> None:
    @app.step(retries=1)
    async def charge(cents: int) -> int:
        return cents

    calls: list[int] = []

    async def declined(cents: int) -> int:
        calls.append(cents)
        raise OSError("declined")

    @app.background
    async def flow() -> int:
        return await charge(7)

    async with TestEngine(app) as engine:
        engine.fake(charge, declined)
        await flow.enqueue()
        await engine.finish()
        assert engine.run(flow).status == "failed"
    assert calls == [7, 7]


async def test_a_faked_function(app: App) -> None:
    @app.background
    async def child(ctx: Context, n: int) -> int:
        await ctx.sleep("7d")
        return n

    @app.background
    async def flow() -> int:
        return await child.call(1)

    async with TestEngine(app) as engine:
        engine.fake(child, lambda n: n + 41)
        await flow.enqueue()
        assert engine.run(flow).output == 42


async def test_a_fakes_result_is_held_to_the_type(app: App) -> None:
    @app.step(retries=0)
    async def charge(cents: int) -> int:
        return cents

    @app.background
    async def flow() -> int:
        return await charge(7)

    async with TestEngine(app) as engine:
        engine.fake(charge, lambda cents: "seven")  # type: ignore[arg-type, return-value]
        await flow.enqueue()
        error = engine.run(flow).error
        assert error is not None
        assert "does not fit the return type, int" in str(error)


async def test_fakes_end_with_their_engine(app: App) -> None:
    @app.step
    async def charge(cents: int) -> int:
        return cents

    @app.background
    async def flow() -> int:
        return await charge(7)

    async with TestEngine(app) as engine:
        engine.fake(charge, lambda cents: 1)
        engine.fake(charge, lambda cents: 2)
        assert await charge(7) == 2
    assert await charge(7) == 7
    async with TestEngine(app) as engine:
        await flow.enqueue()
        assert engine.run(flow).output == 7


async def test_a_fake_holds_for_options_too(app: App) -> None:
    @app.step
    async def charge(cents: int) -> int:
        raise AssertionError("no card in tests")

    @app.background
    async def flow() -> int:
        return await charge.options(retries=0)(7)

    async with TestEngine(app) as engine:
        engine.fake(charge, lambda cents: 1)
        await flow.enqueue()
        assert engine.run(flow).output == 1


async def test_a_def_step_may_be_faked_by_an_async_one(app: App) -> None:
    @app.step
    def charge(cents: int) -> int:
        raise AssertionError("no card in tests")

    async def fake(cents: int) -> int:
        await asyncio.sleep(0)
        return 1

    @app.background
    async def flow() -> int:
        return await charge(7)

    async with TestEngine(app) as engine:
        engine.fake(charge, fake)
        await flow.enqueue()
        assert engine.run(flow).output == 1


# Crashes and eviction


async def test_a_crash_loses_nothing(app: App) -> None:
    ran: list[int] = []

    @app.step
    async def work(n: int) -> int:
        ran.append(n)
        return n

    @app.background
    async def flow(ctx: Context) -> int:
        first = await work(1)
        await ctx.sleep("1h")
        return first + await work(2)

    async with TestEngine(app) as engine:
        await flow.enqueue()
        await engine.crash()
        await engine.advance("2h")
        assert engine.run(flow).output == 3
        assert engine.crashes == 1
    assert ran == [1, 2]


async def test_who_asks_while_the_engine_starts_again_is_answered_by_it(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At whatever turn of the loop, from the crash until the next life has opened."""
    opens = Node.open

    async def opens_later(node: Node) -> None:
        await asyncio.sleep(0)
        await opens(node)

    @app.background
    async def flow(n: int) -> int:
        return n

    monkeypatch.setattr(Node, "open", opens_later)
    async with TestEngine(app) as engine:
        crash = asyncio.ensure_future(engine.crash())
        asking: list[asyncio.Future[RunHandle[int]]] = []
        settling: list[asyncio.Future[None]] = []
        for _ in range(30):
            asking.append(asyncio.ensure_future(flow.enqueue(len(asking))))
            settling.append(asyncio.ensure_future(engine.settle()))
            await asyncio.sleep(0)
        await asyncio.gather(crash, *settling)
        assert [await (await one).result() for one in asking] == list(range(len(asking)))


async def test_who_looks_for_a_crash_now_and_then_sees_one_that_is_over(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    begun = asyncio.Event()

    async def answered_after_a_crash() -> str:
        asked.append(engine.crashes)
        begun.set()
        await (asyncio.Event().wait() if not engine.crashes else asyncio.sleep(0))
        return "answer"

    async with TestEngine(app) as engine:
        monkeypatch.setattr(engine, "_turn", 0.02)
        asking = asyncio.ensure_future(engine.asked(answered_after_a_crash))
        await begun.wait()
        monkeypatch.setattr(engine, "_turn", 0)
        await engine.crash()
        assert not engine.log.crashed
        assert await asking == "answer"
    assert asked == [0, 1]


async def test_who_waits_for_a_result_waits_through_a_crash(app: App) -> None:
    @app.background
    async def flow(ctx: Context) -> int:
        await ctx.sleep("1h")
        return 1

    async with TestEngine(app) as engine:
        handle = await flow.enqueue()
        waiting = asyncio.ensure_future(handle.result())
        await engine.crash()
        await engine.advance("2h")
        assert await waiting == 1


async def test_evict_replays_at_every_op(app: App) -> None:
    began: list[int] = []

    @app.step
    async def work(n: int) -> int:
        return n

    @app.background
    async def flow() -> int:
        began.append(1)
        return sum([await work(n) for n in range(5)])

    async with TestEngine(app, evict=True) as engine:
        await flow.enqueue()
        assert engine.run(flow).output == 10
    assert len(began) == 6


async def test_the_lifespan_is_around_it() -> None:
    seen: list[str] = []

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        seen.append("open")
        yield
        seen.append("closed")

    app = App("shop", lifespan=lifespan)
    async with TestEngine(app) as engine:
        await engine.crash()
        assert seen == ["open"]
    assert seen == ["open", "closed"]


# The fixture


async def test_the_fixture_makes_engines(app: App, perdure_engine: Callable[..., TestEngine]) -> None:
    @app.background
    async def flow() -> int:
        return 1

    async with perdure_engine(app, evict=True) as engine:
        await flow.enqueue()
        assert engine.run(flow).output == 1


pytest_plugins = ["pytester"]


def test_the_fixture_tells_of_an_engine_left_open(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import asyncio
        from perdure import App

        def test_it(perdure_engine):
            engine = perdure_engine(App("shop"))

            async def work():
                await engine.__aenter__()

            asyncio.run(work())
        """
    )
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    result.stdout.fnmatch_lines(["*a TestEngine was left open: use it in*"])
