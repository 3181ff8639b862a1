"""The Context: what a function can ask of its run, the same live and on replay."""

import asyncio
import logging
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec import Struct

from perdure import App, Context, Event, EventType, Function, OutsideRun, Trigger, current_run, current_step
from perdure.testing import Run, TestEngine
from tests.worker.helpers import both_ways, failure, finished


class Cart(Struct):
    cart_id: str
    n: int = 0


ADDED = EventType("cart/added", Cart)
BOUGHT = EventType("cart/bought", Cart)
REMOVED = EventType("cart/removed", Cart)


# What is the same on replay


@both_ways
async def test_now_is_the_time_of_the_last_result(evict: bool) -> None:
    app = App("shop")

    @app.background
    async def flow(ctx: Context) -> list[str]:
        seen = [f"{ctx.now():%H:%M}"]
        for _ in range(2):
            await ctx.sleep("90m")
            seen.append(f"{ctx.now():%H:%M}")
        return seen

    assert (await finished(app, flow, evict=evict)).output == ["00:00", "01:30", "03:00"]


@both_ways
async def test_a_late_run_of_a_schedule_knows_which_time_it_is_of(evict: bool) -> None:
    """Its reruns are of the same time; what it calls is of none."""
    app = App("shop")
    seen: list[tuple[str, str]] = []

    @app.background
    async def child(ctx: Context) -> str:
        return str(ctx.scheduled_at)

    @app.cron("0 8 * * *", tz="Europe/Rome")
    async def daily(ctx: Context) -> None:
        await ctx.sleep("30h")
        seen.append((f"{ctx.scheduled_at:%d %H:%M}", await child.call()))

    async with TestEngine(app, evict=evict) as engine:
        await engine.advance("40h")
        assert seen == [("01 07:00", "None")]
        await daily.handle(engine.all_runs(daily)[0].id).rerun()
        await engine.advance("30h")
        assert sorted(seen) == [("01 07:00", "None"), ("01 07:00", "None"), ("02 07:00", "None")]


@both_ways
async def test_random_numbers_are_the_same_on_replay(evict: bool) -> None:
    app = App("shop")
    drawn: list[list[float]] = []

    @app.background
    async def flow(ctx: Context) -> None:
        numbers = [ctx.random.random() for _ in range(3)]
        drawn.append(numbers)
        await ctx.sleep("1h")
        drawn.append([*numbers, ctx.random.random()])

    await finished(app, flow, evict=evict)
    assert len({tuple(numbers[:3]) for numbers in drawn}) == 1


@both_ways
async def test_branches_draw_numbers_of_their_own(evict: bool) -> None:
    """Whoever draws first: a branch has its own, so that their order changes nothing."""
    app = App("shop")
    drawn: dict[int, set[float]] = {0: set(), 1: set()}

    @app.step
    async def work(n: int) -> None:
        await asyncio.sleep(0.001 * n)

    @app.background
    async def flow(ctx: Context) -> None:
        async def branch(n: int) -> None:
            await work(1 - n)
            drawn[n].add(ctx.random.random())
            await work(n)

        await asyncio.gather(branch(0), branch(1))

    await finished(app, flow, evict=evict)
    assert [len(numbers) for numbers in drawn.values()] == [1, 1]
    assert drawn[0] != drawn[1]


@both_ways
async def test_a_uuid_is_the_same_on_replay(evict: bool) -> None:
    app = App("shop")
    made: set[uuid.UUID] = set()

    @app.background
    async def flow(ctx: Context) -> str:
        one = ctx.uuid()
        made.add(one)
        await ctx.sleep("1h")
        return str(one)

    run = await finished(app, flow, evict=evict)
    assert {str(one) for one in made} == {run.output}
    assert next(iter(made)).version == 4


async def test_runs_draw_numbers_of_their_own() -> None:
    app = App("shop")

    @app.background
    async def flow(ctx: Context) -> str:
        return str(ctx.uuid())

    async with TestEngine(app) as engine:
        await flow.enqueue()
        await flow.enqueue()
        assert len({run.output for run in engine.all_runs(flow)}) == 2


