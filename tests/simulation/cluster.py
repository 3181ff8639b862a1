"""A cluster of brokers, as far as an app can tell it from a real one.

Journals: a batch gets its offset and its broker's time when it arrives; nothing that was acknowledged is ever lost. A
broker's clock may be wrong, may leap and come back, and a partition may get another leader, so that the time of a
partition may go back. A producer's batches carry a number: the same batch sent again by the same producer is stored
once; by another producer it is stored again.

The group: eager. Whoever joins, leaves or is silent for a session begins a rebalance: the others hear of it by their
next heartbeat, give up all they have and join again; when all have, or the time for that is over, the partitions are
dealt anew. Who was silent is not told: it goes on, until its heartbeat is answered by a refusal.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

from perdure.log.protocol import Batch
from tests.simulation.loop import SimLoop
from tests.simulation.swarm import Swarm
from tests.simulation.topics import Appended, Journal, Queue, SnapshotTopic, Topic
from tests.simulation.trace import Trace

OWNER_STARTED = b'"kind":"owner.started"'
EVENTS = "events/"
"""Partitions of the topic of events are queues of these names."""
APP_PATHS = b'"kind":"app.paths"'


@dataclass
class Member:
    """One member of the group, as the coordinator knows it."""

    name: str
    heard: float
    answer: "Callable[[int, list[int]], None] | None" = None
    """It asked to join, and waits."""
    partitions: list[int] = field(default_factory=list[int])


class Group:
    """The app's consumer group: see the module's text."""

    def __init__(self, cluster: "Cluster", partitions: int) -> None:
        self._cluster = cluster
        self._partitions = partitions
        self.generation = 0
        self.rebalancing = False
        self.members: dict[str, Member] = {}
        self._round = 0

    def owner(self, partition: int) -> str:
        """Who the group says the partition belongs to; empty while it is being dealt."""
        if self.rebalancing:
            return ""
        return next((one.name for one in self.members.values() if partition in one.partitions), "")

    def join(self, name: str, answer: Callable[[int, list[int]], None]) -> None:
        loop = self._cluster.loop
        member = self.members.setdefault(name, Member(name, loop.time()))
        member.heard, member.answer = loop.time(), answer
        self._watch(member)
        self.rebalance(f"{name} joins")
        self._perhaps_done()

    def heartbeat(self, name: str, generation: int) -> str:
        """`ok`, `again` (join again), or `unknown`."""
        member = self.members.get(name)
        if member is None:
            return "unknown"
        member.heard = self._cluster.loop.time()
        if self.rebalancing:
            return "again"
        return "ok" if generation == self.generation else "unknown"

    def leave(self, name: str) -> None:
        if self.members.pop(name, None) is not None:
            self.rebalance(f"{name} leaves")
            self._perhaps_done()

    def rebalance(self, why: str) -> None:
        if self.rebalancing:
            return
        self.rebalancing = True
        self._round += 1
        self._cluster.trace.note("rebalance", why)
        loop = self._cluster.loop
        loop.post(self._cluster.owner, self._cluster.swarm.session, self._overdue, self._round)

    def _overdue(self, number: int) -> None:
        if self.rebalancing and number == self._round:
            for name in [one.name for one in self.members.values() if one.answer is None]:
                del self.members[name]
            self._perhaps_done()

    def _perhaps_done(self) -> None:
        if not self.rebalancing or any(one.answer is None for one in self.members.values()):
            return
        self.rebalancing = False
        self.generation += 1
        names = sorted(self.members)
        if names:
            turn = self._cluster.rng.randrange(len(names))
            names = names[turn:] + names[:turn]
        for index, name in enumerate(names):
            member = self.members[name]
            member.partitions = list(range(index, self._partitions, len(names)))
            member.heard = self._cluster.loop.time()
            self._cluster.trace.note("assigned", f"{self.generation} {name} {member.partitions}")
            answer, member.answer = member.answer, None
            if answer is not None:
                answer(self.generation, list(member.partitions))

    def _watch(self, member: Member) -> None:
        loop, session = self._cluster.loop, self._cluster.swarm.session
        silent = loop.time() - member.heard
        if self.members.get(member.name) is not member:
            return
        if silent >= session and member.answer is None:
            del self.members[member.name]
            self._cluster.trace.note("expired", member.name)
            self.rebalance(f"{member.name} was silent")
            self._perhaps_done()
            return
        loop.post(self._cluster.owner, max(session - silent, session / 4), self._watch, member)


class Cluster:
    """The brokers of a world, and the topics of one app."""

    def __init__(self, loop: SimLoop, rng: Random, swarm: Swarm, trace: Trace) -> None:
        self.loop, self.rng, self.swarm, self.trace = loop, rng, swarm, trace
        self.owner = loop.add_owner("cluster")
        self.brokers = 3
        self.skew_ms = [rng.randint(-swarm.skew_ms, swarm.skew_ms) for _ in range(self.brokers)]
        self.leapt_ms = [0] * self.brokers
        self.journals = [Journal(p, rng.randrange(self.brokers)) for p in range(swarm.partitions)]
        self.group = Group(self, swarm.partitions)
        self.snapshots = [SnapshotTopic() for _ in range(swarm.partitions)]
        self.queues: dict[str, Queue] = {}
        self.side: dict[tuple[str, int], list[Batch]] = {}
        self._producers = 0
        self.records = 0
        self.late = 0
        """Batches that are still to arrive, also those that nobody waits for any more."""
        self.on_append: Callable[[str], None] | None = None
        """Told of the process whose batch was stored, before it is."""
        self.on_owner: Callable[[int], None] | None = None
        """Told of a partition that was taken up."""

    def new_producer(self) -> int:
        self._producers += 1
        return self._producers

    def clock_ms(self, broker: int) -> int:
        return self.loop.wall_ms() + self.skew_ms[broker] + self.leapt_ms[broker]

    def queue(self, name: str) -> Queue:
        found = self.queues.get(name)
        if found is None:
            leader = self.rng.randrange(self.brokers) if name.startswith(EVENTS) else 0
            found = self.queues[name] = Queue(
                self.loop, self.rng, self.owner, self.swarm, leader=leader, one_reader=name.startswith(EVENTS)
            )
        return found

    def produce(self, producer: int, number: int, topic: Topic, values: Sequence[bytes], who: str) -> Appended | None:
        """Store a batch. None if its number is not the next one of its producer."""
        journal = self.journals[topic] if isinstance(topic, int) else self.queue(topic).journal
        known = journal.last.get(producer)
        if known is not None:
            if known[0] == number:
                self.trace.note("again", f"{who} {topic} {known[1].offset}")
                return known[1]
            if number != known[0] + 1:
                return None
        timestamp_ms = self.clock_ms(journal.leader)
        appended = Appended(journal.end, len(values), timestamp_ms)
        journal.batches.append(Batch(journal.partition, journal.end, timestamp_ms, list(values)))
        for value in values:
            self.trace.note("append", f"{who} {topic} {journal.end} {timestamp_ms}", value)
            journal.end += 1
        journal.came.extend(range(self.records, self.records + len(values)))
        self.records += len(values)
        journal.last[producer] = number, appended
        for tell in list(journal.waiting.values()):
            tell()
        if self.on_append is not None:
            self.on_append(who)
        if self.swarm.p_ghost and self.on_owner is not None and any(OWNER_STARTED in value for value in values):
            self.on_owner(journal.partition)
        return appended

    def append_side(self, topic: str, partition: int, value: bytes) -> None:
        stored = self.side.setdefault((topic, partition), [])
        end = stored[-1].offset + 1 if stored else 0
        stored.append(Batch(partition, end, self.clock_ms(0), [value]))
