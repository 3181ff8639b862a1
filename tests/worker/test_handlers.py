"""`on_failure` and `on_cancel` are runs of their own, with steps and retries; every failure is an event, too."""

from typing import Any

import pytest
from msgspec import Struct

from perdure import App, Context, Ended, Event, EventType, NonRetriable, StepError
from perdure.testing import TestEngine
from tests.worker.helpers import both_ways


class Charge(Struct):
    id: str
    cents: int


class Order(Struct):
    order_id: str


PLACED = EventType("order/placed", Order)


@both_ways
async def test_on_failure_runs_with_what_had_been_done(evict: bool) -> None:
    app = App("shop")
    refunded: list[str] = []

    @app.step
    async def charge(cents: int) -> Charge:
        return Charge("ch1", cents)

    @app.step(retries=0)
    async def ship() -> None:
        raise OSError("no trucks")

    @app.step
    async def refund(charge_id: str) -> None:
        refunded.append(charge_id)

    async def undo(ctx: Context, ended: Ended) -> str:
        charged = ended.result(charge)
        assert charged is not None
        await refund(charged.id)
        return f"{ended.function_id} {ended.status} {charged.cents}"

    @app.function(on=PLACED, on_failure=undo)
    async def fulfil(ctx: Context, event: Event[Order]) -> None:
        await charge(42)
        await ship()

    async with TestEngine(app, evict=evict) as engine:
        await engine.send(PLACED(Order("o1")))
        await engine.finish()
        assert engine.run(fulfil).status == "failed"
        assert engine.run("fulfil:on_failure").output == "fulfil failed 42"
    assert refunded == ["ch1"]


async def test_it_knows_the_error_and_the_event() -> None:
    app = App("shop")

    async def tell(ctx: Context, ended: Ended) -> list[Any]:
        assert ended.error is not None
        assert ended.event is not None
        return [ended.run_id, ended.error.message, ended.error.caused_by(OSError), ended.event.data.order_id]

    @app.function(on=PLACED, on_failure=tell, retries=0)
    async def fulfil(ctx: Context, event: Event[Order]) -> None:
        raise OSError("down")

    async with TestEngine(app) as engine:
        await engine.send(PLACED(Order("o1")))
        assert engine.run("fulfil:on_failure").output == [engine.run(fulfil).id, "down", True, "o1"]


async def test_a_handlers_steps_are_retried() -> None:
    app = App("shop")
    made = 0

    @app.step
    async def refund() -> None:
        nonlocal made
        made += 1
        if made < 3:
            raise OSError("bank is closed")

    async def undo(ctx: Context, ended: Ended) -> str:
        await refund()
        await ctx.sleep("1 day")
        return "undone"

    @app.background(on_failure=undo)
    async def flow() -> None:
        raise NonRetriable("no")

    async with TestEngine(app) as engine:
        await flow.enqueue()
        await engine.finish()
        assert engine.run("flow:on_failure").output == "undone"
    assert made == 3


@both_ways
async def test_on_cancel_runs_when_a_run_is_cancelled(evict: bool) -> None:
    app = App("shop")
    released: list[str] = []

    @app.step
    async def reserve() -> str:
        return "room 7"

    @app.step
    async def release(room: str) -> None:
        released.append(room)

    async def undo(ctx: Context, ended: Ended) -> str:
        room = ended.result(reserve)
        await release(room or "nothing")
        assert ended.error is not None
        return f"{ended.status}: {ended.error.message}"

    @app.background(on_cancel=undo)
    async def book(ctx: Context) -> None:
        await reserve()
        await ctx.sleep("7d")

    async with TestEngine(app, evict=evict) as engine:
        await (await book.enqueue()).cancel(reason="ill")
        await engine.finish()
        assert engine.run("book:on_cancel").output == "cancelled: ill"
    assert released == ["room 7"]


async def test_a_failure_runs_no_on_cancel_and_a_cancel_no_on_failure() -> None:
    app = App("shop")

    async def handler(ctx: Context, ended: Ended) -> str:
        return ended.status

    @app.background(on_cancel=handler, on_failure=handler)
    async def flow(ctx: Context, fails: bool) -> None:
        if fails:
            raise NonRetriable("no")
        await ctx.sleep("7d")

    async with TestEngine(app) as engine:
        await flow.enqueue(True)
        await (await flow.enqueue(False)).cancel()
        assert engine.run("flow:on_failure").output == "failed"
        assert engine.run("flow:on_cancel").output == "cancelled"


