"""One run's user code in memory: asked, delivered, settled, unwound.

Results go to a run one at a time, in log order, the next when the run has settled; live and on replay alike:

    recorded lines ─┐
                    ├─► queue ──(settled, and the head was asked for)──► the op's future ──► user code moves
    live outcomes ──┘

A run with one task needs no settling. On replay, an op that the log does not hold waits until all recorded outcomes
are handed out, and counts as asked. What the log holds and the run does not ask for parks it.
"""

import asyncio
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextvars import Context
from itertools import count
from typing import TYPE_CHECKING, Any, TypeVar, cast

from msgspec import Raw, Struct

from perdure.errors import OutsideRun, PayloadUnavailable, RunCancelled
from perdure.flow.lines import StoredLine, is_immediate, op_name
from perdure.flow.states import RunState
from perdure.partition import Processor
from perdure.worker.arguments import CallOptions
from perdure.worker.delivery import AGAIN, GO, Delivered, Diverged, Evicted, Go
from perdure.worker.idle import tasks_idle
from perdure.worker.lineage import Branch, InStep, current_branch, here
from perdure.worker.payloads import digest
from perdure.worker.spec import FunctionSpec
from perdure.worker.tracing import Tracing
from perdure_schemas.payload import Payload
from perdure_schemas.records import AskedOp, OpClosed, Opening, OpOpened, RunParked, StepCompleted, StepFailed, V

if TYPE_CHECKING:
    from perdure.worker.worker import Worker

R = TypeVar("R")
_IN_BODY = object()
_EMPTY = Context()
_enter = here.set
"""Bound once: of a name that was imported, each call would make the method anew."""
_CALLS = count()
_NOWHERE = Branch(cast("Execution", None), "")
_NONE_CLOSED = cast("set[str]", frozenset[str]())
_NO_QUEUE: "deque[Delivered]" = deque()
Asked = Delivered | Go


