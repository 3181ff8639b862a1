"""The task that keeps history up with the journal: a reader of its own, behind the engine and never in its way.

    log ──fetch──► a slice of each partition ──► in a thread: projection, one transaction ──► rest, if all are busy

It may be killed at any point: rows and the place that they stand at are written together, so it goes on where it was.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from time import monotonic, sleep, thread_time
from typing import ParamSpec, TypeVar

from perdure.errors import LogError
from perdure.flow import UnreadableRecord
from perdure.history.projection import Projection
from perdure.history.rows import RunNews, RunRow, news_of
from perdure.history.store import History, NoHistory, Overtaken
from perdure.log.protocol import Batch, Log

P = ParamSpec("P")
T = TypeVar("T")
log = logging.getLogger("perdure.history")
SLICE_BYTES = 1 << 18
IDLE_S = 0.25
"""Between two looks at a log in which nothing happens."""
AGAIN_S = 10.0
"""At the longest, after failures: a full disk, a broker or a database that does not answer."""
FIRST_AGAIN_S = 0.25
"""After the first of them; then twice as long each time."""
REST = 9.0
"""While the engine is at work, a turn is followed by a rest so many times as long as the processor time that it took.

What this thread works the engine's does not: they share the interpreter.
"""
AT_ONCE = 32
"""Records, folded while the engine waits for the interpreter, which it gives away with every write of its own.

