"""The port of a test engine: asks again what a crash left unanswered, as a client would."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol, TypeVar

from perdure.flow.ending import heir_of
from perdure.flow.states import TERMINAL
from perdure.sdk.local_port import LocalPort
from perdure.sdk.node import Node
from perdure.sdk.port import (
    Counts,
    Enqueue,
    ForkAsk,
    FunctionView,
    LinePage,
    RunDetail,
    RunOutcome,
    RunStatus,
    RunSummary,
)
from perdure_schemas.event import EventBody
from perdure_schemas.records import LogLevel

T = TypeVar("T")


class Crashable(Protocol):
    """A test engine, as its port sees it."""

    @property
    def node(self) -> Node: ...

    async def through(self, operation: Callable[[], Awaitable[T]]) -> T: ...

    async def asked(self, operation: Callable[[], Awaitable[T]]) -> T: ...

    async def settle(self) -> None: ...

    def next_id(self, what: str) -> str: ...


class TestPort:
    """See `Port`. What changes something returns when nothing more can happen by itself; questions change nothing."""

    __test__ = False

    def __init__(self, engine: Crashable) -> None:
        self._engine = engine

    def _local(self) -> LocalPort:
        """The port of the engine's present life: a crash gives it another."""
        return LocalPort(self._engine.node)

    async def send(self, events: Sequence[EventBody]) -> list[str]:
        return await self._engine.through(lambda: self._local().send(events))

    async def enqueue(self, request: Enqueue) -> str:
        return await self._engine.through(lambda: self._local().enqueue(request))

    async def result(self, run_id: str, timeout_ms: int | None = None) -> RunOutcome:
        await self._engine.settle()
        async with asyncio.timeout(None if timeout_ms is None else timeout_ms / 1000):
            while True:
                if self._local().known(run_id).status not in TERMINAL:
                    # Waiters outlive a crash; who waits here leaves the clock to the test.
                    await self._engine.node.waiter(run_id)
                    await self._engine.settle()
                if not self._local().continued(run_id):
                    return self._local().outcome(run_id)
                run_id = heir_of(run_id)

    async def status(self, run_id: str) -> RunStatus:
        return await self._engine.asked(lambda: self._local().status(run_id))

    async def cancel(self, run_id: str, reason: str = "") -> None:
        await self._engine.through(lambda: self._local().cancel(run_id, reason))

    async def rerun(self, run_id: str) -> str:
        command = self._engine.next_id("rerun")
        return await self._engine.through(lambda: self._local().rerun(run_id, command))

    async def fork(self, ask: ForkAsk) -> str:
        return await self._engine.through(lambda: self._local().fork(ask))

    async def unpark(self, run_id: str) -> None:
        command = self._engine.next_id("unpark")
        await self._engine.through(lambda: self._local().unpark(run_id, command))

    async def pause(self, function: str) -> None:
        command = self._engine.next_id("pause")
        await self._engine.through(lambda: self._local().pause(function, command))

    async def resume(self, function: str) -> None:
        command = self._engine.next_id("resume")
        await self._engine.through(lambda: self._local().resume(function, command))

    async def runs(
        self, *, function: str = "", status: str = "", event_id: str = "", limit: int = 50, cursor: str = ""
    ) -> tuple[list[RunSummary], str]:
        return await self._engine.asked(
            lambda: self._local().runs(function=function, status=status, event_id=event_id, limit=limit, cursor=cursor)
        )

    async def run(self, run_id: str) -> RunDetail:
        return await self._engine.asked(lambda: self._local().run(run_id))

    async def lines(self, run_id: str, *, level: LogLevel = "debug", limit: int = 200, cursor: str = "") -> LinePage:
        return await self._engine.asked(lambda: self._local().lines(run_id, level=level, limit=limit, cursor=cursor))

    async def tape(self, run_id: str) -> bytes:
        return await self._engine.asked(lambda: self._local().tape(run_id))

    async def knows_event(self, event_id: str) -> bool:
        return await self._engine.asked(lambda: self._local().knows_event(event_id))

    async def functions(self) -> list[FunctionView]:
        return await self._engine.asked(lambda: self._local().functions())

    async def lag(self) -> Mapping[str, int]:
        return await self._local().lag()

    def counts(self) -> Counts:
        return self._local().counts()

    def ready(self) -> Mapping[str, str]:
        return self._local().ready()
