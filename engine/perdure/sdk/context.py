"""The Context: what a function can ask of its run. Every awaited method but `report` is an op, recorded once."""

import asyncio
import logging
import random
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from typing import Any, Literal, Never, TypeVar, TypeVarTuple, Unpack, cast, overload

import msgspec
from msgspec import Raw

from perdure.duration import parse_ms, until_ms
from perdure.errors import DefinitionError, Duration, OutsideRun, PayloadError
from perdure.flow.routing import run_id
from perdure.sdk import gathering
from perdure.sdk.events import Event, EventReader, EventType, Json, Match, Scalar
from perdure.sdk.options import Retry, retry_policy
from perdure.sdk.sender import Sender, event_body
from perdure.sdk.signatures import local_names, type_hints
from perdure.sdk.step import Step, check_for_pool, is_async
from perdure.sdk.timeouts import DurableTimeout
from perdure.sdk.trigger import trigger_of
from perdure.sdk.waiting import WaitKey, wait_key
from perdure.worker import Execution, current, payloads
from perdure.worker.lineage import current_branch, in_step
from perdure.worker.main import ContinueAs
from perdure.worker.run_logs import logger_of_run, logger_of_step
from perdure.worker.spec import StepSpec
from perdure.worker.steps import step as start_step
from perdure_schemas.records import MatchOffered, OpOpened, RunReported, Send, Sleep, TimerFired, V, Wait

A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
R = TypeVar("R")
Ts = TypeVarTuple("Ts")


