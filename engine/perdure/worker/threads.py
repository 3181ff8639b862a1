"""Threads for `def` steps. Daemons: a step that never ends must not keep its process from stopping.

(`ThreadPoolExecutor` joins its threads when the interpreter exits, whatever they do.)
"""

from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextlib import suppress
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
Work = tuple["Future[Any]", Callable[[], Any]]


class Threads(Executor):
    """At most `limit` at a time, made when they are needed. What is more waits for a free one."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._made = 0
        self._busy = 0
        self._lock = Lock()
        self._queue: SimpleQueue[Work | None] = SimpleQueue()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> "Future[T]":
        future: Future[T] = Future()
        with self._lock:
            self._busy += 1
            more = self._busy > self._made and self._made < self._limit
            self._made += more
            number = self._made
        self._queue.put((future, lambda: fn(*args, **kwargs)))
        if more:
            Thread(target=self._work, name=f"perdure-step_{number}", daemon=True).start()
        return future

    def abandon(self) -> None:
        """One of them may never end: it no longer counts."""
        with self._lock:
            self._limit += 1

    def shutdown(self, wait: bool = False, *, cancel_futures: bool = True) -> None:
        """Idle threads end; busy ones after what they are at."""
        with self._lock:
            made = self._made
        for _ in range(made):
            self._queue.put(None)

    def _work(self) -> None:
        while (work := self._queue.get()) is not None:
            future, call = work
            if future.set_running_or_notify_cancel():
                try:
                    result = call()
                except BaseException as error:
                    # The loop that waits may be closed by now.
                    with suppress(RuntimeError):
                        future.set_exception(error)
                else:
                    with suppress(RuntimeError):
                        future.set_result(result)
                    del result
            del work, future, call
            with self._lock:
                self._busy -= 1
