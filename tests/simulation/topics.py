"""What the brokers keep: journals, snapshots, queues of commands."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from perdure.log.protocol import Batch
from tests.simulation.loop import Owner, SimLoop
from tests.simulation.swarm import Swarm

Topic = int | str
"""A partition of the journal, or the name of a queue."""


@dataclass
class Appended:
    """A batch, as the producer is told."""

    offset: int
    count: int
    timestamp_ms: int


class Journal:
    """One partition of a topic."""

    def __init__(self, partition: int, leader: int) -> None:
        self.partition = partition
        self.leader = leader
        self.batches: list[Batch] = []
        self.start = 0
        self.end = 0
        self.last: dict[int, tuple[int, Appended]] = {}
        """By producer: the number of its last batch, and what it was told."""
        self.waiting: dict[int, Callable[[], None]] = {}
        """Whom to tell that there is something new."""

    def read(self, offset: int, most: int) -> list[Batch]:
        """From `offset` on, `most` records or less. Raises IndexError outside the journal."""
        if not self.start <= offset <= self.end:
            raise IndexError(
                f"offset {offset} of partition {self.partition} is outside its log, {self.start} to {self.end}"
            )
        found: list[Batch] = []
        low, high = 0, len(self.batches)
        while low < high:
            middle = (low + high) // 2
            if self.batches[middle].offset + len(self.batches[middle].values) <= offset:
                low = middle + 1
            else:
                high = middle
        for index in range(low, len(self.batches)):
            batch = self.batches[index]
            skip = max(0, offset - batch.offset)
            values = batch.values[skip : skip + most]
            found.append(Batch(self.partition, batch.offset + skip, batch.timestamp_ms, values))
            most -= len(values)
            if most <= 0:
                break
        return found

    def trim(self, offset: int) -> None:
        """Records below are gone. A batch that reaches beyond stays, and is cut where it is read."""
        self.start = max(self.start, min(offset, self.end))
        while self.batches and self.batches[0].offset + len(self.batches[0].values) <= self.start:
            del self.batches[0]

    def records(self) -> list[tuple[int, int, bytes]]:
        """(offset, timestamp, value) of all that is kept."""
        return [
            (batch.offset + index, batch.timestamp_ms, value)
            for batch in self.batches
            for index, value in enumerate(batch.values)
            if batch.offset + index >= self.start
        ]


@dataclass
class _Entry:
    epoch: int
    round: int
    key: bytes
    value: bytes | None
    committed: bool = False


class SnapshotTopic:
    """One partition of a compacted topic, written in transactions by one writer at a time."""

    def __init__(self) -> None:
        self.entries: list[_Entry] = []
        self.epoch = 0
        self._done: set[tuple[int, int]] = set()

    def fence(self) -> int:
        """The number of the next writer. What earlier ones have open is aborted."""
        self.epoch += 1
        self.entries = [entry for entry in self.entries if entry.committed]
        return self.epoch

    def write(self, epoch: int, number: int, values: Sequence[tuple[bytes, bytes | None]]) -> bool:
        """The records of a round. False if the writer was fenced."""
        if epoch != self.epoch:
            return False
        if (epoch, number) not in self._done and not any(
            one.round == number for one in self.entries if one.epoch == epoch
        ):
            self.entries.extend(_Entry(epoch, number, key, value) for key, value in values)
        return True

    def commit(self, epoch: int, number: int) -> bool:
        """The round counts from here on. False if the writer was fenced before that."""
        if (epoch, number) in self._done:
            return True
        if epoch != self.epoch:
            return False
        self._done.add((epoch, number))
        for entry in self.entries:
            if entry.epoch == epoch and entry.round == number:
                entry.committed = True
        return True

    def read(self) -> list[tuple[bytes, bytes]]:
        latest: dict[bytes, bytes | None] = {}
        for entry in self.entries:
            if entry.committed:
                latest.pop(entry.key, None)
                latest[entry.key] = entry.value
        return [(key, value) for key, value in latest.items() if value is not None]

    def compact(self, rng: Random) -> int:
        """Remove some of what later committed records have overwritten; how many went."""
        last = {entry.key: index for index, entry in enumerate(self.entries) if entry.committed}
        before = len(self.entries)
        self.entries = [
            entry
            for index, entry in enumerate(self.entries)
            if not entry.committed or last[entry.key] == index or rng.random() < 0.2
        ]
        return before - len(self.entries)


class Subscriber:
    """A member of a queue's group. `delay` says how long a command takes to reach it."""

    def __init__(self, owner: Owner, sink: Callable[[bytes], None], delay: Callable[[], float]) -> None:
        self.owner, self.sink, self.delay = owner, sink, delay
        self.closed = False

    @property
    def gone(self) -> bool:
        return self.closed or self.owner.dead or self.owner.frozen

    def close(self) -> None:
        self.closed = True


class Queue:
    """A topic of commands, and the group that shares its work. What a member had when it went goes to another."""

    def __init__(self, loop: SimLoop, rng: Random, owner: Owner, swarm: Swarm, name: str) -> None:
        self._loop, self._rng, self._owner, self._swarm, self.name = loop, rng, owner, swarm, name
        self.journal = Journal(0, 0)
        self.journal.waiting[0] = self._deal
        self._dealt = 0
        self._left: list[bytes] = []
        self._members: list[Subscriber] = []

    def subscribe(self, subscriber: Subscriber) -> None:
        self._members.append(subscriber)
        self._loop.post(self._owner, subscriber.delay(), self._deal)

    def _deal(self) -> None:
        self._members = [one for one in self._members if not (one.closed or one.owner.dead)]
        if not self._members:
            return
        new = [value for batch in self.journal.read(self._dealt, 1 << 30) for value in batch.values]
        self._dealt = self.journal.end
        values, self._left = [*self._left, *new], []
        for value in values:
            member = self._rng.choice(self._members)
            self._loop.post(member.owner, member.delay(), self._give, member, value)
            self._loop.post(self._owner, self._swarm.session, self._look, member, value)

    def _give(self, member: Subscriber, value: bytes) -> None:
        if not member.closed:
            member.sink(value)

    def _look(self, member: Subscriber, value: bytes) -> None:
        """A session later: who is there has told of its progress; what others had is dealt again."""
        if member.gone:
            self._left.append(value)
            self._deal()
