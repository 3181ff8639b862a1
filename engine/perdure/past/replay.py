"""A run of the past, on the user's present code: what it asks for, what it is answered, and where that ends.

    view, as it was ─► the run's lines ─► the worker as it ships ─► user code
                                              │
                     what it would write ◄────┘   (`replica.py`: goes nowhere)

Nothing happens twice: recorded results are served, a step that the log does not hold never begins, and what the run
would append is caught. Code outside of steps runs, as it does at every replay.
"""

import asyncio
import sys
from collections.abc import Mapping
from typing import Any, Literal

import msgspec
from msgspec import Raw, Struct

from perdure.errors import PayloadUnavailable, UnknownRun
from perdure.flow.lines import kind_of, op_name
from perdure.flow.states import RunState
from perdure.flow.view import View
from perdure.past.replica import Replica
from perdure.past.watched import Onlooker, WatchedExecution
from perdure.sdk.app import App
from perdure.sdk.handle import RunHandle
from perdure.sdk.prepare import prepare
from perdure.worker import Worker
from perdure.worker.coding import Payloads
from perdure.worker.delivery import Delivered, Evicted
from perdure.worker.execution import Execution
from perdure.worker.idle import own_clock, tasks_idle
from perdure.worker.main import main
from perdure.worker.places import Place
from perdure.worker.spec import FunctionSpec
from perdure.worker.stragglers import leave_behind
from perdure_schemas.payload import ErrorInfo, Payload
from perdure_schemas.records import AskedOp, OpOpened, Record, RunErrored, RunFinished, RunParked

PATIENCE_SECONDS = 10.0
"""So long user code may wait on something of its own (a socket, a clock of asyncio) before it counts as stuck."""
SPINS = 500
"""Turns of the loop that are looked at one by one; after them it is given time."""
PAUSE_SECONDS = 0.002

Verdict = Literal[
    "as_recorded", "otherwise", "parks", "goes_on", "waits", "ends", "retries", "held", "stuck", "stopped"
]
"""How a replay came out.

as_recorded  the run ended in the log, and this code ends it the same way
otherwise    the run ended in the log, and this code ends it in another way, or goes on beyond it
parks        this code asks for something else than the log holds
goes_on      all that the log holds was asked for; a step or another op comes next
waits        all that the log holds was asked for; the run waits for what is open in the log
ends         the run has not ended in the log, and this code ends it now
retries      the function raises, and is to be tried again
held         the app has no such function: the run would wait until it has
stuck        user code waits on something that is no op
stopped      the onlooker stopped it
"""


Standing = Literal["answered", "given up", "recorded", "open", "due", "new"]
"""How an op stands when the replay ends. `recorded`: it would have been answered next; `open`: in the log, without an
outcome; `due`: a step whose next attempt comes now; `new`: not in the log.
"""


class RecordedEnd(Struct, frozen=True):
    """How the run ended in the log; `finished` if that was by its own code."""

    status: str
    at: int
    offset: int
    finished: RunFinished | None = None
    error: ErrorInfo | None = None


class AskedFor(Struct, kw_only=True):
    """An op as this code asks for it. `outcome`: what it was answered with."""

    op: str
    digest: str
    at: int
    """Log time of the last result that the run had by then."""
    kind: str = ""
    """`step`, `sleep`, `wait`, `call`, `send`, …; empty where it came to nothing yet: results are on their way."""
    standing: Standing = "new"
    outcome: Delivered | None = None

    @property
    def name(self) -> str:
        return op_name(self.op)


