"""Attempts by failure and by crash are counted apart; only a step that dies alone, again and again, fails by it."""

import asyncio

import pytest
from msgspec import Raw
from msgspec.json import encode

from perdure import App, Context, StepError, current_step
from perdure.log.memory import MemoryLog
from perdure.sdk.local_port import LocalPort
from perdure.sdk.node import Node
from perdure.sdk.port import Enqueue
from perdure.testing import TestEngine
from perdure.worker.payloads import digest
from perdure_schemas.payload import Payload
from perdure_schemas.records import RunCancelRequested, StepCompleted, V
from tests.worker.helpers import both_ways, failure


def attempted(engine: TestEngine) -> list[str]:
    """Ops of all `step.attempted` in the log, in order."""
    log = engine.log
    raws = [raw for p in range(log.partitions) for batch in log.read(p, 0) for raw in batch.values]
    marked = [raw.decode() for raw in raws if b'"kind":"step.attempted"' in raw]
    return [raw.split('"op":"')[1].split('"')[0] for raw in marked]


def after(first: TestEngine, app: App) -> TestEngine:
    """The next process on the same log."""
    second = TestEngine(app, start=first.now)
    second.log = first.log
    return second


async def test_a_step_in_flight_at_a_crash_runs_again_with_the_same_key() -> None:
    app = App("shop")
    keys: list[str] = []

    @app.step(retries=0)
    async def work() -> int:
        keys.append(current_step().key)
        if len(keys) == 1:
            engine.log.crash()
            await asyncio.Event().wait()
        return len(keys)

    @app.background
    async def flow() -> int:
        return await work()

    async with TestEngine(app) as engine:
        await flow.enqueue()
        run = engine.run(flow)
        assert run.output == 2
        assert keys == [f"{run.id}/0/work#1"] * 2
        assert run.steps[0].attempts == 1  # a crash is no failed attempt


async def test_an_attempt_is_announced_only_after_a_crash() -> None:
    app = App("shop")
    began = 0

    @app.step
    async def first() -> None:
        pass

    @app.step
    async def second() -> None:
        nonlocal began
        began += 1
        if began == 1:
            engine.log.crash()
            await asyncio.Event().wait()

    @app.background
    async def flow() -> None:
        await first()
        await second()
        await first()

    async with TestEngine(app) as engine:
        await flow.enqueue()
        assert engine.run(flow).status == "completed"
        assert attempted(engine) == ["0/second#1"]


async def test_without_a_crash_nothing_is_announced() -> None:
    app = App("shop")

    @app.step
    async def work() -> None:
        pass

    @app.background
    async def flow() -> None:
        await work()

    async with TestEngine(app) as engine:
        await flow.enqueue()
        assert attempted(engine) == []


async def test_a_clean_stop_counts_nothing() -> None:
    app = App("shop")
    begun, open_now = asyncio.Event(), asyncio.Event()

    @app.step
    async def work() -> str:
        begun.set()
        await open_now.wait()
        return "done"

    @app.background
    async def flow() -> str:
        return await work()

    first = TestEngine(app)
    async with first:
        starting = asyncio.ensure_future(flow.enqueue())
        await begun.wait()
        starting.cancel()
    open_now.set()
    async with after(first, app) as engine:
        await engine.settle()
        assert engine.run(flow).output == "done"
        assert attempted(engine) == []


async def test_a_suspended_run_is_no_suspect() -> None:
    app = App("shop")

    @app.step
    async def work() -> None:
        pass

    @app.background
    async def flow(ctx: Context) -> None:
        await ctx.sleep("1h")
        await work()

    async with TestEngine(app) as engine:
        await flow.enqueue()
        await engine.crash()
        await engine.finish()
        assert engine.run(flow).status == "completed"
        assert attempted(engine) == []


async def test_a_step_that_kills_its_process_fails_in_the_end() -> None:
    app = App("shop")
    deaths = 0

    @app.step
    async def kills() -> None:
        nonlocal deaths
        deaths += 1
        engine.log.crash()
        await asyncio.Event().wait()

    @app.background
    async def flow() -> None:
        await kills()

    async with TestEngine(app) as engine:
        await flow.enqueue()
        run = engine.run(flow)
        assert f"the process died {deaths - 1} times while step 'kills' ran" in failure(run)
        assert deaths == 5


