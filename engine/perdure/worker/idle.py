"""Is a run idle? Every task of it waits, through gathers and asyncio's own meeting points, only on ops.

An idle run can leave memory, and one that is idle while the log holds what it did not ask for has diverged. A run
that waits on anything else (a socket, a timer of the loop) is neither: we cannot know what will move it.
"""

import asyncio
from types import CoroutineType
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from perdure.worker.execution import Execution

_MEETING_POINTS = frozenset(
    {
        ("taskgroups", "__aexit__"),
        ("queues", "get"),
        ("queues", "put"),
        ("queues", "join"),
        ("locks", "wait"),
        ("locks", "acquire"),
        ("tasks", "_wait"),
        ("tasks", "_wait_for_one"),
    }
)
"""Coroutines of asyncio that wait for another task of the same run, not for the outside."""


def tasks_idle(execution: "Execution") -> bool:
    """Whether nothing but an op's outcome can move the run."""
    if execution.bodies or execution.root is None:
        return False
    ops = {id(future) for future in execution.waiting.values()}
    own = {id(task) for task in execution.tasks}
    return all(_waits_inside(task, ops, own) for task in (execution.root, *execution.tasks) if not task.done())


def _waits_inside(task: "asyncio.Future[Any]", ops: set[int], own: set[int]) -> bool:
    waiter: asyncio.Future[Any] | None = getattr(task, "_fut_waiter", None)
    if waiter is None or waiter.done():
        return False
    return _inside(waiter, ops, own) or _at_meeting_point(task)


def _inside(waiter: "asyncio.Future[Any]", ops: set[int], own: set[int]) -> bool:
    if id(waiter) in ops or id(waiter) in own:
        return True
    children: list[asyncio.Future[Any]] | None = getattr(waiter, "_children", None)
    if children is not None:
        return all(child.done() or _inside(child, ops, own) for child in children)
    return False


def _at_meeting_point(task: "asyncio.Future[Any]") -> bool:
    """Follow the task's awaits to the innermost coroutine: is it one of asyncio's meeting points?"""
    coroutine: object = cast("asyncio.Task[Any]", task).get_coro()
    innermost: CoroutineType[Any, Any, Any] | None = None
    while True:
        if isinstance(coroutine, CoroutineType):
            innermost = cast("Any", coroutine)
            coroutine = cast("Any", coroutine).cr_await
        elif hasattr(coroutine, "gi_yieldfrom"):
            inner = cast("Any", coroutine)
            # The tracker drives the task's own coroutine by hand: it is a local of the generator's frame.
            driven = inner.gi_frame.f_locals.get("coro") if inner.gi_frame is not None else None
            coroutine = inner.gi_yieldfrom if inner.gi_yieldfrom is not None else driven
        else:
            break
    if innermost is None:
        return False
    code = innermost.cr_code
    module = code.co_filename.replace("\\", "/").rpartition("/asyncio/")[2].removesuffix(".py")
    return (module, code.co_name) in _MEETING_POINTS
