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
        self.trimmed: list[Batch] = []
        """What is gone for all, kept for who checks."""
        self.last: dict[int, tuple[int, Appended]] = {}
        """By producer: the number of its last batch, and what it was told."""
        self.came: list[int] = []
        """By offset: the how manieth record of all brokers it was."""
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
            self.trimmed.append(self.batches.pop(0))

    def records(self) -> list[tuple[int, int, bytes]]:
        """(offset, timestamp, value) of all that is kept."""
        return [
            (batch.offset + index, batch.timestamp_ms, value)
            for batch in self.batches
            for index, value in enumerate(batch.values)
            if batch.offset + index >= self.start
        ]

    def everything(self) -> list[tuple[int, int, bytes]]:
        """(offset, timestamp, value) of all that was ever stored."""
        found = {
            batch.offset + index: (batch.timestamp_ms, value)
            for batch in (*self.trimmed, *self.batches)
            for index, value in enumerate(batch.values)
        }
        return [(offset, *found[offset]) for offset in sorted(found)]


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


@dataclass(eq=False)
class Task:
    """A command of a queue, and who has it at present."""

    value: bytes
    offset: int
    at: int
    """When it came, by its broker's clock."""
    holder: "Consumer | None" = None
    done: bool = False


class Consumer:
    """A member of a queue's group, as the brokers know it. `delay` says how long a command takes to reach it."""

    def __init__(self, owner: Owner, limit: int, give: Callable[[Task], None], delay: Callable[[], float]) -> None:
        self.owner, self.limit, self.give, self.delay = owner, limit, give, delay
        self.tasks: dict[int, Task] = {}
        self.closed = False
        self.next_at = 0.0

    @property
    def gone(self) -> bool:
        return self.closed or self.owner.dead or self.owner.frozen


class Queue:
    """A topic of commands, and the group that shares its work. What a member had when it went goes to another."""

    def __init__(
        self, loop: SimLoop, rng: Random, owner: Owner, swarm: Swarm, *, leader: int = 0, one_reader: bool = False
    ) -> None:
        """`one_reader`: all goes to one member while that is there."""
        self._loop, self._rng, self._owner, self._swarm = loop, rng, owner, swarm
        self.journal = Journal(0, leader)
        self._one_reader = one_reader
        self._reader: Consumer | None = None
        self.journal.waiting[0] = self.deal
        self._read = 0
        self.tasks: dict[int, Task] = {}
        """Those that are not done, by the order in which they came."""
        self.members: list[Consumer] = []

    def subscribe(self, member: Consumer) -> None:
        self.members.append(member)
        self._loop.post(self._owner, member.delay(), self.deal)

    def deal(self) -> None:
        """Give what nobody has to members that have room."""
        for batch in self.journal.read(self._read, 1 << 30):
            for value in batch.values:
                self.tasks[self._read] = Task(value.partition(b"\0")[2], self._read, batch.timestamp_ms)
                self._read += 1
        self.members = [one for one in self.members if not (one.closed or one.owner.dead)]
        for number, task in self.tasks.items():
            able = [one for one in self.members if len(one.tasks) < one.limit and not one.gone]
            if not able:
                return
            if task.holder is None:
                member = self._reader_of(able)
                if member is None:
                    return
                task.holder = member
                member.tasks[number] = task
                member.next_at = max(self._loop.time() + member.delay(), member.next_at + 1e-6)
                self._loop.post(member.owner, member.next_at - self._loop.time(), self._give, member, task)
                self._loop.post(self._owner, self._swarm.session, self._look, member, number, task)

    def _reader_of(self, able: list[Consumer]) -> Consumer | None:
        """Who gets what comes next; None: who reads has no room."""
        if not self._one_reader:
            return self._rng.choice(able)
        reader = self._reader
        if reader is None or (reader.gone and not reader.tasks):
            reader = self._reader = self._rng.choice(able)
        return reader if reader in able else None

    def _give(self, member: Consumer, task: Task) -> None:
        if not member.closed and task.holder is member:
            member.give(task)

    def done(self, member: Consumer, task: Task) -> None:
        """Nobody else need see it, if it is still this member's."""
        number = next((one for one, held in member.tasks.items() if held is task), None)
        if number is not None and task.holder is member:
            task.done = True
            del self.tasks[number], member.tasks[number]
            self.deal()

    def leave(self, member: Consumer) -> None:
        member.closed = True
        self._take_back(member)

    def _take_back(self, member: Consumer) -> None:
        for task in member.tasks.values():
            task.holder = None
        member.tasks.clear()
        self.deal()

    def _look(self, member: Consumer, number: int, task: Task) -> None:
        """A session later: has the member been silent?"""
        if member.tasks.get(number) is not task:
            return
        if member.gone:
            self._take_back(member)
        else:
            self._loop.post(self._owner, self._swarm.session, self._look, member, number, task)
