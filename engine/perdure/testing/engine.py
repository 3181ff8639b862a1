"""`TestEngine`: the engine as it ships, on a log in memory whose clock the test moves."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any, ParamSpec, Protocol, TypeVar, overload

from msgspec.structs import replace

from perdure.duration import parse_ms
from perdure.errors import DefinitionError, Duration, PerdureError
from perdure.flow.states import TERMINAL
from perdure.log.memory import MemoryLog
from perdure.log.protocol import LocalLog
from perdure.sdk.app import App
from perdure.sdk.client import Client, enqueue_request
from perdure.sdk.function import Function
from perdure.sdk.handle import RunHandle
from perdure.sdk.local_port import LocalPort
from perdure.sdk.node import Node
from perdure.sdk.port import Port
from perdure.sdk.sender import event_body
from perdure.sdk.step import Step, is_async
from perdure.testing.port import TestPort
from perdure.testing.runs import Run, run_of
from perdure.worker.arguments import CallOptions
from perdure.worker.lineage import in_step
from perdure.worker.places import open_place
from perdure.worker.spec import FunctionSpec
from perdure_schemas.event import EventBody

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
START = datetime(2026, 1, 1, tzinfo=UTC)
KEPT_MS = 10 * 365 * 86_400_000
PATIENCE_SECONDS = 20.0
"""Real time that a step, or code outside steps, may take before a test is told that it is stuck."""


class TestLog(LocalLog, Protocol):
    """A log under a test engine. It outlives the engine's crashes, as a disk or brokers would."""

    on_append: Callable[[int], bool] | None

    @property
    def crashed(self) -> bool: ...

    @property
    def unflushed(self) -> bool:
        """Whether something is on its way by itself: from here to the log, or from there to here."""
        ...

    def crash(self) -> None: ...


