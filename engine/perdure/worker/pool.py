"""A member of worker pools: takes steps from queues, and runs them for whoever owns their runs.

    command ─► its turn ─► step.claimed ─► answer read: granted ─► body runs ─► step.completed, step.failed ─► done
                                │                 refused ─► done      │  a sign of life three times a lease
                                └── asked again until answered         └── answer read: not ours any more ─► stopped

**What a member knows** is what it has read of the journal of the step's run. It begins only after it has read there
that its claim was granted: at the claim's place in the log the step was open, its run alive, the attempt the present
one, and nobody else had it. It reads on while it runs the step, and stops when it reads that nobody wants it, or that
its lease ended. What was appended and not yet read it cannot know, nor what nobody has folded because the partition has
no owner. So a step may run more than once; it has one outcome all the same, the first in the log (I4).

A command is done once the outcome is on its way to the log, and its progress is committed once that is durable: who
dies before leaves the command to another member, and a claim whose lease ends.
"""

import asyncio
import logging
import os
import secrets
import socket
from collections.abc import Callable, Mapping
from contextvars import Context
from dataclasses import replace
from time import monotonic_ns
from typing import TYPE_CHECKING, Any, cast

import msgspec

from perdure.errors import LogError, qualified_name
from perdure.flow.lines import op_name
from perdure.flow.routing import partition_of_run
from perdure.log.protocol import Command, Log, Reader
from perdure.worker.answers import Answers
from perdure.worker.arguments import decode_arguments
from perdure.worker.coding import Payloads
from perdure.worker.errors import describe, is_final, retry_in_ms
from perdure.worker.lineage import InStep, in_step
from perdure.worker.payloads import round_trip
from perdure.worker.run_logs import Lines
from perdure.worker.spec import RetryPolicy, StepSpec
from perdure.worker.steps import DEATHS_ALONE, FINAL, guarded
from perdure.worker.threads import Threads
from perdure.worker.tracing import Tracing, attempt_span, checked
from perdure.worker.turns import Turns
from perdure_schemas.payload import ErrorInfo, Payload
from perdure_schemas.records import (
    Record,
    RetryRule,
    StepAnswered,
    StepClaimed,
    StepCommand,
    StepCompleted,
    StepFailed,
    StepReleased,
    V,
)

if TYPE_CHECKING:
    from perdure.worker.execution import Execution

log = logging.getLogger("perdure.worker")
ASK_AGAIN_SECONDS = 5.0
"""A claim without an answer is made again: the partition may have had no owner, or its owner died before it told.

Then after twice as long, and so on.
"""
BEATS_A_LEASE = 3
THREADS = 32
_ENCODE = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(StepCommand).decode


def this_process() -> str:
    """How people find it: host and pid."""
    return f"{socket.gethostname()}:{os.getpid()}"


class Member:
    """This process, as a member of the pools of its queues. `steps`: by the names they were defined under."""

    def __init__(
        self,
        log: Log,
        steps: Mapping[str, StepSpec],
        *,
        payloads: Payloads | None = None,
        lines: Lines | None = None,
        tracing: Tracing | None = None,
        name: str = "",
    ) -> None:
        self.log = log
        self.steps = steps
        self.payloads = payloads or Payloads()
        self.lines = lines
        self.tracing = tracing
        self.name = name or this_process()
        self.answers = Answers(log)
        self.turns = Turns()
        self.threads = Threads(THREADS)
        self.closing = False
        self._readers: dict[str, Reader] = {}
        self._work: dict[_Work, asyncio.Task[None]] = {}
        self._told: set[str] = set()

    def serve(self, queue: str, slots: int) -> None:
        """Take steps of a queue, so many at a time. Once for each queue."""
        commands = self.log.commands
        if queue not in self._readers and commands is not None and not self.closing:
            self._readers[queue] = commands.subscribe(queue, self._take, limit=slots)

    @property
    def busy(self) -> bool:
        """Something was taken and is not done."""
        return bool(self._work)

    @property
    def running(self) -> int:
        """Steps whose bodies run here for queues."""
        return sum(work.task is not None for work in self._work)

    @property
    def working(self) -> bool:
        """A step's body runs: real time must pass."""
        return self.running > 0

    def bodies(self) -> list[tuple[str, Callable[..., Any]]]:
        """What runs now: in words, and the function."""
        return [work.body for work in list(self._work) if work.body is not None]

    def _take(self, command: Command) -> None:
        work = _Work(self, command)
        task = self._work[work] = asyncio.get_running_loop().create_task(work.run(), context=Context())
        task.add_done_callback(lambda _: self._ended(work), context=Context())

    def _ended(self, work: "_Work") -> None:
        task = self._work.pop(work, None)
        error = None if task is None or task.cancelled() else task.exception()
        if error is not None:
            work.done()
            log.error("a command was dropped: it comes again when its lease ends", exc_info=error)

    def warn_once(self, about: str, text: str) -> None:
        if about not in self._told:
            self._told.add(about)
            log.warning("%s", text)

    def drain(self) -> None:
        """What was taken and has not begun goes back, and nothing more is taken; what runs comes to its end."""
        self.closing = True
        for work in list(self._work):
            if work.task is None:
                work.stop()

    async def close(self) -> None:
        """Give back what is under way, so that others have it at once; no step counts a death."""
        self.closing = True
        for work in list(self._work):
            work.stop()
        await self._leave()

    async def kill(self) -> None:
        """Die without a word, as a killed process. For tests."""
        self.closing = True
        for work in list(self._work):
            work.silent = True
            work.stop()
        await self._leave()

    async def _leave(self) -> None:
        if self._work:
            await asyncio.wait(self._work.values())
        for reader in self._readers.values():
            reader.close()
        self._readers.clear()
        self.answers.close()
        self.threads.shutdown()


