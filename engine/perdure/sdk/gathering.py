"""Many at once: `ctx.map`, `ctx.race`, and closures that must not change under a step."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

from perdure.errors import DefinitionError
from perdure.worker.spec import StepSpec


async def _awaited(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


def _task(awaitable: Awaitable[Any]) -> "asyncio.Task[Any]":
    coroutine = awaitable if asyncio.iscoroutine(awaitable) else _awaited(awaitable)
    return asyncio.get_running_loop().create_task(coroutine)


async def bounded_map(
    fn: Callable[[Any], Awaitable[Any]], items: Iterable[Any], limit: int, return_exceptions: bool
) -> list[Any]:
    """`fn` is called in the order of the items and in the caller's branch, so that identities follow the items."""
    if limit < 1:
        raise DefinitionError(f"limit={limit}: at least one at a time")
    results: list[Any] = []
    running: dict[asyncio.Task[Any], int] = {}
    ended: asyncio.Queue[asyncio.Task[Any]] = asyncio.Queue()
    left = iter(items)
    more = True
    try:
        while True:
            while more and len(running) < limit:
                try:
                    item = next(left)
                except StopIteration:
                    more = False
                    break
                task = _task(fn(item))
                running[task] = len(results)
                results.append(None)
                task.add_done_callback(ended.put_nowait)
            if not running:
                return results
            task = await ended.get()
            index = running.pop(task)
            error = None if task.cancelled() else task.exception()
            if error is not None and return_exceptions and isinstance(error, Exception):
                results[index] = error
            else:
                results[index] = task.result()
    finally:
        await _cancel(running)


async def race(runners: Sequence[Awaitable[Any]]) -> tuple[int, Any]:
    tasks = [_task(runner) for runner in runners]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        # Results come one at a time in log order: the first done is the same on every replay.
        index = next(i for i, task in enumerate(tasks) if task.done())
        return index, tasks[index].result()
    finally:
        await _cancel(tasks)


async def _cancel(tasks: Iterable["asyncio.Task[Any]"]) -> None:
    """End those that are not done, and ask all for their errors, so that asyncio does not miss that."""
    losers = list(tasks)
    going_on = [task for task in losers if not task.done()]
    for task in going_on:
        task.cancel()
    try:
        if going_on:
            await asyncio.wait(going_on)
    finally:
        # Whoever waits here may be cancelled as well.
        for task in losers:
            if task.done():
                _hear(task)
            else:
                task.add_done_callback(_hear)


def _hear(task: "asyncio.Task[Any]") -> None:
    if not task.cancelled():
        task.exception()


def guard_closure(spec: StepSpec) -> StepSpec:
    """A closure's variables are no arguments: one that changes between the call and the run is an error.

    Changed means bound to something else. What a list holds is not looked at: each step would pay for all of it.
    """
    cells: Sequence[Any] | None = getattr(spec.fn, "__closure__", None)
    if not cells:
        return spec
    names: Sequence[str] = spec.fn.__code__.co_freevars
    before = _captured(cells)
    fn = spec.fn

    def check() -> None:
        for name, was, now in zip(names, before, _captured(cells), strict=True):
            if _changed(was, now):
                raise DefinitionError(
                    f"step {spec.name!r}: the captured variable {name!r} changed before the step ran: "
                    f"pass it as an argument"
                )

    def ran() -> None:
        """What the body itself changed does not count before its next attempt."""
        before[:] = _captured(cells)

    if spec.is_async:

        async def checked_async(*args: Any, **kwargs: Any) -> Any:
            check()
            try:
                return await fn(*args, **kwargs)
            finally:
                ran()

        return replace(spec, fn=checked_async)

    def checked(*args: Any, **kwargs: Any) -> Any:
        check()
        try:
            return fn(*args, **kwargs)
        finally:
            ran()

    return replace(spec, fn=checked)


def _captured(cells: Sequence[Any]) -> list[object]:
    found: list[object] = []
    for cell in cells:
        try:
            found.append(cell.cell_contents)
        except ValueError:
            found.append(_UNBOUND)
    return found


def _changed(was: object, now: object) -> bool:
    """A number that was counted up and down again is another object, and the same."""
    if was is now:
        return False
    return not (type(was) is type(now) and isinstance(was, _SCALARS) and was == now)


_UNBOUND = object()
_SCALARS = (str, bytes, int, float, complex, bool, tuple, frozenset, datetime, timedelta, UUID, Decimal, Enum)