async def test_a_completed_run_runs_neither() -> None:
    app = App("shop")

    async def handler(ctx: Context, ended: Ended) -> None:
        pass

    @app.background(on_cancel=handler, on_failure=handler)
    async def flow() -> None:
        pass

    async with TestEngine(app) as engine:
        await flow.enqueue()
        assert [run.function for run in (await engine.port.runs())[0]] == ["flow"]


async def test_a_timeout_of_the_run_is_a_failure() -> None:
    app = App("shop")

    async def handler(ctx: Context, ended: Ended) -> bool:
        return ended.error is not None and ended.error.caused_by(TimeoutError)

    @app.background(timeout="1h", on_failure=handler)
    async def flow(ctx: Context) -> None:
        await ctx.sleep("7d")

    async with TestEngine(app) as engine:
        await flow.enqueue()
        await engine.advance("2h")
        assert engine.run("flow:on_failure").output is True


async def test_the_apps_handler_is_for_functions_without_one() -> None:
    async def of_the_app(ctx: Context, ended: Ended) -> str:
        return ended.function_id

    async def of_the_function(ctx: Context, ended: Ended) -> str:
        return ended.function_id

    app = App("shop", on_failure=of_the_app)

    @app.background
    async def plain() -> None:
        raise NonRetriable("no")

    @app.background(on_failure=of_the_function)
    async def special() -> None:
        raise NonRetriable("no")

    async with TestEngine(app) as engine:
        await plain.enqueue()
        await special.enqueue()
        assert engine.run("app:on_failure").output == "plain"
        assert engine.run("special:on_failure").output == "special"


async def test_a_handler_that_fails_starts_no_other() -> None:
    async def broken(ctx: Context, ended: Ended) -> None:
        raise NonRetriable("the handler, too")

    app = App("shop", on_failure=broken)

    @app.background
    async def flow() -> None:
        raise NonRetriable("no")

    async with TestEngine(app) as engine:
        await flow.enqueue()
        await engine.finish()
        found = {run.function: run.status for run in (await engine.port.runs())[0]}
        assert found == {"flow": "failed", "app:on_failure": "failed"}


async def test_every_failure_is_an_event() -> None:
    app = App("shop")

    @app.step(retries=2)
    async def broken() -> None:
        raise OSError("down")

    @app.background
    async def flow() -> None:
        await broken()

    @app.function(on="perdure/function.failed")
    async def watch(ctx: Context, event: Event) -> dict[str, Any]:
        return event.data

    async with TestEngine(app) as engine:
        await flow.enqueue()
        await engine.finish()
        assert engine.run(watch).output == {
            "run_id": engine.run(flow).id,
            "function_id": "flow",
            "error": {"type": "OSError", "message": "down", "attempts": 3},
            "event_id": "",
        }


async def test_a_watcher_of_failures_that_fails_does_not_go_in_circles() -> None:
    app = App("shop")

    @app.background
    async def flow() -> None:
        raise NonRetriable("no")

    @app.function(on="perdure/function.failed")
    async def watch(ctx: Context, event: Event) -> None:
        raise NonRetriable("the watcher, too")

    async with TestEngine(app) as engine:
        await flow.enqueue()
        await engine.finish()
        assert engine.run(watch).status == "failed"


async def test_a_cancelled_run_is_no_failure_event() -> None:
    app = App("shop")

    @app.background
    async def flow(ctx: Context) -> None:
        await ctx.sleep("7d")

    @app.function(on="perdure/function.failed")
    async def watch(ctx: Context, event: Event) -> None:
        pass

    async with TestEngine(app) as engine:
        await (await flow.enqueue()).cancel()
        assert engine.all_runs(watch) == []


async def test_a_step_that_left_no_result_has_none() -> None:
    app = App("shop")

    @app.step(retries=0)
    async def broken() -> int:
        raise OSError("down")

    @app.step
    async def never() -> int:
        return 1

    async def handler(ctx: Context, ended: Ended) -> list[int | None]:
        return [ended.result(broken), ended.result(never)]

    @app.background(on_failure=handler)
    async def flow() -> None:
        await broken()
        await never()

    async with TestEngine(app) as engine:
        await flow.enqueue()
        assert engine.run("flow:on_failure").output == [None, None]