class _Work:
    """One command, from its taking to its end. It stands in for the run, as the step's body sees it."""

    def __init__(self, member: Member, command: Command) -> None:
        self.member = member
        self.worker = member
        self.run_id = self.traceparent = ""
        self.silent = False
        """The process counts as dead: nothing is written."""
        self.task: asyncio.Task[Payload] | None = None
        self.body: tuple[str, Callable[..., Any]] | None = None
        self._command = command
        self._partition = 0
        self._claim = secrets.token_hex(8)
        self._beats = 0
        self._beat: asyncio.TimerHandle | None = None
        self._began = 0
        self._alone = False
        self._answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._inside: InStep | None = None
        self._lost = ""
        self._deaths = 0, 0

    async def run(self) -> None:
        try:
            step = _decode(self._command.value)
        except msgspec.MsgspecError as error:
            self.member.warn_once("unreadable", f"a command is unreadable, and left out: {error}")
            self.done()
            return
        spec = self.member.steps.get(step.step.step)
        if spec is None or step.v > V:
            what = f"step {step.step.step!r}, which this code does not have" if spec is None else f"version {step.v}"
            self.member.warn_once(
                what, f"queue {step.step.queue!r} asks for {what}: others may have it; it comes again after a while"
            )
            self.done()
            return
        self._partition = partition_of_run(step.run, self.member.log.partitions)
        self.run_id = step.run
        self.traceparent = checked(step.step.traceparent)
        self._alone = step.suspect
        turn = asyncio.ensure_future(self.member.turns.begin(alone=self._alone))
        either: set[asyncio.Future[Any]] = {turn, self._answer}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not turn.done():
            turn.cancel()
            return
        try:
            if not self.member.closing:
                await self._with_turn(step, spec)
        except LogError as error:
            # Closed, or broken for good: the command is not done, and goes to another member.
            about = {"run": step.run, "step": step.op}
            log.warning("step %r of run %s is given up: %s", step.op, step.run, error, extra=about)
        finally:
            self.member.answers.forget(self._partition, self._claim)
            await self.member.turns.end(alone=self._alone)

    async def _with_turn(self, step: StepCommand, spec: StepSpec) -> None:
        if await self._ask(step):
            outcome = await self._do(step, spec)
            if outcome is not None:
                self._append(outcome)
            elif not self._lost:
                self._append(StepReleased(step.run, step.op, self._claim, v=V))
        self.done()

    def _append(self, record: Record) -> None:
        if not self.silent:
            self.member.log.append(self._partition, _ENCODE(record))

    def done(self) -> None:
        """Nobody else need see the command."""
        if not self.silent:
            self._command.done()

    def stop(self) -> None:
        """The process ends."""
        if not self._answer.done():
            self._answer.set_result(False)
        self._cancel()

    def _cancel(self) -> None:
        if self._inside is not None:
            self._inside.cancelled = True
        if self.task is not None:
            self.task.cancel()

    # Claiming

    async def _ask(self, step: StepCommand) -> bool:
        """Whether the step is ours to run. Who hears nothing for a whole lease gives it back: its timer knows."""
        claim = StepClaimed(step.run, step.op, step.attempt, self._claim, self.member.name, self._alone, v=V)
        clock = asyncio.get_running_loop().time
        until, pause = clock() + step.step.lease_ms / 1000, ASK_AGAIN_SECONDS
        while not self._answer.done() and clock() < until:
            self.member.answers.watch(self._partition, self._claim, self._told)
            self._append(claim)
            # More and more rarely: what is slow is not made faster by asking.
            await asyncio.wait({self._answer}, timeout=max(0.001, min(pause, until - clock())))
            pause *= 2
        # By this process's own clock: the log's differs from partition to partition. Its lease began after the asking.
        if self._answer.done() and self._answer.result() and not self._lost and clock() < until:
            return True
        if not self._lost:
            # It may be granted yet, or was so long ago that its lease is over.
            self._append(StepReleased(step.run, step.op, self._claim, v=V))
        return False

    def _told(self, answer: StepAnswered) -> None:
        if not answer.granted:
            self._lost = answer.why
            self._cancel()
        if not self._answer.done():
            self._deaths = answer.deaths, answer.alone
            self._answer.set_result(answer.granted)

    # Running

    async def _do(self, step: StepCommand, spec: StepSpec) -> StepCompleted | StepFailed | None:
        """The attempt's record; None if it came to nothing, since the step was lost or the process ends."""
        self._began = monotonic_ns()
        name = op_name(step.op)
        deaths, alone = self._deaths
        if alone >= DEATHS_ALONE:
            message = f"its process died {deaths} times while step {name!r} ran"
            info = ErrorInfo("perdure.errors.Crashed", message, attempts=deaths, step=name, run=step.run)
            return self._failed(step, info, None)
        if self.member.closing:
            return None
        self._inside = InStep(cast("Execution", self), step.op, name, step.attempt, False, 0)
        self.body = f"step {name!r} of queue {step.step.queue!r}", spec.fn
        self.task = asyncio.get_running_loop().create_task(self._run_body(step, spec, name), context=Context())
        self._beat_later(step)
        try:
            await asyncio.wait({self.task})
        finally:
            self.body = None
            if self._beat is not None:
                self._beat.cancel()
        task, self.task = self.task, None
        try:
            # What was done counts, even if the lease ended meanwhile: the first outcome in the log is the step's.
            result = task.result()
        except (KeyboardInterrupt, SystemExit, GeneratorExit):
            raise
        except BaseException as error:
            return None if self._lost or self.member.closing else self._broke(step, name, error)
        took_us = (monotonic_ns() - self._began) // 1000
        return StepCompleted(step.run, step.op, step.attempt, step.digest, result, took_us=took_us, v=V)

    async def _run_body(self, step: StepCommand, spec: StepSpec, name: str) -> Payload:
        inside = self._inside
        assert inside is not None, "the body runs inside its step"
        arguments = step.step.arguments
        args, kwargs = decode_arguments(spec, self.member.payloads.json_of(arguments))
        in_step.set(inside)
        tracing = self.member.tracing
        if tracing is not None and self.traceparent:
            tracing.enter(attempt_span(self.traceparent, step.run, step.op, step.attempt))
        value = await guarded(inside, replace(spec, name=name, timeout_ms=step.step.timeout_ms), args, kwargs)
        return await self.member.payloads.put(round_trip(value, spec.returns)[0], f"the result of step {name!r}")

    def _beat_later(self, step: StepCommand) -> None:
        pause = step.step.lease_ms / 1000 / BEATS_A_LEASE
        self._beat = asyncio.get_running_loop().call_later(pause, self._still_here, step, context=Context())

    def _still_here(self, step: StepCommand) -> None:
        """A sign of life: the lease begins anew."""
        self._beats += 1
        name = self.member.name
        try:
            self._append(StepClaimed(step.run, step.op, step.attempt, self._claim, name, self._alone, self._beats, v=V))
        except LogError as error:
            about = {"run": step.run, "step": step.op}
            log.warning("no sign of life of step %r of run %s: %s", step.op, step.run, error, extra=about)
        self._beat_later(step)

    def _broke(self, step: StepCommand, name: str, error: BaseException) -> StepFailed:
        rule = step.step.retries
        policy = RetryPolicy(rule.limit, rule.first_ms, rule.factor, rule.longest_ms)
        final = step.attempt > rule.limit or is_final(error, FINAL) or _never_again(error, rule)
        later_ms = None if final else retry_in_ms(policy, step.attempt, error, self.member.log.now_ms())
        return self._failed(step, describe(error, attempts=step.attempt, step=name, run=step.run), later_ms)

    def _failed(self, step: StepCommand, info: ErrorInfo, later_ms: int | None) -> StepFailed:
        took_us = (monotonic_ns() - self._began) // 1000
        return StepFailed(
            step.run, step.op, step.attempt, step.digest, info, later_ms, took_us=took_us, claim=self._claim, v=V
        )


def _never_again(error: BaseException, rule: RetryRule) -> bool:
    """`never_on`, by names: the caller's classes may not be imported here."""
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        return all(_never_again(one, rule) for one in group.exceptions)
    return any(qualified_name(kind) in rule.never_on for kind in type(error).__mro__)