class Context(Sender):
    """A run, from the inside. Code outside steps runs again on every replay: I/O belongs in steps."""

    run_id: str
    metadata: Mapping[str, str]
    _logger: logging.Logger | None = None

    def __init__(self, execution: Execution) -> None:
        self._execution = execution
        self.run_id = execution.run_id
        self.metadata = dict(execution.state.metadata)
        self._random: dict[str, random.Random] = {}

    @property
    def scheduled_at(self) -> datetime | None:
        """When the schedule of a cron function was due, in UTC, however late the run is; its reruns keep it.

        None in a run that no schedule began.
        """
        due = self._execution.state.scheduled
        return None if due is None else datetime.fromtimestamp(due / 1000, UTC)

    @property
    def logger(self) -> logging.Logger:
        """Logs for this run (`perdure logs`); silent while the run replays what it did before."""
        if self._logger is None:
            self._logger = logger_of_run(self._execution)
        return self._logger

    @property
    def random(self) -> random.Random:
        """Random numbers that are the same on replay: seeded by the run and the calling task."""
        branch = current_branch()
        path = branch.path if branch is not None else "0"
        found = self._random.get(path)
        if found is None:
            found = self._random[path] = random.Random(f"{self._execution.state.seed}/{path}")
        return found

    @overload
    async def step(
        self,
        name: str,
        fn: Callable[[Unpack[Ts]], Coroutine[Any, Any, R]],
        /,
        *args: *Ts,
        returns: type[R] = ...,
        retries: int | Retry = ...,
        timeout: Duration = ...,
    ) -> R: ...
    @overload
    async def step(
        self,
        name: str,
        fn: Callable[[Unpack[Ts]], R],
        /,
        *args: *Ts,
        returns: type[R] = ...,
        retries: int | Retry = ...,
        timeout: Duration = ...,
    ) -> R: ...
    def step(  # type: ignore[misc]  # mypy cannot match a TypeVarTuple's *args with these
        self,
        name: str,
        fn: Callable[..., Any],
        /,
        *args: Any,
        returns: Any = None,
        retries: int | Retry = 4,
        timeout: Duration | None = None,
        queue: str = "",
    ) -> Any:
        """Runs `fn(*args)` as a step named `name`: once, its result recorded. `returns`: the result's type."""
        if not callable(cast("object", fn)):
            if asyncio.iscoroutine(fn):
                fn.close()
            raise DefinitionError(
                f"ctx.step({name!r}, …): a function and its arguments are needed, not {type(fn).__name__}: "
                f"ctx.step({name!r}, fetch, url)"
            )
        _refuse_queue(name, queue, fn)
        annotation = returns if returns is not None else type_hints(fn, local_names(fn)).get("return", Any)
        spec = StepSpec(
            name,
            fn,
            is_async=is_async(fn),
            returns=annotation,
            retries=retry_policy(retries),
            timeout_ms=None if timeout is None else parse_ms(timeout, what="timeout", positive=True),
        )
        self._inside()
        branch = current_branch()
        assert branch is not None, "inside a run there is a branch"
        return start_step(branch, gathering.guard_closure(spec), args, {})

    @overload
    async def wait_for_event(
        self, event: EventType[A], *, match: Match = ..., where: str = ..., timeout: Duration
    ) -> Event[A] | None: ...
    @overload
    async def wait_for_event(self, event: EventType[A], *, match: Match = ..., where: str = ...) -> Event[A]: ...
    @overload
    async def wait_for_event(
        self, event: str, *, match: Match = ..., where: str = ..., timeout: Duration
    ) -> Event | None: ...
    @overload
    async def wait_for_event(self, event: str, *, match: Match = ..., where: str = ...) -> Event: ...
    def wait_for_event(
        self, event: EventType[Any] | str, *, match: Match = "", where: str = "", timeout: Duration | None = None
    ) -> Any:
        """The earliest event since the run's trigger that matches and was not consumed; None after `timeout`.

        `match="data.x"`: `data.x` equals the trigger's; a mapping compares with values; `where` is an expression.
        """
        execution = self._inside()
        key = wait_key(execution.function.defined, event, match, where, trigger_of(execution))
        timeout_ms = None if timeout is None else parse_ms(timeout, what="timeout")
        return execution.open(
            f"wait:{key.event}",
            (key.key, key.where, timeout_ms),
            lambda op: Wait(key.key, key.event, key.where, timeout_ms),
            lambda outcome: self._waited(outcome, key),
        )

    def _waited(self, outcome: object, key: WaitKey) -> Event[Any] | None:
        if isinstance(outcome, TimerFired):
            return None
        assert isinstance(outcome, MatchOffered), f"I4: a wait's outcome is a {type(outcome).__name__}"
        execution = self._execution
        raw = execution.read(outcome.event, "event")
        try:
            return EventReader({key.event: key.type}).__perdure_decode__(Raw(raw))
        except msgspec.ValidationError as error:
            raise PayloadError(f"wait_for_event({key.event!r}): the event does not fit: {error}") from error

    @overload
    async def map(
        self,
        fn: Callable[[A], Awaitable[R]],
        items: Iterable[A],
        /,
        *,
        limit: int = 100,
        return_exceptions: Literal[False] = False,
    ) -> list[R]: ...
    @overload
    async def map(
        self,
        fn: Callable[[A], Awaitable[R]],
        items: Iterable[A],
        /,
        *,
        limit: int = 100,
        return_exceptions: Literal[True],
    ) -> list[R | Exception]: ...
    def map(
        self, fn: Callable[[Any], Awaitable[Any]], items: Iterable[Any], /, *, limit: int = 100,
        return_exceptions: bool = False,
    ) -> Any:  # fmt: skip
        """`fn(item)` for every item, at most `limit` at a time; results in the order of the items."""
        return self._inside().called("map", lambda: gathering.bounded_map(fn, items, limit, return_exceptions))

    @overload
    async def race(self, a: Awaitable[A], b: Awaitable[B], /) -> tuple[Literal[0], A] | tuple[Literal[1], B]: ...
    @overload
    async def race(
        self, a: Awaitable[A], b: Awaitable[B], c: Awaitable[C], /
    ) -> tuple[Literal[0], A] | tuple[Literal[1], B] | tuple[Literal[2], C]: ...
    def race(self, *runners: Awaitable[Any]) -> Any:
        """The first to end: its index and result (or its exception). The others are cancelled."""
        return self._inside().called("race", lambda: gathering.race(runners))

    def sleep(self, until: Duration | datetime, /) -> Coroutine[Any, Any, None]:
        """Sleeps for a duration, or until a moment; minutes or months, across restarts."""
        if isinstance(until, datetime):
            moment = until_ms(until, 0, what="sleep")
            return self._inside().open("sleep", (moment,), lambda op: Sleep(until=moment), _nothing)
        for_ms = parse_ms(until, what="sleep")
        return self._inside().open("sleep", (f"{for_ms}ms",), lambda op: Sleep(for_ms=for_ms), _nothing)

    def timeout(self, after: Duration, /) -> AbstractAsyncContextManager[None]:
        """A durable `asyncio.timeout`: raises `TimeoutError` in the block when log time is up."""
        for_ms = parse_ms(after, what="timeout")
        return DurableTimeout(self._inside(), for_ms)

    def report(self, **fields: Scalar | float | None) -> Coroutine[Any, Any, None]:
        """Progress for people: seen in `runs show`. Not an op; kept by this process, and on the logs topic."""
        return self._inside().called("report", lambda: self._report(fields))

    async def _report(self, fields: Mapping[str, Scalar | float | None]) -> None:
        execution = self._execution
        execution.progress.update(fields)
        if not execution.repeating():
            record = RunReported(V, self.run_id, execution.worker.now_ms(), dict(fields))
            execution.processor.side("logs", record)

    def patched(self, change: str, /) -> bool:
        """True in runs that began under code with this `ctx.patched(change)` in it."""
        execution = self._inside()
        view, run = execution.processor.view, execution.state
        # Older code may have taken its first steps, on a pod that the deploy had not come to yet.
        begun = view.begun_by(run, view.lines.load(run.id))
        return all(self._has(change, number) for number in {run.number, begun or run.number})

    def _has(self, change: str, number: int) -> bool:
        execution = self._execution
        definition = execution.processor.view.definitions.get(str(number))
        functions = definition.functions if definition else ()
        return any(f.id == execution.function.id and change in f.patches for f in functions)

    async def continue_as(self, event: Event[Any], /) -> Never:
        """Ends this run and starts its successor on `event`, with a fresh history: for loops without end."""
        function = self._inside().function
        if function.kind != "event":
            raise DefinitionError(
                f"continue_as is for functions of events; {function.id!r} is a {function.kind} function: "
                "it can enqueue another run of itself and return"
            )
        raise ContinueAs(event_body(event, f"{self.run_id}:continue"))

    def now(self) -> datetime:
        """Log time of the last result that the run was given: the same on replay."""
        return datetime.fromtimestamp(self._execution.now_ms / 1000, UTC)

    def uuid(self) -> uuid.UUID:
        """A UUID that is the same on replay."""
        return uuid.UUID(int=self.random.getrandbits(128), version=4)

    @overload
    async def send(self, event: Event[Any], /) -> str: ...
    @overload
    async def send(self, name: str, data: Mapping[str, Any], /, *, id: str = ..., user: Json = ...) -> str: ...
    def send(
        self,
        event: Event[Any] | str,
        data: Mapping[str, Any] | None = None,
        /,
        *,
        id: str = "",
        user: Json | None = None,
    ) -> Any:
        """Sends one event as an op, and gives its id."""
        one = Event(event, dict(data or {}), id, user or {}) if isinstance(event, str) else event
        return self._send([one], lambda ids: ids[0])

    def send_many(self, events: Iterable[Event[Any]], /) -> Coroutine[Any, Any, list[str]]:
        """Sends events as one op. Events without an id get one from the op, the same on replay."""
        return self._send(list(events), lambda ids: ids)

    def _send(self, events: Sequence[Event[Any]], then: Callable[[list[str]], R]) -> Coroutine[Any, Any, R]:
        return self._inside().open(
            f"send:{events[0].name}" if events else "send",
            tuple(events),
            lambda op: Send(tuple(event_body(e, run_id(self.run_id, op, str(i))) for i, e in enumerate(events))),
            lambda opened: then(_sent_ids(opened)),
        )

    def _inside(self) -> Execution:
        if current() is not self._execution:
            where = "in a step" if in_step.get() is not None else "outside its run"
            raise OutsideRun(f"this Context was used {where}: its methods belong to the function's own code")
        return self._execution