class Replayed(Struct, kw_only=True):
    """What came of a replay."""

    run: str
    function: str
    verdict: Verdict
    asked: tuple[AskedFor, ...] = ()
    """In the order of asking."""
    at: tuple[AskedFor, ...] = ()
    """What the run stands at: ops that would begin, or that it waits for."""
    message: str = ""
    recorded: AskedOp | None = None
    requested: AskedOp | None = None
    """Of one that parks: what the log has and what this code asks for, as far as each is there. Of one that is to be
    tried again: what the log has and it did not ask for, by which its last attempt will park."""
    status: str = ""
    """Of one that came to its end: `completed`, `failed` or `continued`."""
    result: Raw | None = None
    error: ErrorInfo | None = None
    end: RecordedEnd | None = None

    @property
    def goes_well(self) -> bool:
        """The engine would take this run further, or it ended as it did."""
        if self.verdict == "retries":
            return self.recorded is None
        return self.verdict in ("as_recorded", "goes_on", "waits", "ends")


class Stop(Evicted):
    """Raised by an onlooker that has seen enough."""


class Unwatched:
    """Sees nothing."""

    def asked(self, execution: Execution, op: str, digest: str) -> None:
        """See `Onlooker`."""

    def answered(self, execution: Execution, outcome: Delivered) -> None:
        """See `Onlooker`."""

    def failed(self, execution: Execution, error: BaseException) -> None:
        """See `Onlooker`."""


class Unstored(Payloads):
    """Reads what was stored, by the app's own codec; what a replay makes is neither coded nor put anywhere."""

    def __init__(self, codec: Any, place: Place | None) -> None:
        super().__init__(codec, place)
        self.coded = False

    def inline(self, raw: bytes | Raw, what: str) -> Payload:
        return Payload(Raw(bytes(raw)))

    async def put(self, raw: bytes, what: str) -> Payload:
        return Payload(Raw(raw))


class _Nobody:
    """Listens to a worker that tells nothing."""

    def run_ended(self, partition: int, run: str) -> None:
        return

    def progressed(self) -> None:
        return

    def partition_halted(self, partition: int, reason: str) -> None:
        return

    def partition_dropped(self, partition: int) -> None:
        return


class ReplayWorker(Worker):
    """The worker as it ships, whose runs are begun by hand and watched."""

    execution_type = WatchedExecution
    onlooker: Onlooker

    def __init__(self, app: App, place: Place | None = None) -> None:
        app.load()
        functions = app.functions
        super().__init__(
            app.specs,
            prepare,
            lambda spec, of: RunHandle(functions[spec.id], of),
            _Nobody(),
            lambda: self.at,
            steps=app.pool_steps,
            payloads=Unstored(app.codec, place),
        )
        # A debugger blocks the loop for as long as its user thinks.
        self._watchdog.stop()
        self.at = 0
        self.onlooker = Unwatched()
        self.unreadable: PayloadUnavailable | None = None

    def put_off(self, execution: Execution, why: Exception) -> None:
        """What the run needs cannot be read: it is not tried again."""
        self.unreadable = why if isinstance(why, PayloadUnavailable) else None
        execution.unwind(Evicted())

    def finished(self, execution: Execution) -> None:
        """Called where the error that ended user code is still being handled."""
        error = sys.exception()
        if error is not None:
            self.onlooker.failed(execution, error)
        super().finished(execution)


class _Asked(Unwatched):
    """Keeps what was asked for, and tells another onlooker."""

    def __init__(self, other: Onlooker) -> None:
        self.ops: dict[str, AskedFor] = {}
        self._other = other

    def asked(self, execution: Execution, op: str, digest: str) -> None:
        self.ops[op] = AskedFor(op=op, digest=digest, at=execution.now_ms)
        self._other.asked(execution, op, digest)

    def answered(self, execution: Execution, outcome: Delivered) -> None:
        self.ops[outcome.op].outcome = outcome
        self._other.answered(execution, outcome)

    def failed(self, execution: Execution, error: BaseException) -> None:
        self._other.failed(execution, error)


