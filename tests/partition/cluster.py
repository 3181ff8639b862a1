"""Several pods on one shared log, in memory, moved by hand: no chance and no clock of its own.

`deal` is the group: eager, it revokes everything and assigns anew. A pod may be frozen (nothing of it moves, it is told
nothing) and thawed, cut off from the group, killed and started again upon its disk.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import Context
from typing import TypeVar

from perdure import App
from perdure.errors import Fenced, LogError
from perdure.flow import decode
from perdure.flow.states import RunState
from perdure.flow.view import View
from perdure.log.memory import MemoryLog, MemoryStore
from perdure.log.protocol import Batch, Commands, Events, Failed, Member, Reader, Sink, Snapshots, SnapshotWriter, Store
from perdure.log.readers import Follower, Readers
from perdure.log.tickets import Waiters
from perdure.sdk.local_port import LocalPort
from perdure.sdk.node import Node
from perdure_schemas.records import AnyRecord
from tests.evidence.folding import Folded, fold_records
from tests.simulation.topics import SnapshotTopic

R = TypeVar("R")
QUIET_TURNS = 50
MOST_TURNS = 20_000


class Cluster:
    """The broker, its group, and the pods."""

    def __init__(self, partitions: int = 4, *, snapshots: bool = False) -> None:
        self.partitions = partitions
        self.snapshots = [SnapshotTopic() for _ in range(partitions)] if snapshots else None
        self.retention_ms: int | None = 0
        self.now = 1_000_000
        self.journals: list[list[Batch]] = [[] for _ in range(partitions)]
        """All that was ever written: what is trimmed is kept from the pods alone."""
        self.starts = [0] * partitions
        self.pods: dict[str, Pod] = {}
        self.hands: Mapping[str, Sequence[int]] = {}
        """What the group says is whose."""

    def pod(self, name: str, app: App) -> "Pod":
        """A pod with an empty disk; `await pod.start()` is the caller's."""
        pod = self.pods[name] = Pod(self, name, app)
        return pod

    def end(self, partition: int) -> int:
        stored = self.journals[partition]
        return stored[-1].offset + len(stored[-1].values) if stored else 0

    def write(self, partition: int, values: Sequence[bytes]) -> None:
        batch = Batch(partition, self.end(partition), self.now, list(values))
        self.journals[partition].append(batch)
        for pod in self.alive():
            pod.log.arrived(batch)

    def read(self, partition: int, offset: int, limit_bytes: int) -> list[Batch]:
        found: list[Batch] = []
        for batch in self.journals[partition]:
            if batch.offset + len(batch.values) > offset:
                cut = max(0, offset - batch.offset)
                found.append(batch._replace(offset=batch.offset + cut, values=batch.values[cut:]))
                if sum(len(value) for value in batch.values) >= limit_bytes:
                    break
        return found

    def alive(self) -> "list[Pod]":
        return [pod for pod in self.pods.values() if pod.alive]

    # The group

    def deal(self, hands: "Mapping[str, Sequence[int]]") -> None:
        """An eager rebalance. Who is frozen or cut off is told nothing."""
        self.hands = hands
        for pod in self.alive():
            pod.log.lose()
        for pod in self.alive():
            pod.log.gain(hands.get(pod.name, ()))

    async def settle(self) -> None:
        """Let everything happen that needs no time: until nothing was written or read for some turns of the loop."""
        quiet = turns = 0
        while quiet < QUIET_TURNS:
            turns += 1
            assert turns < MOST_TURNS, "I14: this goes round in circles"
            await asyncio.sleep(0)
            busy = [pod for pod in self.alive() if pod.turn()]
            quiet = 0 if busy else quiet + 1

    async def advance(self, ms: int) -> None:
        """Time passes, from timer to timer."""
        end = self.now + ms
        await self.settle()
        while True:
            dues = [
                due
                for pod in self.alive()
                for one in pod.node.processors
                if one.performing and (due := one.timers.first_due()) is not None
            ]
            if not dues or min(dues) > end:
                break
            self.now = max(self.now, min(dues))
            await self.settle()
        self.now = end
        await self.settle()

    # Reading

    def records(self, partition: int) -> Iterator[AnyRecord]:
        for batch in self.journals[partition]:
            for raw in batch.values:
                yield decode(raw)

    def all(self, kind: type[R]) -> list[R]:
        """Every record of a kind, partition by partition."""
        return [one for p in range(self.partitions) for one in self.records(p) if isinstance(one, kind)]

    def fold(self, partition: int) -> View:
        """The partition, folded from its first record."""
        return self._fold(partition, self.end(partition)).view

    def _fold(self, partition: int, upto: int) -> Folded:
        """Also of records that are trimmed: what they did is to be known for ever."""
        records = (
            (batch.offset + index, batch.timestamp_ms, raw)
            for batch in self.journals[partition]
            for index, raw in enumerate(batch.values)
            if batch.offset + index < upto
        )
        return fold_records(records, partition, self.partitions)

    def runs(self) -> list[RunState]:
        """Every run, as a fold of the whole log has it."""
        return [run for partition in range(self.partitions) for run in self.fold(partition).runs.values()]

    def check(self) -> None:
        """I2, I13: what each pod has in memory equals a fold of the log up to there."""
        for pod in self.alive():
            for processor in pod.node.processors:
                again = self._fold(processor.partition, processor.offset).view.logical()
                lived = processor.view.logical()
                differ = [key for key in {*again, *lived} if again.get(key) != lived.get(key)]
                shown = [(key, again.get(key), lived.get(key)) for key in differ[:2]]
                assert not differ, f"I2: {pod.name}, partition {processor.partition}: {shown}"


