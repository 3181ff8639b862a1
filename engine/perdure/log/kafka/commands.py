"""Queues of worker pools: a topic and a consumer group for each. See `Commands`.

Members of a group have partitions, so a queue has at most as many members at work as its topic has partitions. Done
commands of a partition are committed as far as there is no gap; what stands above a gap is given out again when the
partition changes hands, and the lease's owner refuses the second claim.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextlib import suppress
from contextvars import Context
from typing import Any

from perdure.flow.routing import partition_of
from perdure.log.kafka.client import Client, Consumer, Partition, partition_in
from perdure.log.kafka.feed import stop
from perdure.log.kafka.lanes import Lanes
from perdure.log.protocol import Reader, Take

log = logging.getLogger("perdure.log.kafka")
PARTITIONS = 16
"""Of a queue's topic: the most members that can work at a time."""
_POLL_MS = 500
_COMMIT_SECONDS = 0.05
_AGAIN_SECONDS = 0.5

Ensure = Callable[[str], Awaitable[None]]


class KafkaCommands:
    """See `Commands`. `put_on` queues a record up for a topic; `ensure` makes a queue's topic if need be."""

    def __init__(
        self, client: Client, lanes: Lanes, put_on: Callable[[Partition, bytes], int], ensure: Ensure, app: str
    ) -> None:
        self._client = client
        self._lanes = lanes
        self._put_on = put_on
        self._ensure = ensure
        self._app = app
        self._hands: list[_Hands] = []

    @property
    def local(self) -> bool:
        return False

    def topic(self, queue: str) -> str:
        return self._client.address.topic(self._app, "commands", queue)

    def put(self, queue: str, key: str, value: bytes) -> int:
        return self._put_on(partition_in(self.topic(queue), partition_of(key, PARTITIONS)), value)

    def subscribe(self, queue: str, take: Take, *, limit: int) -> Reader:
        hands = _Hands(self._client, self._lanes, self._ensure, queue, self.topic(queue), take, limit)
        self._hands.append(hands)
        return hands

    def advance(self) -> None:
        """More is durable than before."""
        for hands in self._hands:
            hands.advance()

    async def close(self) -> None:
        for hands in self._hands:
            hands.close()
        await asyncio.gather(*(hands.ended() for hands in self._hands))

    async def abandon(self) -> None:
        for hands in self._hands:
            hands.abandon()
        await self.close()


class _MemberFailed(Exception):
    """Who took the commands raised: it is given none any more."""


class _InHand:
    """See `Command`."""

    def __init__(self, hands: "_Hands", place: Partition, offset: int, value: bytes) -> None:
        self._hands = hands
        self.place = place
        self.offset = offset
        self._value = value

    @property
    def value(self) -> bytes:
        return self._value

    def done(self) -> None:
        self._hands.done(self)


class _Progress:
    """What of one partition was given out, and how far it is done."""

    def __init__(self, position: int) -> None:
        self.committed = position
        self.position = position
        self._done: dict[int, bool] = {}

    def give(self, offset: int) -> bool:
        """Whether it was not given out before."""
        if offset < self.position:
            return False
        self.position = offset + 1
        self._done[offset] = False
        return True

    def done(self, offset: int) -> None:
        if offset in self._done:
            self._done[offset] = True

    def upto(self) -> int:
        """Everything below is done."""
        for offset in list(self._done):
            if not self._done[offset]:
                return offset
            del self._done[offset]
        return self.position


