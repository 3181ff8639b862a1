"""Who asks: branches of a run, numbered when their task is created.

An op's identity is (branch, name, n-th use), taken when the op is called. A task factory gives every task that a run
creates a branch of its own; it chains to the factory in place and touches nothing outside runs. Numbering branches at
first use swapped identities in 59 of 60 runs. Step bodies are outside the lineage.

Sets of tasks (what `asyncio.wait` gives, what a TaskGroup cancels) have the order of their hashes: by their branch, and
not by their address, which is another on each replay.
"""

import asyncio
import sys
import types
from asyncio import base_events, tasks
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextvars import Context, ContextVar, copy_context
from typing import TYPE_CHECKING, Any, cast

from msgspec import Struct
from xxhash import xxh3_64_intdigest

from perdure.errors import DefinitionError

if TYPE_CHECKING:
    from perdure.worker.execution import Execution

Factory = Callable[..., "asyncio.Future[Any]"]


class Branch:
    """One task of a run: its path in the tree of tasks, and how often it used each name."""

    __slots__ = ("body", "children", "execution", "path", "prefix", "task", "uses")

    def __init__(self, execution: "Execution", path: str) -> None:
        self.execution = execution
        self.path = path
        self.prefix = path + "/"
        self.uses: dict[str, int] = {}
        self.children = 0
        self.body: InStep | None = None
        """The step whose body the task runs."""
        self.task: asyncio.Task[Any] | None = None

    def __hash__(self) -> int:
        """The same on every replay and in every process, and another for each branch of each run."""
        return xxh3_64_intdigest(f"{self.execution.state.seed}/{self.path}".encode())

    def child(self) -> "Branch":
        self.children += 1
        return Branch(self.execution, f"{self.path}.{self.children}")

    def gives_up(self, body: "InStep | None") -> bool:
        """Whether `body` is what the task runs, and was cancelled from outside it."""
        if body is None or body is not self.body or self.task is None:
            return False
        return self.task.cancelling() > body.cancels

    def identity(self, name: str) -> str:
        """`0.2/insert#7`: the seventh use of `insert` in branch 0.2."""
        n = self.uses[name] = self.uses.get(name, 0) + 1
        return f"{self.prefix}{name}#{n}"


class RunTask(asyncio.Task[Any]):
    """A task of a run, hashed by its branch."""

    __slots__ = ("_hash",)

    def __init__(self, branch: Branch, coro: Coroutine[Any, Any, Any], **options: Any) -> None:
        # asyncio puts the task into a set as soon as it is made.
        self._hash = hash(branch)
        super().__init__(coro, **options)

    def __hash__(self) -> int:
        return self._hash


class InStep(Struct, eq=False):
    """The executing step, for `current_step()`: belongs to the task that runs the body, in threads too."""

    execution: "Execution"
    op: str
    name: str
    attempt: int
    cancelled: bool
    cancels: int
    """How often its task had been asked to end when the body began. Now more often: the step was given up."""


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
        previous = self.previous
        make = previous or _plain_task
        branch = here.get()
        if branch is None or in_step.get() is not None or branch.execution.signal is not None:
            return make(loop, coro, **options)
        if _begun_out_of_order():
            coro.close()
            raise DefinitionError(_OUT_OF_ORDER)
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
        if previous is None:
            task: asyncio.Future[Any] = RunTask(child, tracked, loop=loop, context=context, **options)
        else:
            task = previous(loop, tracked, context=context, **options)
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
                elif isinstance(error, asyncio.CancelledError):
                    execution.ending[branch] = branch.body
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


_OUT_OF_ORDER = (
    "asyncio.as_completed begins coroutines in an order that differs on replay; in a run it begins them in the order "
    "given, but not under a name that was taken from asyncio before. Call it as asyncio.as_completed(…), or give it "
    "tasks: [asyncio.create_task(fetch(url)) for url in urls]"
)


def _codes_of_as_completed() -> frozenset[types.CodeType]:
    """Where asyncio begins coroutines in the order of a set: an iterator's `__init__` since Python 3.13."""
    iterator: Any = getattr(tasks, "_AsCompletedIterator", None)
    code: types.CodeType = (cast("Any", tasks.as_completed) if iterator is None else iterator.__init__).__code__
    inner = (one for one in code.co_consts if isinstance(one, types.CodeType) and one.co_name == "<setcomp>")
    return frozenset({code, *inner})


_AS_COMPLETED = _codes_of_as_completed()
_ENSURE = frozenset(
    getattr(tasks, name).__code__ for name in ("ensure_future", "_ensure_future") if hasattr(tasks, name)
)
_CREATE = base_events.BaseEventLoop.create_task.__code__


def _begun_out_of_order() -> bool:
    """Whether the factory was called by asyncio's own `as_completed`, whose frames are next to it."""
    frame: types.FrameType | None = sys._getframe(2)  # pyright: ignore[reportPrivateUsage]
    if frame and frame.f_code is _CREATE:
        frame = frame.f_back
    if not frame or frame.f_code not in _ENSURE:
        return False
    while frame and frame.f_code in _ENSURE:
        frame = frame.f_back
    return frame is not None and frame.f_code in _AS_COMPLETED


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
