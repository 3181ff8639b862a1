"""One app in one process: its log, the partitions that it owns, the worker, and what ticks."""

import asyncio
import logging
import secrets
from collections.abc import Mapping
from contextlib import suppress
from contextvars import Context
from hashlib import blake2b
from itertools import count
from logging import INFO
from typing import Any

import msgspec

from perdure.errors import EngineClosed, LogError, NotOwned, PartitionHalted, UnknownRun
from perdure.flow.routing import partition_of, partition_of_run, route_of, run_id
from perdure.flow.states import RunState
from perdure.log.protocol import Batch, Log, Reader
from perdure.partition import Ownership, Processor
from perdure.sdk.app import App
from perdure.sdk.elsewhere import Elsewhere, fail_all
from perdure.sdk.handle import RunHandle
from perdure.sdk.ingest import Ingest, born, ends_of_events
from perdure.sdk.prepare import prepare
from perdure.sdk.telemetry import tracing_of
from perdure.worker import Worker
from perdure.worker.coding import Payloads
from perdure.worker.places import Place
from perdure.worker.pool import Member
from perdure.worker.run_logs import Lines
from perdure.worker.spec import FunctionSpec
from perdure_schemas.event import EventBody
from perdure_schemas.records import AppDefined, EventReceived, Record, RunRequested, StepReleased, V

log = logging.getLogger("perdure.engine")
HALTED_EVENT = "perdure/partition.halted"
PLACES = 1_000
"""So many ids are tried for such an event, until one leads around the partitions that have halted."""
_ENCODE = msgspec.json.Encoder().encode
CHECKPOINT_TICKS = 10
"""A checkpoint each so many ticks: a run that begins and ends between two leaves but a stub, others a row each step."""
SLOTS = 8
"""Steps of one queue that a process runs at a time, if it does not say."""
DRAIN_SECONDS = 0.01
"""Between two looks at whether steps still run."""
TICK_SECONDS = 0.1
"""At the latest this often: checkpoints, idle runs, timers."""