class _Hands:
    """One subscription: see `Commands.subscribe`."""

    def __init__(
        self, client: Client, lanes: Lanes, ensure: Ensure, queue: str, topic: str, take: Take, limit: int
    ) -> None:
        self._client, self._lanes, self._ensure = client, lanes, ensure
        self._queue, self._topic, self._take, self._limit = queue, topic, take, limit
        self._free = asyncio.Event()
        self._free.set()
        self._in_hand: set[tuple[int, int]] = set()
        self._waiting: deque[tuple[int, _InHand]] = deque()
        """Done, and committed once everything up to the ticket is durable."""
        self._progress: dict[int, _Progress] = {}
        self._closed = self._abandoned = False
        self._consumer: Consumer | None = None
        self._committing: asyncio.Task[None] | None = None
        self._task = _spawn(self._work())

    def close(self) -> None:
        """What is in hand goes to others; what is done stays done."""
        if not self._closed:
            self._closed = True
            self._task.cancel()

    def abandon(self) -> None:
        self._abandoned = True

    async def ended(self) -> None:
        with suppress(asyncio.CancelledError):
            await self._task

    def done(self, command: _InHand) -> None:
        place = command.place.partition, command.offset
        if self._closed or place not in self._in_hand:
            return
        self._in_hand.discard(place)
        self._free.set()
        self._waiting.append((self._lanes.ticket, command))
        self.advance()

    def advance(self) -> None:
        moved = False
        while self._waiting and self._waiting[0][0] <= self._lanes.acknowledged:
            _, command = self._waiting.popleft()
            progress = self._progress.get(command.place.partition)
            if progress is not None:
                progress.done(command.offset)
                moved = True
        if moved and (self._committing is None or self._committing.done()):
            self._committing = _spawn(self._commit_soon())

    async def _commit_soon(self) -> None:
        await asyncio.sleep(_COMMIT_SECONDS)
        await self._commit()

    async def _commit(self) -> None:
        consumer, offsets = self._consumer, dict[Partition, int]()
        for partition, progress in self._progress.items():
            upto = progress.upto()
            if upto > progress.committed:
                offsets[partition_in(self._topic, partition)] = progress.committed = upto
        if consumer is None or not offsets or self._abandoned:
            return
        try:
            await consumer.commit(offsets)
        except Exception as error:
            # What was not committed is given out again, and refused by whoever leased it: nothing is lost.
            log.warning("queue %s: %s", self._queue, error)

    async def _work(self) -> None:
        try:
            while True:
                try:
                    await self._member()
                except _MemberFailed:
                    return
                except Exception as error:
                    log.warning("queue %s cannot be read at present: %s", self._queue, error)
                    await asyncio.sleep(_AGAIN_SECONDS)
        finally:
            await self._leave()

    async def _member(self) -> None:
        await self._ensure(self._topic)
        consumer = self._consumer = self._client.consumer(
            group_id=self._topic,
            auto_offset_reset="earliest",
            session_timeout_ms=self._client.address.session_ms,
            heartbeat_interval_ms=max(100, self._client.address.session_ms // 4),
            max_poll_interval_ms=1 << 30,
        )
        try:
            await consumer.start()
            consumer.subscribe([self._topic], listener=self._listener())
            while True:
                await self._free.wait()
                room = self._limit - len(self._in_hand)
                if room <= 0:
                    self._free.clear()
                    continue
                found = await consumer.getmany(timeout_ms=_POLL_MS, max_records=room)
                for place, records in found.items():
                    for record in records:
                        self._give(place, record.offset, record.value or b"")
        finally:
            await self._leave()

    async def _leave(self) -> None:
        consumer = self._consumer
        if consumer is not None:
            await self._commit()
            self._consumer = None
            await stop(consumer)

    def _give(self, place: Partition, offset: int, value: bytes) -> None:
        progress = self._progress.get(place.partition)
        if progress is None:
            progress = self._progress[place.partition] = _Progress(offset)
        if not progress.give(offset):
            return
        self._in_hand.add((place.partition, offset))
        try:
            self._take(_InHand(self, place, offset, value))
        except Exception as error:
            message = f"a member of queue {self._queue!r} stopped"
            asyncio.get_running_loop().call_exception_handler({"message": message, "exception": error})
            self._progress.clear()  # what it had goes to others
            self._closed = True
            raise _MemberFailed from error

    def _listener(self) -> object:
        hands = self

        class Listener(self._client.listener()):  # type: ignore[misc]
            """In aiokafka's words."""

            async def on_partitions_revoked(self, revoked: Iterable[Partition]) -> None:
                await hands._commit()

            async def on_partitions_assigned(self, assigned: Iterable[Partition]) -> None:
                # Who had it meanwhile may have gone further, or given back what we had.
                kept = {place.partition for place in assigned}
                hands._progress = {number: one for number, one in hands._progress.items() if number in kept}

        return Listener()


def _spawn(coroutine: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
    return Context().run(asyncio.get_running_loop().create_task, coroutine)
