"""An engine that is a few lists: what the gateway makes of a Port is tested apart from the engine."""

import asyncio
from collections.abc import Mapping, Sequence

import msgspec
from msgspec import Raw

from perdure.errors import NotParked, PayloadError, UnknownFunction, UnknownRun
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
    Work,
)
from perdure.worker.run_logs import LEVELS
from perdure_schemas.event import EventBody
from perdure_schemas.payload import ErrorInfo
from perdure_schemas.records import LogLevel, RunLogged

WORK = Work(
    *(7, 5, 2, 3, 9),
    steps_took={0: 1, 10: 6, 40: 1},
    steps_took_sum=5_000_000,
    loop_delay={8: 4},
    loop_delay_sum=1_000,
    runs_ended={"completed": 4, "failed": 1},
    runs_took={20: 5},
    runs_took_sum=4_000_000,
    runs_waited={8: 5},
    runs_waited_sum=1_000,
)


class FakePort:
    """`fail` is raised by every method, `waiting` is what `ready` tells."""

    def __init__(self) -> None:
        self.events: list[EventBody] = []
        self.enqueued: list[Enqueue] = []
        self.details: dict[str, RunDetail] = {}
        self.outcomes: dict[str, asyncio.Future[RunOutcome]] = {}
        self.cancelled: list[tuple[str, str]] = []
        self.unparked: list[str] = []
        self.forks: list[ForkAsk] = []
        self.pauses: list[tuple[str, bool]] = []
        self.logged: list[RunLogged] = []
        self.tapes: dict[str, bytes] = {}
        self.waiting: dict[str, str] = {}
        self.fail: Exception | None = None

    def add(self, run_id: str, function: str = "order", status: RunStatus = "running", event_id: str = "") -> None:
        """A run that is just so."""
        run = RunSummary(run_id, function, status, "event", event_id, requested_at=1_700_000_000_000)
        self.details[run_id] = RunDetail(run)

    def end(self, run_id: str, result: bytes = b"null", error: ErrorInfo | None = None) -> None:
        """Ends a run, for whoever waits for it too."""
        status: RunStatus = "failed" if error else "completed"
        raw = msgspec.UNSET if error else Raw(result)
        summary = msgspec.structs.replace(self.details[run_id].run, status=status)
        self.details[run_id] = RunDetail(summary, result=raw, error=error)
        self._future(run_id).set_result(RunOutcome(run_id, status, raw, error))

    async def send(self, events: Sequence[EventBody]) -> list[str]:
        self._check()
        self.events += events
        return [event.id for event in events]

    async def enqueue(self, request: Enqueue) -> str:
        self._check()
        if request.function not in ("mail", "api/mail"):
            raise UnknownFunction(f"no function {request.function!r}; did you mean 'mail'?")
        if b"misfit" in bytes(request.arguments):
            raise PayloadError("mail() takes 'to', not 'misfit'")
        self.enqueued.append(request)
        run_id = f"run-{request.idempotency_key or len(self.enqueued)}"
        self.add(run_id, request.function)
        return run_id

    async def result(self, run_id: str, timeout_ms: int | None = None) -> RunOutcome:
        await self.status(run_id)
        async with asyncio.timeout(None if timeout_ms is None else timeout_ms / 1000):
            return await asyncio.shield(self._future(run_id))

    async def status(self, run_id: str) -> RunStatus:
        self._check()
        return (await self.run(run_id)).run.status

    async def cancel(self, run_id: str, reason: str = "") -> None:
        self._check()
        self.cancelled.append((run_id, reason))

    async def rerun(self, run_id: str) -> str:
        await self.status(run_id)
        self.add(run_id + "-again")
        return run_id + "-again"

    async def fork(self, ask: ForkAsk) -> str:
        self._check()
        if ask.function != "order":
            raise UnknownFunction(f"no function {ask.function!r}")
        self.forks.append(ask)
        self.add(f"fork-{ask.key}")
        return f"fork-{ask.key}"

    async def unpark(self, run_id: str) -> None:
        if (status := await self.status(run_id)) != "parked":
            raise NotParked(f"run {run_id!r} is not parked: it is {status}")
        self.unparked.append(run_id)

    async def pause(self, function: str) -> None:
        await self._pause(function, True)

    async def resume(self, function: str) -> None:
        await self._pause(function, False)

    async def _pause(self, function: str, on: bool) -> None:
        if all(view.id != function for view in await self.functions()):
            raise UnknownFunction(f"no function {function!r}")
        self.pauses.append((function, on))

    async def runs(
        self, *, function: str = "", status: str = "", event_id: str = "", limit: int = 50, cursor: str = ""
    ) -> tuple[list[RunSummary], str]:
        self._check()
        found = [
            detail.run
            for detail in self.details.values()
            if function in ("", detail.run.function)
            and status in ("", detail.run.status)
            and event_id in ("", detail.run.event_id)
        ]
        start = int(cursor or 0)
        more = start + limit < len(found)
        return found[start : start + limit], str(start + limit) if more else ""

    async def run(self, run_id: str) -> RunDetail:
        self._check()
        if run_id not in self.details:
            raise UnknownRun(f"no run {run_id!r} is known")
        return self.details[run_id]

    async def lines(self, run_id: str, *, level: LogLevel = "debug", limit: int = 200, cursor: str = "") -> LinePage:
        await self.status(run_id)
        start = int(cursor or 0)
        kept = [line for line in self.logged if line.run == run_id and LEVELS[line.level] >= LEVELS[level]]
        found = kept[start : start + limit]
        return LinePage(found, str(start + len(found)), end=len(found) < limit)

    async def tape(self, run_id: str) -> bytes:
        await self.status(run_id)
        return self.tapes.get(run_id, b'{"tape":"begin"}\n')

    async def knows_event(self, event_id: str) -> bool:
        self._check()
        return any(event.id == event_id for event in self.events)

    async def functions(self) -> list[FunctionView]:
        self._check()
        return [FunctionView("order", "event", ("shop/order.placed",)), FunctionView("mail", "background")]

    async def lag(self) -> Mapping[str, int]:
        self._check()
        return {"0": 0, "2": 17}

    def counts(self) -> Counts:
        return Counts({"0": 0, "2": 1}, {"0": 3, "2": 0}, {"0": 4}, {"shop": WORK}, {"1": 200})

    def ready(self) -> Mapping[str, str]:
        return self.waiting

    def _check(self) -> None:
        if self.fail is not None:
            raise self.fail

    def _future(self, run_id: str) -> asyncio.Future[RunOutcome]:
        return self.outcomes.setdefault(run_id, asyncio.get_running_loop().create_future())
