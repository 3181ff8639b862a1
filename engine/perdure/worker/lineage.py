"""Who asks: branches of a run, numbered when their task is created.

An op's identity is (branch, name, n-th use), taken when the op is called. A task factory gives every task that a run
creates a branch of its own; it chains to the factory in place and touches nothing outside runs. Numbering branches at
first use swapped identities in 59 of 60 runs. Step bodies are outside the lineage.
"""

import asyncio
import types
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextvars import Context, ContextVar, copy_context
from typing import TYPE_CHECKING, Any, cast

from msgspec import Struct

if TYPE_CHECKING:
    from perdure.worker.execution import Execution

Factory = Callable[..., "asyncio.Future[Any]"]


class Branch:
    """One task of a run: its path in the tree of tasks, and how often it used each name."""

    __slots__ = ("body", "children", "execution", "path", "prefix", "uses")

    def __init__(self, execution: "Execution", path: str) -> None:
        self.execution = execution
        self.path = path
        self.prefix = path + "/"
        self.uses: dict[str, int] = {}
        self.children = 0
        self.body: InStep | None = None
        """The step whose body the task runs."""

    def child(self) -> "Branch":
        self.children += 1
        return Branch(self.execution, f"{self.path}.{self.children}")

    def identity(self, name: str) -> str:
        """`0.2/insert#7`: the seventh use of `insert` in branch 0.2."""
        n = self.uses[name] = self.uses.get(name, 0) + 1
        return f"{self.prefix}{name}#{n}"


class InStep(Struct, eq=False):
    """The executing step, for `current_step()`: belongs to the task that runs the body, in threads too."""

    execution: "Execution"
    op: str
    name: str
    attempt: int
    cancelled: bool


here: ContextVar[Branch | None] = ContextVar("perdure_branch", default=None)
in_step: ContextVar[InStep | None] = ContextVar("perdure_step", default=None)


def current_branch() -> Branch | None:
    """The calling task's branch; None outside runs and inside step bodies."""
    branch = here.get()
    return None if branch is None or in_step.get() is not None else branch


async def _generator() -> AsyncGenerator[None]:
    yield


_closing = _generator().aclose()
_CLOSING = type(_closing)
_closing.close()  # Python 3.13 warns of one that nobody awaited


class TaskFactory:
    """Wraps the coroutines of a run's tasks, so that their moves are counted and their branch is known."""

    def __init__(self, previous: Factory | None) -> None:
        self.previous = previous
        self.users = 0
        """Workers of this loop: the first one puts the factory in place, the last one takes it away."""

    def __call__(
        self, loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], **options: Any
    ) -> "asyncio.Future[Any]":
        make = self.previous or _plain_task
        branch = here.get()
        if branch is None or in_step.get() is not None or branch.execution.signal is not None:
            return make(loop, coro, **options)
        if type(coro) is _CLOSING:
            # The collector closes generators, whenever it likes and in whoever's context: that is nobody's branch.
            context = copy_context()
            context.run(here.set, None)
            return make(loop, coro, **{**options, "context": context})
        child = branch.child()
        given: Context | None = options.pop("context", None)
        # A context that the caller shares between tasks must not carry one task's branch to the next.
        context = copy_context() if given is None else given.copy()
        context.run(here.set, child)
        tracked = _tracked(child, coro)
        cast("Any", tracked).__qualname__ = getattr(coro, "__qualname__", "task")
        task = make(loop, tracked, context=context, **options)
        branch.execution.adopt(task, coro, child)
        return task


def _plain_task(loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], **options: Any) -> "asyncio.Task[Any]":
    return asyncio.Task(coro, loop=loop, **options)


async def _tracked(branch: Branch, coro: Coroutine[Any, Any, Any]) -> Any:
    return await _track(branch, coro)


@types.coroutine
def _track(branch: Branch, coro: Coroutine[Any, Any, Any]) -> Generator[Any, Any, Any]:
    """Forwards to `coro` and counts the moves of the run: each resumption outside a step body."""
    execution = branch.execution
    try:
        execution.moves += 1
        waited = coro.send(None)
        while True:
            try:
                sent = yield waited
            except BaseException as error:
                if branch.body is None:
                    execution.moves += 1
                waited = coro.throw(error)
            else:
                if branch.body is None:
                    execution.moves += 1
                waited = coro.send(sent)
    except StopIteration as stop:
        return stop.value
    finally:
        execution.moves += 1
        coro.close()


def install(loop: asyncio.AbstractEventLoop) -> None:
    """Put the factory before the one in place, if it is not there: a loop may have several workers."""
    factory = cast("object", loop.get_task_factory())
    if not isinstance(factory, TaskFactory):
        factory = TaskFactory(cast("Factory | None", factory))
        loop.set_task_factory(cast("Any", factory))
    factory.users += 1


def uninstall(loop: asyncio.AbstractEventLoop) -> None:
    """Give the loop its earlier factory back when the last worker goes, if ours still stands."""
    factory = cast("object", loop.get_task_factory())
    if isinstance(factory, TaskFactory):
        factory.users -= 1
        if factory.users <= 0:
            loop.set_task_factory(cast("Any", factory.previous))
