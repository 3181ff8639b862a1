"""Who waits for which ticket. No task and no future per append: only who awaits `acknowledge` pays for one."""

import asyncio
from bisect import insort
from collections import deque
from collections.abc import Callable

_Waiter = tuple[int, int, asyncio.Future[None]]


class Waiters:
    """Futures by ticket, lowest first."""

    def __init__(self) -> None:
        self._queue: deque[_Waiter] = deque()
        self._count = 0

    def add(self, ticket: int, loop: asyncio.AbstractEventLoop) -> asyncio.Future[None]:
        """A future that `release` resolves once it is called with `ticket` or more."""
        future: asyncio.Future[None] = loop.create_future()
        # The running number keeps the order of equal tickets, and futures out of comparisons.
        self._count += 1
        waiter = (ticket, self._count, future)
        if self._queue and self._queue[-1][0] > ticket:
            insort(self._queue, waiter)
        else:
            self._queue.append(waiter)
        return future

    def release(self, acknowledged: int) -> None:
        queue = self._queue
        while queue and queue[0][0] <= acknowledged:
            future = queue.popleft()[2]
            if not future.done():
                future.set_result(None)

    def refuse(self, error: Callable[[], Exception]) -> None:
        """Fail everyone, each with an exception of its own: a shared one would collect all their tracebacks."""
        queue, self._queue = self._queue, deque()
        for _, _, future in queue:
            if not future.done():
                future.set_exception(error())

    def forget(self) -> None:
        """Leave everyone waiting for ever, as a process that died does."""
        self._queue.clear()
