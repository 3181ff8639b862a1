"""The worker: runs in memory, and who stays there.

not resident ──(Start, or an outcome)──► resident ──(every task waits on ops only)──► idle
      ▲                                     ▲                                          │
      │                                     └───────────(an outcome)───────────────────┤
      └────────────────────(more idle runs than the bound: evicted)────────────────────┘
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from contextvars import Context
from typing import Any, Protocol

from msgspec import Raw

from perdure.flow.effects import (
    Act,
    Activated,
    Attempted,
    Closed,
    Deliver,
    Ended,
    Opened,
    OwnerKnown,
    Parked,
    Retry,
    Start,
)
from perdure.flow.states import OpenOp, RunState
from perdure.partition import Processor
from perdure.worker import asking, asyncio_in_runs, lineage
from perdure.worker.coding import Payloads
from perdure.worker.execution import Execution
from perdure.worker.held import Held
from perdure.worker.idle import own_clock, tasks_idle
from perdure.worker.main import main
from perdure.worker.run_logs import Lines
from perdure.worker.settle import Settler
from perdure.worker.spec import FunctionSpec, StepSpec
from perdure.worker.stragglers import Stragglers, leave_behind
from perdure.worker.suspects import Suspects
from perdure.worker.telemetry import Telemetry
from perdure.worker.threads import Threads
from perdure.worker.tracing import Tracing
from perdure.worker.watchdog import Watchdog
from perdure_schemas.payload import Payload

log = logging.getLogger("perdure.worker")
IDLE_RUNS = 1_000
"""Idle runs kept in memory; beyond, those whose replay is cheapest leave first."""
_EVICT_AMONG = 64
THREADS = 32
"""`def` steps that run at the same time."""
LOOK_AGAIN_SECONDS = 1.0
PUT_OFF_SECONDS = 10.0


class Listener(Protocol):
    """Who wants to know of ends and of new code (the engine)."""

    def run_ended(self, partition: int, run: str) -> None: ...

    def progressed(self) -> None: ...

    def partition_halted(self, partition: int, reason: str) -> None: ...

    def partition_dropped(self, partition: int) -> None: ...


Prepare = Callable[[Execution], tuple[tuple[Any, ...], Mapping[str, Any]]]


class Worker:
    """Runs the user code of all partitions of one process. Implements the processors' `Host`."""

    call = staticmethod(asking.call)
    execution_type: type[Execution] = Execution
    """What runs are made of; a replay watches its own."""

    def __init__(
        self,
        functions: Mapping[str, FunctionSpec],
        prepare: Prepare,
        handle: Callable[[FunctionSpec, str], Any],
        listener: Listener,
        now_ms: Callable[[], int],
        *,
        steps: Mapping[str, StepSpec] | None = None,
        payloads: Payloads | None = None,
        lines: Lines | None = None,
        tracing: Tracing | None = None,
        evict: bool = False,
        idle_runs: int = IDLE_RUNS,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.functions = functions
        self.steps = steps or {}
        """Steps that a worker pool finds, by the names they were defined under."""
        self.prepare = prepare
        self.handle = handle
        self.now_ms = now_ms
        self.pooled: Callable[[], list[tuple[str, Callable[..., Any]]]] = list
        """Bodies that this process runs for worker pools: what to call them, and their functions."""
        self.processors: dict[int, Processor] = {}
        self.executions: dict[str, Execution] = {}
        self.idle: dict[str, Execution] = {}
        self.held = Held()
        self.telemetry = Telemetry(tracing)
        self.settler = Settler(self.loop)
        self.suspects = Suspects()
        self.threads = Threads(THREADS)
        self._stragglers = Stragglers(self.loop)
        self._watchdog = Watchdog(self)
        self.payloads = payloads or Payloads()
        self.lines = lines
        self._listener = listener
        self._evict_always = evict
        self._idle_runs = idle_runs
        self._resting: dict[Execution, None] = {}
        self._backing_off: dict[Execution, None] = {}
        self._told: set[str] = set()
        self._unclean: dict[str, int] = {}
        """Run → partition: what may have died with the process before."""
        self._fresh: dict[str, Execution] = {}
        self._closing = False
        self.draining = False
        lineage.install(self.loop)
        asyncio_in_runs.install()

    # Host

    def resident(self, run: str) -> bool:
        return run in self.executions

    def folded_before(self, partition: int, acts: list[Act]) -> None:
        self.telemetry.saw_before(partition, acts)

    def recover(self, partition: int, runs: list[RunState], unclean: bool) -> None:
        self.telemetry.begin(self.processors[partition].view, unclean=unclean)
        if unclean:
            self._unclean.update((state.id, partition) for state in runs)
        for state in runs:
            self._start(partition, state.id)

    def opine_again(self, partition: int, lost: Iterable[tuple[str, str]]) -> None:
        for run, op in lost:
            execution = self.executions.get(run)
            if execution is None:
                continue
            if op:
                execution.announce_again(op)
            elif execution.signal is not None:
                if execution.suspect:
                    self._unclean[run] = partition
                self._evict(execution)
                self._start(partition, run)

    def pause(self, partition: int) -> None:
        for execution in self._of(partition):
            # Its steps ask before they begin, from here on.
            execution.plain = False

    def go_on(self, partition: int) -> None:
        for execution in self._of(partition):
            for op in sorted(execution.held):
                execution.go(op)

    def _of(self, partition: int) -> list[Execution]:
        return [one for one in self.executions.values() if one.processor.partition == partition]

    def drop(self, partition: int) -> None:
        self._stop(partition)
        self._listener.partition_dropped(partition)

    def halted(self, partition: int, reason: str) -> None:
        log.error("%s", reason)
        # User code would take an op that cannot be written for one that failed, and compensate for what was done.
        self._stop(partition)
        self._listener.partition_halted(partition, reason)

    def _stop(self, partition: int) -> None:
        for execution in self._of(partition):
            self._backing_off.pop(execution, None)
            self._evict(execution)
        for run in [run for run, of in self._unclean.items() if of == partition]:
            del self._unclean[run]
        self.held.take(partition)
        self.telemetry.forget(partition)

    def perform(self, partition: int, acts: list[Act]) -> None:
        # A run that starts here reads the state after the whole batch: what else the batch has for it, it has.
        for execution in self._fresh.values():
            self._judge(execution)
        self._fresh.clear()
        executions = self.executions
        self.telemetry.saw(self.processors[partition].view, acts)
        for act in acts:
            kind = type(act)
            if kind is Deliver:
                execution = executions.get(act.run)  # type: ignore[union-attr, assignment]
                if execution is not None and execution.direct:
                    execution.deliver(act)  # type: ignore[arg-type]
                else:
                    self._deliver(partition, act)  # type: ignore[arg-type]
            elif kind is Ended:
                self._ended(partition, act)  # type: ignore[arg-type]
            elif kind is Start:
                self._start(partition, act.run)  # type: ignore[union-attr]
            elif kind is Opened:
                self._opened(act)  # type: ignore[arg-type]
            elif kind is Closed:
                self._closed(act)  # type: ignore[arg-type]
            elif isinstance(act, Retry | Attempted):
                self._go(partition, act)
            elif isinstance(act, Parked):
                parked = self.executions.pop(act.run, None)
                if parked is not None and parked.signal is None:
                    parked.evict()
                    self.left(parked)
                self.processors[partition].rest(act.run)
            elif isinstance(act, Activated | OwnerKnown):
                self._listener.progressed()
                for run in self.held.take(partition):
                    self._start(partition, run)

    def _deliver(self, partition: int, act: Deliver) -> None:
        execution = self.executions.get(act.run)
        if execution is None:
            self._start(partition, act.run)
            return
        if act.run in self._fresh:
            return
        if execution.idle:
            self._wake(execution)
        execution.suspect = False
        self._judge(execution)
        if self._evict_always and self._may_leave(execution, act.op):
            self._evict(execution)
            self._start(partition, act.run)
        else:
            execution.deliver(act)

    def _opened(self, act: Opened) -> None:
        execution = self.executions.get(act.run)
        if execution is not None and execution.recorded.get(act.op) != act.digest:
            if execution.idle:
                self._wake(execution)
            execution.opened(act.op, act.digest)

    def _closed(self, act: Closed) -> None:
        execution = self.executions.get(act.run)
        if execution is not None and act.op not in execution.closed:
            if execution.idle:
                self._wake(execution)
            execution.given_up(act.op, taken=act.taken)

    def _go(self, partition: int, act: Retry | Attempted) -> None:
        execution = self.executions.get(act.run)
        if execution is None:
            self._start(partition, act.run)
            return
        if act.run in self._fresh:
            return
        if isinstance(act, Retry):
            # It failed and waited: what comes now was not running when the process died.
            execution.suspect = False
        elif act.op not in execution.announced:
            # It went on by another word, and its body ran or runs.
            return
        if execution.idle:
            self._wake(execution)
        execution.go(act.op)

    def _judge(self, execution: Execution) -> None:
        """Whether outcomes need a look before they go to the run."""
        execution.direct = not (execution.idle or execution.suspect or self._evict_always)

    def _wake(self, execution: Execution) -> None:
        execution.idle = False
        self._judge(execution)
        self.idle.pop(execution.run_id, None)
        execution.processor.wake(execution.run_id)

    def _ended(self, partition: int, act: Ended) -> None:
        run = act.run
        execution = self.executions.pop(run, None)
        if execution is not None and not execution.over():
            self.idle.pop(run, None)
            if execution.signal is None:
                execution.cancel()
            self._see_off(execution)
        if self._unclean:
            self._unclean.pop(run, None)
        if self.held:
            self.held.discard(partition, run)
        self.processors[partition].rest(run)
        self._listener.run_ended(partition, run)

    # Runs

    def _start(self, partition: int, run: str) -> None:
        """Run the user code of `run`, on what the log holds of it."""
        processor = self.processors[partition]
        state = processor.view.live(run)
        if state is None or state.status != "running" or "retry" in state.timers:
            return
        if self._closing or self.draining:
            processor.wake(run)  # what comes while we leave is folded, perhaps stored: the next owner must begin it
            return
        known = self.executions.get(run)
        if known is not None and known.signal is None:
            return
        function = self.functions.get(state.function)
        processor.wake(run)
        lines = processor.view.lines.load(run)
        if function is None or processor.ahead(state, lines):
            # Never parked: other code, on this pod later or on another one, takes it further.
            self.held.add(partition, run, state.function)
            return
        execution = self._fresh[run] = self.make(processor, state, function)
        if self._unclean and self._unclean.pop(run, None) is not None:
            execution.suspect, execution.plain = True, False
        if lines or state.open:
            execution.load(lines)
        execution.run(main(execution))

    def make(self, processor: Processor, state: RunState, function: FunctionSpec) -> Execution:
        """A run in memory, whose user code has not begun."""
        run, tracing = state.id, self.telemetry.tracing
        traceparent = state.traceparent if tracing is None else tracing.of_run(processor.view, state)
        execution = self.executions[run] = self.execution_type(
            *(self, processor, state, function, self.loop, run, state.began, self.payloads.coded),
            traceparent,
            tracing,
        )
        return execution

    def put_off(self, execution: Execution, why: Exception) -> None:
        """What the run needs cannot be read at present: it leaves memory, and is begun again after a while."""
        if execution.signal is not None:
            return
        partition, run = execution.processor.partition, execution.run_id
        log.error("run %s of %r waits: %s", run, execution.function.id, why, extra={"run": run})
        self.held.add(partition, run, execution.function.id)
        if execution.suspect:
            self._unclean[run] = partition
        self._evict(execution)
        self.loop.call_later(PUT_OFF_SECONDS, self._begin_put_off, partition, run, context=Context())

    def _begin_put_off(self, partition: int, run: str) -> None:
        if self.held.discard(partition, run):
            self._start(partition, run)

    def finished(self, execution: Execution) -> None:
        """The run's own end is on its way to the log: it stays here, deaf, until that is read."""
        self.idle.pop(execution.run_id, None)
        self._resting.pop(execution, None)

    def backs_off(self, execution: Execution) -> None:
        """The function failed and is begun again later: once the log says so, the run leaves memory."""
        self._backing_off[execution] = None

    def left(self, execution: Execution) -> None:
        """The run's user code unwinds; what becomes of the run is in the log."""
        self.finished(execution)
        self._see_off(execution)

    def _see_off(self, execution: Execution) -> None:
        self._resting.pop(execution, None)
        self._stragglers.see_off(execution)

    # Rest and eviction

    def may_rest(self, execution: Execution) -> None:
        """An op was opened, or the run settled: it may have become idle. Looked at by the next `sweep`."""
        self._resting[execution] = None

    def look_again(self, execution: Execution) -> None:
        """The log holds what a run has not asked for, and it waits on something of its own: give that time."""
        self.loop.call_later(LOOK_AGAIN_SECONDS, self.settler.watch, execution, context=Context())

    def sweep(self) -> None:
        """Find who became idle, and keep the number of idle runs under the bound."""
        self._stragglers.look()
        for execution in list(self._backing_off):
            if self.executions.get(execution.run_id) is not execution:
                del self._backing_off[execution]
            elif "retry" in execution.state.timers:
                del self._backing_off[execution], self.executions[execution.run_id]
                execution.processor.rest(execution.run_id)
                execution.processor.release_run(execution.run_id)
        for execution in list(self._resting):
            if execution.gone():
                del self._resting[execution]
            elif not execution.at_rest():
                self.settler.watch(execution)
            elif not execution.replaying and not execution.queue and self._may_leave(execution):
                del self._resting[execution]
                execution.replay_cost = len(execution.processor.view.lines.done(execution.run_id))
                execution.idle, execution.direct = True, False
                self.idle[execution.run_id] = execution
                execution.processor.rest(execution.run_id)
            elif execution.function.id not in self._told and not execution.bodies:
                self._tell(execution)
        while len(self.idle) > self._idle_runs:
            among = [execution for execution, _ in zip(self.idle.values(), range(_EVICT_AMONG), strict=False)]
            self._evict(min(among, key=lambda execution: execution.replay_cost))

    def _tell(self, execution: Execution) -> None:
        """Once for each function: it waits on a clock that does not outlive the process."""
        found = own_clock(execution)
        if found:
            self._told.add(execution.function.id)
            log.warning("function %r waits on %s; its run cannot leave memory meanwhile", execution.function.id, found)

    def _may_leave(self, execution: Execution, delivering: str = "") -> bool:
        """Everything that the run waits for is open in the log, and nothing else can move it."""
        held = execution.state.open
        return (
            execution.signal is None
            and not execution.replaying
            and not execution.queue
            and execution.at_rest()
            and all(op == delivering or _waits_for_the_log(held.get(op)) for op in execution.waiting)
            and tasks_idle(execution)
            and not self.suspects.wait_in(execution)
        )

    def _evict(self, execution: Execution) -> None:
        self.idle.pop(execution.run_id, None)
        self.executions.pop(execution.run_id, None)
        execution.evict()
        self.left(execution)
        execution.processor.release_run(execution.run_id)

    def quiet(self) -> bool:
        """Nothing runs: every resident run waits for the log or for the outside only."""
        return not self.settler.busy and all(
            execution.signal is not None
            or (not execution.bodies and not execution.queue and not execution.replaying and tasks_idle(execution))
            for execution in self.executions.values()
        )

    def working(self) -> bool:
        """A step's body runs, or user code waits on something of its own: real time must pass."""
        return any(
            execution.signal is None and (execution.bodies or not execution.waiting)
            for execution in self.executions.values()
        )

    def payload_json(self, processor: Processor, payload: Payload, field: str = "result") -> Raw:
        """What user code wrote, wherever it is stored. Raises `PayloadUnavailable`."""
        inline = payload.inline
        if type(inline) is Raw and not payload.encoded:
            return inline
        return self.payloads.json_of(processor.payload(payload, field=field))

    def drain(self) -> None:
        """No step begins any more: those that run come to their end, and what follows is for others."""
        self.draining = True
        for execution in self.executions.values():
            execution.plain = False

    def in_steps(self) -> bool:
        """A step's body runs here."""
        return any(execution.bodies for execution in self.executions.values())

    async def close(self) -> None:
        """Evict everyone: their results are in the log. Steps in flight are cancelled, and run again later."""
        first, self._closing = not self._closing, True
        self._watchdog.stop()
        leaving = list(self.executions.values())
        for execution in leaving:
            execution.evict()
        await leave_behind(leaving)
        self.executions.clear()
        self.idle.clear()
        self.threads.shutdown()
        if first:
            lineage.uninstall(self.loop)


def _waits_for_the_log(opened: OpenOp | None) -> bool:
    """Not for a record of this process's own: the result of a further attempt is on its way, and may be lost."""
    return opened is not None and (opened.type != "step" or opened.due is not None)