@both_ways
async def test_the_logger_is_silent_on_replay(evict: bool, caplog: pytest.LogCaptureFixture) -> None:
    app = App("shop")

    @app.background
    async def flow(ctx: Context) -> None:
        ctx.logger.info("began")
        for n in range(3):
            await ctx.sleep("1h")
            ctx.logger.info("hour %d", n)

    with caplog.at_level(logging.INFO, logger="perdure.run"):
        await finished(app, flow, evict=evict)
    assert [record.getMessage() for record in caplog.records] == ["began", "hour 0", "hour 1", "hour 2"]


# Steps


@pytest.mark.parametrize(
    "use",
    [
        lambda ctx: ctx.sleep("1h"),
        lambda ctx: ctx.step("inner", lambda: 1),
        lambda ctx: ctx.send("x", {}),
        lambda ctx: ctx.wait_for_event("x"),
        lambda ctx: ctx.timeout("1h"),
        lambda ctx: ctx.patched("x"),
        lambda ctx: ctx.report(n=1),
    ],
)
async def test_a_context_in_a_step_is_refused(use: Callable[[Context], object]) -> None:
    app = App("shop")

    @app.background
    async def flow(ctx: Context) -> None:
        async def body() -> None:
            use(ctx)

        await ctx.step("outer", body)

    assert "this Context was used in a step" in failure(await finished(app, flow))


async def test_a_context_outside_of_its_run_is_refused() -> None:
    app = App("shop")
    kept: list[Context] = []

    @app.background
    async def flow(ctx: Context) -> None:
        kept.append(ctx)

    await finished(app, flow)
    with pytest.raises(OutsideRun, match="outside its run"):
        await kept[0].sleep("1h")


async def test_a_context_in_another_run_is_refused() -> None:
    app = App("shop")
    kept: list[Context] = []

    @app.background(retries=0)
    async def flow(ctx: Context) -> None:
        kept.append(ctx)
        await kept[0].sleep("1h")

    async with TestEngine(app) as engine:
        await flow.enqueue()
        await flow.enqueue()
        await engine.finish()
        assert sorted(run.status for run in engine.all_runs(flow)) == ["completed", "failed"]


@both_ways
async def test_current_run_in_helper_functions(evict: bool) -> None:
    app = App("shop")

    async def nap() -> str:
        await current_run().sleep("1h")
        return current_run().run_id

    @app.background
    async def flow() -> list[str]:
        return [await nap(), *await asyncio.gather(nap(), nap())]

    run = await finished(app, flow, evict=evict)
    assert run.output == [run.id] * 3


async def test_current_run_outside_of_runs() -> None:
    with pytest.raises(OutsideRun, match="is for code of a function"):
        current_run()


async def test_a_closure_whose_variable_changed_before_the_step_ran_is_an_error() -> None:
    app = App("shop")

    @app.background
    async def flow(ctx: Context) -> list[int]:
        calls = []
        for n in range(3):
            calls.append(ctx.step("double", lambda: 2 * n))  # noqa: B023, PERF401
        return [await call for call in calls]

    run = await finished(app, flow)
    assert "step 'double': the captured variable 'n' changed before the step ran" in failure(run)
    assert "pass it as an argument" in failure(run)


@both_ways
async def test_a_closure_that_runs_at_once_may_capture(evict: bool) -> None:
    app = App("shop")

    @app.background
    async def flow(ctx: Context) -> list[int]:
        return [await ctx.step("double", lambda: 2 * n) for n in range(3)]  # noqa: B023

    assert (await finished(app, flow, evict=evict)).output == [0, 2, 4]


async def test_a_closure_may_change_what_it_captured() -> None:
    app = App("shop")
    tries = 0

    @app.background
    async def flow(ctx: Context) -> int:
        def work() -> int:
            nonlocal tries
            tries += 1
            if tries < 3:
                raise OSError("down")
            return tries

        return await ctx.step("work", work)

    assert (await finished(app, flow)).output == 3


async def test_an_inline_step_wants_a_function() -> None:
    app = App("shop")

    async def fetch(url: str) -> str:
        return url

    @app.background
    async def flow(ctx: Context) -> None:
        given: Any = fetch("http://x")
        await ctx.step("fetch", given)

    said = failure(await finished(app, flow))
    assert "ctx.step('fetch', …): a function and its arguments are needed, not coroutine" in said


