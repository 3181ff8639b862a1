"""Worker pools: members die before, during and after a step, owners die, leases end under those who are alive.

Members here are as another process has them: they share nothing with the engine but the log.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any, cast

import msgspec
import pytest

from perdure import App, Context, DefinitionError, NonRetriable, Retry, RetryAfter, Step, StepError, current_step
from perdure.flow import decode
from perdure.flow.states import QueuedState
from perdure.log.memory import MemoryLog
from perdure.log.protocol import Batch, Log
from perdure.sdk.client import Client
from perdure.sdk.engine import Engine, checked_queues
from perdure.sdk.local_port import LocalPort
from perdure.sdk.node import Node
from perdure.sdk.port import Port
from perdure.testing import TestEngine, crash_everywhere
from perdure.worker import pool
from perdure.worker.coding import Payloads
from perdure.worker.pool import Member
from perdure_schemas.payload import INLINE_LIMIT_BYTES, ErrorInfo
from perdure_schemas.records import (
    AnyRecord,
    StepAnswered,
    StepClaimed,
    StepCompleted,
    StepFailed,
    StepReleased,
    V,
)
from tests.worker.helpers import both_ways, failure, finished

app = App("pools")
LEASE = "1m"


class Gate:
    """Holds steps up until the test lets them go."""

    def __init__(self) -> None:
        self.began: list[str] = []
        self.cancelled: list[str] = []
        self.open = asyncio.Event()

    async def through(self, name: str) -> None:
        self.began.append(name)
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.cancelled.append(name)
            raise


gates: dict[str, Gate] = {}
"""By the test's word; a step finds its gate here wherever it runs."""
tries: dict[str, list[int]] = {}


class Point(msgspec.Struct):
    x: int
    y: int = 0


class Wrong(Exception):
    pass


class Fatal(NonRetriable):
    pass


@app.step(queue="gpu")
async def embed(text: str, *, times: int = 1) -> list[float]:
    return [float(len(text))] * times


@app.step(queue="gpu")
async def held(name: str) -> str:
    await gates[name].through(current_step().key)
    return f"done {name}"


@app.step(queue="gpu", retries=2)
def fails(name: str, until: int) -> int:
    """In a thread."""
    attempts = tries.setdefault(name, [])
    attempts.append(current_step().attempt)
    if len(attempts) < until:
        raise Wrong(f"try {len(attempts)}")
    return len(attempts)


@app.step(queue="gpu")
async def moved(point: Point, *more: Point, scale: int = 1, **named: Point) -> list[Point]:
    return [Point(one.x * scale, one.y * scale) for one in (point, *more, *named.values())]


@app.step(queue="gpu")
async def raises(how: str) -> None:
    if how == "fatal":
        raise Fatal(how, 7)
    if how == "group":
        raise ExceptionGroup("both", [Wrong("a"), Wrong("b")])
    if how == "cancelled":
        raise asyncio.CancelledError
    if how == "later":
        raise RetryAfter("5m", "not now")
    if how == "odd":
        raise BaseException("odd")
    raise Wrong(how)


@app.step(queue="gpu")
async def untyped(value: Any) -> Any:
    return {"d": Decimal(1)} if value == "bad" else value


@app.step(queue="gpu", timeout="30ms")
async def slow() -> None:
    await asyncio.sleep(60)


@app.step
async def plain(x: int) -> int:
    return x + 1


@app.background
async def one(ctx: Context, name: str) -> str:
    return await held(name)


@app.background
async def embeds(ctx: Context, text: str) -> list[float]:
    return await embed(text, times=2)


@app.background
async def racing(ctx: Context, name: str) -> str:
    winner, _ = await ctx.race(held(name), ctx.sleep("10s"))
    await ctx.sleep("10s")
    return f"{winner}"


@app.background
async def many(ctx: Context, count: int) -> list[int]:
    results = await ctx.map(embed, ["x" * n for n in range(count)], limit=count)
    return [len(result) for result in results]


@pytest.fixture
def gate(request: pytest.FixtureRequest) -> Gate:
    gate = gates[request.node.name] = Gate()
    return gate


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    return str(request.node.name)


