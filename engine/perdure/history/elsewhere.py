"""History that other processes write: how far they are, and what they change, for one that only reads it.

workers ──rows, NOTIFY──► PostgreSQL ◄──how far is it── reach     the log's ends ──► those who ask wait for that
                              └──────what changed─────► on_runs
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Protocol

from perdure.history.projector import NEAR
from perdure.history.rows import RunNews
from perdure.history.store import History, HistoryDown

log = logging.getLogger("perdure.history")
LISTEN_S = 0.5
"""A stop takes so long at most."""
AGAIN_S = 1.0
"""After the database did not answer."""
LOOK_S = 0.02
"""Between two looks at how far history is, for who waits."""


class News(Protocol):
    """What is heard of changes. See `PostgresNews`."""

    def next(self, wait_s: float) -> Sequence[RunNews] | None: ...

    def close(self) -> None: ...


class KeptElsewhere:
    """`ends`: where the log's partitions end at this moment."""

    def __init__(self, store: History, news: News, ends: Callable[[], Awaitable[Mapping[int, int]]]) -> None:
        self._store = store
        self._news = news
        self._ends = ends
        self._thread = ThreadPoolExecutor(1, "perdure-history-news")
        self._stopping = asyncio.Event()
        self._is_down = False
        self.on_runs: Callable[[Sequence[RunNews] | None], None] = lambda news: None
        """Told what changed, on the loop's thread; None: more than can be told. Must not raise."""

    async def run(self) -> None:
        """Until `stop`. Who asks meanwhile is answered whether this hears anything or not."""
        loop = asyncio.get_running_loop()
        while not self._stopping.is_set():
            try:
                news = await loop.run_in_executor(self._thread, self._news.next, LISTEN_S)
            except HistoryDown as error:
                self._down(error)
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), AGAIN_S)
                continue
            if self._is_down:
                log.warning("history answers again")
                self._is_down = False
            if news is None or news:
                self.on_runs(news)

    def _down(self, error: HistoryDown) -> None:
        """It is said once, however long it lasts."""
        if not self._is_down:
            log.warning("history does not answer: %s", error)
        self._is_down = True

    def stop(self) -> None:
        self._stopping.set()

    async def close(self) -> None:
        """After `run` has ended."""
        self._thread.shutdown()
        self._news.close()
        self._store.close()

    async def reach(self, patience_s: float) -> int:
        """How many records the log has at this moment that history does not show. Waits while they may yet come."""
        now = asyncio.get_running_loop().time
        until = now() + patience_s
        ends = await self._ends()
        while True:
            stands = await asyncio.to_thread(self._store.stands)
            unread = sum(max(0, end - stands.get(one, 0)) for one, end in ends.items())
            if not 0 < unread <= NEAR or now() >= until:
                return unread
            await asyncio.sleep(LOOK_S)