def _nothing(outcome: object) -> None:
    """What a sleep gives."""


def _sent_ids(opened: object) -> list[str]:
    assert isinstance(opened, OpOpened)
    assert isinstance(opened.opening, Send)
    return [event.id for event in opened.opening.events]


def current_run() -> Context:
    """The Context of the run that the calling code belongs to. Raises `OutsideRun` elsewhere."""
    execution = current()
    if execution is None:
        raise OutsideRun("current_run() is for code of a function, not for steps or code outside runs")
    return context_of(execution)


def context_of(execution: Execution) -> Context:
    """Made when it is first asked for: many functions take none."""
    context = cast("Context | None", execution.context)
    if context is None:
        context = execution.context = Context(execution)
    return context


class StepInfo:
    """The executing step. `key` is the same on every attempt and in every process: give it to whom you pay."""

    __slots__ = ("_inside",)

    def __init__(self) -> None:
        inside = in_step.get()
        if inside is None:
            raise OutsideRun("current_step() is for code of a step that runs in a run")
        self._inside = inside

    @property
    def key(self) -> str:
        return f"{self._inside.execution.run_id}/{self._inside.op}"

    @property
    def name(self) -> str:
        return self._inside.name

    @property
    def attempt(self) -> int:
        return self._inside.attempt

    @property
    def run_id(self) -> str:
        return self._inside.execution.run_id

    @property
    def cancelled(self) -> bool:
        """For threads, which nobody can interrupt: the step's result is not wanted any more."""
        return self._inside.cancelled

    @property
    def logger(self) -> logging.Logger:
        """Logs for this step (`perdure logs`)."""
        return logger_of_step(self._inside)


def _refuse_queue(name: str, queue: str, fn: object) -> None:
    """An inline step is this run's alone."""
    if isinstance(fn, Step):
        own = cast("Step[..., Any]", fn)
        if queue or own.queue:
            raise DefinitionError(
                f"ctx.step({name!r}, …): {own.name!r} is a step of its own, with queue={queue or own.queue!r}: await "
                f"it itself, as {own.name}.options(name={name!r})(…)"
            )
    elif queue:
        check_for_pool(name, queue, fn)
        raise DefinitionError(
            f"ctx.step({name!r}, …, queue={queue!r}): a pool finds steps by their decorator: @app.step(queue={queue!r})"
        )


def current_step() -> StepInfo:
    """The step that the calling code belongs to, in threads too. Raises `OutsideRun` elsewhere."""
    return StepInfo()


__all__ = ["Context", "DefinitionError", "StepInfo", "current_run", "current_step", "payloads"]
