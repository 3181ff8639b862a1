"""fsync, off the loop's thread where it takes longer than handing it over.

A thread of its own: a queue and `call_soon_threadsafe` instead of an executor, so no future per flush, and a third less
delay for a lone step. But two threads that wake each other take a tenth of a millisecond, and a busy loop lets the
other one begin and end only when it pauses (or after Python's switch interval, 5 ms each time). On a disk that has been
quick for a while the loop flushes itself: a lone step takes a fifth less. The first slow flush ends that.
"""

import asyncio
import threading
from collections.abc import Callable
from contextvars import Context
from queue import SimpleQueue
from time import monotonic_ns

Flush = Callable[[bool], None]
Done = Callable[[Exception | None], None]
QUICK_NS = 1_000_000
"""A flush that takes no longer may hold up the loop."""
QUICK_IN_A_ROW = 32


class Flusher:
    """Runs one flush after another. `done` is called on the loop's thread, in an empty context, with its error."""

    def __init__(self, loop: asyncio.AbstractEventLoop, done: Done, now_ns: Callable[[], int] = monotonic_ns) -> None:
        self._loop = loop
        self._done = done
        self._now_ns = now_ns
        self._quick_in_a_row = 0
        self._queue: SimpleQueue[Flush | None] = SimpleQueue()
        # A daemon: a program that forgets to close its log must still be able to end.
        self._thread = threading.Thread(target=self._run, name="perdure-flush", daemon=True)
        self._thread.start()

    def flush(self, flush: Flush) -> None:
        if self._quick_in_a_row >= QUICK_IN_A_ROW:
            self._loop.call_soon(self._done, self._timed(flush), context=Context())
        else:
            self._queue.put(flush)

    def stop(self) -> None:
        """Return when the thread has ended; call it with no flush under way."""
        self._queue.put(None)
        self._thread.join()

    def _timed(self, flush: Flush) -> Exception | None:
        """Its error. There is one flush at a time, so no two threads count."""
        began = self._now_ns()
        error: Exception | None = None
        try:
            flush(True)
        except Exception as caught:
            error = caught
        self._quick_in_a_row = self._quick_in_a_row + 1 if self._now_ns() - began <= QUICK_NS else 0
        return error

    def _run(self) -> None:
        while (flush := self._queue.get()) is not None:
            error = self._timed(flush)
            # The bound method keeps the database alive, and with it the lock on the directory.
            del flush
            try:
                self._loop.call_soon_threadsafe(self._done, error, context=Context())
            except RuntimeError:  # the loop was closed without closing the log: nobody is left to be told
                return