async def test_the_last_result_of_a_step_counts() -> None:
    app = App("shop")

    @app.step
    async def count(n: int) -> int:
        return n

    async def handler(ctx: Context, ended: Ended) -> int | None:
        return ended.result(count)

    @app.background(on_failure=handler)
    async def flow() -> None:
        for n in range(4):
            await count(n)
        raise NonRetriable("no")

    async with TestEngine(app) as engine:
        await flow.enqueue()
        assert engine.run("flow:on_failure").output == 3


async def test_the_result_of_a_called_function_is_known() -> None:
    app = App("shop")

    @app.background
    async def child(n: int) -> Charge:
        return Charge("ch1", n)

    async def handler(ctx: Context, ended: Ended) -> int:
        charged = ended.result(child)
        return charged.cents if charged else 0

    @app.background(on_failure=handler)
    async def flow() -> None:
        await child.call(7)
        raise NonRetriable("no")

    async with TestEngine(app) as engine:
        await flow.enqueue()
        assert engine.run("flow:on_failure").output == 7


@pytest.mark.parametrize("size", [1_000, 3_000, 50_000])
async def test_large_results_are_known_too(size: int) -> None:
    app = App("shop")

    @app.step
    async def first() -> str:
        return "a" * size

    @app.step
    async def second() -> str:
        return "b" * size

    async def handler(ctx: Context, ended: Ended) -> str:
        return (ended.result(first) or "?")[:1] + (ended.result(second) or "?")[-1:]

    @app.background(on_failure=handler)
    async def flow() -> None:
        await first()
        await second()
        raise NonRetriable("no")

    async with TestEngine(app) as engine:
        await flow.enqueue()
        assert engine.run("flow:on_failure").output == "ab"


async def test_a_background_functions_ended_has_no_event() -> None:
    app = App("shop")

    async def handler(ctx: Context, ended: Ended) -> bool:
        return ended.event is None

    @app.background(on_failure=handler)
    async def flow() -> None:
        raise NonRetriable("no")

    async with TestEngine(app) as engine:
        await flow.enqueue()
        assert engine.run("flow:on_failure").output is True


async def test_a_run_that_fails_by_its_event_has_its_handler_run() -> None:
    """The event does not fit the type of the function; of what use is a handler that fails by it as well?"""
    app = App("shop")

    async def handler(ctx: Context, ended: Ended) -> str:
        assert ended.error is not None
        return ended.error.message

    @app.function(on=PLACED, on_failure=handler)
    async def fulfil(ctx: Context, event: Event[Order]) -> None:
        pass

    async with TestEngine(app) as engine:
        await engine.send("order/placed", {"order_id": 7})
        await engine.finish()
        assert engine.run(fulfil).status == "failed"
        run = engine.run("fulfil:on_failure")
        assert run.status == "completed", run.error
        assert "does not fit" in run.output


async def test_a_failed_steps_handler_may_catch() -> None:
    app = App("shop")

    @app.step(retries=0)
    async def broken() -> None:
        raise OSError("down")

    async def handler(ctx: Context, ended: Ended) -> str:
        try:
            await broken()
        except StepError as error:
            return error.step
        return "fine"

    @app.background(on_failure=handler)
    async def flow() -> None:
        await broken()

    async with TestEngine(app) as engine:
        await flow.enqueue()
        assert engine.run("flow:on_failure").output == "broken"


async def test_a_handler_keeps_the_runs_metadata() -> None:
    app = App("shop")

    async def handler(ctx: Context, ended: Ended) -> dict[str, str]:
        return dict(ctx.metadata)

    @app.background(on_failure=handler)
    async def flow() -> None:
        raise NonRetriable("no")

    async with TestEngine(app) as engine:
        await flow.options(metadata={"who": "ada"}).enqueue()
        assert engine.run("flow:on_failure").output == {"who": "ada"}


async def test_a_run_again_of_a_handler_gets_the_same_end() -> None:
    app = App("shop")

    async def handler(ctx: Context, ended: Ended) -> str:
        return ended.status

    @app.background(on_failure=handler)
    async def flow() -> None:
        raise NonRetriable("no")

    async with TestEngine(app) as engine:
        await flow.enqueue()
        again = await engine.port.rerun(engine.run("flow:on_failure").id)
        assert bytes((await engine.port.result(again)).result) == b'"failed"'  # type: ignore[arg-type]
