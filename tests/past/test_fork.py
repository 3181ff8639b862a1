"""A fork has its run's history up to an op, and is live from there."""

import asyncio
import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from msgspec import Raw

from perdure import App, Context, Event
from perdure.errors import NonRetriable, PayloadError, UnknownFunction, UnknownOp
from perdure.past import fork
from perdure.past.fork import Change, Trigger, before_its_end, parts_of
from perdure.past.reading import Wanted, read_tape
from perdure.past.tape import state_of_run
from perdure.sdk.port import ForkAsk, ForkLine
from perdure.testing import TestEngine
from perdure.testing.port import TestPort
from perdure_schemas.records import RunFinished, V

calls: list[str] = []


@pytest.fixture(autouse=True)
def no_calls() -> Iterator[None]:
    calls.clear()
    yield
    calls.clear()


def note(what: str) -> str:
    calls.append(what)
    return what


def shop() -> App:
    app = App("shop")

    @app.step
    async def price(order: str) -> int:
        calls.append(f"price {order}")
        return 100

    @app.step
    async def charge(order: str, amount: int) -> str:
        calls.append(f"charge {order} {amount}")
        return f"paid {amount}"

    @app.step
    async def ship(order: str) -> str:
        calls.append(f"ship {order}")
        return "shipped"

    @app.background
    async def label(ctx: Context, order: str) -> str:
        return await ctx.step("print", note, f"label {order}")

    @app.function(on="placed")
    async def order(ctx: Context, event: Event[Any]) -> list[Any]:
        name = event.data["order"]
        amount = await price(name)
        await ctx.sleep("1h")
        said = await ctx.wait_for_event("checked", match="data.order", timeout="1d")
        printed = await label.call(name)
        await ctx.send("sent", {"order": name})
        if amount > 1_000:
            raise NonRetriable("too much")
        paid = await charge(name, amount)
        return [amount, None if said is None else said.data["by"], printed, paid, await ship(name), ctx.random.random()]

    @app.function(on="both")
    async def both(ctx: Context, event: Event[Any]) -> list[str]:
        async def slow() -> str:
            await ctx.sleep(timedelta(hours=2))
            return await ctx.step("late", note, "late")

        late = asyncio.create_task(slow())
        first = await ctx.step("first", note, "first")
        second = await ctx.step("second", note, "second")
        return [first, second, await late]

    return app


async def ordered(engine: TestEngine, name: str = "o1") -> str:
    await engine.send("placed", {"order": name})
    await engine.advance("1h")
    await engine.send("checked", {"order": name, "by": "ann"})
    await engine.finish()
    return engine.run("order").id


async def forked(
    engine: TestEngine,
    run: str,
    at: str,
    key: str = "k1",
    *,
    change: Change | None = None,
    trigger: Trigger | None = None,
    recorded: bool = False,
) -> str:
    tape = await read_tape(engine.log, Wanted(frozenset({run})))
    view = before_its_end(tape, run)
    parts = parts_of(
        view, state_of_run(view, run), at, key, change=change, trigger=trigger or Trigger(), recorded=recorded
    )
    ids = {await TestPort(engine).fork(part) for part in parts}
    assert len(ids) == 1
    return ids.pop()


def result(value: Any) -> Change:
    return Change(result=Raw(json.dumps(value).encode()))


async def outcome(engine: TestEngine, run: str) -> Any:
    await engine.finish()
    ended = await TestPort(engine).result(run)
    assert isinstance(ended.result, Raw), ended
    return msgspec.json.decode(ended.result)


async def test_from_a_step_on_it_runs_again_and_nothing_before_it_does() -> None:
    async with TestEngine(shop()) as engine:
        run = await ordered(engine)
        before = await outcome(engine, run)
        assert before[:5] == [100, "ann", "label o1", "paid 100", "shipped"]
        calls.clear()
        new = await forked(engine, run, "charge")
        assert calls == ["charge o1 100", "ship o1"]
        assert new != run
        # Its chances are those of the run that it was made of.
        assert await outcome(engine, new) == before
        detail = await TestPort(engine).run(new)
        assert (detail.run.cause, detail.run.rerun_of, detail.run.status) == ("fork", run, "completed")
        # The event was sent, and the child ran, for the other run alone.
        assert engine.run("label").status == "completed"