async def test_the_function_may_catch_that() -> None:
    app = App("shop")

    @app.step
    async def kills() -> None:
        engine.log.crash()
        await asyncio.Event().wait()

    @app.background
    async def flow() -> str:
        try:
            await kills()
        except StepError as error:
            return error.step
        return "lived"

    async with TestEngine(app) as engine:
        await flow.enqueue()
        assert engine.run(flow).output == "kills"


@both_ways
async def test_who_was_only_beside_it_lives(evict: bool) -> None:
    """Steps in flight at every crash, of the same run and of others: none of them fails."""
    app = App("shop")
    killed = 0

    @app.step
    async def kills() -> None:
        nonlocal killed
        killed += 1
        await asyncio.sleep(0.002)
        engine.log.crash()
        await asyncio.Event().wait()

    @app.step
    async def beside(n: int) -> int:
        await asyncio.sleep(0.005)
        return n

    @app.background
    async def killer() -> list[str]:
        found = await asyncio.gather(kills(), beside(1), beside(2), return_exceptions=True)
        return [type(one).__name__ for one in found]

    @app.background
    async def innocent(n: int) -> int:
        return await beside(n)

    async with TestEngine(app, evict=evict) as engine:
        work = [killer.enqueue(), *(innocent.enqueue(n) for n in range(5))]
        await asyncio.gather(*work)
        await engine.settle()
        assert engine.run(killer).output == ["StepError", "int", "int"]
        assert sorted(run.output for run in engine.all_runs(innocent)) == list(range(5))
    assert killed < 20


async def test_suspects_run_one_at_a_time_from_the_second_crash_on() -> None:
    app = App("shop")
    lives: list[set[int]] = [set()]
    """Which steps were in flight together with the one that kills, in each life of the process."""

    @app.step
    async def work(n: int) -> int:
        here = lives[-1]
        here.add(n)
        if n == 0 and len(lives) < 4:
            await asyncio.sleep(0.01)
            while len(lives) < 3 and len(here) < 4:
                await asyncio.sleep(0.001)
            lives.append(set())
            engine.log.crash()
        elif len(lives) < 3:
            await asyncio.Event().wait()
        here.discard(n)
        return n

    @app.background
    async def flow(n: int) -> int:
        return await work(n)

    async with TestEngine(app) as engine:
        await asyncio.gather(*(flow.enqueue(n) for n in range(4)))
        await engine.settle()
        assert sorted(run.output for run in engine.all_runs(flow)) == [0, 1, 2, 3]
    assert [len(life) for life in lives[:3]] == [3, 3, 0]


async def test_who_waits_for_its_turn_takes_the_outcome_that_comes_instead() -> None:
    """The process before was no dead one after all: what its step wrote counts, and the next one has its turn."""
    app = App("shop")
    begun: list[int] = []
    lives = 0
    end = asyncio.Event()

    @app.step
    async def work(n: int) -> int:
        begun.append(n)
        if lives < 3:
            await asyncio.Event().wait()
        await end.wait()
        return n

    @app.background
    async def flow(n: int) -> int:
        return await work(n)

    async def until(steps: int) -> None:
        async with asyncio.timeout(20):
            while len(begun) < steps:
                await asyncio.sleep(0)

    log = MemoryLog(1)
    runs: list[str] = []
    while True:
        lives += 1
        node = Node(app, log)
        port = LocalPort(node)
        await node.open()
        if not runs:
            runs += [await port.enqueue(Enqueue("flow", Raw(b"[[%d],{}]" % n))) for n in range(3)]
        if lives == 3:
            break
        await until(3 * lives)
        log.crash()
        await node.kill()
    await until(7)
    waits = next(n for n in range(3) if n != begun[-1])
    asked, _ = digest("work", (waits,), {})
    log.append(0, encode(StepCompleted(runs[waits], "0/work#1", 1, asked, Payload(Raw(b"77")), v=V)))
    assert encode((await port.result(runs[waits], 10_000)).result) == b"77"
    assert len(begun) == 7
    end.set()
    for n in range(3):
        assert (await port.result(runs[n], 10_000)).status == "completed"
    assert len(begun) == 8
    await node.close()