class Replayer:
    """Replays runs on one app's code, one after another. To be closed."""

    def __init__(self, app: App, place: Place | None = None) -> None:
        self.app = app
        self.worker = ReplayWorker(app, place)
        self._code = app.definition().digest

    async def replay(
        self,
        view: View,
        run: str,
        *,
        end: RecordedEnd | None = None,
        onlooker: Onlooker | None = None,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> Replayed:
        """Runs user code on what `view` holds of `run`. `end`: what the log has after that.

        Raises `UnknownRun` if the view holds no such run that goes on, `PayloadUnavailable`.
        """
        state = view.live(run)
        if state is None:
            ended = view.runs.get(run)
            why = f"it is {ended.status} there" if ended is not None else "it is not known there"
            raise UnknownRun(f"no run {run!r} to replay at offset {view.offset}: {why}")
        replayed = Replayed(run=run, function=state.function, verdict="waits", end=end)
        function = self.worker.functions.get(state.function)
        if function is None:
            replayed.verdict = "held"
            replayed.message = f"this app has no function {state.function!r}: the run would wait until it has"
            return replayed
        if state.status == "queued":
            replayed.message = "it has not begun"
            replayed.verdict = "waits" if end is None else "as_recorded"
            return replayed
        execution, asked = self._begin(view, state, function, onlooker or Unwatched())
        try:
            rests = await self._until_rest(execution, asked, patience_seconds)
            if self.worker.unreadable is not None:
                raise self.worker.unreadable
            _describe(asked, execution)
            replayed.asked = tuple(asked.values())
            if not rests:
                clock = own_clock(execution)
                replayed.verdict = "stuck"
                replayed.message = f"it waits on {clock}" if clock else "it waits on something that is no op"
            self._judge(replayed, execution, asked)
        finally:
            if end is not None and end.status == "cancelled":
                # Its code sees what it saw then.
                execution.cancel()
            execution.evict()
            self.worker.executions.pop(run, None)
            await leave_behind([execution])
        return replayed

    async def close(self) -> None:
        """Evicts what is left."""
        await self.worker.close()

    def _begin(
        self, view: View, state: RunState, function: FunctionSpec, onlooker: Onlooker
    ) -> tuple[Execution, dict[str, AskedFor]]:
        worker, asked = self.worker, _Asked(onlooker)
        worker.at, worker.onlooker, worker.unreadable = view.at, asked, None
        execution = worker.make(Replica(view, self._code), state, function)
        execution.load(view.lines.load(state.id))
        execution.plain = False
        execution.run(main(execution))
        return execution, asked.ops

    async def _until_rest(self, execution: Execution, asked: Mapping[str, AskedFor], patience: float) -> bool:
        """Whether it came to rest: at its end, parked, or waiting on ops alone. False: no progress for `patience`."""
        loop, settler = asyncio.get_running_loop(), self.worker.settler
        progress, spins, deadline = (0, 0), 0, 0.0
        while not execution.gone():
            if not execution.replaying and not execution.queue:
                if execution.at_rest() and tasks_idle(execution):
                    return True
                if execution.tasks and not settler.watches(execution):
                    settler.watch(execution)
            if progress != (len(asked), len(execution.queue)):
                progress, spins, deadline = (len(asked), len(execution.queue)), 0, 0.0
            spins += 1
            if spins > SPINS:
                deadline = deadline or loop.time() + patience
                if loop.time() > deadline:
                    return False
            await asyncio.sleep(0 if spins <= SPINS else PAUSE_SECONDS)
        return True

    def _judge(self, replayed: Replayed, execution: Execution, asked: Mapping[str, AskedFor]) -> None:
        """What it has come to, by what it would write, and by what it waits for."""
        if isinstance(execution.signal, Stop):
            replayed.verdict = "stopped"
            return
        for record in _written(execution):
            match record:
                case RunParked():
                    replayed.verdict, replayed.message = "parks", record.message
                    replayed.recorded, replayed.requested = record.recorded, record.requested
                case RunFinished():
                    self._ends(replayed, record, execution)
                case RunErrored():
                    replayed.verdict, replayed.error = "retries", record.error
                    replayed.recorded = _never_asked(execution, asked)
                case _:
                    pass
        if replayed.verdict == "waits":
            waiting = [asked[op] for op in execution.waiting if op in asked]
            news = [one for one in waiting if one.standing in ("new", "due")]
            replayed.at = tuple(news or waiting)
            replayed.verdict = "goes_on" if news else "waits"
        if replayed.end is not None:
            self._compare(replayed, replayed.end, execution)

    def _ends(self, replayed: Replayed, record: RunFinished, execution: Execution) -> None:
        replayed.verdict, replayed.status, replayed.error = "ends", record.status, record.error
        replayed.result = self._value(record, execution)

    def _value(self, record: RunFinished, execution: Execution) -> Raw | None:
        """What the run gave: its result, or the event that its successor begins with."""
        if record.successor is not None:
            return Raw(msgspec.json.encode([record.successor.name, record.successor.data]))
        return None if record.result is None else self.worker.payload_json(execution.processor, record.result)

    def _compare(self, replayed: Replayed, end: RecordedEnd, execution: Execution) -> None:
        """With what the log has of the run's end."""
        then = end.finished
        if replayed.verdict in ("parks", "stuck"):
            return
        if then is None:
            # Not its code ended it: whatever it was about to do, it did not come to that.
            replayed.verdict = "as_recorded"
            return
        if replayed.verdict != "ends":
            there = ", ".join(one.op for one in replayed.at) or "its function's next attempt"
            replayed.message = f"the run {then.status} in the log, and this code goes on at {there}"
        elif replayed.status != then.status:
            replayed.message = f"the run {then.status} in the log, and with this code it {replayed.status}"
        elif not _same_json(replayed.result, self._value(then, execution)):
            replayed.message = "it ends with another result than the log has"
        elif not _same_error(replayed.error, then.error):
            replayed.message = "it fails in another way than in the log"
        else:
            replayed.verdict = "as_recorded"
            return
        replayed.verdict = "otherwise"


def _written(execution: Execution) -> list[Record]:
    replica = execution.processor
    assert isinstance(replica, Replica)
    return replica.written


def _never_asked(execution: Execution, asked: Mapping[str, AskedFor]) -> AskedOp | None:
    missing = (op for op in execution.recorded if op not in asked and op not in execution.closed)
    return next((AskedOp(op, execution.recorded[op]) for op in missing), None)


def _describe(asked: Mapping[str, AskedFor], execution: Execution) -> None:
    """What each op is, and how it stands."""
    openings = {record.op: record.opening for record in _written(execution) if isinstance(record, OpOpened)}
    known = execution.recorded.keys() - openings.keys()
    steps = set(execution.held)
    view, run = execution.processor.view, execution.run_id
    for line in view.lines.load(run):
        record = view.lines.whole(run, line) if line.kind in ("opening", "op.opened") else None
        if isinstance(record, OpOpened):
            openings[line.op] = record.opening
        elif line.kind in ("step.completed", "step.failed"):
            steps.add(line.op)
    for op, one in asked.items():
        opening, opened = openings.get(op), execution.state.open.get(op)
        if opening is not None:
            one.kind = kind_of(opening)
        elif opened is not None or op in steps:
            one.kind = "step"
        if one.outcome is not None:
            one.standing = "answered"
        elif op in execution.closed:
            one.standing = "given up"
        elif opened is not None:
            one.standing = "due" if opened.type == "step" and opened.due is None else "open"
        elif op in known:
            one.standing = "recorded"


def _same_json(mine: Raw | None, then: Raw | None) -> bool:
    return (mine is None and then is None) or (
        mine is not None and then is not None and msgspec.json.decode(mine) == msgspec.json.decode(then)
    )


def _same_error(mine: ErrorInfo | None, then: ErrorInfo | None) -> bool:
    return (mine and (mine.type, mine.message)) == (then and (then.type, then.message))
