"""What a pod takes from topics that many share: commands of queues, and events."""

from collections.abc import Callable, Mapping, Sequence
from contextvars import Context
from typing import TYPE_CHECKING

import xxhash

from perdure.log.protocol import Arrived, Reader, Take
from tests.simulation.cluster import EVENTS
from tests.simulation.topics import Consumer, Task

if TYPE_CHECKING:
    from tests.simulation.simlog import SimLog

_IN_HAND = 50


class SimEvents:
    """See `Events`. Whoever reads a partition of it reads it in order, until somebody else does."""

    def __init__(self, log: "SimLog") -> None:
        self._log = log
        self._names = [f"{EVENTS}{partition}" for partition in range(log.cluster.swarm.events)]
        self.gaps: Mapping[int, tuple[int, int]] = {}

    def put(self, event: str, value: bytes) -> int:
        partition = xxhash.xxh3_64_intdigest(event.encode()) % len(self._names)
        return self._log.put(self._names[partition], event.encode() + b"\0" + value)

    def subscribe(self, take: Callable[[Arrived], None]) -> Reader:
        return _All([Hands(self._log, name, take, _IN_HAND) for name in self._names])

    async def ends(self) -> Sequence[int]:
        queues = [self._log.cluster.queue(name) for name in self._names]
        found: list[int] = await self._log.ask(lambda: [queue.journal.end for queue in queues])
        return found

    def refuse(self, arrived: Arrived, reason: str) -> None:
        raise AssertionError(f"I8: {arrived.value!r}: {reason}")


class _All:
    def __init__(self, readers: Sequence[Reader]) -> None:
        self._readers = readers

    def close(self) -> None:
        for reader in self._readers:
            reader.close()


class SimCommands:
    """See `Commands`."""

    def __init__(self, log: "SimLog") -> None:
        self._log = log

    @property
    def local(self) -> bool:
        return False

    def put(self, queue: str, key: str, value: bytes) -> int:
        return self._log.put(queue, key.encode() + b"\0" + value)

    def subscribe(self, queue: str, take: Take, *, limit: int) -> Reader:
        return Hands(self._log, queue, take, limit)


class Hands:
    """One subscription to a queue."""

    def __init__(self, log: "SimLog", queue: str, take: Callable[["InHand"], None], limit: int) -> None:
        self.log, self.queue, self.name, self._take = log, log.cluster.queue(queue), queue, take
        self.member = Consumer(log.owner, limit, self._given, log.round_trip)
        self._telling: dict[Task, int] = {}
        self.left = False
        self.queue.subscribe(self.member)
        log.hands.append(self)

    def _given(self, task: Task) -> None:
        try:
            Context().run(self._take, InHand(self, task))
        except Exception as error:
            self.close()
            message = f"a member of queue {self.name!r} stopped"
            self.log.loop.call_exception_handler({"message": message, "exception": error})

    def done(self, task: Task) -> None:
        """Tell the brokers, once what was appended so far is durable."""
        if not self.member.closed and task not in self._telling:
            self._telling[task] = self.log.ticket
            self._tell(task)

    def _tell(self, task: Task) -> None:
        """Until the brokers have heard it."""
        log = self.log
        if task not in self._telling:
            return
        if log.acknowledged >= self._telling[task]:
            log.send(lambda: self.queue.done(self.member, task), lambda _: self._told(task))
        log.loop.post(log.owner, log.cluster.swarm.latency * 10, self._tell, task)

    def _told(self, task: Task) -> None:
        self._telling.pop(task, None)
        self._perhaps_leave()

    def close(self) -> None:
        if not self.member.closed:
            self.member.closed = True
            self._perhaps_leave()

    def _perhaps_leave(self) -> None:
        if self.member.closed and not self._telling and not self.left:
            self.left = True
            self.log.loop.post(self.log.cluster.owner, self.log.delay(), self.queue.leave, self.member)


class InHand:
    """See `Command` and `Arrived`."""

    headers: Sequence[tuple[str, bytes]] = ()

    def __init__(self, hands: Hands, task: Task) -> None:
        self._hands, self._task = hands, task

    @property
    def value(self) -> bytes:
        return self._task.value

    @property
    def timestamp_ms(self) -> int:
        return self._task.at

    @property
    def origin(self) -> tuple[str, int, int]:
        topic, _, partition = self._hands.name.rpartition("/")
        return topic, int(partition), self._task.offset

    def done(self) -> None:
        self._hands.done(self._task)