class Pods(Client):
    """An engine that runs no step of a queue itself, on a log whose clock the test moves; members come and go.

    Time of the log passes by `advance` alone; the loop's, which signs of life go by, is real.
    """

    stands_in = True

    def __init__(self, of: App = app) -> None:
        super().__init__(of)
        self.now = 1_000_000
        self.log = MemoryLog(clock=lambda: self.now)
        self.members: list[Member] = []
        self.app = of

    async def _open(self) -> Port:
        await self._start()
        return LocalPort(self.node)

    async def _start(self) -> None:
        await self.log.open()
        self.node = Node(self.app, self.log, queues={}, ticking=False)
        opening = asyncio.ensure_future(self.node.open())
        await self.until(opening.done)
        opening.result()

    async def _close(self) -> None:
        for member in self.members:
            await member.kill()
        await (self.node.kill() if self.log.crashed else self.node.close())

    def member(self, slots: int = 8, name: str = "", steps: App | None = None) -> Member:
        member = Member(self.log, (steps or self.app).pool_steps, payloads=Payloads(self.app.codec), name=name)
        self.members.append(member)
        member.serve("gpu", slots)
        return member

    async def until(self, true: Callable[[], object]) -> None:
        async with asyncio.timeout(20):
            while not true():
                if hasattr(self.node, "ownership"):
                    self.node.tick()
                await asyncio.sleep(0.001)

    async def settle(self) -> None:
        """As long as records come, and a little longer."""
        quiet = 0
        while quiet < 10:
            before = self.records()
            self.node.tick()
            await asyncio.sleep(0.001)
            quiet = quiet + 1 if len(before) == len(self.records()) else 0

    async def advance(self, seconds: float) -> None:
        await self.settle()
        self.now += int(seconds * 1000)
        await self.settle()

    async def crash_owner(self) -> None:
        """The engine dies; members live, and the log of theirs is another one: it is all in this process here."""
        await self.node.kill()
        self.node = Node(self.app, cast("Log", _Elsewhere(self.log)), queues={}, ticking=False)
        await self.node.open()

    def records(self) -> list[AnyRecord]:
        found: list[AnyRecord] = []
        for partition in range(self.log.partitions):
            for batch in self.log.read(partition, 0):
                found += [decode(raw) for raw in batch.values]
        return found

    def caught_up(self) -> bool:
        return all(one.offset == self.log.end(one.partition) for one in self.node.processors)

    def of(self, kind: type[Any]) -> list[Any]:
        return [record for record in self.records() if isinstance(record, kind)]

    def queued(self) -> list[QueuedState]:
        return [state for processor in self.node.processors for state in processor.view.queued.values()]


class _Elsewhere:
    """The log as another process has it: opening and closing it is nobody else's business."""

    def __init__(self, log: MemoryLog) -> None:
        self._log = log

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    async def open(self) -> None:
        await self._log.leave()

    async def close(self) -> None: ...


@asynccontextmanager
async def pods(of: App = app) -> AsyncIterator[Pods]:
    async with Pods(of) as made:
        yield made


# By itself, in one process


@both_ways
async def test_a_process_runs_its_queues_by_itself(evict: bool) -> None:
    run = await finished(app, embeds, "four", evict=evict)
    assert run.output == [4.0, 4.0]
    lengths = await finished(app, many, 20, evict=evict)
    assert lengths.output == [1] * 20


async def test_an_engine_runs_its_queues_by_itself(durable_url: str) -> None:
    async with Engine(app, log=durable_url, queues=[]) as engine:
        handle = await embeds.enqueue("four")
        detail = await engine.port.run(handle.id)
        while not detail.ops:
            await asyncio.sleep(0.001)
            detail = await engine.port.run(handle.id)
        assert (detail.ops[0].queue, detail.ops[0].dispatches, detail.ops[0].member) == ("gpu", 1, "")
    async with Engine(app, log=durable_url, queues={"gpu": 1}) as engine:
        assert await embeds.handle(handle.id).result(timeout="20s") == [4.0, 4.0]
        detail = await engine.port.run(handle.id)
        (op,) = detail.ops
        assert (op.name, op.type, op.status, op.queue, op.dispatches) == ("embed", "step", "completed", "gpu", 1)
        assert op.member == pool.this_process()
        assert [attempt.number for attempt in op.attempts] == [1]
        assert isinstance(op.input, msgspec.Raw)
        assert msgspec.json.decode(op.input) == [["four"], {"times": 2}]


@both_ways
async def test_a_crash_anywhere_changes_nothing(evict: bool) -> None:
    shop = App("crashes")
    seen: list[str] = []

    async def work(x: int) -> int:
        seen.append(current_step().key)
        if current_step().attempt == 1 and x == 2:
            raise Wrong("once")
        return x

    work.__qualname__ = "work"
    queued = shop.step(queue="q")(work)

    @shop.background
    async def flow(ctx: Context) -> list[int]:
        first = await queued(1)
        both = await asyncio.gather(queued(2), queued.options(queue="elsewhere", name="other")(3))
        await ctx.race(queued(4), ctx.sleep("1s"))
        return [first, *both]

    async def scenario(engine: TestEngine) -> None:
        await flow.enqueue()
        await engine.finish()
        assert engine.run(flow).output == [1, 2, 3]

    await crash_everywhere(shop, scenario=scenario, evict=evict)
    assert {key.partition("/")[2] for key in seen} == {"0/work#1", "0/work#2", "0/other#1", "0/work#3"}