Unasked a thread keeps it for five milliseconds: as long as two turns of a busy loop.
"""
NEAR = 5_000
"""Records; who asks waits for so many to be read, and not for more."""
RETENTION_MS = 30 * 86_400_000
RETAIN_EVERY_S = 60.0

Told = Callable[[int, int], None]
"""Records that were read, of how many."""


class Projector:
    """Reads a log into `store`: of its partitions those that are `owned`, as others have others.

    `retention_ms`: how long what is over stays, by log time.
    """

    def __init__(
        self,
        app_log: Log,
        store: History,
        *,
        retention_ms: int | None = RETENTION_MS,
        owned: Callable[[int], bool] = lambda partition: True,
    ) -> None:
        self._log = app_log
        self.store = store
        self._retention_ms = retention_ms
        self._owned = owned
        self._projections: dict[int, Projection] = {}
        self._thread = ThreadPoolExecutor(1, "perdure-history")
        self._stopping = asyncio.Event()
        self._asked = asyncio.Event()
        self._turned = asyncio.Event()
        self._written: dict[int, int] = {}
        """How far each partition stands in the store."""
        self._worked_s = 0.0
        """Processor time of the thread."""
        self._seen_end = 0
        self._retained_at = float("-inf")
        self.on_runs: Callable[[Sequence[RunNews] | None], None] = lambda news: None
        """Told what changed, once it is in the store, on the loop's thread. Must not raise. This one always knows."""
        self._is_open = False
        self._failures = 0
        """In a row."""
        self.halted: dict[int, str] = {}
        """Partitions with a record that only newer code can read."""

    async def open(self) -> None:
        """Raises `NoHistory` and what else the store has to say; after `HistoryDown`, `run` tries again."""
        why = await self._in_thread(self.store.open)
        if why is not None:
            log.warning("%s: history is made anew from what the log still has", why)
        self._is_open = True

    async def run(self) -> None:
        """Until `stop`."""
        while not self._stopping.is_set():
            try:
                if not self._is_open:
                    await self.open()
                rest = await self._turn()
                self._went_well()
            except Exception as error:
                # Whatever it is, the engine must go on. What was not written is read again.
                rest = self._failed(error)
            ended, self._turned = self._turned, asyncio.Event()
            ended.set()
            # Who asks ends a wait for something new, and no rest: that is the engine's.
            woken, pause = (self._asked, IDLE_S) if rest is None else (self._stopping, rest)
            with suppress(TimeoutError):
                await asyncio.wait_for(woken.wait(), pause)
            self._asked.clear()

    def _went_well(self) -> None:
        if self._failures:
            log.warning("history goes on")
            self._failures = 0

    def _failed(self, error: Exception) -> float:
        """How long until it is tried again. It is said once, however long it lasts."""
        self._projections.clear()
        self._is_open = self._is_open and not isinstance(error, NoHistory)
        if not self._failures and not self._stopping.is_set():
            log.warning("history stands still (%s: %s): tried again until it goes on", type(error).__name__, error)
        self._failures += 1
        return min(AGAIN_S, FIRST_AGAIN_S * (1 << min(self._failures - 1, 16)))

    def stop(self) -> None:
        """`run` ends with the transaction that it is at."""
        self._stopping.set()
        self._asked.set()

    async def reach(self, patience_s: float) -> int:
        """How many records the log has at this moment that the store does not show. Waits while they may yet come.

        Of the partitions that this process keeps up: how far others are, nobody here knows.
        """
        ends = {one: await self._log.latest(one) for one in range(self._log.partitions)}
        self._asked.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                while 0 < self._unread(ends) <= NEAR:
                    await self._turned.wait()
        return self._unread(ends)

    def _unread(self, ends: Mapping[int, int]) -> int:
        ours = {one: end for one, end in ends.items() if self._owned(one) and one not in self.halted}
        return sum(max(0, end - self._written.get(one, 0)) for one, end in ours.items())

    async def close(self) -> None:
        """After `run` has ended. Idempotent."""
        await self._in_thread(self.store.close)
        self._thread.shutdown()

    async def catch_up(self, told: Told = lambda done, of: None) -> int:
        """Read to the end as it stands now, without rests. How many records were read."""
        ends = {one: await self._log.latest(one) for one in range(self._log.partitions)}
        done = 0
        of = 0
        for one, end in ends.items():
            of += max(0, end - max((await self._projection(one)).standing.offset, self._log.start(one)))
        for partition, end in ends.items():
            while partition not in self.halted:
                before = (await self._projection(partition)).standing.offset
                if before == end:
                    break
                read = await self._slice(partition)
                if not read and (await self._projection(partition)).standing.offset == before:
                    break
                done += read
                told(done, of)
        await self._retain()
        return done

    async def _turn(self) -> float | None:
        """How long to rest from it; None if there was nothing to read."""
        worked, read = self._worked_s, 0
        for partition in range(self._log.partitions):
            if not self._owned(partition):
                self._projections.pop(partition, None)
            elif partition not in self.halted and not self._stopping.is_set():
                read += await self._slice(partition)
        await self._retain()
        if not read:
            return None
        end = sum(map(self._log.end, range(self._log.partitions)))
        busy, self._seen_end = end != self._seen_end, end
        return min((self._worked_s - worked) * REST, 1.0) if busy else 0.0

    async def _slice(self, partition: int) -> int:
        """Read a little of it, and write what that makes. How many records."""
        projection = await self._projection(partition)
        batches = await self._fetch(projection)
        if not batches:
            return 0
        before = projection.standing.offset
        try:
            changed = await self._in_thread(self._project, projection, batches)
        except Overtaken as error:
            log.info("%s: it is read anew", error)
            del self._projections[partition]
            return 0
        self._written[partition] = projection.standing.offset
        self.on_runs(news_of(changed))
        return projection.standing.offset - before

    async def _projection(self, partition: int) -> Projection:
        projection = self._projections.get(partition)
        if projection is None:
            projection = await self._in_thread(self._load, partition)
            self._projections[partition] = projection
            self._written[partition] = projection.standing.offset
        return projection

    def _load(self, partition: int) -> Projection:
        store = self.store
        return Projection(partition, self._log.partitions, store.standing(partition), store.state(partition))

    async def _fetch(self, projection: Projection) -> Sequence[Batch]:
        partition = projection.partition
        try:
            return await self._log.fetch(partition, projection.standing.offset, limit_bytes=SLICE_BYTES)
        except IndexError:
            end, start = await self._log.latest(partition), self._log.start(partition)
            offset = projection.standing.offset
            if offset > end:
                await self._begin_anew(partition, offset, end)
            elif offset < start:
                await self._skip(projection, start)
            else:
                raise LogError(f"partition {partition} cannot be read at {offset}, of {start} to {end}") from None
            return ()

    async def _begin_anew(self, partition: int, offset: int, end: int) -> None:
        log.warning(
            "history has read partition %d to %d, and the log ends at %d: it is another log; history is made anew",
            partition,
            offset,
            end,
        )
        self._projections.clear()
        self._written.clear()
        await self._in_thread(self.store.clear)

    async def _skip(self, projection: Projection, start: int) -> None:
        partition, offset = projection.partition, projection.standing.offset
        log.warning(
            "partition %d: records %d to %d were trimmed before history read them: it goes on from there, and knows "
            "nothing of what only they told",
            partition,
            offset,
            start - 1,
        )
        projection.skip_to(start)
        await self._in_thread(self.store.lose_sight, partition)

    def _project(self, projection: Projection, batches: Sequence[Batch]) -> Mapping[str, RunRow]:
        try:
            for batch in batches:
                for some in _parts(batch):
                    projection.read(some)
                    sleep(0)
        except UnreadableRecord as error:
            self.halted[projection.partition] = str(error)
            log.error("history of partition %d stands still until newer code runs: %s", projection.partition, error)
        changes, state = projection.taken()
        self.store.write(projection.partition, changes, state, projection.standing)
        projection.written()
        return changes.runs

    async def _retain(self) -> None:
        """Now and then, what is over for long goes."""
        if self._retention_ms is None or monotonic() - self._retained_at < RETAIN_EVERY_S:
            return
        self._retained_at = monotonic()
        since = self._log.now_ms() - self._retention_ms
        while await self._in_thread(self.store.retain, since) and not self._stopping.is_set():
            pass

    async def _in_thread(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """There is one, so that all that concerns the store is done in turn."""

        def timed() -> T:
            began = thread_time()
            try:
                return work(*args, **kwargs)
            finally:
                self._worked_s += thread_time() - began

        return await asyncio.wrap_future(self._thread.submit(timed))


def _parts(batch: Batch) -> Iterator[Batch]:
    for first in range(0, len(batch.values), AT_ONCE):
        yield batch._replace(offset=batch.offset + first, values=batch.values[first : first + AT_ONCE])
