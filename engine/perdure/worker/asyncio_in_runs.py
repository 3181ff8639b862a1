"""What of asyncio is otherwise in the code of runs, so that it comes to the same live, replayed, and under any Python.

    as_completed   asyncio begins coroutines in the order of a set, that is, of their addresses: which branch is whose
                   would differ on replay. In a run they begin in the order given.
    TaskGroup      before Python 3.13, a group whose task fails while it waits for the others leaves its parent with a
                   request to cancel too many, and loses one from outside that comes meanwhile (python/cpython#116720):
                   a later `timeout` then raises CancelledError, or does not end its block. In a run it is as in 3.13.

Outside of runs nothing is other than before. Code that took asyncio's own `as_completed` before the first engine was
there (`from asyncio import as_completed`) is refused where it begins coroutines: see `lineage.py`.
"""

import asyncio
import sys
from collections.abc import Callable, Coroutine, Iterable
from types import TracebackType
from typing import Any, cast

from perdure.worker.lineage import current_branch, here

asyncios_as_completed: Callable[..., Any] = asyncio.as_completed
_asyncios_leave = cast("Callable[..., Coroutine[Any, Any, bool | None]]", asyncio.TaskGroup.__aexit__)


def as_completed(fs: Iterable[Any], *, timeout: float | None = None) -> Any:
    """In a run, what is no task yet begins in the order given. Otherwise asyncio's own."""
    if current_branch() is not None and not asyncio.isfuture(fs) and not asyncio.iscoroutine(fs):
        fs = [asyncio.ensure_future(one) for one in dict.fromkeys(fs)]
    return asyncios_as_completed(fs, timeout=timeout)


async def leave_group(
    group: Any, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
) -> bool | None:
    """`TaskGroup.__aexit__`; in a run, steps included, its parent's cancels are counted as Python 3.13 does."""
    if here.get() is None:
        return await _asyncios_leave(group, kind, error, trace)
    parent = cast("asyncio.Task[Any]", group._parent_task)
    taken_back = group._parent_cancel_requested
    try:
        return await _asyncios_leave(group, kind, error, trace)
    except BaseExceptionGroup:
        if group._parent_cancel_requested and not taken_back:
            parent.uncancel()
        if parent.cancelling():
            # Somebody else wants the parent to end: it learns of that at its next await.
            parent.uncancel()
            parent.cancel()
        raise


def install() -> None:
    """Put them in place, for the rest of the process."""
    for module in (asyncio, asyncio.tasks):
        setattr(module, "as_completed", as_completed)  # noqa: B010 - the type checkers know it by its overloads
    if sys.version_info < (3, 13):
        setattr(asyncio.TaskGroup, "__aexit__", leave_group)  # noqa: B010 - as above