async def test_a_codec_encodes_what_travels() -> None:
    class Reverse:
        def encode(self, payload: bytes) -> bytes:
            return payload[::-1]

        def decode(self, payload: bytes) -> bytes:
            return payload[::-1]

    coded = App("coded", codec=Reverse())

    async def work(text: str) -> str:
        return text * 2

    work.__qualname__ = "work"
    step = coded.step(queue="gpu")(work)

    @coded.background
    async def flow(ctx: Context) -> str:
        return await step("secret")

    async with TestEngine(coded) as engine:
        await flow.enqueue()
        assert engine.run(flow).output == "secretsecret"
        for partition in range(engine.log.partitions):
            for batch in engine.log.read(partition, 0):
                assert b"secret" not in b"".join(batch.values)


# Elsewhere


async def test_a_member_elsewhere_runs_it(name: str, gate: Gate) -> None:
    gate.open.set()
    async with pods() as engine:
        engine.member(name="host:1")
        handle = await one.enqueue(name)
        assert await handle.result() == f"done {name}"
        assert gate.began == [f"{handle.id}/0/held#1"]
        (op,) = (await engine.port.run(handle.id)).ops
        assert (op.member, op.dispatches) == ("host:1", 1)
        assert engine.queued() == []
        kinds = [record.__struct_config__.tag for record in engine.records() if getattr(record, "op", "")]
        assert kinds == ["op.opened", "step.claimed", "step.answered", "step.completed"]


async def test_typed_arguments_and_results_go_both_ways() -> None:
    shapes = App("shapes")
    step: Step[..., list[Point]] = shapes.step(queue="gpu")(moved.fn)

    @shapes.background
    async def flow(ctx: Context) -> list[Point]:
        result = await step(Point(1, 2), Point(3, 4), scale=2, extra=Point(5))
        assert all(type(point) is Point for point in result)
        return result

    async with pods(shapes) as engine:
        engine.member()
        assert await flow.call() == [Point(2, 4), Point(6, 8), Point(10, 0)]


@pytest.mark.parametrize("bad", [(1, 2), Decimal("1.5")], ids=["tuple", "decimal"])
async def test_an_argument_that_would_come_different_is_refused(bad: object) -> None:
    shop = App("bad")
    step = shop.step(queue="gpu")(untyped.fn)

    @shop.background
    async def flow(ctx: Context) -> object:
        return await step(bad)

    run = await finished(shop, flow)
    assert "annotate" in failure(run)
    assert "'value'" in failure(run)


async def test_a_wrong_call_is_refused_before_anything_is_queued() -> None:
    shop = App("wrong")
    step: Any = shop.step(queue="gpu")(embed.fn)

    @shop.background
    async def flow(ctx: Context) -> object:
        return await step("a", tims=2)

    run = await finished(shop, flow)
    assert "tims" in failure(run)
    assert "did you mean 'times'?" in failure(run)


async def test_a_result_that_would_come_different_fails_the_step() -> None:
    shop = App("badly")
    step = shop.step(queue="gpu")(untyped.fn)

    @shop.background
    async def flow(ctx: Context) -> object:
        return await step("bad")

    assert "annotate the return type" in failure(await finished(shop, flow))


async def test_large_arguments_are_brought_by_the_command() -> None:
    """They stand in the journal once; a command is whole in itself, also one that is put again later."""
    async with pods() as engine:
        handle = await embeds.enqueue("x" * (2 * INLINE_LIMIT_BYTES))
        await engine.settle()
        (state,) = engine.queued()
        assert state.opening.arguments.ref is not None
        await engine.advance(61)
        assert [state.dispatches for state in engine.queued()] == [2]
        engine.member()
        assert await handle.result() == [2.0 * INLINE_LIMIT_BYTES] * 2


# Failures


@both_ways
async def test_failures_are_retried_by_whoever_comes(evict: bool, name: str) -> None:
    shop = App("tries")
    step = shop.step(queue="gpu", retries=2)(fails.fn)
    tries.pop(name, None)

    @shop.background
    async def flow(ctx: Context, until: int) -> int:
        try:
            return int(await step(name, until))
        except StepError as error:
            return -error.attempts if error.caused_by(Wrong) else 0

    assert (await finished(shop, flow, 3, evict=evict)).output == 3
    assert tries.pop(name) == [1, 2, 3]
    assert (await finished(shop, flow, 9, evict=evict)).output == -3
    assert tries.pop(name) == [1, 2, 3]


