"""The queues of a log that belongs to one process: who has which command, and what nobody has yet.

    stored     | 3 | 4 | . | 6 | 7 | 8 | 9 |       5 is done, and gone
    in hand      ^   ^       ^                     with readers; when one closes, they come back, lowest first
    cursor                       7                 from here on nobody has had them
    end                                    10      beyond, nothing is durable

Commands are done in any order, so that progress is not an offset: what is done is removed.
"""

import asyncio
from collections.abc import Callable
from contextvars import Context
from heapq import heappop, heappush

from perdure.log.protocol import Take

Stored = list[tuple[int, bytes]]
"""(place, command), in order."""


class Queues:
    """All queues of one log.

    `read(queue, place, limit)` gives durable commands from a place on; `remove(queue, place)` has one removed with the
    next flush.
    """

    def __init__(self, read: Callable[[str, int, int], Stored], remove: Callable[[str, int], object]) -> None:
        self._read = read
        self._remove = remove
        self._queues: dict[str, _Queue] = {}

    def subscribe(self, queue: str, take: Take, limit: int) -> "Consumer":
        state = self._queues.setdefault(queue, _Queue())
        consumer = Consumer(self, queue, take, limit)
        state.consumers.append(consumer)
        self._wake(queue)
        return consumer

    def came(self, queue: str) -> None:
        """More of this queue is durable."""
        if queue in self._queues:
            self._wake(queue)

    def close(self) -> None:
        """Nobody is given anything any more; what was in hand is for the next process."""
        for state in self._queues.values():
            for consumer in state.consumers:
                consumer.closed = True
        self._queues.clear()

    def done(self, consumer: "Consumer", place: int) -> None:
        if place in consumer.in_hand:
            consumer.in_hand.remove(place)
            self._remove(consumer.queue, place)
            self._wake(consumer.queue)

    def leave(self, consumer: "Consumer") -> None:
        state = self._queues[consumer.queue]
        state.consumers.remove(consumer)
        for place in consumer.in_hand:
            heappush(state.back, place)
        consumer.in_hand.clear()
        self._wake(consumer.queue)

    def _wake(self, queue: str) -> None:
        state = self._queues[queue]
        if state.consumers and not state.woken:
            state.woken = True
            # An empty context: the work belongs to the queue, not to whoever put or finished a command.
            asyncio.get_running_loop().call_soon(self._hand_out, queue, state, context=Context())

    def _hand_out(self, queue: str, state: "_Queue") -> None:
        state.woken = False
        while True:
            # The least busy first, so that members share the work.
            consumer = min((one for one in state.consumers if one.room), key=lambda one: -one.room, default=None)
            if consumer is None:
                return
            place = heappop(state.back) if state.back else state.cursor
            found = self._read(queue, place, 1)
            if not found:
                return
            place, value = found[0]
            state.cursor = max(state.cursor, place + 1)
            consumer.give(place, value)


class _Queue:
    __slots__ = ("back", "consumers", "cursor", "woken")

    def __init__(self) -> None:
        self.consumers: list[Consumer] = []
        self.cursor = 0
        self.back: list[int] = []
        self.woken = False


class Consumer:
    """One member's part in a queue. See `Commands.subscribe`."""

    def __init__(self, queues: Queues, queue: str, take: Take, limit: int) -> None:
        self._queues = queues
        self._take = take
        self._limit = limit
        self.queue = queue
        self.in_hand: set[int] = set()
        self.closed = False

    @property
    def room(self) -> int:
        return 0 if self.closed else self._limit - len(self.in_hand)

    def give(self, place: int, value: bytes) -> None:
        self.in_hand.add(place)
        try:
            self._take(Taken(self, place, value))
        except Exception as error:  # the member's failure must not stop the others
            self.close()
            message = f"a member of queue {self.queue!r} stopped"
            asyncio.get_running_loop().call_exception_handler({"message": message, "exception": error})

    def done(self, place: int) -> None:
        if not self.closed:
            self._queues.done(self, place)

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._queues.leave(self)


class Taken:
    """See `Command`."""

    __slots__ = ("_consumer", "_place", "value")

    def __init__(self, consumer: Consumer, place: int, value: bytes) -> None:
        self._consumer = consumer
        self._place = place
        self.value = value

    def done(self) -> None:
        self._consumer.done(self._place)
