"""A thread of its own for fsync, the one thing that must not happen on the loop's thread.

A queue and `call_soon_threadsafe` instead of an executor: no future per flush, a third less delay for a lone step.
"""

import asyncio
import threading
from collections.abc import Callable
from contextvars import Context
from queue import SimpleQueue

Flush = Callable[[bool], None]
Done = Callable[[Exception | None], None]


class Flusher:
    """Runs one flush after another. `done` is called on the loop's thread, in an empty context, with its error."""

    def __init__(self, loop: asyncio.AbstractEventLoop, done: Done) -> None:
        self._loop = loop
        self._done = done
        self._queue: SimpleQueue[Flush | None] = SimpleQueue()
        # A daemon: a program that forgets to close its log must still be able to end.
        self._thread = threading.Thread(target=self._run, name="perdure-flush", daemon=True)
        self._thread.start()

    def flush(self, flush: Flush) -> None:
        self._queue.put(flush)

    def stop(self) -> None:
        """Return when the thread has ended; call it with no flush under way."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (flush := self._queue.get()) is not None:
            error: Exception | None = None
            try:
                flush(True)
            except Exception as caught:
                error = caught
            # The bound method keeps the database alive, and with it the lock on the directory.
            del flush
            try:
                self._loop.call_soon_threadsafe(self._done, error, context=Context())
            except RuntimeError:  # the loop was closed without closing the log: nobody is left to be told
                return