@pytest.mark.parametrize(
    ("how", "never_on", "attempts"),
    [
        ("fatal", (), 1),
        ("wrong", (), 3),
        ("wrong", (Wrong,), 1),
        ("group", (Wrong,), 1),
        ("wrong", (Exception,), 1),
        ("cancelled", (), 3),
        ("odd", (), 3),
    ],
)
async def test_the_callers_rules_hold_in_the_pool(how: str, never_on: Any, attempts: int) -> None:
    shop = App("rules")
    step = shop.step(queue="gpu")(raises.fn)

    @shop.background
    async def flow(ctx: Context) -> None:
        await step.options(retries=Retry(limit=2, never_on=never_on))(how)

    async with TestEngine(shop) as engine:
        await flow.enqueue()
        await engine.finish()
        run = engine.run(flow)
        assert run.status == "failed"
        assert [record.attempts for record in run.steps] == [attempts]
        if how == "fatal":
            assert run.error is not None
            assert run.error.caused_by(Fatal)


async def test_retry_after_holds_in_the_pool() -> None:
    shop = App("later")
    step = shop.step(queue="gpu", retries=1)(raises.fn)

    @shop.background
    async def flow(ctx: Context) -> None:
        await step("later")

    async with TestEngine(shop) as engine:
        began = engine.now
        await flow.enqueue()
        await engine.finish()
        assert 300 <= (engine.now - began).total_seconds() < 301


async def test_a_timeout_binds_in_the_pool() -> None:
    shop = App("timeouts")
    step = shop.step(queue="gpu", retries=0)(slow.fn)

    @shop.background
    async def flow(ctx: Context) -> None:
        await step.options(timeout="20ms")()

    assert "took longer than 0.02s" in failure(await finished(shop, flow))


# Members die


async def test_a_member_dies_before_it_begins(name: str, gate: Gate) -> None:
    """It took the command and said nothing: another one is given it."""
    gate.open.set()
    async with pods() as engine:
        dead = engine.member(slots=1)
        dead.turns._suspects = 1  # it does not come to its turn
        handle = await one.enqueue(name)
        await engine.until(lambda: dead.busy)
        await dead.kill()
        engine.member()
        assert await handle.result() == f"done {name}"
        assert len(gate.began) == 1


async def test_a_member_dies_while_it_runs(name: str, gate: Gate) -> None:
    async with pods() as engine:
        dead = engine.member(name="dead")
        handle = await one.enqueue(name)
        await engine.until(lambda: gate.began)
        await dead.kill()
        other = engine.member(name="other")
        await engine.settle()
        assert not other.busy, "the command is refused: as far as the log knows, the other one has it"
        await engine.advance(61)
        assert [state.deaths for state in engine.queued()] == [1]
        await engine.until(lambda: len(gate.began) == 2)
        assert gate.began[0] == gate.began[1], "the same key"
        gate.open.set()
        assert await handle.result() == f"done {name}"
        (op,) = (await engine.port.run(handle.id)).ops
        assert (op.member, op.dispatches) == ("other", 2)
        assert [attempt.number for attempt in op.attempts] == [1], "a death is no failed attempt"


async def test_a_member_dies_after_it_wrote_the_outcome(name: str, gate: Gate) -> None:
    """Its command was not done: who gets it again is refused."""
    gate.open.set()
    async with pods() as engine:
        dead = engine.member()
        done: list[Any] = []
        handle = await one.enqueue(name)
        dead_done = pool._Work.done
        pool._Work.done = lambda self: done.append(self) if self.member is dead else dead_done(self)  # type: ignore[method-assign]
        try:
            assert await handle.result() == f"done {name}"
            await engine.until(lambda: done)
            await dead.kill()
            other = engine.member()
            await engine.settle()
            assert not other.busy
        finally:
            pool._Work.done = dead_done  # type: ignore[method-assign]
        assert [answer.granted for answer in engine.of(StepAnswered)] == [True, False]
        assert len(gate.began) == len(engine.of(StepCompleted)) == 1


async def test_a_member_that_closes_gives_back_at_once(name: str, gate: Gate) -> None:
    async with pods() as engine:
        first = engine.member()
        handle = await one.enqueue(name)
        await engine.until(lambda: gate.began)
        second = engine.member()
        await first.close()
        assert gate.cancelled == gate.began
        await engine.until(lambda: len(gate.began) == 2)
        assert [state.deaths for state in engine.queued()] == [0]
        gate.open.set()
        assert await handle.result() == f"done {name}"
        await second.close()
        first.serve("gpu", 1)
        assert first._readers == {}, "a closed one takes no more"