# Progress


@both_ways
async def test_progress_is_seen_from_outside(evict: bool) -> None:
    app = App("shop")

    @app.background
    async def flow(ctx: Context) -> None:
        await ctx.report(done=0, of=3)
        await ctx.sleep("1h")
        await ctx.report(done=1, step="mails")
        await ctx.sleep("1h")

    async with TestEngine(app, evict=evict) as engine:
        await flow.enqueue()
        seen = [(await engine.port.run(engine.run(flow).id)).progress]
        await engine.advance("90m")
        seen.append((await engine.port.run(engine.run(flow).id)).progress)
        assert seen == [{"done": 0, "of": 3}, {"done": 1, "of": 3, "step": "mails"}]


async def test_progress_is_said_once() -> None:
    """Best effort, on a topic of its own: a replay says nothing again."""
    app = App("shop")

    @app.background
    async def flow(ctx: Context) -> None:
        for n in range(3):
            await ctx.report(n=n)
            await ctx.sleep("1h")

    async with TestEngine(app, evict=True) as engine:
        await flow.enqueue()
        await engine.finish()
        log = engine.log
        said = [
            raw for p in range(log.partitions) for batch in await log.read_side("logs", p, 0) for raw in batch.values
        ]
        assert [raw.split(b'"fields":')[1] for raw in said] == [b'{"n":0}}', b'{"n":1}}', b'{"n":2}}']


# Sleeping


@both_ways
async def test_sleep_until_a_moment(evict: bool) -> None:
    app = App("shop")

    @app.background
    async def flow(ctx: Context) -> str:
        await ctx.sleep(datetime(2026, 1, 2, 8, tzinfo=UTC))
        return f"{ctx.now():%d %H:%M}"

    assert (await finished(app, flow, evict=evict)).output == "02 08:00"


async def test_a_moment_in_the_past_is_over_at_once() -> None:
    app = App("shop")

    @app.background
    async def flow(ctx: Context) -> str:
        await ctx.sleep(datetime(2020, 1, 1, tzinfo=UTC))
        return f"{ctx.now():%Y %H:%M}"

    assert (await finished(app, flow)).output == "2026 00:00"


@pytest.mark.parametrize(
    ("until", "message"),
    [
        (datetime(2026, 1, 2), "naive datetime: give it a time zone"),  # noqa: DTZ001
        (300, 'say "300s" or "5m"'),
        ("tomorrow", "not a duration"),
        (timedelta(seconds=-1), "cannot be negative"),
    ],
)
async def test_what_is_no_time_is_refused(until: Any, message: str) -> None:
    app = App("shop")

    @app.background
    async def flow(ctx: Context) -> None:
        await ctx.sleep(until)

    assert message in failure(await finished(app, flow))


# Waiting for events


def waiting(*, timeout: str | None = None, **options: Any) -> tuple[App, Function[..., list[int]]]:
    """A cart that notes the `n` of two events of its own."""
    app = App("shop")

    @app.function(on=ADDED, waits=["cart/bought data.cart_id"])
    async def flow(ctx: Context, event: Event[Cart]) -> list[int]:
        await ctx.sleep("1h")
        found: list[int] = []
        for _ in range(2):
            more = options if timeout is None else {**options, "timeout": timeout}
            bought: Event[Cart] | None = await ctx.wait_for_event(BOUGHT, match="data.cart_id", **more)
            found.append(-1 if bought is None else bought.data.n)
        return found

    return app, flow


@both_ways
async def test_an_event_between_the_trigger_and_the_opening_is_matched(evict: bool) -> None:
    app, flow = waiting()
    async with TestEngine(app, evict=evict) as engine:
        await engine.send(ADDED(Cart("c1")))
        await engine.send(BOUGHT(Cart("c1", 1)))
        await engine.advance("2h")
        await engine.send(BOUGHT(Cart("c1", 2)))
        assert engine.run(flow).output == [1, 2]


