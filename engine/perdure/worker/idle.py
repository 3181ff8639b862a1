"""Is a run idle? Every task of it waits, through gathers and asyncio's own meeting points, only on ops.

An idle run can leave memory, and one that is idle while the log holds what it did not ask for has diverged. A run
that waits on anything else (a socket, a timer of the loop) is neither: we cannot know what will move it.
"""

import asyncio
from types import CodeType, CoroutineType
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
    """Is the innermost of the coroutines that the task awaits one of asyncio's meeting points?"""
    coroutines = awaited(task)
    return bool(coroutines) and _asyncio_name(coroutines[-1].cr_code) in _MEETING_POINTS


def own_clock(execution: "Execution") -> str:
    """What a task of the run waits on, if it is a clock of asyncio's outside of steps; else nothing."""
    for task in (execution.root, *execution.tasks):
        if task is None or task.done():
            continue
        coroutines = awaited(task)
        names = [_asyncio_name(one.cr_code) for one in coroutines]
        clock = next((_CLOCKS[name] for name in names if name in _CLOCKS), "")
        if clock and not any(one.cr_code.co_name == "run_step" for one in coroutines):
            own = [one for one, name in zip(coroutines, names, strict=True) if not name[0]]
            frame = own[-1].cr_frame if own else None
            place = f" ({frame.f_code.co_filename}:{frame.f_lineno})" if frame is not None else ""
            return clock.format(place)
    return ""


_CLOCKS = {
    ("tasks", "sleep"): "asyncio.sleep{}, which is not durable: use ctx.sleep",
    ("tasks", "wait_for"): "asyncio.wait_for{}, which is not durable: use ctx.timeout or ctx.race",
}


def _asyncio_name(code: CodeType) -> tuple[str, str]:
    """(module, function) of asyncio's code; the module is empty for any other."""
    module = code.co_filename.replace("\\", "/").rpartition("/asyncio/")[2].removesuffix(".py")
    return (module, code.co_name) if "/" not in module else ("", code.co_name)


def awaited(task: "asyncio.Future[Any]") -> "list[CoroutineType[Any, Any, Any]]":
    """The chain of coroutines that the task waits through, innermost last."""
    coroutine: object = cast("asyncio.Task[Any]", task).get_coro()
    found: list[CoroutineType[Any, Any, Any]] = []
    while True:
        if isinstance(coroutine, CoroutineType):
            found.append(cast("Any", coroutine))
            coroutine = found[-1].cr_await
        elif hasattr(coroutine, "gi_yieldfrom"):
            inner = cast("Any", coroutine)
            # The tracker drives the task's own coroutine by hand: it is a local of the generator's frame.
            driven = inner.gi_frame.f_locals.get("coro") if inner.gi_frame is not None else None
            coroutine = inner.gi_yieldfrom if inner.gi_yieldfrom is not None else driven
        else:
            return found
