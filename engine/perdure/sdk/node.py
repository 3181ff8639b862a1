"""One app in one process: its log, a processor for each partition, the worker, and what ticks."""

import asyncio
import logging
import secrets
from collections.abc import Mapping, Sequence
from contextvars import Context
from itertools import count
from typing import Any

from perdure.errors import LogError, PartitionHalted
from perdure.flow.routing import partition_of_run
from perdure.flow.states import RunState
from perdure.log.protocol import Log
from perdure.partition import Processor
from perdure.sdk.app import App
from perdure.sdk.handle import RunHandle
from perdure.sdk.prepare import prepare
from perdure.worker import Worker
from perdure.worker.spec import FunctionSpec
from perdure_schemas.records import AppDefined, V

log = logging.getLogger("perdure.engine")
TICK_SECONDS = 0.1
"""At the latest this often: checkpoints, idle runs, timers."""


class Node:
    """Opens the log, recovers every partition, then owns them all."""

    def __init__(self, app: App, app_log: Log, *, evict: bool = False, ticking: bool = True) -> None:
        app.load()
        self.app = app
        self.log = app_log
        self._evict = evict
        self._ticking = ticking
        self.definition = app.definition()
        self.specs: Mapping[str, FunctionSpec] = app.specs
        self.processors: list[Processor] = []
        self.worker: Worker
        self.waiters: dict[str, list[asyncio.Future[None]]] = {}
        self._active = 0
        self._activated: asyncio.Event
        self._tick: asyncio.TimerHandle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = 0
        self._loop: asyncio.AbstractEventLoop
        self.halted: dict[int, str] = {}
        self._commands = count(1)
        self._command_prefix = secrets.token_hex(16)

    async def open(self) -> None:
        """Raises `LogError`s of the data directory; each says what to do."""
        self._loop = asyncio.get_running_loop()
        self._activated = asyncio.Event()
        await self.log.open()
        self.worker = Worker(
            self.specs, prepare, self._handle, self, self.log.now_ms, codec=self.app.codec, evict=self._evict
        )
        try:
            code = self.definition.digest
            self.processors = [Processor(self.log, p, self.worker, code) for p in range(self.log.partitions)]
            self.worker.processors = dict(enumerate(self.processors))
            for processor in self.processors:
                processor.recover()
            context = Context()
            for processor in self.processors:
                context.run(processor.begin)
                if self._ticking:
                    processor.on_timer = self._plan_timer
            self.processors[0].append(AppDefined(self.definition, activate=True, v=V))
            if self._ticking:
                self._tick = self._loop.call_later(TICK_SECONDS, self._ticked, context=Context())
            await self._wait_active()
        except BaseException:
            await self.kill()
            await self.log.close()
            raise

    async def _wait_active(self) -> None:
        """Events count from here on: every partition copies for this code's paths and knows its triggers."""
        while not all(self._current(processor) for processor in self.processors):
            if self.halted:
                raise PartitionHalted("; ".join(self.halted.values()))
            self._activated.clear()
            try:
                async with asyncio.timeout(1):
                    await self._activated.wait()
            except TimeoutError:
                if self.log.failure is not None:
                    raise self.log.failure from None

    def _current(self, processor: Processor) -> bool:
        routes = processor.view.routes()
        return routes is not None and routes.definition.digest == self.definition.digest and processor.current

    def _handle(self, function: FunctionSpec, run: str) -> RunHandle[Any]:
        return RunHandle(self.app.functions[function.id], run)

    # Listener of the worker

    def run_ended(self, partition: int, run: str) -> None:
        for waiter in self.waiters.pop(run, ()):
            if not waiter.done():
                waiter.set_result(None)

    def progressed(self) -> None:
        self._activated.set()

    def partition_halted(self, partition: int, reason: str) -> None:
        self.halted[partition] = reason
        self._activated.set()

    # Asking

    def processor_of(self, run: str) -> Processor:
        """Raises ValueError for what is no run id, `PartitionHalted`."""
        processor = self.processors[partition_of_run(run, self.log.partitions)]
        if processor.halted:
            raise PartitionHalted(processor.halted)
        return processor

    def state(self, run: str) -> RunState | None:
        processor = self.processor_of(run)
        state = processor.view.runs.get(run)
        if state is not None and not self.worker.resident(run):
            processor.view.runs.forget(run)
        return state

    async def effects(self) -> None:
        """Returns when all that was folded so far has reached the partitions that it concerns."""
        await self.log.acknowledge(max(processor.last_ticket for processor in self.processors))

    def new_command(self) -> str:
        """An id for a command that brought none: unique in this process by counting, and in the world by chance."""
        return f"{self._command_prefix}{next(self._commands)}"

    def waiter(self, run: str) -> "asyncio.Future[None]":
        """Done when the run has ended. Registered before the run is asked for, it misses nothing."""
        waiter: asyncio.Future[None] = self._loop.create_future()
        self.waiters.setdefault(run, []).append(waiter)
        return waiter

    # Ticking

    def _ticked(self) -> None:
        try:
            self.tick()
        except LogError as error:
            log.error("%s", error)
        self._tick = self._loop.call_later(TICK_SECONDS, self._ticked, context=Context())

    def tick(self) -> None:
        """Timers that are due, runs that may rest, checkpoints that may be written."""
        self.worker.sweep()
        for processor in self.processors:
            if not processor.halted:
                processor.timers.tick()
                processor.checkpoint()
        self._plan_timer()

    def _plan_timer(self) -> None:
        """Wake up when the earliest timer is due, if that is before the next tick."""
        now = self.log.now_ms()
        dues = [due for processor in self.processors if (due := processor.timers.next_due()) is not None]
        due = min(dues, default=None)
        if due is None or due > now + TICK_SECONDS * 1000:
            return
        if self._timer is not None:
            if self._timer_due <= due:
                return
            self._timer.cancel()
        self._timer_due = due
        self._timer = self._loop.call_later(max(0, due - now) / 1000, self._timers, context=Context())

    def _timers(self) -> None:
        self._timer = None
        for processor in self.processors:
            if not processor.halted:
                processor.timers.tick()

    async def close(self, *, clean: bool = True) -> None:
        """Stop taking work, write what is in memory, say that the stop was clean."""
        for handle in (self._tick, self._timer):
            if handle is not None:
                handle.cancel()
        await self.worker.close()
        try:
            if self.log.failure is None:
                for processor in self.processors:
                    await processor.close(clean=clean)
        except LogError as error:
            # The last word cannot be written: the next start will take this stop for a crash, which loses nothing.
            log.warning("%s", error)
        for waiters in self.waiters.values():
            for waiter in waiters:
                waiter.cancel()
        await self.log.close()

    async def kill(self) -> None:
        """Die without a word, as a killed process: nothing more is written. For tests."""
        for handle in (self._tick, self._timer):
            if handle is not None:
                handle.cancel()
        await self.worker.close()

    def partitions_ready(self) -> Sequence[tuple[int, str]]:
        """Partitions that are halted, with the reason."""
        return sorted(self.halted.items())