class Execution(Struct, eq=False):
    """See the module's text. `state` is the fold's own, kept current by the fold while the run is resident.

    What most runs never fill is shared while it is empty, and replaced before something is added.
    """

    worker: "Worker"
    processor: Processor
    state: RunState
    function: FunctionSpec
    loop: asyncio.AbstractEventLoop
    run_id: str
    now_ms: int
    coded: bool
    """The app's codec makes its payloads."""
    traceparent: str
    """What it hands on: that of its own span, or where nobody makes spans the one that it was given."""
    tracing: Tracing | None
    branch: Branch = cast("Branch", None)
    tasks: dict[asyncio.Future[Any], Branch] = {}
    """Tasks that the run created, and the branch that each is."""
    waiting: dict[str, "asyncio.Future[Asked]"] = {}
    deferred: dict[str, str] = {}
    """Ops that were asked for before all that is recorded was handed out, and their digests."""
    queue: deque[Delivered] = _NO_QUEUE
    recorded: dict[str, str] = {}
    closed: set[str] = _NONE_CLOSED
    held: set[str] = _NONE_CLOSED
    """Steps that may not begin at present."""
    announced: set[str] = _NONE_CLOSED
    """Suspects that wait for their step.attempted."""
    ending: dict[Branch, InStep] = {}
    """Branches but the root that were cancelled in the body of a step: by the run, or by that body's own timeout."""
    unawaited: dict[str, Coroutine[Any, Any, Any]] = {}
    moves: int = 0
    rest: tuple[int, object | None] = (-1, None)
    signal: BaseException | None = None
    plain: bool = True
    """It began here, with nothing recorded, and nobody told it to stop: its steps need not ask. Never true again."""
    replaying: bool = False
    suspect: bool = False
    idle: bool = False
    direct: bool = False
    """An outcome may go straight to the op that waits: the worker need not look first."""
    replay_cost: int = 0
    context: Any = None
    """The Context that user code has of this run; the sdk's."""
    progress: dict[str, str | int | float | bool | None] = {}

    def load(self, lines: Sequence[StoredLine]) -> None:
        """Take what the log holds of this run, before its user code starts."""
        outcomes: list[Delivered] = []
        for line in lines:
            record = line.record or self.processor.view.lines.whole(self.run_id, line)
            if isinstance(record, OpClosed):
                self.closed = self.closed or set()
                self.closed.add(line.op)
                continue
            if isinstance(record, OpOpened | StepCompleted | StepFailed):
                self.recorded[line.op] = record.digest
            if not isinstance(record, OpOpened) or is_immediate(record):
                outcomes.append(Delivered(self.run_id, line.op, record, line.at, line.offset))
        # The outcome of an op that was closed was never delivered: nor is it now.
        if outcomes:
            self.queue = deque(one for one in outcomes if one.op not in self.closed)
        for op, opened in self.state.open.items():
            self.recorded.setdefault(op, opened.digest)
        # What was closed is closed again when all that was recorded is handed out, or by what caused it then.
        self.replaying = bool(self.queue or self.state.open or self.closed)
        self.plain = not (self.replaying or self.recorded or self.suspect)

    def run(self, main: Coroutine[Any, Any, None]) -> None:
        """Start user code in a context of its own, whose branch is the root."""
        branch = self.branch = Branch(self, "0")
        context = Context()
        context.run(_enter, branch)
        if self.tracing is not None:
            context.run(self.tracing.enter, self.traceparent)
        branch.task = asyncio.Task(main, loop=self.loop, name=f"run {self.run_id}", context=context)
        if self.queue:
            self.worker.settler.watch(self)

    @property
    def root(self) -> "asyncio.Task[Any] | None":
        """None before the run begins, and when its root task is at its end."""
        return self.branch.task

    def adopt(self, task: "asyncio.Future[Any]", coro: Coroutine[Any, Any, Any], branch: Branch) -> None:
        """A task that the run created for `coro`."""
        self.tasks[task] = branch
        branch.task = cast("asyncio.Task[Any]", task)

        def ended(task: "asyncio.Future[Any]") -> None:
            self.tasks.pop(task, None)
            branch.task = None
            if self.ending:
                self.ending.pop(branch, None)
            # A task that was cancelled before its first turn leaves its coroutine unstarted: nobody forgot to await it.
            coro.close()
            for op in [op for op, one in self.unawaited.items() if one is coro]:
                del self.unawaited[op]

        task.add_done_callback(ended, context=_EMPTY)

    # Asking

    def begin(self, name: str) -> tuple[Branch, str]:
        """The calling branch and the identity of an op called `name`, taken now."""
        branch = current_branch()
        if branch is None or branch.execution is not self:
            raise OutsideRun(f"{name!r} belongs to run {self.run_id}, and was called from outside its tasks")
        return branch, branch.identity(name)

    def ask(self, op: str, asked: str) -> Delivered | None:
        """The op's outcome if it is the next recorded one and no other task could come before it."""
        if self.signal is not None:
            raise type(self.signal)
        known = self.recorded.get(op)
        if known and known != asked:
            self.differ(op, known, asked)
            raise Diverged
        queue = self.queue
        if queue:
            if queue[0].op == op and not self.tasks:
                delivered = queue.popleft()
                self.now_ms = delivered.at
                return delivered
        elif self.replaying and not self.tasks:
            self._caught_up_alone(op)
        return None

    def _caught_up_alone(self, op: str) -> None:
        """All is handed out, and the only task asks for `op`: if the log holds another open op, they differ."""
        known = (op, *self.waiting, *self.closed)
        other = next((held for held in self.state.open if held not in known), None)
        if other is not None and op not in self.state.open:
            opened = self.state.open[other]
            self.park(op, AskedOp(other, opened.digest), AskedOp(op), "is not what the log has open here")
            raise Diverged
        self.replaying = False

    async def obtain(self, op: str, asked: str) -> Delivered | None:
        """The recorded outcome; None if the op is to be done now. May wait until all recorded is handed out."""
        delivered = self.ask(op, asked)
        if delivered is None and self.replaying:
            self.deferred[op] = asked
            self.worker.settler.watch(self)
            try:
                answer = await self.wait(op)
            finally:
                self.deferred.pop(op, None)
            return None if isinstance(answer, Go) else answer
        return delivered

    def expect(self, op: str) -> "asyncio.Future[Asked]":
        """The future that the op's outcome, or the word to go on, will be given to."""
        future: asyncio.Future[Asked] = self.loop.create_future()
        self.waiting[op] = future
        if self.queue:
            self.worker.settler.watch(self)
        return future

    async def wait(self, op: str) -> Asked:
        """The op's outcome, or the word to go on. A cancelled op is closed in the log."""
        task = asyncio.current_task()
        cancels = task.cancelling() if task is not None else 0
        while True:
            future = self.expect(op)
            try:
                answer = await future
                if self.signal is not None:
                    # The run ended between the answer and this: nothing begins any more.
                    raise type(self.signal)
                return answer
            except asyncio.CancelledError:
                if task is None or not self._outlived(op):
                    self.close(op)
                    raise
                while task.cancelling() > cancels:
                    task.uncancel()
            finally:
                self.waiting.pop(op, None)
                # future → exception → traceback → this frame → future is a cycle that outlives an eviction
                del future

    def _outlived(self, op: str) -> bool:
        """Whether the step's body swallowed this cancel when it ran: its task went on, and does so on replay."""
        return self.signal is None and any(
            one.op == op and isinstance(one.outcome, StepCompleted | StepFailed) and one.outcome.outlived_cancel
            for one in self.queue
        )

    def close(self, op: str) -> None:
        """User code cancelled an op before its result reached it. Raises the run's own signal if that was it."""
        if self.signal is not None:
            raise type(self.signal) from None
        if op not in self.closed:
            self.closed = self.closed or set()
            self.closed.add(op)
            self.processor.append(OpClosed(self.run_id, op, v=V))

    def call(
        self, function: FunctionSpec, args: Sequence[Any], kwargs: Mapping[str, Any], options: CallOptions, *,
        awaited: bool,
    ) -> Coroutine[Any, Any, Any]:  # fmt: skip
        """Another function's run: see `asking.py`."""
        return self.worker.call(self, function, args, kwargs, options, awaited=awaited)

    def called(self, name: str, work: Callable[[], Coroutine[Any, Any, R]]) -> Coroutine[Any, Any, R]:
        """Something that is to be awaited and is no op of its own."""
        key = f"/{name}#{next(_CALLS)}"
        coroutine = self._called(key, work)
        self.unawaited[key] = coroutine
        return coroutine

    async def _called(self, key: str, work: Callable[[], Coroutine[Any, Any, R]]) -> R:
        self.unawaited.pop(key, None)
        return await work()

    def open(
        self, name: str, what: tuple[Any, ...], opening: Callable[[str], Opening], then: Callable[[Any], R]
    ) -> Coroutine[Any, Any, R]:
        """An op that is not a step. Its identity is taken now; the opening is made when it goes to the log.

        `then` makes of the outcome what user code gets.
        """
        _, op = self.begin(name)
        coroutine = self._open(op, digest(name, what, {})[0], opening, then)
        self.unawaited[op] = coroutine
        return coroutine

    async def _open(self, op: str, asked: str, opening: Callable[[str], Opening], then: Callable[[Any], R]) -> R:
        self.unawaited.pop(op, None)
        delivered = await self.obtain(op, asked)
        while delivered is None:
            if op not in self.recorded:
                self.recorded[op] = asked
                self.processor.append(OpOpened(self.run_id, op, asked, opening(op), v=V))
            self.worker.may_rest(self)
            answer = await self.wait(op)
            delivered = None if isinstance(answer, Go) else answer
        return then(delivered.outcome)

    # Delivering

    def deliver(self, delivered: Delivered) -> None:
        """An outcome was read from the log."""
        future = self.waiting.get(delivered.op)
        if future is not None and not self.queue and not self.tasks:
            try:
                future.set_result(delivered)
            except asyncio.InvalidStateError:
                # Of a run that was told to stop all futures are done; and a closed op waits no longer.
                pass
            else:
                self.now_ms = delivered.at
                return
        if self.signal is not None or delivered.op in self.closed:
            return
        self.queue = self.queue or deque()
        self.queue.append(delivered)
        if future is None:
            self._overtaken()
        else:
            self.worker.settler.watch(self)

    def opened(self, op: str, digest: str) -> None:
        """An op.opened of another owner, or of an earlier one, was read: the first of an op counts, and not ours."""
        if self.signal is not None:
            return
        asked = self.recorded.get(op) or self.deferred.get(op)
        if asked is not None and asked != digest:
            self.differ(op, digest, asked)
            return
        self.recorded[op] = digest
        if asked is None:
            self._overtaken()

    def given_up(self, op: str, *, taken: bool) -> None:
        """An op.closed of another owner, or of an earlier one, was read. `taken`: the op had its outcome by then."""
        if self.signal is not None:
            return
        if taken and not self.decided(op):
            self.park(op, AskedOp(op, self.recorded.get(op, "")), None, "was closed, and its event is in use here")
            return
        self.closed = self.closed or set()
        self.closed.add(op)
        if taken:
            self.queue = deque(one for one in self.queue if one.op != op)
        self._overtaken()

    def _overtaken(self) -> None:
        """The log is ahead of us: another owner, or an earlier one, did what this run has not asked for yet."""
        self.plain, self.replaying = False, True
        self.worker.settler.watch(self)

    def go(self, op: str) -> None:
        """The op may go on itself: a retry is due, or its attempt is in the log."""
        self._answer(op, GO)

    def announce_again(self, op: str) -> None:
        """Its step.attempted does not count. If it waits for that no more, it has begun or is decided."""
        if op in self.announced:
            self._answer(op, AGAIN)

    def _answer(self, op: str, word: Go) -> None:
        future = self.waiting.get(op)
        if future is not None and not future.done() and self.signal is None:
            future.set_result(word)

    def decided(self, op: str) -> bool:
        """Its outcome was read, and is on its way to the run."""
        return any(one.op == op for one in self.queue)

    @property
    def may_begin(self) -> bool:
        """Steps of this run are ours to begin at present."""
        return self.processor.performing and not self.worker.draining

    @property
    def bodies(self) -> dict[str, InStep]:
        """Steps whose bodies run, by op."""
        branches = (self.branch, *list(self.tasks.values()))
        return {branch.body.op: branch.body for branch in branches if branch.body is not None}

    def root_waiter(self) -> object | None:
        """See `Settling`. A step body's own moves are not the run's."""
        if self.branch.body is not None:
            return _IN_BODY
        waiter: asyncio.Future[Any] | None = getattr(self.root, "_fut_waiter", None)
        return None if waiter is None or waiter.done() else waiter

    def _ends_bodies(self) -> bool:
        """Whether the body of a step that was given up is not at its end yet.

        What comes after it comes at once on replay, and so before the next result here, however long the body takes.
        """
        if self.ending:
            self.ending = {branch: body for branch, body in self.ending.items() if branch.gives_up(body)}
        return bool(self.ending) or self.branch.gives_up(self.branch.body)

    def over(self) -> bool:
        """Whether user code came to its end by itself, and left nothing behind."""
        return self.root is None and not self.tasks

    def gone(self) -> bool:
        return self.signal is not None or self.root is None or self.root.done()

    def at_rest(self) -> bool:
        """Whether nothing of the run is on the move: since it settled, neither the root nor a child did anything."""
        if not self.tasks:
            return self.root_waiter() is not None
        return self.rest == (self.moves, self.root_waiter()) and not self.worker.settler.watches(self)

    def settled(self) -> None:
        """Nothing of the run moves by itself: hand over the next outcome, or see what is missing."""
        self.rest = (self.moves, self.root_waiter())
        queue = self.queue
        if queue and self._ends_bodies():
            self.worker.look_again(self)
            return
        while queue:
            head = queue[0]
            future = self.waiting.get(head.op)
            if future is not None and not future.done():
                queue.popleft()
                self.now_ms = head.at
                future.set_result(head)
                self.worker.settler.watch(self)
                return
            if head.op not in self.closed:
                self._missing(head.op)
                return
            queue.popleft()
        if self.replaying:
            self._caught_up()
        elif self.closed and self._waits_in_vain():
            return
        self.worker.may_rest(self)

    def _caught_up(self) -> None:
        missing = next((op for op in self.state.open if op not in self.waiting and op not in self.closed), None)
        if missing is not None:
            self._missing(missing)
            return
        self.replaying = False
        for op in list(self.deferred):
            self.go(op)
        self.worker.settler.watch(self)

    def _waits_in_vain(self) -> bool:
        """All that the run waits for was given up when it was here before: it went on then, and now does not."""
        if not self.waiting or not all(op in self.closed for op in self.waiting):
            return False
        if not tasks_idle(self):
            return False
        op = next(iter(self.waiting))
        self.park(op, AskedOp(op, self.recorded.get(op, "")), None, "was closed before, and is waited for now")
        return True

    def _missing(self, op: str) -> None:
        """The log holds an op that the run, at rest, has not asked for. If nothing else can move it, they differ."""
        if not tasks_idle(self):
            self.worker.look_again(self)
            return
        held = self.recorded.get(op, "")
        early = (one.op for one in self.queue if one.op in self.waiting)
        there = (asked for asked in self.waiting if asked.partition("/")[0] == op.partition("/")[0])
        new = next((asked for asked in self.waiting if asked not in self.recorded), next(early, next(there, "")))
        why = "is in the log and was not asked for" + ("" if new else ": the code asks for nothing there")
        self.park(op, AskedOp(op, held), AskedOp(new) if new else None, why)

    # Ending

    def differ(self, op: str, recorded: str, asked: str) -> None:
        """The log has the op with another digest than it is asked for with."""
        self.park(op, AskedOp(op, recorded), AskedOp(op, asked), "was recorded with other arguments")

    def read(self, payload: Payload, field: str = "result") -> Raw:
        """User data that the log has for this run. While they cannot be read the run is out of memory."""
        try:
            return self.worker.payload_json(self.processor, payload, field)
        except PayloadUnavailable as error:
            self.worker.put_off(self, error)
            raise Evicted from error

    def park(self, op: str, recorded: AskedOp, requested: AskedOp | None, why: str) -> None:
        """This code and the log differ: stop, and say how. The run goes on under other code, or by command."""
        if requested is not None and requested.op == recorded.op:
            why += f": now with digest {requested.digest}, then {recorded.digest}"
        elif requested is not None:
            why += f": the code asks for {requested.op!r}"
        message = (
            f"{recorded.op!r} ({op_name(recorded.op)}) {why}. Deploy the code that began this run, keep "
            "both ways behind ctx.patched(...), or cancel the run."
        )
        self.processor.opine(
            RunParked(
                self.run_id, self.processor.owner, self.processor.code, message,
                recorded=recorded, requested=requested, v=V,
            )
        )  # fmt: skip
        self.unwind(Diverged())
        self.worker.left(self)

    def unwind(self, signal: BaseException) -> None:
        """End the user code: its ops raise `signal`, what waits on anything else is cancelled."""
        if self.signal is not None:
            return
        self.signal = signal
        self.plain = False
        self.queue = _NO_QUEUE
        self.worker.settler.forget(self)
        for body in self.bodies.values():
            body.cancelled = True
        for future in list(self.waiting.values()):
            if not future.done():
                future.set_exception(type(signal)())
        waited = set(map(id, self.waiting.values()))
        for task in self.tasks:
            task.add_done_callback(_ended, context=_EMPTY)
        everyone = [*self.tasks, self.root] if self.root is not None else [*self.tasks]
        current = asyncio.current_task() if self.loop.is_running() else None
        for task in everyone:
            if id(getattr(task, "_fut_waiter", None)) not in waited and task is not current and not task.done():
                task.cancel()

    def evict(self) -> None:
        """Leave memory. What the run waits for is in the log."""
        self.unwind(Evicted())

    def cancel(self) -> None:
        """The run was cancelled, or failed by its own timeout."""
        self.unwind(RunCancelled("the run was cancelled"))

    def ended(self) -> None:
        """The root task is at its end. Without the cycles cut here, every run would have to wait for the collector."""
        self.branch.task = self.context = None
        self.branch = _NOWHERE

    def unread(self) -> list[str]:
        """Ops whose outcome user code has not seen."""
        return [*self.waiting, *(one.op for one in self.queue)]

    def repeating(self) -> bool:
        """Whether the code that runs now did so before: the log holds something that comes after it."""
        return self.replaying and (bool(self.queue) or any(op not in self.waiting for op in self.state.open))

    def unheard(self) -> bool:
        """Whether what the code logs now was logged before, or is only the unwinding of one that leaves memory."""
        return isinstance(self.signal, Evicted | Diverged) or self.repeating()

    def never_asked(self) -> str:
        """An op that the log holds and user code has not asked for, or nothing. Only a replay can find one."""
        if not self.replaying:
            return ""
        held = (*(one.op for one in self.queue), *self.state.open)
        return next((op for op in held if op not in self.waiting and op not in self.closed), "")

    def never_awaited(self) -> str:
        """The name of an op that was called and not awaited, or nothing."""
        name = next((op_name(op) for op in self.unawaited), "")
        for coroutine in self.unawaited.values():
            coroutine.close()
        self.unawaited.clear()
        return name


def _ended(task: "asyncio.Future[Any]") -> None:
    """Nobody need be told that a task of a run that was told to stop did stop."""
    if not task.cancelled():
        forget(task.exception())


def forget(error: BaseException | None) -> None:
    """Drop what the frames of stopped user code hold, without a word of coroutines that were never awaited."""
    if error is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            traceback.clear_frames(error.__traceback__)
