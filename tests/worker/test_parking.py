"""On replay a run must ask for what the log holds, with the same arguments; if not, it is parked, and says how."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from msgspec import Raw
from msgspec.structs import replace

from perdure import App, Context, Event, Function, Retry
from perdure.flow.routing import run_id
from perdure.testing import TestEngine
from perdure.worker.execution import Execution
from perdure.worker.lineage import here
from perdure_schemas.payload import ErrorInfo, Payload
from perdure_schemas.records import (
    Call,
    OpClosed,
    Opening,
    OpOpened,
    Record,
    Send,
    Sleep,
    StepCompleted,
    StepFailed,
    V,
    Wait,
)
from tests.worker.helpers import deploy

Body = Callable[[Context, Event], Coroutine[Any, Any, str]]


def identity(value: int) -> int:
    return value


async def original(ctx: Context, event: Event) -> str:
    paid = await ctx.step("charge", identity, 100)
    await ctx.sleep("24h")
    await ctx.step("mail", identity, 0)
    return f"paid {paid}"


async def another_step(ctx: Context, event: Event) -> str:
    paid = await ctx.step("pay", identity, 100)
    await ctx.sleep("24h")
    return f"paid {paid}"


async def another_argument(ctx: Context, event: Event) -> str:
    paid = await ctx.step("charge", identity, 200)
    await ctx.sleep("24h")
    return f"paid {paid}"


async def another_duration(ctx: Context, event: Event) -> str:
    paid = await ctx.step("charge", identity, 100)
    await ctx.sleep("48h")
    return f"paid {paid}"


async def another_order(ctx: Context, event: Event) -> str:
    await ctx.sleep("24h")
    return f"paid {await ctx.step('charge', identity, 100)}"


async def one_more_before(ctx: Context, event: Event) -> str:
    await ctx.step("check", identity, 1)
    paid = await ctx.step("charge", identity, 100)
    await ctx.sleep("24h")
    return f"paid {paid}"


async def one_less(ctx: Context, event: Event) -> str:
    await ctx.sleep("24h")
    return "free"


async def early_end(ctx: Context, event: Event) -> str:
    return "nothing to do"


async def another_end(ctx: Context, event: Event) -> str:
    paid = await ctx.step("charge", identity, 100)
    await ctx.sleep("24h")
    return f"paid {paid}"


def shop(body: Body = original, *, retries: int = 4) -> App:
    """An app whose one function does this."""
    app = App("shop")
    app.function(on="order/placed", id="fulfil", retries=retries)(body)
    return app


async def suspended(engine: TestEngine) -> None:
    """An order, charged, in its long sleep."""
    await engine.send("order/placed", {})
    assert engine.run("fulfil").status == "suspended"


async def under(body: Body) -> str:
    """What becomes of a run that began under the original code, when its sleep is over: why it is parked."""
    async with TestEngine(shop()) as engine:
        await suspended(engine)
        await deploy(engine, shop(body))
        await engine.advance("3d")
        return await why_parked(engine)


async def why_parked(engine: TestEngine) -> str:
    run = engine.run("fulfil")
    return (await engine.port.run(run.id)).parked if run.status == "parked" else run.status


async def test_another_step_parks_the_run_with_both_named() -> None:
    message = await under(another_step)
    assert "'0/charge#1' (charge) is in the log and was not asked for: the code asks for '0/pay#1'" in message
    assert "ctx.patched" in message


async def test_another_argument_parks_the_run_with_both_digests() -> None:
    message = await under(another_argument)
    assert "'0/charge#1' (charge) was recorded with other arguments: now with digest x3:" in message


async def test_another_duration_parks_the_run() -> None:
    assert "'0/sleep#1' (sleep) was recorded with other arguments" in await under(another_duration)


async def test_another_order_parks_the_run() -> None:
    message = await under(another_order)
    assert "'0/charge#1' (charge) is in the log and was not asked for: the code asks for '0/sleep#1'" in message


async def test_a_step_put_before_parks_the_run() -> None:
    message = await under(one_more_before)
    assert "'0/charge#1' (charge) is in the log and was not asked for: the code asks for '0/check#1'" in message


async def test_a_step_left_out_parks_the_run() -> None:
    assert "'0/charge#1' (charge) is in the log and was not asked for" in await under(one_less)


async def test_code_that_ends_earlier_parks_the_run() -> None:
    message = await under(early_end)
    assert "'0/charge#1' (charge) is in the log, and the run returned without it" in message


async def test_code_that_fails_for_good_earlier_parks_the_run() -> None:
    async def a_slip(ctx: Context, event: Event) -> str:
        raise KeyError("a slip")

    async with TestEngine(shop()) as engine:
        await suspended(engine)
        await deploy(engine, shop(a_slip, retries=1))
        await engine.advance("25h")
        message = await why_parked(engine)
        assert "the run failed without it, by KeyError: 'a slip'" in message
        await deploy(engine, shop())
        await engine.finish()
        assert engine.run("fulfil").output == "paid 100"


async def test_code_that_fails_at_first_is_tried_again_before_it_parks() -> None:
    """Code outside steps should not fail by chance; where it does, the run need not wait for anybody."""
    failures = 0
    app = App("shop")

    async def charge(cents: int) -> int:
        return cents

    @app.function(on="order/placed")
    async def fulfil(ctx: Context, event: Event) -> str:
        nonlocal failures
        if engine.crashes and not failures:
            failures += 1
            raise OSError("a bad moment")
        paid = await ctx.step("charge", charge, 100)
        await ctx.sleep("24h")
        return f"paid {paid}"

    async with TestEngine(app) as engine:
        await suspended(engine)
        await engine.crash()
        await engine.finish()
        assert engine.run("fulfil").output == "paid 100"
        assert failures == 1


@pytest.mark.parametrize("change", [another_step, another_argument, another_duration, one_less, early_end])
async def test_changing_it_back_lets_the_run_finish(change: Body) -> None:
    async with TestEngine(shop()) as engine:
        await suspended(engine)
        await deploy(engine, shop(change))
        await engine.advance("3d")
        assert engine.run("fulfil").status == "parked"
        await deploy(engine, shop())
        assert engine.run("fulfil").output == "paid 100"


async def test_what_comes_after_the_log_may_change() -> None:
    async with TestEngine(shop()) as engine:
        await suspended(engine)
        await deploy(engine, shop(another_end))
        await engine.finish()
        assert engine.run("fulfil").output == "paid 100"


async def test_a_parked_run_stays_parked_under_the_same_code() -> None:
    async with TestEngine(shop()) as engine:
        await suspended(engine)
        await deploy(engine, shop(another_step))
        await engine.advance("25h")
        await engine.crash()
        assert engine.run("fulfil").status == "parked"


async def test_a_parked_run_keeps_what_comes_for_it() -> None:
    """Its event comes while it is parked; once the code is back, it goes on at once."""

    async def waiting(ctx: Context, event: Event) -> str:
        await ctx.step("ask", identity, 1)
        return str((await ctx.wait_for_event("answer")).data["text"])

    async def parking(ctx: Context, event: Event) -> str:
        await ctx.step("ask", identity, 2)
        return str((await ctx.wait_for_event("answer")).data["text"])

    async with TestEngine(shop(waiting)) as engine:
        await engine.send("order/placed", {})
        await deploy(engine, shop(parking))
        await engine.send("answer", {"text": "yes"})
        assert engine.run("fulfil").status == "parked"
        await deploy(engine, shop(waiting))
        assert engine.run("fulfil").output == "yes"


async def test_a_parked_run_can_be_cancelled() -> None:
    async with TestEngine(shop()) as engine:
        await suspended(engine)
        await deploy(engine, shop(another_step))
        await engine.advance("25h")
        await engine.port.cancel(engine.run("fulfil").id)
        assert engine.run("fulfil").status == "cancelled"


async def test_the_other_runs_go_on() -> None:
    async with TestEngine(shop()) as engine:
        await suspended(engine)
        await deploy(engine, shop(another_step))
        await engine.send("order/placed", {})
        await engine.finish()
        assert sorted(run.status for run in (await engine.port.runs())[0]) == ["completed", "parked"]


async def test_a_list_read_outside_a_step_and_changed_parks_the_run() -> None:
    """Without digests this enqueued one user twice and lost another."""
    users = ["ada", "bob"]
    mailed: list[str] = []
    app = App("shop")

    @app.step
    async def mail(user: str) -> None:
        mailed.append(user)

    @app.background
    async def digest(ctx: Context) -> None:
        for user in tuple(users):
            await mail(user)
            await ctx.sleep("1h")

    async with TestEngine(app) as engine:
        await digest.enqueue()
        users.insert(0, "zoe")
        await engine.crash()
        await engine.finish()
        assert engine.run(digest).status == "parked"
    assert mailed == ["ada"]


async def test_both_ways_behind_patched() -> None:
    """A run that began before the change keeps the old way; one that begins after takes the new one."""

    async def patched(ctx: Context, event: Event) -> str:
        if ctx.patched("pay, not charge"):
            await ctx.step("pay", identity, 100)
            return "new"
        await ctx.step("charge", identity, 100)
        await ctx.sleep("24h")
        return "old"

    async with TestEngine(shop()) as engine:
        await suspended(engine)
        await deploy(engine, shop(patched))
        await engine.send("order/placed", {})
        await engine.finish()
        found = {run.event_id: engine.port.result(run.id) for run in (await engine.port.runs())[0]}
        results = [bytes((await found[event]).result) for event in ("event-1", "event-2")]  # type: ignore[arg-type]
        assert results == [b'"old"', b'"new"']


async def test_a_function_that_is_missing_is_held_and_not_parked() -> None:
    app = App("shop")

    @app.background
    async def other() -> None:
        pass

    async with TestEngine(shop()) as engine:
        await suspended(engine)
        await deploy(engine, app)
        await engine.advance("2d")
        held = [view for view in await engine.port.functions() if view.held]
        assert [(view.id, view.kind, view.held) for view in held] == [("fulfil", "missing", 1)]
        await deploy(engine, shop())
        await engine.finish()
        assert engine.run("fulfil").output == "paid 100"


async def test_a_result_of_other_arguments_that_comes_while_the_step_runs_parks_the_run() -> None:
    """An owner of other code wrote it before it knew of this one: seed 20667. The step's own came second."""
    app = App("shop")

    @app.step
    async def double(n: int) -> int:
        branch = here.get()
        assert branch is not None
        execution = branch.execution
        theirs = Payload(Raw(b"2"))
        execution.processor.append(StepCompleted(execution.run_id, "0/double#1", 1, "x3:other", theirs, v=V))
        return 2 * n

    @app.background
    async def flow() -> int:
        return await double(1)

    async with TestEngine(app) as engine:
        await flow.enqueue()
        assert engine.run(flow).status == "parked"