@both_ways
async def test_a_second_wait_gets_the_next_event(evict: bool) -> None:
    app, flow = waiting()
    async with TestEngine(app, evict=evict) as engine:
        await engine.send(ADDED(Cart("c1")))
        for n in (1, 2, 3):
            await engine.send(BOUGHT(Cart("c1", n)))
        await engine.finish()
        assert engine.run(flow).output == [1, 2]


async def test_an_event_before_the_trigger_is_none_of_its_business() -> None:
    app, flow = waiting(timeout="2h")
    async with TestEngine(app) as engine:
        await engine.send(BOUGHT(Cart("c1", 1)))
        await engine.send(ADDED(Cart("c1")))
        await engine.finish()
        assert engine.run(flow).output == [-1, -1]


async def test_an_event_of_another_cart_is_none_of_its_business() -> None:
    app, flow = waiting(timeout="2h")
    async with TestEngine(app) as engine:
        await engine.send(ADDED(Cart("c1")))
        await engine.send(BOUGHT(Cart("c2", 1)))
        await engine.finish()
        assert engine.run(flow).output == [-1, -1]


@both_ways
async def test_a_wait_that_is_over_gives_none(evict: bool) -> None:
    app, flow = waiting(timeout="30m")
    async with TestEngine(app, evict=evict) as engine:
        await engine.send(ADDED(Cart("c1")))
        await engine.advance("100m")
        await engine.send(BOUGHT(Cart("c1", 1)))
        await engine.finish()
        assert engine.run(flow).output == [-1, 1]


async def test_a_wait_with_a_condition() -> None:
    app, flow = waiting(where="async.data.n > 10")
    async with TestEngine(app) as engine:
        await engine.send(ADDED(Cart("c1")))
        for n in (1, 11, 2, 12):
            await engine.send(BOUGHT(Cart("c1", n)))
        await engine.finish()
        assert engine.run(flow).output == [11, 12]


async def test_a_wait_that_compares_with_values() -> None:
    app = App("shop")

    @app.background
    async def flow(ctx: Context, cart_id: str) -> int:
        found = await ctx.wait_for_event(BOUGHT, match={"data.cart_id": cart_id, "data.n": 7})
        return found.data.n

    async with TestEngine(app) as engine:
        await flow.enqueue("c1")
        for cart in (Cart("c2", 7), Cart("c1", 6), Cart("c1", 7)):
            await engine.send(BOUGHT(cart))
        assert engine.run(flow).output == 7


async def test_two_runs_may_each_have_the_same_event() -> None:
    app, flow = waiting(timeout="2h")
    async with TestEngine(app) as engine:
        await engine.send(ADDED(Cart("c1")))
        await engine.send(ADDED(Cart("c1")))
        await engine.send(BOUGHT(Cart("c1", 1)))
        await engine.finish()
        assert [run.output for run in engine.all_runs(flow)] == [[1, -1], [1, -1]]


async def test_an_event_sent_twice_counts_once() -> None:
    app, flow = waiting(timeout="2h")
    async with TestEngine(app) as engine:
        await engine.send(ADDED(Cart("c1")))
        await engine.send(BOUGHT(Cart("c1", 1), id="b"))
        await engine.send(BOUGHT(Cart("c1", 1), id="b"))
        await engine.finish()
        assert engine.run(flow).output == [1, -1]


async def refusal(event: Any, match: str = "", where: str = "", waits: tuple[str, ...] = ()) -> str:
    """What a wait that cannot be right is refused with, where the source does not show that."""
    app = App("shop")
    wheres = [where]

    @app.function(on="cart/added", waits=waits)
    async def flow(ctx: Context, trigger: Event) -> None:
        await ctx.wait_for_event(event(), match=match, where=wheres[0])

    async with TestEngine(app) as engine:
        await engine.send("cart/added", {"cart_id": "c1", "nothing": None})
        run: Run[Any] = engine.run(flow)
        assert run.steps == []
        return failure(run)


async def test_a_wait_for_a_wildcard_points_to_race() -> None:
    assert "race several with ctx.race" in await refusal(lambda: "cart/*")


async def test_a_wait_for_several_types_points_to_race() -> None:
    assert "race several with ctx.race" in await refusal(lambda: BOUGHT | REMOVED)