class Pod:
    """A machine, and the process that runs on it at present."""

    def __init__(self, cluster: Cluster, name: str, app: App) -> None:
        self.cluster = cluster
        self.name = name
        self.app = app
        self.disks = [MemoryStore(MemoryLog()) for _ in range(cluster.partitions)]
        self.alive = False
        self.log: SharedLog
        self.node: Node
        self.opening: asyncio.Future[None]

    async def start(self, *, activate: bool | None = None) -> "Pod":
        self.log = SharedLog(self.cluster, self.disks, self.name)
        self.node = Node(self.app, self.log, ticking=False, activate=activate)
        self.alive = True
        # It opens once the app is active: for the first pod that is after the first deal.
        self.opening = asyncio.ensure_future(self.node.open())
        for _ in range(20):
            await asyncio.sleep(0)
        return self

    @property
    def port(self) -> LocalPort:
        return LocalPort(self.node)

    def turn(self) -> bool:
        """One tick. Whether anything is under way."""
        if self.log.frozen:
            return False
        self.node.tick()
        behind = any(not one.halted and one.offset < self.cluster.end(one.partition) for one in self.node.processors)
        return behind or self.log.busy or any(one.keeper.busy for one in self.node.processors)

    def owned(self) -> list[int]:
        return [one.partition for one in self.node.processors if one.performing]

    async def stop(self) -> None:
        """A clean end."""
        await self.node.close()
        self.alive = False

    async def kill(self) -> None:
        """Nothing more of it reaches the log."""
        self.log.dead = True
        self.alive = False
        self.opening.cancel()
        await self.node.kill()


