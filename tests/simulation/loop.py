"""A loop for many processes at once, in one thread, with a clock of its own and an order that the seed decides.

    owner A   │ ready, first in first out │──┐
    owner B   │ ready, first in first out │──┼─► the seed picks an owner, and how many of its callbacks run
    outside   │ ready, first in first out │──┘
    timers    (when, drawn, count) ──────────► move to their owner's queue when they are due

Who may rely on what? asyncio promises that callbacks of `call_soon` run in the order in which they were asked for,
and code relies on it (a future wakes its waiters in order, `sleep(0)` lets the others have their turn). So within one
owner, which stands for a process, that order is kept. Nothing is promised between processes, nor between timers of
the same instant, nor of when the world answers (a flush, a fetch, a thread): all of that is drawn.

Time stands still while a callback runs, and goes on by `turn_cost` a callback; when nobody has anything to do it
jumps to the next timer. A frozen owner's callbacks wait, as do its timers; a dead one's are dropped.
"""

import asyncio
import heapq
from asyncio import tasks
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import Context
from random import Random
from typing import Any, TypeVarTuple, Unpack

from perdure.worker.lineage import here

Ts = TypeVarTuple("Ts")
EPOCH_MS = 1_767_225_600_000
"""2026-01-01, when every world begins."""


class Stalled(AssertionError):
    """Nobody has anything to do, and no timer is set: what is waited for never comes."""


class Owner:
    """Whose callbacks these are: a process (a pod's life), or the world outside."""

    __slots__ = ("dead", "frozen", "name", "ready", "stalled_until", "tasks")

    def __init__(self, name: str) -> None:
        self.name = name
        self.ready: deque[asyncio.Handle] = deque()
        self.frozen = False
        self.dead = False
        self.stalled_until = 0.0
        """It cannot go on before: its disk or its processor is busy with something else."""
        self.tasks: dict[int, SimTask] = {}
        """Those that are not done, by number."""

    def __repr__(self) -> str:
        return self.name


class SimTask(tasks.Task[Any]):
    """A task that knows its owner, and whose place in a set does not depend on its address."""

    def __init__(self, coro: Any, *, loop: "SimLoop", **options: Any) -> None:
        self.number = loop.number()
        self.owner = loop.current
        self.owner.tasks[self.number] = self
        context: Context | None = options.get("context")
        branch = context.get(here) if context is not None else None
        self._hash = self.number if branch is None else hash(branch)
        super().__init__(coro, loop=loop, **options)
        self.add_done_callback(_gone, context=_EMPTY)

    def __hash__(self) -> int:
        return self._hash


class SimFuture(asyncio.Future[Any]):
    def __init__(self, *, loop: "SimLoop") -> None:
        self.number = loop.number()
        super().__init__(loop=loop)

    def __hash__(self) -> int:
        return self.number


class SimTimer(asyncio.TimerHandle):
    __slots__ = ("owner",)
    owner: Owner


_EMPTY = Context()


def _gone(task: "asyncio.Future[Any]") -> None:
    assert isinstance(task, SimTask)
    task.owner.tasks.pop(task.number, None)