@pytest.mark.parametrize("deaths", [1, 2])
async def test_a_suspect_whose_run_ends_in_the_batch_that_lets_it_go_on_does_not_begin(deaths: int) -> None:
    """I6. Nor does it keep the next suspect from its turn."""
    app = App("shop")
    begun: list[str] = []

    @app.step
    async def work(name: str) -> None:
        begun.append(name)
        if len(begun) <= 2 * deaths:
            await asyncio.Event().wait()

    @app.background
    async def flow(name: str) -> None:
        await work(name)

    log = MemoryLog(1)
    append = log.append
    runs: dict[str, str] = {}

    def and_cancelled(partition: int, value: bytes) -> int:
        ticket = append(partition, value)
        if b'"step.attempted"' in value and runs["first"].encode() in value:
            append(partition, encode(RunCancelRequested(runs["first"], "c", v=V)))
        return ticket

    for life in range(deaths):
        node = Node(app, log)
        await node.open()
        if not life:
            for name in ("first", "second"):
                arguments = Raw(encode([[name], {}]))
                runs[name] = await LocalPort(node).enqueue(Enqueue("flow", arguments))
        async with asyncio.timeout(20):
            while len(begun) < 2 * (life + 1):
                await asyncio.sleep(0)
        log.crash()
        await node.kill()
    log.append = and_cancelled  # type: ignore[method-assign]
    node = Node(app, log)
    await node.open()
    assert (await LocalPort(node).result(runs["first"], 10_000)).status == "cancelled"
    assert (await LocalPort(node).result(runs["second"], 10_000)).status == "completed"
    assert begun[2 * deaths :] == ["second"]
    await node.close()


@pytest.mark.parametrize("deaths", [1, 2])
async def test_a_suspect_whose_outcome_comes_in_the_batch_that_lets_it_go_on_does_not_begin(deaths: int) -> None:
    """I6: another owner's. It is let go on by one record and decided by the next, before it has its turn."""
    app = App("shop")
    begun: list[str] = []

    @app.step
    async def work(name: str) -> str:
        begun.append(name)
        if len(begun) <= 2 * deaths:
            await asyncio.Event().wait()
        return "ours"

    @app.background
    async def flow(name: str) -> str:
        return await work(name)

    log = MemoryLog(1)
    append = log.append
    runs: dict[str, str] = {}
    asked, _ = digest("work", ("first",), {})

    def and_decided(partition: int, value: bytes) -> int:
        ticket = append(partition, value)
        if b'"step.attempted"' in value and runs["first"].encode() in value:
            theirs = StepCompleted(runs["first"], "0/work#1", 1, asked, Payload(Raw(b'"theirs"')), v=V)
            append(partition, encode(theirs))
        return ticket

    for life in range(deaths):
        node = Node(app, log)
        await node.open()
        if not life:
            for name in ("first", "second"):
                runs[name] = await LocalPort(node).enqueue(Enqueue("flow", Raw(encode([[name], {}]))))
        async with asyncio.timeout(20):
            while len(begun) < 2 * (life + 1):
                await asyncio.sleep(0)
        log.crash()
        await node.kill()
    log.append = and_decided  # type: ignore[method-assign]
    node = Node(app, log)
    await node.open()
    assert encode((await LocalPort(node).result(runs["first"], 10_000)).result) == b'"theirs"'
    assert encode((await LocalPort(node).result(runs["second"], 10_000)).result) == b'"ours"'
    assert begun[2 * deaths :] == ["second"]
    await node.close()


async def test_a_step_that_came_through_is_no_suspect_any_more() -> None:
    """Its deaths are forgotten with its op; the next step of the run starts at none."""
    app = App("shop")
    lives: dict[int, int] = {}

    @app.step
    async def dies_twice(n: int) -> int:
        lives[n] = lives.get(n, 0) + 1
        if lives[n] <= 2:
            engine.log.crash()
            await asyncio.Event().wait()
        return n

    @app.background
    async def flow() -> int:
        return sum([await dies_twice(n) for n in range(5)])

    async with TestEngine(app) as engine:
        await flow.enqueue()
        assert engine.run(flow).output == 10