class SharedLog:
    """See `Log`: one pod's client."""

    def __init__(self, cluster: Cluster, disks: Sequence[Store], name: str) -> None:
        self._name = name
        self._cluster = cluster
        self._disks = disks
        self._ends = [cluster.end(partition) for partition in range(cluster.partitions)]
        self._readers = Readers(cluster.partitions, self._read, self.end)
        self._followers: list[Follower] = []
        self._waiters = Waiters()
        self._pending: list[tuple[int, bytes]] = []
        self._arrived: list[Batch] = []
        self._ticket = self._acknowledged = 0
        self._scheduled = False
        self._member: Member | None = None
        self._mine: set[int] = set()
        self.frozen = False
        self.cut_off = False
        """From the group: nothing is confirmed, and nothing told."""
        self.dead = False
        self.dead_ends = 0
        """So often `latest` fails."""
        self.commits: Callable[[], str] = lambda: ""
        """What becomes of the next round: nothing special, `failed`, or `unheard` (it is there, and nobody is told)."""
        self.held_back: Callable[[int, bytes], bool] = lambda partition, value: False
        """Records that stay with this pod until `thaw`, while others pass them by: an abandoned producer's."""

    @property
    def busy(self) -> bool:
        return self._scheduled or bool(self._arrived)

    # From the broker

    def arrived(self, batch: Batch) -> None:
        self._arrived.append(batch)
        self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled and not self.frozen and not self.dead:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._flush, context=Context())

    def _flush(self) -> None:
        self._scheduled = False
        if self.frozen or self.dead:
            return
        pending, ticket = self._pending, self._ticket
        self._pending = []
        groups: dict[int, list[bytes]] = {}
        for partition, value in pending:
            if self.held_back(partition, value):
                self._pending.append((partition, value))
            else:
                groups.setdefault(partition, []).append(value)
        for partition, values in groups.items():
            self._cluster.write(partition, values)
        arrived, self._arrived = self._arrived, []
        for batch in arrived:
            self._ends[batch.partition] = batch.offset + len(batch.values)
            if batch.offset < self.start(batch.partition):
                self._outran(batch)
            else:
                self._readers.deliver(batch)
        if not self._pending:
            self._acknowledged = ticket
            self._waiters.release(ticket)
        if self._arrived:
            self._schedule()

    def _outran(self, batch: Batch) -> None:
        """It was trimmed while this pod was frozen: a broker has it no more."""
        self._followers = [one for one in self._followers if not one.closed]
        for follower in self._followers:
            if follower.partition == batch.partition and follower.position <= batch.offset:
                follower.fail(IndexError(f"offset {batch.offset} was trimmed"))

    async def alive(self) -> None:
        """What a request waits for: a frozen process goes on later, a dead one never."""
        await asyncio.sleep(0)
        while self.frozen or self.dead:
            await asyncio.sleep(0)

    def freeze(self) -> None:
        self.frozen = True

    def thaw(self) -> None:
        self.frozen = False
        self.held_back = lambda partition, value: False
        self._schedule()

    # The group's word

    def lose(self) -> None:
        if self._member is not None and not self.frozen and not self.cut_off:
            mine, self._mine = sorted(self._mine), set()
            if mine:
                Context().run(self._member.revoked, mine)

    def gain(self, partitions: Sequence[int]) -> None:
        if self._member is not None and not self.frozen and not self.cut_off:
            self._mine.update(partitions)
            if partitions:
                Context().run(self._member.assigned, partitions)

    def join(self, member: Member) -> None:
        self._member = member

    async def leave(self) -> None:
        self._member = None
        self._mine.clear()

    def confirmed(self, partition: int) -> bool:
        return partition in self._mine and partition in self._cluster.hands.get(self._name, ()) and not self.cut_off

    # Log

    @property
    def partitions(self) -> int:
        return self._cluster.partitions

    @property
    def shared(self) -> bool:
        return True

    @property
    def acknowledged(self) -> int:
        return self._acknowledged

    @property
    def failure(self) -> Exception | None:
        return None

    async def open(self) -> None:
        pass

    async def close(self) -> None:
        while self._pending:
            await asyncio.sleep(0)
        self._readers.close()
        self.dead = True

    def append(self, partition: int, value: bytes) -> int:
        if not 0 <= partition < self.partitions:
            raise IndexError(f"no partition {partition}")
        self._ticket += 1
        self._pending.append((partition, value))
        self._schedule()
        return self._ticket

    async def acknowledge(self, ticket: int) -> None:
        if ticket > self._acknowledged:
            await self._waiters.add(ticket, asyncio.get_running_loop())

    def start(self, partition: int) -> int:
        return self._cluster.starts[partition]

    def end(self, partition: int) -> int:
        return max(self._ends[partition], self.start(partition))

    def now_ms(self) -> int:
        return self._cluster.now

    @property
    def retention_ms(self) -> int | None:
        return self._cluster.retention_ms

    async def trim(self, partition: int, offset: int) -> None:
        await self.alive()
        starts = self._cluster.starts
        starts[partition] = max(starts[partition], min(offset, self._cluster.end(partition)))

    def read(self, partition: int, offset: int, *, limit_bytes: int = 1 << 20) -> list[Batch]:
        if offset < self.start(partition):
            raise IndexError(f"offset {offset} of partition {partition} is below its start, {self.start(partition)}")
        return self._cluster.read(partition, offset, limit_bytes)

    def _read(self, partition: int, offset: int, limit_bytes: int) -> list[Batch]:
        """Not beyond what is delivered: a reader that has caught up is handed the next batch."""
        end = self._ends[partition]
        return [batch for batch in self.read(partition, offset, limit_bytes=limit_bytes) if batch.offset < end]

    def follow(self, partition: int, offset: int, sink: Sink, *, failed: Failed | None = None) -> Reader:
        if offset < self.start(partition):
            raise IndexError(f"offset {offset} of partition {partition} is below its start, {self.start(partition)}")
        follower = self._readers.follow(partition, offset, sink, failed)
        self._followers.append(follower)
        return follower

    def side(self, topic: str, partition: int, value: bytes) -> None:
        pass

    async def read_side(self, topic: str, partition: int, offset: int, *, limit_bytes: int = 1 << 20) -> list[Batch]:
        return []

    def store(self, partition: int) -> Store:
        return self._disks[partition]

    def drop_store(self, partition: int) -> None:
        self._disks[partition].write((), (), clear=(b"",))

    async def latest(self, partition: int) -> int:
        if self.dead_ends:
            self.dead_ends -= 1
            raise LogError("no broker answers")
        return self._cluster.end(partition)

    async def fetch(self, partition: int, offset: int, *, limit_bytes: int = 1 << 20) -> list[Batch]:
        return self.read(partition, offset, limit_bytes=limit_bytes)

    @property
    def snapshots(self) -> Snapshots | None:
        topics = self._cluster.snapshots
        return None if topics is None else SharedSnapshots(self, topics)

    @property
    def events(self) -> Events | None:
        return None

    @property
    def commands(self) -> Commands | None:
        return None