async def test_a_changed_result_is_what_the_run_gets() -> None:
    async with TestEngine(shop()) as engine:
        run = await ordered(engine)
        calls.clear()
        new = await forked(engine, run, "0/price#1", change=result(250))
        assert (await TestPort(engine).run(new)).run.status == "suspended"
        assert calls == []
        await engine.advance("1h")
        await engine.send("checked", {"order": "o1", "by": "bob"})
        assert (await outcome(engine, new))[:4] == [250, "bob", "label o1", "paid 250"]
        assert calls == ["label o1", "charge o1 250", "ship o1"]


@pytest.mark.parametrize(
    ("at", "change", "expected"),
    [
        ("checked", Change(timeout=True), [100, None, "label o1", "paid 100", "shipped"]),
        (
            "checked",
            Change(event=Raw(b'{"order":"o1","by":"eve"}')),
            [100, "eve", "label o1", "paid 100", "shipped"],
        ),
        ("label", result("other"), [100, "ann", "other", "paid 100", "shipped"]),
    ],
    ids=["timeout", "event", "child"],
)
async def test_what_was_waited_for_may_be_another(at: str, change: Change, expected: list[Any]) -> None:
    async with TestEngine(shop()) as engine:
        run = await ordered(engine)
        op = next(one.op for one in (await TestPort(engine).run(run)).ops if at in one.op)
        assert (await outcome(engine, await forked(engine, run, op, change=change)))[:5] == expected


async def test_a_changed_error_is_raised() -> None:
    async with TestEngine(shop()) as engine:
        run = await ordered(engine)
        refused = Change(error="shop.Declined: no money")
        for key, op in (("a", "0/charge#1"), ("b", "0/label#1")):
            new = await forked(engine, run, op, key, change=refused)
            await engine.finish()
            ended = await TestPort(engine).result(new)
            assert ended.error is not None
            assert (ended.status, "shop.Declined: no money" in str(ended.error)) == ("failed", True)


async def test_with_all_that_follows_as_it_was() -> None:
    async with TestEngine(shop()) as engine:
        run = await ordered(engine)
        calls.clear()
        new = await forked(engine, run, "0/price#1", change=result(250), recorded=True)
        assert (await outcome(engine, new))[:5] == [250, "ann", "label o1", "paid 100", "shipped"]
        assert calls == []
        # Where the code goes another way it says so, and does nothing.
        other = await forked(engine, run, "0/price#1", "k2", change=result(2_000), recorded=True)
        detail = await TestPort(engine).run(other)
        assert detail.run.status == "parked"
        assert "charge" in detail.parked
        assert calls == []


async def test_a_changed_event_is_what_it_starts_with() -> None:
    async with TestEngine(shop()) as engine:
        run = await ordered(engine)
        calls.clear()
        new = await forked(engine, run, "charge", trigger=Trigger(event=Raw(b'{"order":"o7"}')))
        assert (await outcome(engine, new))[3:5] == ["paid 100", "shipped"]
        assert calls == ["charge o7 100", "ship o7"]


async def test_what_was_open_at_that_moment_is_opened_again() -> None:
    async with TestEngine(shop()) as engine:
        await engine.send("both", {})
        await engine.advance("3h")
        run = engine.run("both")
        assert calls == ["first", "second", "late"]
        calls.clear()
        new = await forked(engine, run.id, "second")
        assert calls == ["second"]
        assert (await TestPort(engine).run(new)).run.status == "suspended"
        assert await outcome(engine, new) == ["first", "second", "late"]


async def test_a_run_that_goes_on_may_be_forked_too() -> None:
    async with TestEngine(shop()) as engine:
        await engine.send("placed", {"order": "o1"})
        run = engine.run("order")
        sleeping = next(one.op for one in (await TestPort(engine).run(run.id)).ops if one.type == "sleep")
        new = await forked(engine, run.id, sleeping, change=Change(timeout=True))
        waits = [(one.type, one.status) for one in (await TestPort(engine).run(new)).ops]
        assert waits[-1] == ("wait", "open")
        assert (await TestPort(engine).run(run.id)).ops[-1].status == "open"