class Node:
    """A member of the app's group: owns what it is assigned, which is everything on a log of one process.

    `activate`: this code becomes current even if the log has seen it, and other code since. By default on a log of one
    process; on a shared one a pod of the code before, started again in the midst of a deploy, must not undo it.

    `queues`: those whose steps this process runs, each with how many at a time; all that there are if None. `name` is
    what people see of it.

    `owns`: without it a node is assigned no partitions and keeps no state, and which code the app runs is for others to
    say: a gateway, or a member of pools alone.

    `lines_from`: the least level of what runs log that is kept for people, see `worker/run_logs.py`.

    `traced`: spans of its runs are made.
    """

    def __init__(
        self,
        app: App,
        app_log: Log,
        *,
        evict: bool = False,
        ticking: bool = True,
        activate: bool | None = None,
        queues: Mapping[str, int] | None = None,
        name: str = "",
        owns: bool = True,
        place: Place | None = None,
        lines_from: int = INFO,
        traced: bool = False,
    ) -> None:
        app.load()
        self.app = app
        self.log = app_log
        self._evict = evict
        self._ticking = ticking
        self._activate = not app_log.shared if activate is None else activate
        self.definition = app.definition()
        self.specs: Mapping[str, FunctionSpec] = app.specs
        self.steps = app.pool_steps
        self.worker: Worker
        self.pools: Member
        self._queues = queues
        self._name = name
        self.owns = owns
        self._place = place
        self._lines_from = lines_from
        self._traced = traced
        self._lines: Lines
        self.ownership: Ownership
        self._processors: dict[int, Processor] = {}
        self.waiters: dict[str, list[asyncio.Future[RunState]]] = {}
        self._active = 0
        self._activated: asyncio.Event
        self._ever_active: set[int] = set()
        self.elsewhere = Elsewhere(app_log, app.name)
        self._ticks = 0
        self._tick: asyncio.TimerHandle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_when = 0.0
        self._loop: asyncio.AbstractEventLoop
        self.halted: dict[int, str] = {}
        self._ingest: Reader | None = None
        self._commands = count(1)
        self._command_prefix = secrets.token_hex(16)

    async def open(self) -> None:
        """Raises `LogError`s of the data directory; each says what to do."""
        self._loop = asyncio.get_running_loop()
        self._activated = asyncio.Event()
        await self.log.open()
        payloads = Payloads(self.app.codec, self._place)
        self._lines = Lines(self.log, self._lines_from)
        tracing = tracing_of(self.app.name) if self._traced else None
        self.worker = Worker(
            self.specs,
            prepare,
            self._handle,
            self,
            self.log.now_ms,
            steps=self.steps,
            payloads=payloads,
            lines=self._lines,
            tracing=tracing,
            evict=self._evict,
        )
        self.pools = Member(
            self.log, self.steps, payloads=payloads, lines=self._lines, tracing=tracing, name=self._name
        )
        self.worker.pooled = self.pools.bodies
        try:
            code = self.definition.digest
            self.worker.processors = self._processors
            self.ownership = Ownership(self.log, self.worker, code, self._processors, owned=self._owned)
            if self.owns:
                self.log.join(self.ownership)
                await self.ownership.settled()
                ends = await ends_of_events(self.log)
                self.append(0, AppDefined(self.definition, activate=self._activate, events=ends, v=V))
            self._serve()
            if self._ticking:
                self._tick = self._loop.call_later(TICK_SECONDS, self._ticked, context=Context())
            await (self._first_activated() if self.log.shared else self._wait_active())
            if self.owns and self.log.events is not None:
                # Not before: an event that no definition has been told of would trigger nothing.
                self._ingest = self.log.events.subscribe(Ingest(self.log, await born(self.log)).take)
        except BaseException:
            await self.kill()
            await self.log.close()
            raise

    async def _first_activated(self) -> None:
        """Some code of the app is active in every partition: before that, an event would trigger nothing.

        The first activation stands at the beginning of a journal, since nobody sends before it; a trimmed one had it.
        """
        young = [partition for partition in range(self.log.partitions) if self.log.start(partition) == 0]
        readers = [self._await_activation(partition) for partition in young]
        try:
            while not self._ever_active.issuperset(young):
                self._activated.clear()
                await self._activated.wait()
        finally:
            for reader in readers:
                reader.close()

    def _await_activation(self, partition: int) -> Reader:
        def found() -> None:
            self._ever_active.add(partition)
            self._activated.set()
            reader.close()

        def read(batch: Batch) -> None:
            if any(b'"app.activated"' in raw for raw in batch.values):
                found()

        # Trimmed since we asked where it begins: then it is not young.
        reader = self.log.follow(partition, 0, read, failed=lambda _: found())
        return reader

    async def _wait_active(self) -> None:
        """Events count from here on: every partition copies for this code's paths and knows its triggers."""
        while not all(self._current(processor) for processor in self._processors.values()):
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

    def _serve(self) -> None:
        """Take part in the pools."""
        if self._queues is not None:
            for queue, slots in self._queues.items():
                self.pools.serve(queue, slots)
            return
        for spec in self.steps.values():
            if spec.queue:
                self.pools.serve(spec.queue, SLOTS)

    def _dispatched(self, queue: str) -> None:
        """There may be queues that only `Step.options` names."""
        if self._queues is None:
            self.pools.serve(queue, SLOTS)

    def _look_for_steps(self, processor: Processor) -> None:
        """What stands in queues from before. Where all members lived in the process before, all of them are dead."""
        commands = self.log.commands
        for key, queued in processor.view.queued.items():
            self._dispatched(queued.opening.queue)
            if queued.claim and commands is not None and commands.local:
                run, _, op = key.partition("/")
                processor.append(StepReleased(run, op, queued.claim, died=True, v=V))

    def _owned(self, processor: Processor) -> None:
        processor.on_dispatch = self._dispatched
        self._look_for_steps(processor)
        if self._ticking:
            processor.on_timer = self._plan_timer

    def _handle(self, function: FunctionSpec, run: str) -> RunHandle[Any]:
        return RunHandle(self.app.functions[function.id], run)

    # Listener of the worker

    def run_ended(self, partition: int, run: str) -> None:
        waiters = self.waiters.pop(run, None)
        if waiters is not None:
            state = self._processors[partition].view.runs.get(run)
            for waiter in waiters:
                if waiter.done():
                    continue
                if state is None:
                    # The partition was paused for longer than the window.
                    waiter.set_exception(UnknownRun(f"no run {run!r}: it ended longer ago than the window"))
                else:
                    waiter.set_result(state)

    def progressed(self) -> None:
        self._activated.set()

    def partition_halted(self, partition: int, reason: str) -> None:
        self.halted[partition] = reason
        self._tell_waiters(partition, PartitionHalted(reason))
        with suppress(LogError):
            self._send_halted(partition, reason)

    def _send_halted(self, partition: int, reason: str) -> None:
        """An event for whoever listens, where it and the runs that it starts are not halted as well.

        Its id is the same on every pod that meets the same record, and after every restart.
        """
        functions = self.definition.functions
        listening = [one.id for one in functions if any(each.event == HALTED_EVENT for each in one.triggers)]
        about = f"halted-{partition}-{blake2b(reason.encode(), digest_size=8).hexdigest()}"
        for event_id in (f"{about}-{n}" for n in range(PLACES if listening else 0)):
            place = partition_of(event_id, self.log.partitions)
            runs = (run_id(self.app.name, function, event_id) for function in listening)
            places = {place, *(partition_of_run(run, self.log.partitions) for run in runs)}
            if places.isdisjoint(self.halted):
                data = msgspec.json.encode({"partition": partition, "reason": reason})
                self.append(place, EventReceived(EventBody(event_id, HALTED_EVENT, msgspec.Raw(data)), v=V))
                return

    def partition_dropped(self, partition: int) -> None:
        self.halted.pop(partition, None)
        self._tell_waiters(partition, _not_owned(partition))

    def _tell_waiters(self, partition: int, error: LogError) -> None:
        """Who waits here for one of its runs would wait for ever."""
        for run in [run for run in self.waiters if partition_of_run(run, self.log.partitions) == partition]:
            fail_all(self.waiters.pop(run), error)
        self._activated.set()

    # Asking

    @property
    def processors(self) -> list[Processor]:
        """Of the partitions that are at hand here, in their order."""
        return [processor for _, processor in sorted(self._processors.items())]

    def processor(self, partition: int) -> Processor:
        """The partition's, if it is owned here. Raises `PartitionHalted`, `NotOwned`."""
        if partition in self.halted:
            raise PartitionHalted(self.halted[partition])
        processor = self._processors.get(partition)
        if processor is None or not processor.performing:
            raise _not_owned(partition)
        return processor

    def processor_of(self, run: str) -> Processor:
        """Raises ValueError for what is no run id, `PartitionHalted`, `NotOwned`."""
        return self.processor(partition_of_run(run, self.log.partitions))

    def append(self, partition: int, record: Record) -> int:
        """What is asked from outside: any pod may write it, whoever owns the partition. Returns the ticket.

        Raises `PartitionHalted` where that is known: what nobody will read is not accepted.
        """
        if partition in self.halted:
            raise PartitionHalted(self.halted[partition])
        return self.log.append(partition, _ENCODE(record))

    def request(self, record: RunRequested) -> int:
        """`append` for a run that was asked for here. Returns the ticket."""
        partition = route_of(record.run, self.log.partitions)
        processor = self._processors.get(partition)
        if processor is None or not processor.performing:
            return self.append(partition, record)
        return processor.append_known(record)

    def performs(self, run: str) -> bool:
        """Whether the run's partition is ours, and what is appended there is acted upon here."""
        processor = self._processors.get(route_of(run, self.log.partitions))
        return processor is not None and processor.performing

    def state(self, run: str) -> RunState | None:
        processor = self.processor_of(run)
        state = processor.view.runs.get(run)
        if state is not None and not self.worker.resident(run):
            processor.view.runs.forget(run)
        return state

    async def effects(self) -> None:
        """Returns when what this process wrote, as far as it owns it, was folded and has reached whom it concerns."""
        if self.log.shared:
            for processor in self.processors:
                with suppress(NotOwned, PartitionHalted):
                    await self._folded(processor.partition, self.log.end(processor.partition))
        await self.log.acknowledge(max((processor.last_ticket for processor in self.processors), default=0))

    async def caught_up(self, run: str, *, own: bool = False) -> None:
        """Returns when all that a shared log holds by now of the run's partition was folded: an owner may lag behind

        what others have appended. `own`: only what this process knows of, so that it sees what it wrote itself.
        Raises `NotOwned`, `PartitionHalted`.
        """
        if not self.log.shared:
            return
        with suppress(ValueError):
            partition = partition_of_run(run, self.log.partitions)
            await self._folded(partition, self.log.end(partition) if own else await self.log.latest(partition))

    async def _folded(self, partition: int, upto: int) -> None:
        """Raises `NotOwned`, `PartitionHalted`."""
        while (processor := self.processor(partition)).offset < upto:
            await processor.folded(upto)

    def new_command(self) -> str:
        """An id for a command that brought none: unique in this process by counting, and in the world by chance."""
        return f"{self._command_prefix}{next(self._commands)}"

    def waiter(self, run: str) -> "asyncio.Future[RunState]":
        """The run, once it has ended. Registered before the run is asked for, it misses nothing."""
        waiter: asyncio.Future[RunState] = self._loop.create_future()
        self.waiters.setdefault(run, []).append(waiter)
        return waiter

    # Ticking

    def _ticked(self) -> None:
        try:
            self._ticks += 1
            self.tick(checkpoint=self._ticks % CHECKPOINT_TICKS == 0)
        except LogError as error:
            log.error("%s", error)
        self._tick = self._loop.call_later(TICK_SECONDS, self._ticked, context=Context())

    def tick(self, *, checkpoint: bool = True) -> None:
        """Timers that are due, runs that may rest, checkpoints that may be written; new ones if `checkpoint`."""
        self.worker.sweep()
        self.ownership.tick()
        for processor in self._processors.values():
            if processor.performing:
                processor.timers.tick()
                if checkpoint or processor.sealed:
                    processor.checkpoint()
        self._plan_timer()

    def _plan_timer(self) -> None:
        """Wake up when the earliest timer is due, if that is before the next tick."""
        performing = (one.timers for one in self._processors.values() if one.performing)
        waits = [due - timers.now_ms() for timers in performing if (due := timers.next_due()) is not None]
        wait = max(0, min(waits, default=1 << 60)) / 1000
        if wait > TICK_SECONDS:
            return
        when = self._loop.time() + wait
        if self._timer is not None:
            if self._timer_when <= when:
                return
            self._timer.cancel()
        self._timer_when = when
        self._timer = self._loop.call_at(when, self._timers, context=Context())

    def _timers(self) -> None:
        self._timer = None
        for processor in self._processors.values():
            if processor.performing:
                processor.timers.tick()

    async def drain(self) -> None:
        """Begin no step, take no more from queues; returns when none runs. `close` is to follow."""
        self.worker.drain()
        self.pools.drain()
        while self.worker.in_steps() or self.pools.busy:  # noqa: ASYNC110 - who runs has nobody to tell
            await asyncio.sleep(DRAIN_SECONDS)

    async def close(self) -> None:
        """Stop taking work, write what is in memory, say that the stop was clean."""
        for handle in (self._tick, self._timer):
            if handle is not None:
                handle.cancel()
        if self._ingest is not None:
            self._ingest.close()
        await self.pools.close()
        await self.worker.close()
        try:
            await self.ownership.close()
        except LogError as error:
            # The last word cannot be written: the next start will take this stop for a crash, which loses nothing.
            log.warning("%s", error)
        for run, waiters in self.waiters.items():
            fail_all(waiters, EngineClosed.awaiting(run))
        self.elsewhere.close()
        self._lines.close()
        await self.log.close()

    async def kill(self) -> None:
        """Die without a word, as a killed process: nothing more is written. For tests."""
        for handle in (self._tick, self._timer):
            if handle is not None:
                handle.cancel()
        await self.pools.kill()
        await self.worker.close()
        self._lines.close()
        self.ownership.stop()

    def waiting(self) -> Mapping[str, str]:
        """What is not ready, or has halted, with the reason; empty when all that is ours is caught up and current."""
        if not self.owns:
            return {}
        found = {} if self.ownership.joined else {"group": "it has not said yet which partitions are ours"}
        ours = dict.fromkeys(self.ownership.on_the_way, "it is being taken up") | self.halted
        found |= {f"partition {partition}": reason for partition, reason in sorted(ours.items())}
        return found | {f"events partition {one}": self._gone(one, *gap) for one, gap in sorted(self.gaps().items())}

    def gaps(self) -> Mapping[int, tuple[int, int]]:
        """Partitions of the topic of events of which this process takes in nothing, since records are gone."""
        return {} if self.log.events is None else self.log.events.gaps

    def _gone(self, partition: int, start: int, end: int) -> str:
        return (
            f"its records {start} to {end - 1} are gone and were never taken in, and nothing after them is until you "
            f"say that this is known: perdure topics skip-gap {self.app.name} --partition {partition} --offset {end}"
        )


def _not_owned(partition: int) -> NotOwned:
    return NotOwned(f"partition {partition} belongs to another pod now, or is changing hands: ask again, or ask there")