async def test_a_wait_that_the_source_does_not_show_points_to_waits() -> None:
    said = await refusal(lambda: "cart/bought", "data.cart_id")
    assert "declare it with waits=['cart/bought data.cart_id']" in said


@pytest.mark.parametrize("path", ["data.nothing", "data.missing"])
async def test_a_wait_whose_value_the_trigger_lacks_is_refused(path: str) -> None:
    said = await refusal(lambda: "cart/bought", path, waits=(f"cart/bought {path}",))
    assert f"this run's trigger has no {path!r} to compare with" in said


async def test_a_condition_that_is_none_is_refused() -> None:
    said = await refusal(lambda: "cart/bought", where="async.data.n >", waits=("cart/bought",))
    assert "expected a value, but the expression ends" in said


async def test_an_awaited_event_that_does_not_fit_fails_the_run_without_retries() -> None:
    app, flow = waiting()
    async with TestEngine(app) as engine:
        await engine.send(ADDED(Cart("c1")))
        await engine.send("cart/bought", {"cart_id": "c1", "n": "many"})
        await engine.advance("2h")
        assert "wait_for_event('cart/bought'): the event does not fit" in failure(engine.run(flow))


# Sending events


@both_ways
async def test_an_event_sent_by_a_run_is_sent_once(evict: bool) -> None:
    app = App("shop")

    @app.function(on=BOUGHT)
    async def react(ctx: Context, event: Event[Cart]) -> int:
        return event.data.n

    @app.background
    async def flow(ctx: Context) -> list[str]:
        ids = [await ctx.send(BOUGHT(Cart("c1", 1))), await ctx.send("cart/bought", {"cart_id": "c1", "n": 2})]
        await ctx.sleep("1h")
        return ids + await ctx.send_many([BOUGHT(Cart("c1", 3)), BOUGHT(Cart("c1", 4), id="mine")])

    async with TestEngine(app, evict=evict) as engine:
        await flow.enqueue()
        await engine.crash()
        await engine.finish()
        ids = engine.run(flow).output
        assert len(set(ids)) == 4
        assert ids[3] == "mine"
        assert sorted(run.output for run in engine.all_runs(react)) == [1, 2, 3, 4]


async def test_a_run_may_wait_for_what_it_sent() -> None:
    app = App("shop")

    @app.background
    async def flow(ctx: Context) -> int:
        await ctx.send(BOUGHT(Cart("c1", 1)))
        return (await ctx.wait_for_event(BOUGHT)).data.n

    assert (await finished(app, flow)).output == 1


async def test_sending_nothing_is_nothing() -> None:
    app = App("shop")

    @app.background
    async def flow(ctx: Context) -> list[str]:
        return await ctx.send_many([])

    assert (await finished(app, flow)).output == []


# Triggers


async def test_a_wildcard_trigger() -> None:
    app = App("shop")

    @app.function(on="cart/*")
    async def flow(ctx: Context, event: Event) -> str:
        return event.name

    async with TestEngine(app) as engine:
        for name in ("cart/added", "other/added", "cart/bought"):
            await engine.send(name, {})
        assert [run.output for run in engine.all_runs(flow)] == ["cart/added", "cart/bought"]


async def test_several_triggers_start_a_function_once() -> None:
    app = App("shop")

    @app.function(on=["cart/added", "cart/*"])
    async def flow(ctx: Context, event: Event) -> str:
        return event.name

    async with TestEngine(app) as engine:
        await engine.send("cart/added", {})
        assert engine.run(flow).output == "cart/added"


async def test_a_trigger_with_a_condition() -> None:
    app = App("shop")

    @app.function(on=Trigger(ADDED, where="event.data.n > 10"))
    async def flow(ctx: Context, event: Event[Cart]) -> int:
        return event.data.n

    async with TestEngine(app) as engine:
        for n in (5, 11, 10):
            await engine.send(ADDED(Cart("c1", n)))
        assert engine.run(flow).output == 11