async def test_a_step_that_kills_its_members_fails(name: str) -> None:
    """Twice in company, then alone: from then on it is known which one it is."""
    gates[name] = gates[f"{name} other"] = gate = Gate()
    async with pods() as engine:
        handle = await one.enqueue(name)
        alone: list[bool] = []
        for _ in range(5):
            member = engine.member()
            count = len(gate.began)
            await engine.until(lambda: len(gate.began) > count)  # noqa: B023
            alone.append(engine.of(StepClaimed)[-1].alone)
            await member.kill()
            await engine.advance(61)
        assert alone == [False, False, True, True, True]
        engine.member()
        status = await engine.port.result(handle.id, 20_000)
        assert status.error is not None
        assert (status.error.type, status.error.message) == (
            "perdure.errors.Crashed",
            "its process died 5 times while step 'held' ran",
        )
        assert len(gate.began) == 5


async def test_a_suspect_has_its_member_to_itself(name: str) -> None:
    gates[name], gates[f"{name} 2"], gates[f"{name} 3"] = suspect, second, third = Gate(), Gate(), Gate()
    async with pods() as engine:
        await one.enqueue(name)
        for _ in range(2):
            member = engine.member()
            count = len(suspect.began)
            await engine.until(lambda: len(suspect.began) > count)  # noqa: B023
            await member.kill()
            await engine.advance(61)
        await one.enqueue(f"{name} 2")
        await engine.settle()
        member = engine.member(slots=3)
        await engine.until(lambda: member.busy)
        await engine.settle()
        # Whichever came first runs, and the other waits for it; a third one does not pass the suspect.
        await one.enqueue(f"{name} 3")
        await engine.settle()
        assert (len(suspect.began) - 2) + len(second.began) == 1
        assert third.began == []
        for gate in (suspect, second, third):
            gate.open.set()
        await engine.until(lambda: len(engine.of(StepCompleted)) == 3)
        assert (len(suspect.began), len(second.began), len(third.began)) == (3, 1, 1)


# Members that are slow, and owners that die


async def test_a_lease_ends_while_its_member_is_alive_and_slow(name: str, gate: Gate) -> None:
    """Both do it; there is one outcome, the first, and the other one is told to stop."""
    async with pods() as engine:
        slow = engine.member(name="slow")
        handle = await one.enqueue(name)
        await engine.until(lambda: gate.began)
        work = next(iter(slow._work))
        work.silent = True  # frozen: it writes nothing, and does not hear
        answers, slow.answers._claims = slow.answers._claims, {}
        engine.member(name="quick")
        await engine.advance(61)
        await engine.until(lambda: len(gate.began) == 2)
        work.silent = False
        slow.answers._claims = answers
        gate.open.set()
        assert await handle.result() == f"done {name}"
        await engine.settle()
        assert len(gate.began) == 2
        assert len(engine.of(StepCompleted)) == 2
        (op,) = (await engine.port.run(handle.id)).ops
        assert len(op.attempts) == 1


async def test_a_slow_members_failure_counts_for_nothing(name: str) -> None:
    async with pods() as engine:
        handle = await one.enqueue(name)
        await engine.settle()
        (opened,) = [r for r in engine.records() if getattr(r, "op", "") == "0/held#1"]
        partition = engine.node.processor_of(handle.id).partition
        gates[name] = gate = Gate()
        engine.member()
        await engine.until(lambda: gate.began)
        error = ErrorInfo("Late", "too late")
        late = StepFailed(handle.id, "0/held#1", 1, opened.digest, error, claim="of a dead one", v=V)  # type: ignore[union-attr]
        engine.node.append(partition, late)
        await engine.settle()
        gate.open.set()
        assert await handle.result() == f"done {name}"


async def test_who_lost_its_lease_stops(name: str, gate: Gate) -> None:
    async with pods() as engine:
        engine.member(slots=1)
        await one.enqueue(name)
        await engine.until(lambda: gate.began)
        await engine.advance(61)
        await engine.until(lambda: gate.cancelled)
        await engine.until(lambda: len(gate.began) == 2)
        assert engine.of(StepFailed) == []
        gate.open.set()


