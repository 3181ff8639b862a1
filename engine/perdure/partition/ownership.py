"""Which partitions this pod owns, from their assignment to their loss.

    assigned ──► catch up ──► own, perform ──(revoked)──► paused ──(grace is over, or another owns it)──► dropped
                    ▲                                       │
                    └────────────(assigned again)───────────┘

The group's word is a hint, the log's is law: two pods may believe that a partition is theirs, and whose `owner.started`
stands in the log with the highest number is its owner (model/epochs.py). An owner that reads another's as current
starts again if the group confirms that the partition is its own; else it keeps silent until it knows more. Where newer
code than its own has been the owner it takes the partition up anew: it is to leave alone what that took further.

State and runs that stayed in memory go on only if nobody else was the owner meanwhile.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from contextvars import Context
from typing import Any

from perdure.errors import LogCorrupt, LogError, LogMismatch, PartitionHalted
from perdure.log.protocol import Log
from perdure.partition.host import Host
from perdure.partition.processor import Processor
from perdure.partition.snapshots import take_up

log = logging.getLogger("perdure.partition")
GRACE_SECONDS = 30.0
"""A partition that was taken away is kept warm for so long: most come back with the next assignment."""
RETRY_SECONDS = 1.0


class Ownership:
    """A member of the app's group. `processors`, by partition, are those that perform, catch up or are paused here.

    `owned` is called with each one that begins to perform.
    """

    def __init__(
        self,
        log: Log,
        host: Host,
        code: str,
        processors: dict[int, Processor],
        *,
        owned: Callable[[Processor], None],
    ) -> None:
        self.log = log
        self.code = code
        self.processors = processors
        self.failures: dict[int, Exception] = {}
        """Partitions that could not be taken up, and why."""
        self._host = host
        self._owned = owned
        self.grace_seconds = GRACE_SECONDS
        self.joined = False
        """The group has told us which partitions are ours."""
        self._assigned: set[int] = set()
        self._loop = asyncio.get_running_loop()
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._timers: dict[int, asyncio.TimerHandle] = {}
        self._doubtful: set[int] = set()
        """Ours as we know, while somebody else was the owner: to be taken up once the group confirms us, see `tick`."""

    # Member

    def assigned(self, partitions: Sequence[int], /) -> None:
        self.joined = True
        self._assigned.update(partitions)
        if self.log.shared:
            for partition in partitions:
                self._take_up(partition)
        else:
            # A log of one process: nothing performs before all is known to be whole.
            task = self._task(self._take_up_together(partitions))
            self._tasks.update(dict.fromkeys(partitions, task))

    def revoked(self, partitions: Sequence[int], /) -> None:
        self.joined = False
        self._assigned.difference_update(partitions)
        for partition in partitions:
            self._stop_waiting(partition)
            processor = self.processors.get(partition)
            if processor is None or processor.halted or processor.overtaken:
                self._drop(partition)
                continue
            processor.assigned = False
            processor.pause()
            self._timers[partition] = self._loop.call_later(
                self.grace_seconds, self._drop, partition, context=Context()
            )

    @property
    def on_the_way(self) -> list[int]:
        """Partitions that are ours by the group's word, and not by the log's yet."""
        there = {number for number, one in self.processors.items() if one.performing and one.current}
        return sorted(self._assigned - there)

    # The way to a partition

    def _take_up(self, partition: int) -> None:
        self._stop_waiting(partition)
        self._tasks[partition] = self._task(self._take_up_one(partition))

    def _task(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        return self._loop.create_task(work, context=Context())

    def _stop_waiting(self, partition: int) -> None:
        self._doubtful.discard(partition)
        timer = self._timers.pop(partition, None)
        if timer is not None:
            timer.cancel()
        task = self._tasks.pop(partition, None)
        if task is not None:
            task.cancel()

    async def _take_up_one(self, partition: int) -> None:
        try:
            self._own(await self._caught_up(partition))
        except (LogCorrupt, LogMismatch, PartitionHalted) as error:
            self._failed(partition, error)
        except LogError as error:
            log.warning("partition %d cannot be taken up yet: %s", partition, error)
            self._timers[partition] = self._loop.call_later(RETRY_SECONDS, self._take_up, partition, context=Context())
        except Exception as error:
            log.error("partition %d cannot be taken up", partition, exc_info=error)
            self._failed(partition, error)

    async def _take_up_together(self, partitions: Sequence[int]) -> None:
        processors: list[Processor] = []
        for partition in partitions:
            try:
                processors.append(await self._caught_up(partition))
            except LogError as error:
                self._failed(partition, error)
                return
        for processor in processors:
            self._own(processor)

    async def _caught_up(self, partition: int) -> Processor:
        """A processor of this partition that has folded what the log holds by now."""
        while True:
            processor = self.processors.get(partition)
            if processor is not None and not processor.following:
                # Given away before it began to read: where it was to begin may have been trimmed meanwhile.
                self._drop(partition)
                processor = None
            if processor is None:
                position, keeper = await take_up(self.log, partition)
                self._still_asked_for(partition)
                processor = self.processors[partition] = Processor(
                    self.log, partition, self._host, self.code, position, keeper, self._overtaken, self._outrun
                )
            processor.assigned = True
            await processor.catch_up()
            self._still_asked_for(partition)
            if not processor.overtaken:
                return processor
            # What is in memory may be what another owner has ended, parked or done again meanwhile.
            self._drop(partition)

    def _still_asked_for(self, partition: int) -> None:
        """Raises if not: clients of brokers swallow cancels.

        Two processors of one partition in a pod would give each result to its run twice, and take each other for
        another owner, without end.
        """
        if self._tasks.get(partition) is not asyncio.current_task():
            raise asyncio.CancelledError

    def _own(self, processor: Processor) -> None:
        processor.own()
        self._owned(processor)

    def _failed(self, partition: int, error: Exception) -> None:
        self.failures[partition] = error
        processor = self.processors.get(partition)
        if processor is None or not processor.halted:
            self._host.halted(partition, str(error))

    # Losing it

    def _overtaken(self, processor: Processor) -> None:
        """Somebody else is read to be the owner."""
        partition = processor.partition
        if partition not in self._assigned:
            self._drop(partition)
        elif not processor.performing:
            pass  # it is being taken up again, and whoever does that will see
        elif self.log.confirmed(partition) and not processor.behind:
            processor.announce()
        else:
            # Not known to be ours; or newer code may have taken runs further that are in memory, and go on there.
            processor.pause()
            self._doubtful.add(partition)

    def _outrun(self, processor: Processor) -> None:
        """Its journal begins above what this pod has read, since another owner trimmed it: state comes from a snapshot.

        To take it up fences that owner; so it waits for the group's word, as any doubt does.
        """
        partition = processor.partition
        log.info("partition %d was trimmed above offset %d, where this pod has read to", partition, processor.offset)
        self._stop_waiting(partition)
        self._drop(partition)
        if partition in self._assigned:
            self._doubtful.add(partition)

    def _drop(self, partition: int) -> None:
        timer = self._timers.pop(partition, None)
        if timer is not None:
            timer.cancel()
        self.failures.pop(partition, None)
        processor = self.processors.pop(partition, None)
        if processor is not None:
            processor.drop()
        self._host.drop(partition)

    def tick(self) -> None:
        """To be called now and then: whoever the group confirms by now takes up its partition again."""
        for partition in [one for one in self._doubtful if self.log.confirmed(one)]:
            self._take_up(partition)

    async def settled(self) -> None:
        """Returns when all partitions assigned so far are owned. Raises what one of them failed with."""
        tasks = set(self._tasks.values())
        if tasks:
            await asyncio.wait(tasks)
        for task in tasks:
            if not task.cancelled():
                task.result()
        for error in self.failures.values():
            raise error

    def stop(self) -> None:
        """Nothing is folded or begun from here on."""
        for partition in [*self._tasks, *self._timers]:
            self._stop_waiting(partition)
        for processor in self.processors.values():
            processor.drop()

    async def close(self) -> None:
        """Let go of everything, and say so in the log and to the group."""
        for partition in [*self._tasks, *self._timers]:
            self._stop_waiting(partition)
        if self.log.failure is None:
            for processor in list(self.processors.values()):  # one may be dropped while another closes
                await processor.close()
        self.stop()
        await self.log.leave()