class SimLoop(asyncio.BaseEventLoop):
    """See the module's text. `rng` decides every order."""

    def __init__(self, rng: Random, turn_cost: float = 0.000_02, most_callbacks: int = 1 << 60) -> None:
        super().__init__()
        self._most_callbacks = most_callbacks
        self._random = rng.random
        self._now = 1_000.0
        self._turn_cost = turn_cost
        self._count = 0
        self._timers: list[tuple[float, float, int, SimTimer]] = []
        self.outside = Owner("outside")
        self.current = self.outside
        self.owners = [self.outside]
        self.leapt = 0.0
        """Seconds by which the clocks on the wall went on while nothing else happened."""
        self.handles = 0
        self.inert = False
        """The world is over: what is asked for now is forgotten."""
        self.set_task_factory(_make_task)

    def number(self) -> int:
        self._count += 1
        return self._count

    # Clocks

    def time(self) -> float:
        return self._now

    def wall_ms(self) -> int:
        """Milliseconds since the epoch, of a clock that is right."""
        return EPOCH_MS + int((self._now - 1_000.0 + self.leapt) * 1000)

    # Owners

    def add_owner(self, name: str) -> Owner:
        owner = Owner(name)
        self.owners.append(owner)
        return owner

    def bury(self, owner: Owner) -> None:
        """It never does anything again. Its tasks are closed when the world is over."""
        owner.dead = True
        owner.ready.clear()
        self.owners.remove(owner)

    @contextmanager
    def on_behalf(self, owner: Owner) -> Iterator[None]:
        """What is asked for inside is that owner's."""
        before, self.current = self.current, owner
        try:
            yield
        finally:
            self.current = before

    # Asking

    def call_soon(
        self, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        task = getattr(callback, "__self__", None)
        # A task's turn is its owner's, whoever resolved what it waits for.
        owner = task.owner if type(task) is SimTask else self.current
        if not owner.dead and not self.inert:
            owner.ready.append(handle)
        return handle

    call_soon_threadsafe = call_soon

    def call_at(
        self, when: float, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self._timer(self.current, when, callback, args, context)

    def call_later(
        self, delay: float, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self._timer(self.current, self._now + delay, callback, args, context)

    def post(self, owner: Owner, delay: float, callback: Callable[..., object], *args: Any) -> asyncio.TimerHandle:
        """What comes to an owner from outside it: an answer, a record, a thread's end."""
        return self._timer(owner, self._now + delay, callback, args, _EMPTY.copy())

    def _timer(
        self, owner: Owner, when: float, callback: Callable[..., object], args: Any, context: Context | None
    ) -> asyncio.TimerHandle:
        timer = SimTimer(when, callback, args, self, context)
        timer.owner = owner
        if not owner.dead and not self.inert:
            self._count += 1
            heapq.heappush(self._timers, (when, self._random(), self._count, timer))
        return timer

    def create_future(self) -> "asyncio.Future[Any]":
        return SimFuture(loop=self)

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        pass

    # Running

    def _run_once(self) -> None:
        timers, draw = self._timers, self._random
        while True:
            now = self._now
            while timers and timers[0][0] <= now:
                timer = heapq.heappop(timers)[3]
                owner = timer.owner
                if not timer._cancelled and not owner.dead:
                    owner.ready.append(timer)
            able = [one for one in self.owners if one.ready and not one.frozen and one.stalled_until <= now]
            if able:
                self._turn(able[int(draw() * len(able))] if len(able) > 1 else able[0], alone=len(able) == 1)
            elif not self._jump():
                break
            if getattr(self, "_stopping"):  # noqa: B009 - typeshed does not know it
                break

    def _turn(self, owner: Owner, *, alone: bool) -> None:
        """Some callbacks of one owner; all that are ready, if nobody else has any."""
        now, ready = self._now, owner.ready
        most = len(ready)
        if not alone and most > 1:
            most = 1 + int(self._random() * most)
        self.current = owner
        count = 0
        while count < most:
            handle = ready.popleft()
            count += 1
            if not handle._cancelled:
                handle._run()
            if owner.dead or not ready or owner.stalled_until > now:
                break
        self.current = self.outside
        self.handles += count
        self._now = now + count * self._turn_cost
        if self.handles > self._most_callbacks:
            raise Stalled(f"{self.handles} callbacks, and no end: something goes round in circles")

    def _jump(self) -> bool:
        """To the next moment at which there may be something to do. False if the loop is to stop instead."""
        timers, now = self._timers, self._now
        while timers and (timers[0][3].cancelled() or timers[0][3].owner.dead):
            heapq.heappop(timers)
        moments = [one.stalled_until for one in self.owners if one.ready and one.stalled_until > now]
        if timers:
            moments.append(timers[0][0])
        if not moments:
            if getattr(self, "_stopping"):  # noqa: B009 - as above
                return False
            raise Stalled("nothing is left to do, and no timer is set")
        self._now = max(now, min(moments))
        return True

    def close(self) -> None:
        self.inert = True
        self._timers.clear()
        for owner in self.owners:
            owner.ready.clear()
        super().close()

    # What BaseEventLoop leaves to loops that have sockets

    def _process_events(self, event_list: object) -> None:
        raise NotImplementedError

    def _write_to_self(self) -> None:
        pass


def _make_task(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> "asyncio.Task[Any]":
    assert isinstance(loop, SimLoop)
    return SimTask(coro, loop=loop, **options)


__all__ = ["EPOCH_MS", "Owner", "SimFuture", "SimLoop", "SimTask", "SimTimer", "Stalled"]