class SharedSnapshots:
    """See `Snapshots`: one pod's client."""

    def __init__(self, log: SharedLog, topics: Sequence[SnapshotTopic]) -> None:
        self._log = log
        self._topics = topics

    async def fence(self, partition: int) -> SnapshotWriter:
        await self._log.alive()
        topic = self._topics[partition]
        return RoundWriter(self._log, topic, topic.fence())

    async def read(self, partition: int) -> list[tuple[bytes, bytes]]:
        await self._log.alive()
        return self._topics[partition].read()


class RoundWriter:
    """See `SnapshotWriter`: the records of a round come first, the word that they count later."""

    chunked = False
    """A round is several transactions: the rule that a variant of the tests leaves out."""
    tombstones = True

    def __init__(self, log: SharedLog, topic: SnapshotTopic, epoch: int) -> None:
        self._log = log
        self._topic = topic
        self._epoch = epoch
        self._rounds = 0

    async def commit(self, puts: Sequence[tuple[bytes, bytes]], deletes: Sequence[bytes]) -> None:
        values = [*((key, None) for key in deletes if self.tombstones), *puts]
        fate = self._log.commits()
        for part in [[one] for one in values] if self.chunked else [values]:
            await self._transaction(part, fate)

    async def _transaction(self, values: Sequence[tuple[bytes, bytes | None]], fate: str) -> None:
        self._rounds += 1
        number = self._rounds
        await self._log.alive()
        written = self._topic.write(self._epoch, number, values)
        await self._log.alive()
        if fate == "failed":
            raise LogError("the transaction timed out")
        if not written or not self._topic.commit(self._epoch, number):
            raise Fenced("another process writes the snapshots now")
        if fate == "unheard":
            raise LogError("no answer to the commit")