async def test_a_fork_of_a_fork() -> None:
    async with TestEngine(shop()) as engine:
        run = await ordered(engine)
        chance = (await outcome(engine, run))[-1]
        new = await forked(engine, run, "charge", change=result("by hand"))
        assert (await outcome(engine, new))[3] == "by hand"
        calls.clear()
        newer = await forked(engine, new, "ship", "k2")
        assert (await outcome(engine, newer))[3:] == ["by hand", "shipped", chance]
        assert calls == ["ship o1"]
        assert (await TestPort(engine).run(newer)).run.rerun_of == new


async def test_asked_for_twice_it_is_one_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fork, "PART_BYTES", 200)
    async with TestEngine(shop()) as engine:
        run = await ordered(engine)
        calls.clear()
        new = await forked(engine, run, "charge")
        assert await forked(engine, run, "charge") == new
        assert calls == ["charge o1 100", "ship o1"]
        assert await forked(engine, run, "charge", "another key") != new


async def test_a_part_that_never_comes_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fork, "PART_BYTES", 200)
    async with TestEngine(shop()) as engine:
        run = await ordered(engine)
        tape = await read_tape(engine.log, Wanted(frozenset({run})))
        view = before_its_end(tape, run)
        first, *rest = parts_of(view, state_of_run(view, run), "ship", "k1")
        assert len(rest) > 3
        new = await TestPort(engine).fork(first)
        assert (await TestPort(engine).run(new)).run.status == "queued"
        await engine.advance("11m")
        detail = await TestPort(engine).run(new)
        assert detail.run.status == "discarded"
        assert detail.error is not None
        assert "ask again" in detail.error.message


async def test_the_history_of_a_fork_is_shown_as_its_own() -> None:
    async with TestEngine(shop()) as engine:
        run = await ordered(engine)
        new = await forked(engine, run, "ship")
        old_ops, new_ops = (await TestPort(engine).run(run)).ops, (await TestPort(engine).run(new)).ops
        assert [(one.op, one.type, one.status, one.result) for one in new_ops] == [
            (one.op, one.type, one.status, one.result) for one in old_ops
        ]
        assert [one.ended_at for one in new_ops[:-1]] == [one.ended_at for one in old_ops[:-1]]


@pytest.mark.parametrize(
    ("at", "change", "words"),
    [
        ("nothing", None, "the run has no op 'nothing'; it has 0/price#1, "),
        ("0/send#1", result(1), "it brings nothing that could be another"),
        ("charge", Change(timeout=True), "it takes a result or an error"),
        ("charge", Change(event=Raw(b"{}")), "it takes a result or an error"),
    ],
)
async def test_what_cannot_be_changed(at: str, change: Change | None, words: str) -> None:
    async with TestEngine(shop()) as engine:
        run = await ordered(engine)
        ops = [one.op for one in (await TestPort(engine).run(run)).ops]
        at = at if at in ops or "/" not in at else next(op for op in ops if "send" in op)
        with pytest.raises((UnknownOp, PayloadError), match=words):
            await forked(engine, run, at, change=change)


ASK = ForkAsk("order", "k", "", "", 0, 1, (ForkLine(0, "{}"),))


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (ASK, "line 0 of the history is not a record of a run"),
        (msgspec.structs.replace(ASK, lines=(ForkLine(0, "[" * 5_000),)), "is not a record of a run"),
        (msgspec.structs.replace(ASK, key=""), "'key' is missing"),
        (msgspec.structs.replace(ASK, first=1), "lines 1 to 2 of 1"),
        (msgspec.structs.replace(ASK, total=1 << 30), "1,000,000 at most"),
        (msgspec.structs.replace(ASK, first=-1, total=5), "a part some of them"),
        (
            msgspec.structs.replace(
                ASK, lines=(ForkLine(0, msgspec.json.encode(RunFinished("r", "completed", v=V)).decode()),)
            ),
            "is not a record of a run",
        ),
    ],
)
async def test_a_part_that_is_none_is_refused_whole(ask: ForkAsk, words: str) -> None:
    async with TestEngine(shop()) as engine:
        await engine.settle()
        ends = [await engine.log.latest(partition) for partition in range(engine.log.partitions)]
        with pytest.raises(PayloadError, match=words):
            await TestPort(engine).fork(ask)
        assert [await engine.log.latest(partition) for partition in range(engine.log.partitions)] == ends
        with pytest.raises(UnknownFunction):
            await TestPort(engine).fork(msgspec.structs.replace(ASK, function="nobody"))
