"""Where user code is: its frames, among those of the engine and of asyncio."""

import asyncio
import os
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any, cast

import perdure.errors
import perdure_schemas
from perdure.worker import main
from perdure.worker.execution import Execution
from perdure.worker.idle import awaited
from perdure.worker.lineage import current_branch

_STANDARD = os.path.dirname(asyncio.__file__).removesuffix("asyncio")
_INSTALLED = os.path.join(_STANDARD, "site-packages") + os.sep
_OURS = tuple(os.path.dirname(module.__file__ or "") + os.sep for module in (perdure.errors, perdure_schemas))
_OUTERMOST = (main.__file__, asyncio.events.__file__)
"""What begins a task: whatever is further out is not the run's."""


def is_users(frame: FrameType) -> bool:
    """Neither ours nor the standard library's."""
    name = frame.f_code.co_filename
    if name.startswith((*_OURS, "<frozen")):
        return False
    return not name.startswith(_STANDARD) or name.startswith(_INSTALLED)


def stack_of(frame: FrameType | None) -> list[FrameType]:
    """The user's own frames of the task that runs `frame`, outermost first."""
    found: list[FrameType] = []
    while frame is not None and frame.f_code.co_filename not in _OUTERMOST:
        if is_users(frame):
            found.append(frame)
        frame = frame.f_back
    return found[::-1]


def asking_frame(execution: Execution) -> FrameType | None:
    """The user's frame that asks for an op, while it does; where a task began with the op itself, the one that awaits

    that task. None if there is none.
    """
    stack = stack_of(sys._getframe(1))  # pyright: ignore[reportPrivateUsage]
    if stack:
        return stack[-1]
    return next((frame for task in _outer_tasks(execution) for frame in _suspended(task)), None)


def _outer_tasks(execution: Execution) -> Iterator["asyncio.Future[Any]"]:
    """Tasks that may wait for the present one, the nearest first."""
    branch = current_branch()
    path = branch.path if branch is not None else ""
    by_path = {one.path: task for task, one in execution.tasks.items()}
    while "." in path:
        path = path.rpartition(".")[0]
        if path in by_path:
            yield by_path[path]
    if execution.root is not None:
        yield execution.root


def _suspended(task: "asyncio.Future[Any]") -> list[FrameType]:
    """The user's innermost frame of a task that waits."""
    frames = [one.cr_frame for one in awaited(cast("asyncio.Task[Any]", task))]
    own = [frame for frame in frames if frame is not None and is_users(frame)]
    return own[-1:]