class TestEngine(Client):
    """`async with TestEngine(app) as engine:`. `send` and `advance` return when nothing more can happen by itself.

    `evict` suspends every run at every op, so that each goes through replay. `payloads` and `tracing` are those of
    `Engine`. While it is open, an `Engine` opened for the same app is this one.
    """

    __test__ = False
    stands_in = True

    def __init__(
        self, app: App, *, start: datetime = START, evict: bool = False, payloads: str = "", tracing: bool = False
    ) -> None:
        super().__init__(app)
        if start.tzinfo is None:
            raise DefinitionError("start: naive datetime: give it a time zone")
        self.app = app
        self.now = start
        self.log = self._make_log(lambda: int(self.now.timestamp() * 1000))
        # Brokers need the processor meanwhile.
        self._turn = 0.001 if self.log.shared else 0
        self.crashes = 0
        self._evict = evict
        self._place = open_place(payloads)
        self._traced = tracing
        self._node: Node | None = None
        self._stack = AsyncExitStack()
        self._faked: list[Callable[[], None]] = []
        self._count = 0
        self._recovering = asyncio.Lock()

    def _make_log(self, clock: Callable[[], int]) -> TestLog:
        """The engine's own tests put another one here."""
        return MemoryLog(clock=clock)

    @property
    def is_open(self) -> bool:
        return self._port is not None

    @property
    def node(self) -> Node:
        """The engine's inside, for the engine's own tests."""
        if self._node is None:
            raise DefinitionError("this TestEngine is not open: use it in `async with`")
        return self._node

    async def _open(self) -> Port:
        self._stack = AsyncExitStack()
        if self.app.lifespan is not None:
            await self._stack.enter_async_context(self.app.lifespan())
        await self._start()
        await self.settle()
        return TestPort(self)

    async def _start(self) -> None:
        waiters = self._node.waiters if self._node is not None else {}
        while True:
            node = self._node = Node(
                self.app,
                self.log,
                evict=self._evict,
                ticking=False,
                activate=True,
                place=self._place,
                traced=self._traced,
            )
            node.waiters = waiters
            # A test looks back as far as it likes.
            node.definition = replace(node.definition, window_ms=KEPT_MS)
            await self.log.open()
            opening = asyncio.ensure_future(node.open())
            if await self._until_crash(opening):
                return
            await self._kill(node)

    async def _until_crash(self, work: "asyncio.Future[Any]") -> bool:
        """Whether `work` ended in the life that it began in; if not, it is cancelled."""
        life = self.crashes
        while True:
            # Not by the log alone: who looks now and then finds it open again if others were quick to recover.
            if self.log.crashed or self.crashes != life:
                work.cancel()
                await asyncio.gather(work, return_exceptions=True)
                return False
            if work.done():
                work.result()
                return True
            await asyncio.sleep(self._turn)

    async def _close(self) -> None:
        for undo in reversed(self._faked):
            undo()
        self._faked.clear()
        if self._node is not None:
            # A dead process has no last word.
            await (self._node.kill() if self.log.crashed else self._node.close())
            self._node = None
        await self._stack.aclose()

    def next_id(self, what: str) -> str:
        self._count += 1
        return f"{what}-{self._count}"

    async def through(self, operation: Callable[[], Awaitable[T]]) -> T:
        """Do it, again after a crash: a client that got no answer asks again. Then let all happen that can."""
        # What is asked for later is later by the log's clock too: an earlier event is no answer to a later trigger.
        self.now += timedelta(milliseconds=1)
        answer = await self.asked(operation)
        await self.settle()
        return answer

    async def asked(self, operation: Callable[[], Awaitable[T]]) -> T:
        """Ask, again after a crash. A step may be running that the test itself holds up."""
        while True:
            if self._down:
                await self._recover()
            work = asyncio.ensure_future(operation())
            if await self._until_crash(work):
                return work.result()

    @property
    def _down(self) -> bool:
        """The node is dead, or it is another one that has not opened yet."""
        return self.log.crashed or self._recovering.locked()

    async def _recover(self) -> None:
        async with self._recovering:
            if self.log.crashed:
                await self._kill(self.node)
                await self._start()

    async def _kill(self, node: Node) -> None:
        self.crashes += 1
        await node.kill()

    async def crash(self) -> None:
        """Kills the engine as SIGKILL would, and starts it again on the same log."""
        self.log.crash()
        await self._recover()
        await self.settle()

    async def send_many(self, events: Any, /) -> list[str]:
        """Sends events; returns when nothing more can happen by itself. Ids are given in order: `event-1`, …"""
        bodies = [event_body(event, self.next_id("event")) for event in events]
        return await self._send(bodies)

    async def _send(self, bodies: list[EventBody]) -> list[str]:
        return await self.port.send(bodies)

    async def enqueue(
        self, function: Function[..., R], args: Sequence[Any], kwargs: Mapping[str, Any], options: CallOptions, /
    ) -> RunHandle[R]:
        """Starts a run; returns when nothing more can happen by itself."""
        request = enqueue_request(function, args, kwargs, options)
        if not request.idempotency_key:
            request = replace(request, idempotency_key=self.next_id("enqueue"))
        return RunHandle(function, await self.port.enqueue(request))

    async def settle(self) -> None:
        """Let everything happen that needs no time: steps, results, deliveries."""
        if in_step.get() is not None:
            return  # A step asks: nothing settles before it has ended.
        deadline = asyncio.get_running_loop().time() + PATIENCE_SECONDS
        quiet = 0
        while quiet < 3:
            await asyncio.sleep(self._turn)
            if self._down:
                await self._recover()
                quiet = 0
                continue
            node = self.node
            node.tick()
            if self._busy(node):
                quiet = 0
                if asyncio.get_running_loop().time() > deadline:
                    raise PerdureError(f"nothing happens for {PATIENCE_SECONDS:g}s: {_who_waits(node)}")
                if node.worker.working() or node.pools.working:
                    await asyncio.sleep(0.001)
            else:
                quiet += 1

    def _busy(self, node: Node) -> bool:
        behind = any(
            not processor.halted and processor.offset < self.log.end(processor.partition)
            for processor in node.processors
        )
        coming = not node.ownership.joined or set(node.ownership.on_the_way) - set(node.halted)
        return bool(behind or coming or self.log.unflushed or node.pools.busy or not node.worker.quiet())

    async def advance(self, by: Duration, /) -> None:
        """The clock moves by `by`, from timer to timer; returns when nothing more can happen by itself."""
        target = self.now.timestamp() * 1000 + parse_ms(by, what="advance")
        while True:
            await self.settle()
            due = self._next_due()
            if due is None or due > target:
                break
            self._move_to(due)
        self._move_to(target)
        await self.settle()

    async def finish(self, *, within: Duration = "365d") -> None:
        """Jump from timer to timer until every run has ended, or only an event could move what is left."""
        limit = self.now.timestamp() * 1000 + parse_ms(within, what="within")
        while True:
            await self.settle()
            due = self._next_due(crons=False)
            if not self._live() or due is None or due > limit:
                return
            self._move_to(due)

    def _next_due(self, *, crons: bool = True) -> float | None:
        dues = [due for p in self.node.processors if (due := p.timers.first_due(crons=crons)) is not None]
        return min(dues, default=None)

    def _move_to(self, ms: float) -> None:
        self.now = max(self.now, datetime.fromtimestamp(ms / 1000, UTC))

    def _live(self) -> bool:
        return any(
            state.status not in TERMINAL and state.status != "parked"
            for processor in self.node.processors
            for state in processor.view.runs.values()
        )

    @overload
    def run(self, of: Function[..., R], /) -> Run[R]: ...
    @overload
    def run(self, of: str, /) -> Run[Any]: ...
    def run(self, of: Any, /) -> Run[Any]:
        """The only run of a function (or of its id); an error if there are more, or none."""
        found = self._runs(of if isinstance(of, str) else of.id)
        if len(found) != 1:
            name = of if isinstance(of, str) else of.id
            listed = ", ".join(f"{run.id} ({run.status})" for run in found) or "none"
            raise PerdureError(f"run({name!r}) wants the only run, there are {len(found)}: {listed}; use all_runs")
        return found[0]

    def all_runs(self, of: Function[..., R], /) -> list[Run[R]]:
        """Every run of a function, in the order of their requests."""
        return self._runs(of.id)

    def _runs(self, function: str) -> list[Run[Any]]:
        node = self.node
        port = LocalPort(node)
        found = [
            (state.requested_at, state.requested_offset, state)
            for processor in node.processors
            for state in processor.view.runs.values()
            if state.function == function
        ]
        found.sort(key=lambda one: one[:2])
        return [run_of(node, state, port.shown(state)) for _, _, state in found]

    def fake(self, target: Step[P, R] | Function[P, R], fn: Callable[P, R | Awaitable[R]], /) -> None:
        """While this engine is open, `fn` runs in place of the step or function."""
        spec = target.spec
        before = (spec.fn, spec.is_async, target.fn)
        takes_context = spec.takes_context if isinstance(spec, FunctionSpec) else None

        def undo() -> None:
            spec.fn, spec.is_async, target.fn = before
            if takes_context is not None:
                setattr(spec, "takes_context", takes_context)  # noqa: B010

        self._faked.append(undo)
        spec.fn = target.fn = fn
        spec.is_async = is_async(fn)
        if takes_context is not None:
            setattr(spec, "takes_context", False)  # noqa: B010


def _who_waits(node: Node) -> str:
    busy = [
        f"{execution.function.id} {execution.run_id}"
        + (f" in step {next(iter(execution.bodies))!r}" if execution.bodies else "")
        for execution in node.worker.executions.values()
        if not execution.gone()
    ]
    return "these runs wait for something outside the log: " + ", ".join(busy[:5])