async def test_an_event_of_the_future_starts_its_run_then() -> None:
    app = App("shop")

    @app.function(on="cart/added")
    async def flow(ctx: Context, event: Event) -> str:
        return f"{ctx.now():%H:%M}"

    async with TestEngine(app) as engine:
        await engine.send(Event("cart/added", {}, ts=engine.now + timedelta(hours=5)))
        assert engine.run(flow).status == "queued"
        await engine.finish()
        assert engine.run(flow).output == "05:00"


async def test_an_event_of_the_past_starts_its_run_now() -> None:
    app = App("shop")

    @app.function(on="cart/added")
    async def flow(ctx: Context, event: Event) -> int:
        assert event.ts is not None
        return event.ts.year

    async with TestEngine(app) as engine:
        await engine.send(Event("cart/added", {}, ts=datetime(2020, 5, 1, tzinfo=UTC)))
        assert engine.run(flow).output == 2020


# Going on as another run


@both_ways
async def test_continue_as_is_a_loop_without_end(evict: bool) -> None:
    app = App("shop")

    @app.step
    async def work(n: int) -> int:
        return n

    @app.function(on=ADDED)
    async def flow(ctx: Context, event: Event[Cart]) -> int:
        await work(event.data.n)
        await ctx.sleep("1h")
        if event.data.n < 5:
            await ctx.continue_as(ADDED(Cart("c1", event.data.n + 1)))
        return event.data.n

    async with TestEngine(app, evict=evict) as engine:
        await engine.send(ADDED(Cart("c1")))
        await engine.finish()
        runs = engine.all_runs(flow)
        assert [run.status for run in runs] == ["completed"] * 6
        assert [run.output for run in runs] == [None] * 5 + [5]
        assert [len(run.steps) for run in runs] == [1] * 6  # each has a history of its own


@both_ways
async def test_a_successor_sees_no_event_twice_and_misses_none(evict: bool) -> None:
    app = App("shop")
    noted: list[int] = []

    @app.step
    async def note(n: int) -> None:
        noted.append(n)

    @app.function(on=ADDED, waits=["cart/bought data.cart_id"])
    async def flow(ctx: Context, event: Event[Cart]) -> None:
        for _ in range(2):
            bought = await ctx.wait_for_event(BOUGHT, match="data.cart_id")
            await note(bought.data.n)
        await ctx.continue_as(ADDED(event.data))

    async with TestEngine(app, evict=evict) as engine:
        await engine.send_many([ADDED(Cart("c1")), *(BOUGHT(Cart("c1", n)) for n in range(5))])
        for n in range(5, 9):
            await engine.send(BOUGHT(Cart("c1", n)))
    assert sorted(noted) == list(range(9))


async def test_who_called_it_gets_the_last_ones_result() -> None:
    app = App("shop")

    @app.function(on=ADDED)
    async def flow(ctx: Context, event: Event[Cart]) -> int:
        if event.data.n < 3:
            await ctx.continue_as(ADDED(Cart("c1", event.data.n + 1)))
        return event.data.n

    @app.background
    async def parent() -> int:
        return await flow.call(ADDED(Cart("c1")))

    async with TestEngine(app) as engine:
        await parent.enqueue()
        assert engine.run(parent).output == 3


@both_ways
async def test_what_a_run_had_in_flight_ends_with_it(evict: bool) -> None:
    app = App("shop")

    @app.background
    async def child(ctx: Context) -> None:
        await ctx.sleep("7d")

    @app.function(on=ADDED)
    async def flow(ctx: Context, event: Event[Cart]) -> str:
        task = asyncio.create_task(child.call())
        await ctx.sleep("1h")
        if event.data.n == 0:
            await ctx.continue_as(ADDED(Cart("c1", 1)))
        task.cancel()
        return "done"

    async with TestEngine(app, evict=evict) as engine:
        await engine.send(ADDED(Cart("c1")))
        await engine.advance("3h")
        assert [run.status for run in engine.all_runs(flow)] == ["completed", "completed"]
        assert [run.status for run in engine.all_runs(child)] == ["cancelled", "cancelled"]


