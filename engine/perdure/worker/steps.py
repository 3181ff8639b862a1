"""Steps: run the body, write its result, hand over what was read back.

1 asked: a recorded outcome is served; else
2 the body runs (in a thread if it is a plain function), under its timeout
3 its result goes through JSON, as it will on replay, and is appended: one append a step
4 the outcome comes back from the log; a failure with attempts left waits for its timer, then 2 again
"""

import asyncio
import logging
from collections.abc import Coroutine, Mapping
from concurrent.futures import Future
from contextvars import copy_context
from functools import partial
from time import monotonic_ns
from typing import Any

from msgspec import UNSET, Raw, UnsetType

from perdure.errors import DefinitionError, NonRetriable, OutsideRun, PayloadError
from perdure.flow.queues import QUEUED
from perdure.worker.coding import STORED_FROM_BYTES
from perdure.worker.delivery import AGAIN, GO, Delivered, Diverged, Go
from perdure.worker.errors import describe, is_final, rebuild_step_error, retry_in_ms
from perdure.worker.execution import Execution
from perdure.worker.lineage import Branch, InStep, here, in_step
from perdure.worker.payloads import decoder_for, digest, round_trip, show
from perdure.worker.spec import StepSpec
from perdure.worker.tracing import Tracing, attempt_span
from perdure_schemas.payload import INLINE_LIMIT_BYTES, ErrorInfo, Payload
from perdure_schemas.records import AskedOp, StepAttempted, StepCompleted, StepFailed, V

log = logging.getLogger("perdure.worker")
DEATHS_ALONE = 3
"""A step that died this often with no other suspect beside it is what kills its process: it fails."""
GRACE_SECONDS = 1.0
_branch, _enter, _leave = here.get, in_step.set, in_step.reset
"""Bound once: of a name that was imported, each call would make the method anew."""
FINAL = (NonRetriable, PayloadError, DefinitionError, OutsideRun)