Ask = Callable[[Context, Function[[], int]], Coroutine[Any, Any, Any]]
OTHER_CODE: dict[str, tuple[Opening, Ask]] = {
    "0/sleep#1": (Sleep(for_ms=1), lambda ctx, child: ctx.sleep("1h")),
    "0/wait:paid#1": (
        Wait('["paid","",""]', "paid", "true", 1),
        lambda ctx, child: ctx.wait_for_event("paid", timeout="1h"),
    ),
    "0/child#1": (Call("child", "", Payload(Raw(b"[[],{}]")), awaited=True), lambda ctx, child: child.call()),
    "0/send:paid#1": (Send(()), lambda ctx, child: ctx.send("paid", {})),
}
"""Op → how an owner of other code opens it, and how this code asks for it."""


def another_owner_opens(op: str, opening: Opening) -> None:
    """Now, in the code of a run: an owner of other code, who does not know of this one."""
    branch = here.get()
    assert branch is not None
    execution = branch.execution
    if isinstance(opening, Call):
        opening = replace(opening, run=run_id(execution.run_id, op))
    execution.processor.append(OpOpened(execution.run_id, op, "x3:other", opening, v=V))


def overtaken(op: str, *, when: str) -> tuple[App, Function[[], None]]:
    """An app whose run finds that its op was opened by other code."""
    app = App("shop")
    opening, ask = OTHER_CODE[op]

    @app.background
    async def child() -> int:
        return 1

    @app.step
    async def before() -> None:
        if when != "as it is asked for":
            another_owner_opens(op, opening)

    @app.background(waits=["paid"])
    async def flow(ctx: Context) -> None:
        await before()
        if when == "never asked for":
            return
        if when == "as it is asked for":
            another_owner_opens(op, opening)
        await ask(ctx, child)

    return app, flow