async def test_continue_as_from_within_a_task_group() -> None:
    app = App("shop")

    @app.function(on=ADDED)
    async def flow(ctx: Context, event: Event[Cart]) -> int:
        async with asyncio.TaskGroup() as group:
            group.create_task(ctx.sleep("1h"))
            if event.data.n == 0:
                await ctx.continue_as(ADDED(Cart("c1", 1)))
        return event.data.n

    async with TestEngine(app) as engine:
        await engine.send(ADDED(Cart("c1")))
        await engine.finish()
        assert {run.output for run in engine.all_runs(flow)} == {None, 1}


async def test_who_awaits_it_gets_the_last_ones_result() -> None:
    app = App("shop")

    @app.function(on=ADDED)
    async def flow(ctx: Context, event: Event[Cart]) -> int:
        await ctx.sleep("1h")
        if event.data.n < 3:
            await ctx.continue_as(ADDED(Cart("c1", event.data.n + 1)))
        return event.data.n

    @app.background
    async def watcher(run_id: str, ctx_hours: int) -> int:
        await current_run().sleep(f"{ctx_hours}h")
        return await flow.handle(run_id).result()

    async with TestEngine(app) as engine:
        handle = await flow.enqueue(ADDED(Cart("c1")))
        outside = asyncio.ensure_future(handle.result())
        await watcher.enqueue(handle.id, 0)
        await watcher.enqueue(handle.id, 2)
        await watcher.enqueue(handle.id, 9)
        await engine.finish()
        assert await outside == 3
        assert await handle.result() == 3
        assert [run.output for run in engine.all_runs(watcher)] == [3, 3, 3]


async def test_a_called_run_that_continued_is_cancelled_with_its_parent() -> None:
    app = App("shop")

    @app.function(on=ADDED)
    async def flow(ctx: Context, event: Event[Cart]) -> None:
        await ctx.sleep("1h")
        await ctx.continue_as(ADDED(Cart("c1", event.data.n + 1)))

    @app.background
    async def parent() -> None:
        await flow.call(ADDED(Cart("c1")))

    async with TestEngine(app) as engine:
        handle = await parent.enqueue()
        await engine.advance("150m")
        await handle.cancel()
        assert [run.status for run in engine.all_runs(flow)] == ["completed", "completed", "cancelled"]


async def test_a_cancel_of_a_run_that_continued_is_its_successors() -> None:
    app = App("shop")

    @app.function(on=ADDED)
    async def flow(ctx: Context, event: Event[Cart]) -> None:
        await ctx.sleep("1h")
        await ctx.continue_as(ADDED(Cart("c1", event.data.n + 1)))

    async with TestEngine(app) as engine:
        handle = await flow.enqueue(ADDED(Cart("c1")))
        await engine.advance("150m")
        await handle.cancel()
        assert [run.status for run in engine.all_runs(flow)] == ["completed", "completed", "cancelled"]


async def test_a_background_function_is_told_what_to_do_instead() -> None:
    app = App("shop")

    @app.background
    async def flow(ctx: Context) -> None:
        await ctx.continue_as(ADDED(Cart("c1")))

    assert "it can enqueue another run of itself and return" in failure(await finished(app, flow))


async def test_a_run_that_continues_can_be_cancelled() -> None:
    app = App("shop")

    @app.function(on=ADDED)
    async def flow(ctx: Context, event: Event[Cart]) -> None:
        await ctx.sleep("1h")
        await ctx.continue_as(ADDED(Cart("c1", event.data.n + 1)))

    async with TestEngine(app) as engine:
        await engine.send(ADDED(Cart("c1")))
        await engine.advance("150m")
        living = [run for run in engine.all_runs(flow) if run.status == "suspended"]
        await flow.handle(living[0].id).cancel()
        await engine.advance("5h")
        assert [run.status for run in engine.all_runs(flow)] == ["completed", "completed", "cancelled"]


async def test_a_step_knows_itself() -> None:
    app = App("shop")

    @app.step(name="charge")
    async def work() -> list[str]:
        info = current_step()
        return [info.key, info.name, str(info.attempt), info.run_id]

    @app.background
    async def flow() -> list[str]:
        return await work()

    run = await finished(app, flow)
    assert run.output == [f"{run.id}/0/charge#1", "charge", "1", run.id]