def step(branch: Branch, spec: StepSpec, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Coroutine[Any, Any, Any]:
    """A step of a run, called in `branch`. Its identity is taken now, when it is called."""
    op = branch.identity(spec.name)
    execution = branch.execution
    coroutine = execution.unawaited[op] = run_step(execution, branch, op, spec, args, kwargs)
    return coroutine


async def run_step(
    execution: Execution, branch: Branch, op: str, spec: StepSpec, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Any:
    """In one piece, since every call, coroutine and object here is paid for by each step."""
    del execution.unawaited[op]
    asked, given = digest(spec.name, args, kwargs)
    delivered: Delivered | None = None
    plain = execution.plain
    if not plain:
        delivered = await execution.obtain(op, asked) if execution.replaying else execution.ask(op, asked)
    attempt: _Attempt | None = None
    # The op is the caller's, but in a step is the task that awaits it.
    inside = _branch() or branch
    while delivered is None:
        outlived = attempt is not None and attempt.outlived
        attempt = _Attempt(execution, op, spec.name, 1, False, 0, spec, asked, given, monotonic_ns(), outlived)
        if not plain and (execution.suspect or op in execution.state.open or attempt.held()):
            answer = await attempt.gate()
            if answer is not None:
                delivered = None if isinstance(answer, Go) else answer
                continue
        plain = False
        try:
            # 2 and 3: after this the attempt's record is on its way to the log
            task = inside.task
            assert task is not None
            cancels = task.cancelling()
            if cancels:
                # One on its way is thrown into the body, and is not the body's own.
                attempt.cancels = cancels - _on_its_way(task)
            token = _enter(attempt)
            outer, inside.body = inside.body, attempt
            try:
                if execution.tracing is not None:
                    value = await _traced(execution.tracing, attempt, spec, args, kwargs)
                elif spec.is_async and spec.timeout_ms is None:
                    value = await (spec.fn(*args, **kwargs) if kwargs else spec.fn(*args))
                else:
                    value = await guarded(attempt, spec, args, kwargs)
                encoded, kept = round_trip(value, spec.returns, spec.decode)
                coded = execution.coded
                if coded or len(encoded) > STORED_FROM_BYTES:
                    result = await execution.worker.payloads.put(encoded, f"the result of step {spec.name!r}")
                else:
                    result = Payload(Raw(encoded))
            except BaseException as error:
                if attempt.broke(error):
                    raise
                record = kept = None
            else:
                if execution.signal is not None:
                    raise type(execution.signal)
                if task.cancelling() > attempt.cancels:
                    attempt.outlive(task)
                record = StepCompleted(
                    execution.run_id,
                    op,
                    attempt.attempt,
                    asked,
                    result,
                    UNSET if coded or not spec.record_input or len(given) > INLINE_LIMIT_BYTES else Raw(given),
                    (monotonic_ns() - attempt.began) // 1000,
                    attempt.outlived,
                    v=V,
                )
                execution.processor.append_outcome(record)
            finally:
                inside.body = outer
                try:  # noqa: SIM105 - `suppress` would cost each step an object
                    _leave(token)
                except ValueError:
                    # The collector closes an abandoned coroutine from another context: nothing is to be put back there.
                    pass
            while task.cancelling() > cancels:
                # Left behind by the body, which a replay does not run.
                task.uncancel()
            if record is None and attempt.superseded():
                continue
            # 4: as `execution.wait`, without a coroutine of its own
            future = execution.waiting[op] = execution.loop.create_future()
            if execution.queue or op in execution.closed:
                execution.worker.settler.watch(execution)
            try:
                answer = await future
            except asyncio.CancelledError:
                execution.close(op)
                raise
            finally:
                del execution.waiting[op]
                del future  # see `wait`
            delivered = None if answer is GO else answer
        finally:
            if attempt.alone:
                execution.worker.suspects.leave(attempt)
        if (
            delivered is not None
            and record is not None
            and (delivered.outcome is record or _same(delivered.outcome, record))
        ):
            # The round trip already made the private copy that decoding would make.
            return kept
    return value_of(execution, op, spec, asked, delivered)


def value_of(execution: Execution, op: str, spec: StepSpec, asked: str, delivered: Delivered) -> Any:
    """What the log has of the step: its result, or its last failure raised."""
    outcome = delivered.outcome
    if isinstance(outcome, StepCompleted | StepFailed) and outcome.digest and outcome.digest != asked:
        # Written by an owner of other code, before it knew of this one.
        execution.differ(op, outcome.digest, asked)
        raise Diverged
    if type(outcome) is StepCompleted:
        return _recorded(execution, op, spec, asked, outcome.result)
    assert isinstance(outcome, StepFailed), f"I4: a step's outcome is a {type(outcome).__name__}"
    raise rebuild_step_error(outcome.error, spec.name)


def _same(outcome: object, record: StepCompleted) -> bool:
    """Whether the outcome is what this attempt wrote, read with the same bytes."""
    if type(outcome) is not StepCompleted or outcome.digest != record.digest:
        return False
    return outcome.result == record.result and not outcome.result.encoded


def _recorded(execution: Execution, op: str, spec: StepSpec, asked: str, result: Payload) -> Any:
    """A result from the log. Code that cannot read it is not the code that wrote it."""
    try:
        return decoder_for(spec.returns)(execution.read(result))
    except Exception as error:
        why = f"has a result in the log that cannot be read as {show(spec.returns)} ({error})"
        execution.park(op, AskedOp(op, asked), None, why)
        raise Diverged from error


class _Attempt(InStep, eq=False):
    """One attempt of a step that is not in the log. It is what `current_step()` knows of it, too."""

    spec: StepSpec
    asked: str
    given: bytes
    began: int
    outlived: bool = False
    """The body swallowed a cancel from outside it, in this attempt or an earlier one."""
    alone: bool = False
    """The only suspect that runs: it holds the lock."""

    def held(self) -> bool:
        """Of a run that ended meanwhile, given up before this replay, decided, or not ours to begin at present."""
        execution = self.execution
        given_up = execution.signal is not None or self.op in execution.closed
        return given_up or not execution.may_begin or execution.decided(self.op)

    def superseded(self) -> bool:
        """Another owner's failure of this attempt was first, and the word to begin the next came while this one ran."""
        opened = self.execution.state.open.get(self.op)
        return opened is not None and opened.attempt > self.attempt and opened.due is None

    async def gate(self) -> Delivered | Go | None:
        """What comes before an attempt that is not simply the first. None: go ahead."""
        execution = self.execution
        if execution.signal is not None:
            # The run ended between the word to go on and this.
            raise type(execution.signal)
        if self.op in execution.closed:
            # Given up before this replay: it does not run again (I6), and will be given up again.
            execution.worker.settler.watch(execution)
            return await execution.wait(self.op)
        if not execution.may_begin:
            return await self._until_performed()
        if execution.decided(self.op):
            # Another owner's outcome was read between the word to go on and this.
            return await execution.wait(self.op)
        opened = execution.state.open.get(self.op)
        if opened is not None:
            if opened.digest and opened.digest != self.asked:
                # Its last attempt was one of other code, which wrote its failure before it knew of this one.
                execution.differ(self.op, opened.digest, self.asked)
                raise Diverged
            self.attempt = opened.attempt
            if opened.due is not None or opened.type == QUEUED:
                execution.worker.may_rest(execution)
                return await execution.wait(self.op)
        answer = await self._as_suspect() if execution.suspect else None
        while answer is AGAIN:
            answer = await self._as_suspect()
        if answer is None and self.held():
            if self.alone:
                execution.worker.suspects.leave(self)
                self.alone = False
            answer = await (execution.wait(self.op) if execution.may_begin else self._until_performed())
        self.began = monotonic_ns()
        return answer

    async def _until_performed(self) -> Delivered | Go:
        """The partition is not ours to act upon: the step waits for its outcome, or for the word to go on."""
        execution = self.execution
        execution.held = {*execution.held, self.op}
        try:
            return await execution.wait(self.op)
        finally:
            execution.held.discard(self.op)

    async def _as_suspect(self) -> Delivered | Go | None:
        """The process died when this step may have been running: say so before it runs again.

        From the second death on, suspects run one at a time, so that the one that kills is found.
        """
        execution, op = self.execution, self.op
        crashes = execution.state.crashes.get(op)
        if crashes is not None and crashes.alone + crashes.last_alone >= DEATHS_ALONE:
            message = f"the process died {crashes.count} times while step {self.name!r} ran"
            self._fail(ErrorInfo("perdure.errors.Crashed", message, attempts=crashes.count, step=op), None, 0)
            return await execution.wait(op)
        if crashes is None or crashes.count < 1:
            return await self._announced(alone=False)
        suspects = execution.worker.suspects
        suspects.enter(self)
        try:
            while not suspects.first(self):
                turn = await execution.wait(op)
                if not isinstance(turn, Go):
                    return turn
            answer = await self._announced(alone=True)
            self.alone = answer is None
        finally:
            if not self.alone:
                suspects.leave(self)
        return answer

    async def _announced(self, *, alone: bool) -> Delivered | Go | None:
        execution = self.execution
        owner = execution.processor.owner
        execution.announced = {*execution.announced, self.op}
        execution.processor.opine(StepAttempted(execution.run_id, self.op, owner, alone, v=V))
        try:
            answer = await execution.wait(self.op)
        finally:
            execution.announced.discard(self.op)
        return None if answer is GO else answer

    def outlive(self, task: "asyncio.Task[Any]") -> None:
        """The body came to its end though its task was told to: as in any task, a cancel that was swallowed is over.

        One that is still on its way was not.
        """
        if task.cancelling() - _on_its_way(task) > self.cancels:
            self.outlived = True

    def broke(self, error: BaseException) -> bool:
        """The body raised: its failure goes to the log. True if the error is not the body's and is to be raised on."""
        execution = self.execution
        if isinstance(error, GeneratorExit | KeyboardInterrupt | SystemExit):
            return True
        task = asyncio.current_task()
        if isinstance(error, asyncio.CancelledError):
            self.cancelled = True
            if execution.signal is not None or (task is not None and task.cancelling() > self.cancels):
                execution.close(self.op)
                if execution.queue:
                    execution.worker.settler.watch(execution)
                return True
        elif execution.signal is not None:
            raise type(execution.signal) from None
        elif task is not None:
            self.outlive(task)
        policy, attempt = self.spec.retries, self.attempt
        final = attempt > policy.limit or is_final(error, (*FINAL, *policy.never_on))
        later_ms = None if final else retry_in_ms(policy, attempt, error, execution.worker.now_ms())
        info = describe(error, attempts=attempt, step=self.name, run=execution.run_id)
        self._fail(info, later_ms, (monotonic_ns() - self.began) // 1000)
        return False

    def _shown(self) -> Raw | UnsetType:
        """The arguments, for people to read; long, secret or coded ones stand in the log by their digest alone."""
        shown = self.spec.record_input and len(self.given) <= INLINE_LIMIT_BYTES and not self.execution.coded
        return Raw(self.given) if shown else UNSET

    def _fail(self, info: ErrorInfo, retry_in_ms: int | None, took_us: int) -> None:
        execution = self.execution
        shown = self._shown()
        execution.processor.append(
            StepFailed(
                execution.run_id,
                self.op,
                self.attempt,
                self.asked,
                info,
                retry_in_ms,
                shown,
                took_us,
                outlived_cancel=self.outlived,
                v=V,
            )
        )
        execution.worker.may_rest(execution)


def _on_its_way(task: "asyncio.Task[Any]") -> int:
    """Whether the task has a cancel that was not thrown into it yet."""
    waits: bool = getattr(task, "_must_cancel")  # noqa: B009 - typeshed does not know it
    return int(waits)


async def _traced(
    tracing: Tracing, attempt: _Attempt, spec: StepSpec, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Any:
    """The body, below the span that this attempt will have."""
    execution = attempt.execution
    token = tracing.enter(attempt_span(execution.traceparent, execution.run_id, attempt.op, attempt.attempt))
    try:
        if spec.is_async and spec.timeout_ms is None:
            return await spec.fn(*args, **kwargs)
        return await guarded(attempt, spec, args, kwargs)
    except GeneratorExit:
        # The collector closes an abandoned coroutine from another context: nothing is to be put back there.
        token = None
        raise
    finally:
        if token is not None:
            tracing.leave(token)


async def guarded(inside: InStep, spec: StepSpec, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """A body that runs beside the run: in a thread, or in a task of its own so that its timeout binds."""
    if spec.is_async:
        return await _within(spec, inside, asyncio.ensure_future(spec.fn(*args, **kwargs)), None)
    context = copy_context()
    thread = inside.execution.worker.threads.submit(context.run, partial(spec.fn, *args, **kwargs))
    value = await _within(spec, inside, asyncio.wrap_future(thread), thread)
    if asyncio.iscoroutine(value):
        # `lambda: fetch(url)` shows only now that it is async.
        value = await _within(spec, inside, asyncio.ensure_future(value), None)
    return value


async def _within(spec: StepSpec, inside: InStep, work: "asyncio.Future[Any]", thread: "Future[Any] | None") -> Any:
    """What `work` gives, within the step's timeout."""
    try:
        done, _ = await asyncio.wait({work}, timeout=None if spec.timeout_ms is None else spec.timeout_ms / 1000)
    except asyncio.CancelledError:
        await _abandon(work, thread, inside)
        raise
    if not done:
        await _abandon(work, thread, inside)
        raise TimeoutError(f"step {spec.name!r} took longer than {(spec.timeout_ms or 0) / 1000:g}s")
    try:
        return work.result()
    except SystemExit as error:
        # It would end the thread alone, and must not end the process from here.
        raise RuntimeError(f"step {spec.name!r} called sys.exit({error.code!r})") from error


async def _abandon(work: "asyncio.Future[Any]", thread: "Future[Any] | None", inside: InStep) -> None:
    """Give a cancelled body a moment to end; one that swallows the cancellation is left behind, and named."""
    inside.cancelled = True
    work.add_done_callback(_forget_outcome)
    # A thread that has begun cannot be cancelled, and its future must not say that it was.
    stops = work if thread is None else thread
    stops.cancel()
    done, _ = await asyncio.wait({work}, timeout=GRACE_SECONDS)
    if not done:
        if thread is not None:
            inside.execution.worker.threads.abandon()
            work.cancel()
        log.warning(
            "step %r of run %s goes on although it was cancelled: let CancelledError pass, or end at "
            "current_step().cancelled",
            inside.name,
            inside.execution.run_id,
            extra={"run": inside.execution.run_id, "step": inside.op},
        )


def _forget_outcome(work: "asyncio.Future[Any]") -> None:
    if not work.cancelled():
        work.exception()