@pytest.mark.parametrize("when", ["as it is asked for", "before it is asked for", "never asked for"])
@pytest.mark.parametrize("op", OTHER_CODE)
async def test_an_op_that_an_owner_of_other_code_opened_first_parks_the_run(op: str, when: str) -> None:
    """As its replay would be; else it went on with what came of other arguments."""
    app, flow = overtaken(op, when=when)
    async with TestEngine(app) as engine:
        await flow.enqueue()
        run = engine.run(flow)
        assert run.status == "parked"
        assert op in (await engine.port.run(run.id)).parked


@pytest.mark.parametrize("op", OTHER_CODE)
async def test_an_op_that_another_owner_opened_with_the_same_arguments_parks_nothing(op: str) -> None:
    """A zombie of the same code: its opening and ours are copies of one."""
    app = App("shop")
    _, ask = OTHER_CODE[op]

    @app.background
    async def child() -> int:
        return 1

    @app.background(waits=["paid"])
    async def flow(ctx: Context) -> None:
        branch = here.get()
        assert branch is not None
        processor = branch.execution.processor
        append, twice = processor.append, list[Record]()

        def doubled(record: Record) -> int:
            twice.append(record)
            append(record)
            return append(record)

        processor.append = doubled  # type: ignore[method-assign]
        await ask(ctx, child)
        processor.append = append  # type: ignore[method-assign]
        assert any(isinstance(record, OpOpened) for record in twice)

    async with TestEngine(app) as engine:
        await flow.enqueue()
        await engine.finish()
        assert engine.run(flow).status == "completed"


