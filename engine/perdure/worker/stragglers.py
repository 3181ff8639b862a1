"""Runs that were told to stop and go on: named in a warning, and kept from holding up the process.

What becomes of such a run is in the log already; only its user code is still in memory.
"""

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from perdure.flow.lines import op_name

if TYPE_CHECKING:
    from perdure.worker.execution import Execution

log = logging.getLogger("perdure.worker")
PATIENCE_SECONDS = 5.0
_kept: "set[asyncio.Future[Any]]" = set()
"""Tasks that nobody waits for any more. The collector would close what they run in the midst of another run, and its
`finally` would ask for ops in the name of that one: so they stay, until they end by themselves."""


class Stragglers:
    """Executions that unwind, or left tasks behind. `look` is to be called now and then."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._leaving: dict[Execution, float] = {}

    def see_off(self, execution: "Execution") -> None:
        if going_on(execution):
            self._leaving[execution] = self._loop.time() + PATIENCE_SECONDS

    def look(self) -> None:
        """Forget who has left; name who should have by now, once."""
        if not self._leaving:
            return
        now = self._loop.time()
        for execution, until in list(self._leaving.items()):
            if not going_on(execution):
                del self._leaving[execution]
            elif now >= until:
                del self._leaving[execution]
                name(execution)
                _keep(execution)


def going_on(execution: "Execution") -> bool:
    """Whether any task of the run is not done."""
    return any(not task.done() for task in tasks_of(execution))


def tasks_of(execution: "Execution") -> "list[asyncio.Future[Any]]":
    return [*execution.tasks] if execution.root is None else [execution.root, *execution.tasks]


def name(execution: "Execution") -> None:
    steps = ", ".join(sorted({repr(op_name(op)) for op in execution.bodies}))
    log.warning(
        "run %s of %r was told to stop and goes on%s: it swallows cancellation. Its ops all raise; "
        "let CancelledError and RunCancelled pass.",
        execution.run_id,
        execution.function.id,
        f" in step {steps}" if steps else "",
        extra={"run": execution.run_id},
    )


def _keep(execution: "Execution") -> None:
    for task in tasks_of(execution):
        if not task.done():
            _kept.add(task)
            task.add_done_callback(_kept.discard)


async def leave_behind(executions: "list[Execution]") -> None:
    """Wait for those that unwind; those that do not are named, and asyncio is told not to wait for them."""
    tasks = {task for execution in executions for task in tasks_of(execution)}
    if tasks:
        await asyncio.wait(tasks, timeout=PATIENCE_SECONDS)
    for execution in executions:
        if going_on(execution):
            name(execution)
            _keep(execution)
        for task in tasks_of(execution):
            if not task.done() and isinstance(task, asyncio.Task):
                # `asyncio.run` waits for all tasks, and would wait for ever.
                asyncio.tasks._unregister_task(task)  # pyright: ignore[reportPrivateUsage]
                setattr(task, "_log_destroy_pending", False)  # noqa: B010
