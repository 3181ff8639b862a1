"""An engine in another process, over HTTP, for asyncio programs."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import TYPE_CHECKING, TypeVar

from perdure.errors import DefinitionError
from perdure.sdk import http_wire as wire
from perdure.sdk.http_sync import SyncHttpPort
from perdure.sdk.http_wire import ANSWER_S, REACH_S, Answer, Call
from perdure.sdk.port import (
    Counts,
    Enqueue,
    ForkAsk,
    FunctionView,
    LinePage,
    RunDetail,
    RunFilter,
    RunOutcome,
    RunStatus,
    RunSummary,
)
from perdure_schemas.event import EventBody
from perdure_schemas.records import LogLevel

if TYPE_CHECKING:
    pass

__all__ = ["HttpPort", "SyncHttpPort"]

R = TypeVar("R")


class HttpPort:
    """A `Port` through the gateway at `base_url`. Open it in the loop that uses it; `close` it there.

    A connection that is refused is tried again for `reach` seconds: nothing was sent. One that breaks half-way is, too,
    where sending again changes nothing: reads, cancels, events (they have ids), enqueues (they have a key, if need be
    one of chance). A rerun and an unpark are not, and raise `EngineUnreachable`. `key` is the API key, where the engine
    wants one.
    """

    def __init__(self, base_url: str, *, reach: float = REACH_S, key: str = "") -> None:
        self._reach = reach
        self._key = key
        self.base = wire.base_of(base_url)
        try:
            import aiohttp
        except ImportError:
            raise DefinitionError(
                f"{base_url}: a client over HTTP needs aiohttp: pip install 'perdure[server]' (SyncClient does not)"
            ) from None
        self._retry = (aiohttp.ClientError, TimeoutError)
        self._refused = aiohttp.ClientConnectorError
        self._timeout = aiohttp.ClientTimeout(total=None, connect=ANSWER_S, sock_read=ANSWER_S + wire.POLL_MS / 1000)
        self._make = aiohttp.ClientSession
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Lets the connections go."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def send(self, events: Sequence[EventBody]) -> list[str]:
        """In parts where one request would be too large; parts that were taken stay taken if a later one fails."""
        return [taken for call in wire.send(events) for taken in await self._ask(call)]

    async def enqueue(self, request: Enqueue) -> str:
        return await self._ask(wire.enqueue(request))

    async def result(self, run_id: str, timeout_ms: int | None = None) -> RunOutcome:
        deadline = None if timeout_ms is None else time.monotonic() + timeout_ms / 1000
        while True:
            outcome = await self._ask(wire.result(run_id, wire.poll_ms(deadline)))
            if outcome is not None:
                return outcome
            wire.check_deadline(deadline, run_id)

    async def status(self, run_id: str) -> RunStatus:
        return await self._ask(wire.status(run_id))

    async def cancel(self, run_id: str, reason: str = "") -> None:
        await self._ask(wire.cancel(run_id, reason))

    async def rerun(self, run_id: str) -> str:
        return await self._ask(wire.rerun(run_id))

    async def fork(self, ask: ForkAsk) -> str:
        return await self._ask(wire.fork(ask))

    async def unpark(self, run_id: str) -> None:
        await self._ask(wire.unpark(run_id))

    async def pause(self, function: str) -> None:
        await self._ask(wire.pause(function))

    async def resume(self, function: str) -> None:
        await self._ask(wire.resume(function))

    async def runs(
        self, *, function: str = "", status: str = "", event_id: str = "", limit: int = 50, cursor: str = ""
    ) -> tuple[list[RunSummary], str]:
        return await self._ask(wire.runs(RunFilter(function, status, event_id), limit, cursor))

    async def run(self, run_id: str) -> RunDetail:
        return await self._ask(wire.run(run_id))

    async def lines(self, run_id: str, *, level: LogLevel = "debug", limit: int = 200, cursor: str = "") -> LinePage:
        return await self._ask(wire.lines(run_id, level, limit, cursor))

    async def tape(self, run_id: str) -> bytes:
        return await self._ask(wire.tape(run_id))

    async def knows_event(self, event_id: str) -> bool:
        return await self._ask(wire.knows_event(event_id))

    async def functions(self) -> list[FunctionView]:
        return await self._ask(wire.functions())

    async def lag(self) -> Mapping[str, int]:
        """Empty, as `ready`: the engine's own `/metrics` has it."""
        return {}

    def counts(self) -> Counts:
        """Empty, as `ready`."""
        return Counts()

    def ready(self) -> Mapping[str, str]:
        """Empty: whether the engine is ready is for its own `/readyz`; a client waits or fails by itself."""
        return {}

    async def _ask(self, call: Call[R]) -> R:
        give_up = time.monotonic() + self._reach
        while True:
            try:
                return wire.receive(call, await self._once(call), self.base)
            except self._retry as error:
                may = call.again or isinstance(error, self._refused)
                if not may or time.monotonic() > give_up:
                    raise wire.unreachable(self.base, error) from error
            await asyncio.sleep(0.1)

    async def _once(self, call: Call[R]) -> Answer:
        if self._session is None:
            self._session = self._make(timeout=self._timeout)
        body = BytesIO(call.body) if call.body else None  # aiohttp warns of large bodies given as bytes.
        async with self._session.request(
            call.method, self.base + call.path, data=body, headers=wire.headers(call, self._key), allow_redirects=False
        ) as response:
            return Answer(response.status, await response.read())
