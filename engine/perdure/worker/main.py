"""A run's user code from its first line to its end, and what its end means."""

import asyncio
from collections.abc import Coroutine, Mapping
from contextvars import copy_context
from typing import Any, cast

from msgspec import Raw

from perdure.errors import DefinitionError, Failed, NonRetriable, OutsideRun, PayloadError
from perdure.worker.coding import STORED_FROM_BYTES
from perdure.worker.delivery import Evicted
from perdure.worker.errors import describe, is_final, only, retry_in_ms
from perdure.worker.execution import Execution, forget
from perdure.worker.payloads import round_trip
from perdure_schemas.event import EventBody
from perdure_schemas.payload import ErrorInfo, Payload
from perdure_schemas.records import AskedOp, RunErrored, RunFinished, V

_FINAL = (Failed, NonRetriable, PayloadError, DefinitionError, OutsideRun)


class ContinueAs(BaseException):
    """`ctx.continue_as`: this run ends, and its successor starts with a fresh history."""

    def __init__(self, event: EventBody) -> None:
        super().__init__(event.name)
        self.event = event


_OVER = Evicted()
"""The signal of a run whose user code left nothing behind."""


async def main(execution: Execution) -> None:
    """The root task of a run."""
    function = execution.function
    try:
        # Not in a coroutine of its own: every resumption of user code walks through all that await it.
        args, kwargs = execution.worker.prepare(execution)
        if function.is_async:
            value = await function.fn(*args, **kwargs)
        else:
            value = await _in_thread(execution, args, kwargs)
        encoded = _encoded(execution, value)
        if execution.coded or len(encoded) > STORED_FROM_BYTES:
            result = await execution.worker.payloads.put(encoded, f"the result of {function.id!r}")
        else:
            result = Payload(Raw(encoded))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        if execution.signal is not None:
            forget(error)
        else:
            _went_wrong(execution, error)
    else:
        if execution.signal is None:
            _returned(execution, result)
    finally:
        if execution.tasks or execution.waiting or execution.unawaited:
            execution.unwind(Evicted())
            execution.never_awaited()
        elif execution.signal is None:
            execution.signal, execution.plain = _OVER, False
        execution.ended()


def _went_wrong(execution: Execution, error: BaseException) -> None:
    successor = _successor_in(error)
    if successor is not None:
        _continued(execution, successor.event)
    elif isinstance(error, Exception | asyncio.CancelledError):
        _failed(execution, error)
    else:
        # A signal that user code raised by itself, or one of its own: the run fails rather than vanish.
        _failed(execution, RuntimeError(f"{type(error).__name__} is no Exception: functions raise those"))


def _successor_in(error: BaseException) -> ContinueAs | None:
    """A TaskGroup wraps what ends its tasks."""
    while isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        error = next((one for one in group.exceptions if _successor_in(one)), group.exceptions[0])
    return error if isinstance(error, ContinueAs) else None


async def _in_thread(execution: Execution, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    function, context = execution.function, copy_context()
    pool = execution.worker.threads
    value = await execution.loop.run_in_executor(pool, lambda: context.run(function.fn, *args, **kwargs))
    return await value if asyncio.iscoroutine(value) else value


def _encoded(execution: Execution, value: object) -> bytes:
    function = execution.function
    name = execution.never_awaited() if execution.unawaited else ""
    if name:
        raise DefinitionError(f"{function.id!r} returned but {name!r} was never awaited")
    return round_trip(value, function.returns, None, f"the result of {function.id!r}")[0]


def _returned(execution: Execution, result: Payload) -> None:
    if execution.replaying and _parked(execution, "the run returned without it"):
        return
    execution.processor.append_outcome(RunFinished(execution.run_id, "completed", result, v=V))
    execution.worker.finished(execution)


def _parked(execution: Execution, how: str) -> bool:
    """What the log holds and nobody asked for: this code ends elsewhere than the one before it."""
    left = execution.never_asked()
    if left:
        held = execution.recorded.get(left, "")
        execution.park(left, AskedOp(left, held), None, f"is in the log, and {how}")
    return bool(left)


def _failed(execution: Execution, error: BaseException) -> None:
    """Retried whole, unless it must not be. A failed step's attempts were used up already."""
    execution.never_awaited()
    error = only(error)
    policy, attempt = execution.function.retries, execution.state.attempt
    final = attempt > policy.limit or is_final(error, (*_FINAL, *policy.never_on))
    info = describe(error, attempts=attempt, run=execution.run_id)
    if isinstance(error, Failed):
        info = _passed_on(info, error)
    if final and _parked(execution, f"the run failed without it, by {info.type}: {info.message}"):
        return
    if final:
        execution.processor.append(RunFinished(execution.run_id, "failed", error=info, v=V))
    else:
        later_ms = retry_in_ms(policy, attempt, error, execution.worker.now_ms())
        execution.processor.append(RunErrored(execution.run_id, attempt, info, later_ms, v=V))
        execution.worker.backs_off(execution)
    execution.worker.finished(execution)


def _passed_on(info: ErrorInfo, error: Failed) -> ErrorInfo:
    step = getattr(error, "step", "")
    trace = f"{error.traceback}\n\n{info.traceback}" if error.traceback else info.traceback
    return ErrorInfo(info.type, info.message, trace, info.bases, error.attempts, step, info.run)


def _continued(execution: Execution, event: EventBody) -> None:
    if _parked(execution, "the run continued as another without it"):
        return
    closes = tuple(execution.unread())
    execution.processor.append(RunFinished(execution.run_id, "continued", closes=closes, successor=event, v=V))
    execution.worker.finished(execution)


Main = Coroutine[Any, Any, None]
__all__ = ["ContinueAs", "Main", "Payload", "main"]