async def test_signs_of_life_prolong_the_lease(name: str, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perdure.worker.queued.LEASE_MS", 30)
    async with pods() as engine:
        engine.member()
        handle = await one.enqueue(name)
        await engine.until(lambda: gate.began)
        for _ in range(5):
            beats = len(engine.of(StepClaimed))
            await engine.until(lambda: len(engine.of(StepClaimed)) > beats)  # noqa: B023
            await engine.until(engine.caught_up)
            engine.now += 25
        assert [state.deaths for state in engine.queued()] == [0]
        gate.open.set()
        assert await handle.result() == f"done {name}"
        assert len(gate.began) == 1


async def test_the_owner_dies_while_a_member_runs_the_step(name: str, gate: Gate) -> None:
    async with pods() as engine:
        engine.member()
        handle = await one.enqueue(name)
        await engine.until(lambda: gate.began)
        await engine.node.kill()
        gate.open.set()
        await engine.until(lambda: engine.of(StepCompleted))
        engine.log._commands.local = False
        await engine.crash_owner()
        assert (await LocalPort(engine.node).result(handle.id, 20_000)).status == "completed"
        assert len(gate.began) == 1


async def test_a_member_asks_again_until_an_owner_answers(
    name: str, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "ASK_AGAIN_SECONDS", 0.01)
    gate.open.set()
    async with pods() as engine:
        handle = await one.enqueue(name)
        await engine.settle()
        await engine.node.kill()
        member = engine.member()
        await engine.until(lambda: len(engine.of(StepClaimed)) >= 3)
        assert gate.began == []
        assert member.busy
        await engine.crash_owner()
        assert (await LocalPort(engine.node).result(handle.id, 20_000)).status == "completed"
        assert len(gate.began) == 1


async def test_a_claim_that_nobody_answers_is_given_back(
    name: str, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A halted partition must not hold up a pool: its commands come again by its own timers."""
    monkeypatch.setattr("perdure.worker.queued.LEASE_MS", 30)
    async with pods() as engine:
        handle = await one.enqueue(name)
        await engine.settle()
        await engine.node.kill()
        member = engine.member()
        await engine.until(lambda: engine.of(StepReleased))
        assert not member.busy
        await engine.crash_owner()
        await engine.until(lambda: gate.began)
        assert [state.deaths for state in engine.queued()] == [0]
        gate.open.set()
        assert (await LocalPort(engine.node).result(handle.id, 20_000)).status == "completed"


async def test_a_grant_that_is_read_too_late_is_not_begun(
    name: str, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perdure.worker.queued.LEASE_MS", 30)
    async with pods() as engine:
        member = engine.member()
        told = pool._Work._told

        def late(self: Any, answer: StepAnswered) -> None:
            time.sleep(0.04)  # the process stands still for longer than the lease
            told(self, answer)

        pool._Work._told = late  # type: ignore[method-assign]
        try:
            await one.enqueue(name)
            await engine.until(lambda: engine.of(StepReleased))
        finally:
            pool._Work._told = told  # type: ignore[method-assign]
        await engine.until(lambda: gate.began)
        assert [state.deaths for state in engine.queued()] == [0]
        assert len(engine.of(StepReleased)) >= 1
        gate.open.set()
        await engine.until(lambda: not member.busy)


async def test_clocks_that_differ_end_no_lease(name: str, gate: Gate) -> None:
    """Partitions of a shared log may be hours apart: a lease is measured by who has it, or by who owns the run."""
    gate.open.set()
    async with pods() as engine:
        ahead = _Elsewhere(engine.log)
        ahead.now_ms = lambda: engine.now + 3_600_000  # type: ignore[attr-defined]
        member = Member(cast("Log", ahead), app.pool_steps)
        engine.members.append(member)
        member.serve("gpu", 1)
        handle = await one.enqueue(name)
        assert await handle.result() == f"done {name}"
        assert len(engine.of(StepClaimed)) == len(gate.began) == 1
        assert engine.of(StepReleased) == []


# Not wanted any more


async def test_a_step_that_was_cancelled_in_its_queue_never_begins(name: str, gate: Gate) -> None:
    """I6: no claim is granted after the cancel was folded."""
    async with pods() as engine:
        handle = await one.enqueue(name)
        await engine.settle()
        await handle.cancel()
        await engine.settle()
        member = engine.member()
        await engine.until(lambda: engine.of(StepAnswered))
        await engine.until(lambda: not member.busy)
        assert gate.began == []
        assert await handle.status() == "cancelled"


async def test_a_step_that_is_cancelled_while_it_runs_is_stopped(name: str, gate: Gate) -> None:
    async with pods() as engine:
        member = engine.member()
        handle = await one.enqueue(name)
        await engine.until(lambda: gate.began)
        await handle.cancel()
        await engine.until(lambda: gate.cancelled)
        await engine.until(lambda: not member.busy)
        assert engine.of(StepCompleted) == engine.of(StepFailed) == engine.of(StepReleased) == []


@both_ways
async def test_a_race_that_is_lost_closes_the_step(name: str, gate: Gate, evict: bool) -> None:
    del evict
    async with pods() as engine:
        engine.member()
        handle = await racing.enqueue(name)
        await engine.until(lambda: gate.began)
        await engine.advance(11)
        await engine.until(lambda: gate.cancelled)
        await engine.advance(11)
        assert await handle.result() == "1"


async def test_a_thread_sees_that_it_is_not_wanted() -> None:
    shop = App("threads")
    seen: list[bool] = []

    def watches() -> None:
        info = current_step()
        seen.append(info.cancelled)
        while not info.cancelled:
            time.sleep(0.001)
        seen.append(info.cancelled)

    watches.__qualname__ = "watches"
    step = shop.step(queue="gpu")(watches)

    @shop.background
    async def flow(ctx: Context) -> None:
        await step()

    async with pods(shop) as engine:
        member = engine.member()
        handle = await flow.enqueue()
        await engine.until(lambda: seen)
        await handle.cancel()
        await engine.until(lambda: not member.busy)
        assert seen == [False, True]


# Commands that are of no use


async def test_what_is_no_command_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    async with pods() as engine:
        assert engine.log.commands is not None
        engine.log.commands.put("gpu", "x", b"{}")
        engine.log.commands.put("gpu", "x", b"nonsense")
        member = engine.member(slots=1)
        assert await embeds.call("a") == [1.0, 1.0]
        await engine.until(lambda: not member.busy)
        assert [record.message for record in caplog.records if "unreadable" in record.message] != []


async def test_a_member_without_the_step_leaves_it_to_others(caplog: pytest.LogCaptureFixture) -> None:
    older = App("pools")
    async with pods() as engine:
        poor = engine.member(steps=older)
        handle = await embeds.enqueue("a")
        await embeds.enqueue("b")
        await engine.settle()
        assert not poor.busy
        told = [record.message for record in caplog.records if "does not have" in record.message]
        assert len(told) == 1
        assert told[0].startswith("queue 'gpu' asks for step 'embed', which this code does not have: others may")
        await poor.kill()
        engine.member()
        await engine.advance(61)
        assert await handle.result() == [1.0, 1.0]
        assert [record.beat for record in engine.of(StepClaimed)] == [0, 0]


async def test_a_command_of_a_later_version_is_left_to_others(caplog: pytest.LogCaptureFixture) -> None:
    async with pods() as engine:
        await embeds.enqueue("a")
        await engine.settle()
        stored = engine.log._commands._stored["gpu"]
        place, value = next(iter(stored.items()))
        stored[place] = value.replace(b'"v":1', b'"v":99', 1)
        member = engine.member()
        await engine.settle()
        assert not member.busy
        assert any("version 99" in record.message for record in caplog.records)


async def test_a_member_whose_log_closes_gives_up(
    name: str, gate: Gate, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What it has is not done, and goes to another one: nothing of it is lost, nothing is said of it."""
    monkeypatch.setattr("perdure.worker.queued.LEASE_MS", 30)
    async with pods() as engine:
        member = engine.member()
        await one.enqueue(name)
        await engine.until(lambda: gate.began)
        await engine.node.kill()
        await engine.log.close()
        await engine.until(lambda: any("no sign of life" in record.message for record in caplog.records))
        gate.open.set()
        await engine.until(lambda: not member.busy)
        assert any("is given up" in record.message for record in caplog.records)
        await engine.log.open()
        await engine.crash_owner()


async def test_a_follower_that_fails_is_named_and_follows_anew(
    caplog: pytest.LogCaptureFixture, name: str, gate: Gate
) -> None:
    """The step's run is cancelled after that: its member hears of it, and stops the step."""
    async with pods() as engine:
        member = engine.member()
        handle = await one.enqueue(name)
        await engine.until(lambda: gate.began)
        for partition, reader in list(member.answers._readers.items()):
            reader.close()
            member.answers._failed(partition, ValueError("damaged"))
        assert any("damaged" in record.message for record in caplog.records)
        await handle.cancel()
        await engine.until(lambda: not member.busy)
        assert not gate.open.is_set()


# What is refused


def test_a_step_inside_a_function_is_refused() -> None:
    def nightly() -> None:
        @app.step(queue="gpu")
        async def embed(text: str) -> None: ...

    wanted = "step 'embed' has queue='gpu' but is defined inside 'nightly': a pool imports it; move it to module level"
    with pytest.raises(DefinitionError) as refused:
        nightly()
    assert str(refused.value) == wanted

    with pytest.raises(DefinitionError, match="step 'calc' has queue='gpu' but is defined inside 'test_a_step"):
        app.step(name="calc", queue="gpu")(lambda: 1)

    @app.step
    async def local() -> None: ...

    with pytest.raises(DefinitionError, match="step 'local' has queue='cpu' but is defined inside"):
        local.options(queue="cpu")


def test_names_that_a_pool_could_not_tell_apart_are_refused() -> None:
    shop = App("names")
    shop.step(queue="gpu")(embed.fn)
    with pytest.raises(DefinitionError, match=r"two steps have the name 'embed', at .*give one of them name="):
        shop.step(name="embed")(held.fn)
    shop.step(name="embed2")(held.fn)
    assert set(shop.pool_steps) == {"embed", "embed2"}


@pytest.mark.parametrize("queue", ["", "a b", "a/b", 5, "größe"])
def test_names_of_queues(queue: Any) -> None:
    with pytest.raises(DefinitionError, match="queue="):
        app.step(queue=queue)(embed.fn)


def test_arguments_that_shall_not_be_logged_cannot_travel() -> None:
    with pytest.raises(DefinitionError, match=r"record_input=False: a pool gets the arguments through the log"):
        App("x").step(queue="gpu", record_input=False)(embed.fn)


async def test_inline_steps_have_no_queue() -> None:
    shop = App("inline")
    step: Any = shop.step(queue="gpu")(embed.fn)
    here: Any = shop.step(name="here")(plain.fn)

    @shop.background
    async def flow(ctx: Context, how: str) -> None:
        run: Any = ctx.step
        if how == "lambda":
            await run("x", lambda: 1, queue="gpu")
        elif how == "module":
            await run("x", plain.fn, queue="gpu")
        elif how == "step":
            await run("x", step, "a")
        else:
            await run("x", here, 1, queue="gpu")

    for how, wanted in {
        "lambda": "step 'x' has queue='gpu' but is defined inside 'flow': a pool imports it; move it to module level",
        "module": "a pool finds steps by their decorator: @app.step(queue='gpu')",
        "step": "'embed' is a step of its own, with queue='gpu': await it itself, as embed.options(name='x')(…)",
        "other": "'here' is a step of its own, with queue='gpu'",
    }.items():
        assert wanted in failure(await finished(shop, flow, how))


async def test_a_step_that_no_pool_would_find_is_refused() -> None:
    shop = App("shop")
    shop.step(name="plain")(embed.fn)

    @shop.background
    async def others(ctx: Context) -> object:
        return await plain.options(queue="gpu")(1)

    assert "it is no step of this app, or the app has two of the name 'plain'" in failure(await finished(shop, others))

    shop.step(name="plain")(held.fn)
    assert shop.pool_steps == {}


def test_queues_of_an_engine() -> None:
    assert checked_queues(["gpu", "mail"]) == {"gpu": 8, "mail": 8}
    assert checked_queues({"gpu": 1}) == {"gpu": 1}
    assert checked_queues([]) == {}
    for wrong in ("gpu", {"gpu": 0}, {"gpu": True}, {"gpu": "1"}, ["a b"]):
        with pytest.raises(DefinitionError, match="queue"):
            checked_queues(wrong)


# Code that changes


@both_ways
async def test_a_step_may_move_to_a_queue_and_back(evict: bool) -> None:
    """What was begun goes on where it began; what was done is done."""

    def code(queue: str) -> tuple[App, Any]:
        shop = App("moving")
        options: Any = {"queue": queue} if queue else {}
        step = shop.step(name="work", retries=1, **options)(raises.fn)
        done = shop.step(name="done", **options)(plain.fn)

        @shop.background
        async def flow(ctx: Context) -> int:
            result = await done(1)
            try:
                await step("wrong")
            except StepError as error:
                return int(result) + error.attempts
            return 0

        return shop, flow

    for first, second in (("", "gpu"), ("gpu", "")):
        shop, flow = code(first)
        async with TestEngine(shop, evict=evict) as engine:
            await flow.enqueue()
            engine.app, flow = code(second)
            await engine.crash()
            await engine.finish()
            assert engine.run(flow).output == 4


def _fake(text: str, *, times: int = 1) -> list[float]:
    return [0.5] * times


async def test_fakes_stand_in_for_steps_of_queues() -> None:
    async with TestEngine(app) as engine:
        engine.fake(embed, _fake)
        assert await embeds.call("a") == [0.5, 0.5]


def test_outside_a_run_it_is_the_plain_function() -> None:
    assert asyncio.run(embed("abc")) == [3.0]


async def test_a_batch_is_no_answer() -> None:
    """Answers are looked for, and nothing else: whatever the journal brings."""
    log = MemoryLog()
    await log.open()
    member = Member(log, {})
    told: list[bool] = []
    member.answers.watch(0, "a", lambda answer: told.append(answer.granted))
    member.answers.watch(0, "b", lambda answer: told.append(answer.granted))
    other = StepAnswered("r", "o", "another", True, v=V)
    mine = StepAnswered("r", "o", "a", True, v=V)
    member.answers._read(Batch(0, 0, 0, [b"nonsense", msgspec.json.encode(other), msgspec.json.encode(mine)]))
    member.answers._read(Batch(3, 0, 0, [msgspec.json.encode(mine)]))
    assert told == [True]
    member.answers.forget(0, "a")
    member.answers.forget(7, "a")
    assert set(member.answers._readers) == {0}
    member.answers.forget(0, "b")
    assert member.answers._readers == {}
    member.answers.watch(1, "c", lambda answer: None)
    member.answers.close()
    assert member.answers._readers == {}
