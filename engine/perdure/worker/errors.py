"""Exceptions to the log and back: what failed, with the user's own traceback, and never a pickle."""

import asyncio
import concurrent.futures
import os
import sys
import traceback
from typing import cast

import msgspec

import perdure.errors
from perdure.duration import until_ms
from perdure.errors import Failed, NonRetriable, PayloadError, RetryAfter, RunFailed, StepError, qualified_name
from perdure.worker.payloads import encode
from perdure.worker.spec import RetryPolicy
from perdure_schemas.payload import ErrorInfo

TRACEBACK_LIMIT_CHARS = 8_000
MESSAGE_LIMIT_CHARS = 4_000
ARGS_LIMIT_BYTES = 64 << 10
"""Of a `NonRetriable`: one with larger arguments crosses the log by its name and message alone."""
_OURS = tuple(
    os.path.dirname(module.__file__ or "") + os.sep for module in (perdure.errors, asyncio, concurrent.futures)
)


def is_final(error: BaseException, kinds: tuple[type[BaseException], ...]) -> bool:
    """Whether trying again is of no use; of a group, whether that holds for all in it."""
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        return all(is_final(one, kinds) for one in group.exceptions)
    return isinstance(error, kinds)


def only(error: BaseException) -> BaseException:
    """What a TaskGroup with one failure wraps."""
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        return only(group.exceptions[0]) if len(group.exceptions) == 1 else group
    return error


def retry_in_ms(policy: RetryPolicy, attempt: int, error: BaseException, now_ms: int) -> int:
    """How long to wait before the next attempt."""
    if isinstance(error, RetryAfter):
        return max(0, until_ms(error.delay, now_ms=now_ms) - now_ms)
    return policy.delay_ms(attempt)


def describe(error: BaseException, *, attempts: int = 1, step: str = "", run: str = "") -> ErrorInfo:
    """What the log keeps of an exception."""
    args: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    if isinstance(error, NonRetriable):
        try:
            raw = encode(list(error.args))
            args = msgspec.Raw(raw) if len(raw) <= ARGS_LIMIT_BYTES else msgspec.UNSET
        except PayloadError:
            args = msgspec.UNSET
    bases = tuple(qualified_name(base) for base in type(error).__mro__[1:-1])
    kind, message = qualified_name(type(error)), _message(error)
    if isinstance(error, Failed):
        # A failure passed on keeps the class of what first went wrong.
        kind, message = error.error_type, error.message
        bases = (*error.bases, *bases)
    return ErrorInfo(
        kind,
        message[:MESSAGE_LIMIT_CHARS],
        user_traceback(error),
        bases,
        attempts,
        step,
        run,
        args,
    )


def _message(error: BaseException) -> str:
    try:
        return _printable(str(error))
    except Exception as broken:
        return f"(its __str__ raised {type(broken).__name__})"


def _printable(text: str) -> str:
    """Lone surrogates, as in names of files, are no UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()


def user_traceback(error: BaseException) -> str:
    """The traceback with the user's own frames; the engine's and asyncio's say nothing to a reader."""
    lines = _own_frames(error)
    cause, shown = error.__cause__, {id(error)}
    while cause is not None and id(cause) not in shown:
        shown.add(id(cause))
        lines += ["\ncaused by:\n", *_own_frames(cause)]
        cause = cause.__cause__
    text = _printable("".join(lines))
    return text if len(text) <= TRACEBACK_LIMIT_CHARS else "…" + text[-TRACEBACK_LIMIT_CHARS:]


def _own_frames(error: BaseException) -> list[str]:
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(_OURS)]
    return [
        "Traceback (most recent call last):\n",
        *traceback.format_list(own or list(frames)[-1:]),
        *traceback.format_exception_only(error),
    ]


def rebuild_step_error(info: ErrorInfo, step: str) -> Exception:
    """The exception that an awaited step raises: a `NonRetriable` subclass as itself, else a `StepError`."""
    own = _as_itself(info)
    if own is not None:
        return own
    error = StepError(info.type, info.message, info.traceback, info.attempts, bases=info.bases)
    error.step = step
    return error


def rebuild_run_failed(info: ErrorInfo | None, run: str) -> Exception:
    """The exception that awaiting a failed or cancelled run raises."""
    if info is None:
        info = ErrorInfo("perdure.errors.RunFailed", "it left no error")
    own = _as_itself(info)
    if own is not None:
        return own
    error = RunFailed(info.type, info.message, info.traceback, info.attempts, bases=info.bases)
    error.run_id = run
    return error


def _as_itself(info: ErrorInfo) -> Exception | None:
    if info.args is msgspec.UNSET:
        return None
    module, _, name = info.type.rpartition(".")
    found: object = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    if not isinstance(found, type) or not issubclass(found, NonRetriable):
        return None
    try:
        error = found(*msgspec.json.decode(info.args))
    except TypeError:
        return None
    error.add_note(info.traceback)
    return error