def another_owner_writes(write: Callable[[Execution], Record]) -> None:
    """Now, in a run or a body of its steps: an owner of other code, who does not know of this one."""
    branch = here.get()
    assert branch is not None
    branch.execution.processor.append(write(branch.execution))


def closing(op: str) -> Callable[[Execution], Record]:
    return lambda execution: OpClosed(execution.run_id, op, v=V)


async def parked_alone(app: App, flow: Function[[], Any], *, event: str = "") -> str:
    """Why the run is parked, without a replay."""
    async with TestEngine(app) as engine:
        await flow.enqueue()
        if event:
            await engine.send(event, {})
        await engine.advance("1m")
        run = engine.run(flow)
        assert run.status == "parked", run.status
        return (await engine.port.run(run.id)).parked


async def test_an_op_that_an_owner_of_other_code_gave_up_parks_the_run_that_waits_for_it() -> None:
    """As its replay would be; else it waited for ever."""
    app = App("shop")

    @app.step
    async def beside() -> None:
        another_owner_writes(closing("0/sleep#1"))

    @app.background
    async def flow(ctx: Context) -> None:
        await asyncio.gather(ctx.sleep("10s"), beside())

    assert "'0/sleep#1' (sleep) was closed before, and is waited for now" in await parked_alone(app, flow)


async def test_a_step_that_an_owner_of_other_code_gave_up_as_it_ran_parks_the_run() -> None:
    app = App("shop")

    @app.step
    async def work() -> int:
        another_owner_writes(closing("0/work#1"))
        return 1

    @app.background
    async def flow() -> int:
        return await work()

    assert "'0/work#1' (work) was closed before" in await parked_alone(app, flow)


async def test_a_wait_that_was_closed_after_its_event_was_handed_out_parks_the_run() -> None:
    """The event is free again: another wait may take it."""
    app = App("shop")

    @app.step
    async def after() -> None:
        another_owner_writes(closing("0/wait:paid#1"))

    @app.background(waits=["paid"])
    async def flow(ctx: Context) -> None:
        await ctx.wait_for_event("paid")
        await after()
        await ctx.sleep("1h")

    assert "'0/wait:paid#1' (wait:paid) was closed, and its event" in await parked_alone(app, flow, event="paid")


async def test_what_another_owner_closed_and_this_run_closes_too_parks_nothing() -> None:
    """A zombie of the same code came to it first."""
    app = App("shop")

    @app.step
    async def first() -> str:
        another_owner_writes(closing("0/sleep#1"))
        return "first"

    @app.background
    async def flow(ctx: Context) -> str:
        _, won = await ctx.race(ctx.sleep("1h"), first())
        return str(won)

    async with TestEngine(app) as engine:
        await flow.enqueue()
        await engine.finish()
        assert engine.run(flow).output == "first"


async def test_a_failure_of_other_arguments_that_comes_while_the_step_runs_parks_the_run() -> None:
    """A further attempt would be one of what other code asked for."""
    app = App("shop")

    @app.step(retries=Retry(3, first="1s"))
    async def double(n: int) -> int:
        error = ErrorInfo("ConnectionError", "by the other code")
        another_owner_writes(lambda run: StepFailed(run.run_id, "0/double#1", 1, "x3:other", error, 1_000, v=V))
        raise ConnectionError("by this one")

    @app.background
    async def flow() -> int:
        return await double(1)

    assert "'0/double#1' (double) was recorded with other arguments" in await parked_alone(app, flow)
