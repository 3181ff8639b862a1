"""Sends what stands in the lanes, one batch a partition at a time, and again until the brokers have it.

    put  ─► pump: for each lane that waits, a batch ─► producer ─► brokers ─► landed: acknowledge, send the next
                                                          │
             a new producer sends everything that is  ◄───┘ an error, or no answer in time: this producer is abandoned
             not acknowledged, in order

An abandoned producer may still deliver after its successor has: copies come, never holes and never another order
among what one producer sent. Nobody waits for its end, which needs brokers that answer.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextvars import Context
from functools import partial

from perdure.errors import LogError
from perdure.log.kafka.client import (
    BATCH_BYTES,
    Appended,
    Client,
    Partition,
    Producer,
    begin,
    end,
    spawn,
    stop,
    unasked,
)
from perdure.log.kafka.lanes import Lane, Lanes
from perdure.log.kafka.packing import fill

log = logging.getLogger("perdure.log.kafka")
ANSWER_SECONDS = 15.0
"""aiokafka tries again by itself meanwhile. Longer than its own patience: what it gives up it says."""
START_SECONDS = 15.0
_AGAIN_SECONDS = (0.1, 2.0)
MOST_SAID = 10_000
"""Best-effort records that wait for one partition; those that come on top are dropped."""

Ensure = Callable[[str], Awaitable[None]]
"""Makes a topic that may not be there yet."""

Landed = Callable[[Lane, int, int, int], None]
"""(lane, offset of its first record, number of records, the brokers' time): they are durable."""


class Writer:
    """See the module's text. `failed` is told why nothing can be written at present, `landed` of all that was."""

    def __init__(
        self, client: Client, lanes: Lanes, ensure: Ensure, landed: Landed, failed: Callable[[LogError], None]
    ) -> None:
        self._client = client
        self._lanes = lanes
        self._ensure = ensure
        self._side: dict[Partition, list[bytes]] = {}
        self._landed = landed
        self._failed = failed
        self._producer: Producer | None = None
        self._loop = asyncio.get_running_loop()
        self._woken = asyncio.Event()
        lanes.wake = self._woken.set
        self._task: asyncio.Task[None] | None = None
        self._stopping: set[asyncio.Task[None]] = set()
        self._flights: dict[Lane, float] = {}
        """What is in flight, the oldest first, and when it began."""
        self._alarm: asyncio.TimerHandle | None = None
        """One for all flights: a timer for each would be made and thrown away with every batch."""
        self._empty = Context()

    async def open(self) -> None:
        """Raises `LogError` if no broker answers."""
        self._producer = await self._made()
        self._task = spawn(self._pump())

    def say(self, place: Partition, value: bytes) -> None:
        """Sent once, if it can be: what is lost on the way is lost."""
        said = self._side.setdefault(place, [])
        if len(said) < MOST_SAID:
            said.append(value)
            self._woken.set()

    async def close(self) -> None:
        """Nothing is sent from here on; what is in flight may still arrive."""
        await self.abandon()
        await asyncio.gather(*self._stopping, return_exceptions=True)

    async def abandon(self) -> None:
        """Stop without waiting for anything, as a process that dies does."""
        task, self._task = self._task, None
        if task is not None:
            await end(task)
        self._drop()

    async def _pump(self) -> None:
        pause = _AGAIN_SECONDS[0]
        while True:
            await self._woken.wait()
            self._woken.clear()
            try:
                if self._producer is None:
                    self._producer = await self._made()
                await self._send_all(self._producer)
                pause = _AGAIN_SECONDS[0]
            except Exception as error:
                self._abandoned(self._producer, error)
                await asyncio.sleep(pause)
                pause = min(pause * 2, _AGAIN_SECONDS[1])

    async def _made(self) -> Producer:
        producer = self._client.producer()
        try:
            async with asyncio.timeout(START_SECONDS):
                await begin(producer)
        except BaseException:
            self._stop(producer)
            raise
        return producer

    async def _send_all(self, producer: Producer) -> None:
        lanes = self._lanes.waiting()
        for lane in lanes:
            await self._ensure(lane.place.topic)
        async with asyncio.timeout(ANSWER_SECONDS):
            for lane in lanes:
                if producer is not self._producer:
                    return  # given up meanwhile: the next one sends it
                await self._send(producer, lane)
            await self._say(producer)

    async def _say(self, producer: Producer) -> None:
        side, self._side = self._side, {}
        for place, values in side.items():
            batch = producer.create_batch()
            fill(batch, values)
            answer = await producer.send_batch(batch, place.topic, partition=place.partition)
            answer.add_done_callback(unasked, context=self._empty)

    async def _send(self, producer: Producer, lane: Lane) -> None:
        batch = producer.create_batch()
        values = lane.first(BATCH_BYTES)
        count = fill(batch, values)
        if not count:
            raise LogError(f"a record of {len(values[0]):,} bytes does not fit into a batch")
        lane.flying = count
        answer = await producer.send_batch(batch, lane.place.topic, partition=lane.place.partition)
        answer.add_done_callback(partial(self._answered, producer, lane), context=self._empty)
        if producer is not self._producer:
            return
        self._flights[lane] = self._loop.time()
        if self._alarm is None:
            self._alarm = self._loop.call_later(ANSWER_SECONDS, self._late, context=Context())

    def _answered(self, producer: Producer, lane: Lane, answer: "asyncio.Future[Appended]") -> None:
        error = None if answer.cancelled() else answer.exception()
        if producer is not self._producer:
            return
        del self._flights[lane]
        if error is not None or answer.cancelled():
            self._abandoned(producer, error or TimeoutError("the brokers did not answer"))
            return
        appended = answer.result()
        count = self._lanes.landed(lane)
        if lane:
            self._woken.set()
        self._landed(lane, appended.offset, count, appended.timestamp)

    def _late(self) -> None:
        """The alarm: it is set anew for what began later."""
        self._alarm = None
        if self._flights:
            began = next(iter(self._flights.values()))
            left = began + ANSWER_SECONDS - self._loop.time()
            if left > 0:
                self._alarm = self._loop.call_later(left, self._late, context=Context())
            else:
                error = TimeoutError(f"the brokers did not answer for {ANSWER_SECONDS:g}s")
                self._abandoned(self._producer, error)

    def _abandoned(self, producer: Producer | None, error: BaseException) -> None:
        """Whatever it was: a new producer sends all of it again. Idempotence ends with the producer."""
        if producer is not self._producer:
            return
        log.warning("a producer is given up, a new one sends what it had: %s", error)
        self._drop()
        self._lanes.ground()
        self._woken.set()
        # What waits will land, and tell that all is well again. Of best effort alone nobody would ever say so.
        if self._lanes.waiting():
            self._failed(LogError(f"Kafka takes no records at present: {error}. They are kept, and sent when it does"))

    def _drop(self) -> None:
        producer, self._producer = self._producer, None
        self._flights.clear()
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if producer is not None:
            self._stop(producer)

    def _stop(self, producer: Producer) -> None:
        task = spawn(stop(producer))
        self._stopping.add(task)
        task.add_done_callback(self._stopping.discard)
