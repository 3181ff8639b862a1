"""A pod's client of the simulated cluster. See `Log`; what a real client would do, it does in messages that take time.

    append ─► pending ─(linger)─► one lane a partition, one batch of it in flight ─► broker
                                        ▲                                               │
                                        └── no answer in time: again, or by a new ◄─────┘ answer
                                            producer, whose copies come on top

Only `read` looks further than a client could: it gives what the brokers hold below the end that this pod knows of,
at once. Whoever wants to be told what a real log can tell uses `fetch` and `latest`.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextvars import Context
from dataclasses import dataclass
from typing import Any

from perdure.errors import Fenced, LogError
from perdure.log.protocol import (
    Batch,
    Commands,
    Events,
    Failed,
    Member,
    Reader,
    Sink,
    Snapshots,
    SnapshotWriter,
    Store,
)
from perdure.log.tickets import Waiters
from tests.simulation.cluster import APP_PATHS, Cluster
from tests.simulation.disk import SimDisk
from tests.simulation.loop import Owner
from tests.simulation.simhands import Hands, SimCommands, SimEvents
from tests.simulation.topics import Appended, Topic


@dataclass(eq=False)
class _Flight:
    """One flush: acknowledged when all its batches are."""

    ticket: int
    open: int = 0


@dataclass(eq=False)
class _Chunk:
    """What a flush has for one partition, or queue."""

    topic: Topic
    values: list[bytes]
    flight: _Flight
    number: int = 0
    tries: int = 0
    done: bool = False


class _Lane:
    """What waits for one partition; the first is in flight."""

    def __init__(self) -> None:
        self.chunks: deque[_Chunk] = deque()
        self.next_number = 0


class _Fetcher:
    """One subscription."""

    def __init__(self, log: "SimLog", partition: int, offset: int, sink: Sink, failed: Failed | None) -> None:
        self._log, self.partition, self.position, self._sink, self._failed = log, partition, offset, sink, failed
        self._scheduled = False
        self.closed = False
        self._number = log.loop.number()
        log.cluster.journals[partition].waiting[self._number] = self.wake

    def close(self) -> None:
        self.closed = True
        self._log.cluster.journals[self.partition].waiting.pop(self._number, None)

    def wake(self) -> None:
        """There may be something to fetch."""
        if not self._scheduled and not self.closed:
            self._scheduled = True
            self._log.loop.post(self._log.owner, self._log.delay() + self._log.delay(), self._fetch)

    def _fetch(self) -> None:
        self._scheduled = False
        log = self._log
        if self.closed or log.dead:
            return
        if log.is_cut() or log.is_severed(self.partition):
            self._scheduled = True
            log.loop.post(log.owner, log.cluster.swarm.request_timeout, self._fetch)
            return
        most = log.cluster.rng.randint(1, log.cluster.swarm.most_records)
        try:
            batches = log.cluster.journals[self.partition].read(self.position, most)
        except IndexError as error:
            self._fail(error)
            return
        for batch in batches:
            self.position = batch.offset + len(batch.values)
            log.seen(batch)
            log.cluster.trace.note("read", f"{log.name} {batch.partition} {batch.offset} {len(batch.values)}")
            try:
                self._sink(batch)
            except Exception as error:
                self._fail(error)
                return
            if self.closed or log.dead:
                return
        if self.position < log.cluster.journals[self.partition].end:
            self.wake()

    def _fail(self, error: Exception) -> None:
        self.close()
        if self._failed is not None:
            self._failed(error)
        else:
            message = f"a reader of partition {self.partition} stopped"
            self._log.loop.call_exception_handler({"message": message, "exception": error})


class SimLog:
    """See the module's text. One object is one life of a process."""

    def __init__(self, cluster: Cluster, owner: Owner, disk: SimDisk) -> None:
        self.cluster, self.owner, self.disk, self.loop = cluster, owner, disk, cluster.loop
        self.name = owner.name
        self.cut_until = 0.0
        """Nothing reaches the brokers before, and nothing comes from them."""
        self.severed_until: dict[Topic, float] = {}
        """Nothing reaches the broker that leads this partition before, and nothing comes from it."""
        self._opened = False
        self.ticket = self._acknowledged = 0
        self._waiters = Waiters()
        self._pending: list[tuple[Topic, bytes]] = []
        self._lingering = False
        self._flights: deque[_Flight] = deque()
        self._lanes: dict[Topic, _Lane] = {}
        self._producer = 0
        self._ends = [0] * self.partitions
        self._readers: list[_Fetcher] = []
        self.hands: list[Hands] = []
        self._skew_ms = cluster.rng.randint(-cluster.swarm.skew_ms, cluster.swarm.skew_ms)
        self._now = 0
        # The group
        self._member: Member | None = None
        self._generation = 0
        self._assigned: list[int] = []
        self._confirmed_at = -1e9
        self._beat: asyncio.TimerHandle | None = None
        self._joining = 0
        self.snapshots: Snapshots | None = _Snapshots(self)
        self.commands: Commands | None = SimCommands(self)
        self.events: Events | None = SimEvents(self) if cluster.swarm.events else None

    # The wire

    @property
    def dead(self) -> bool:
        return self.owner.dead

    def is_cut(self) -> bool:
        return self.loop.time() < self.cut_until

    def sever(self, partition: int, seconds: float) -> None:
        self.severed_until[partition] = self.loop.time() + seconds

    def is_severed(self, topic: Topic) -> bool:
        return self.loop.time() < self.severed_until.get(topic, 0.0)

    def delay(self) -> float:
        """How long a message takes one way."""
        swarm, rng = self.cluster.swarm, self.cluster.rng
        took = rng.expovariate(1 / swarm.latency)
        return took * rng.uniform(10, 100) if swarm.tail and rng.random() < swarm.tail else took

    def round_trip(self) -> float:
        """How long a fetch takes that begins now."""
        return max(0.0, self.cut_until - self.loop.time()) + self.delay() + self.delay()

    def send(self, serve: Callable[[], Any], answer: Callable[[Any], None]) -> bool:
        """Ask the cluster. Both ways take time, and on both the message may be lost: then nothing comes back.

        Whether it will arrive, which only the world may know.
        """
        if self.dead or self.is_cut() or self.cluster.rng.random() < self.cluster.swarm.p_lost_request:
            return False
        self.loop.post(self.cluster.owner, self.delay(), self._arrives, serve, answer)
        return True

    def _arrives(self, serve: Callable[[], Any], answer: Callable[[Any], None]) -> None:
        answered = serve()
        if not self.is_cut() and self.cluster.rng.random() >= self.cluster.swarm.p_lost_answer:
            self.loop.post(self.owner, self.delay(), answer, answered)

    async def ask(self, serve: Callable[[], Any]) -> Any:
        """Ask until there is an answer."""
        while True:
            answer = self.loop.create_future()
            self.send(serve, lambda given, answer=answer: answer.done() or answer.set_result(given))  # type: ignore[misc]
            done, _ = await asyncio.wait({answer}, timeout=self.cluster.swarm.request_timeout)
            if done:
                return answer.result()

    # Log

    @property
    def partitions(self) -> int:
        return self.cluster.swarm.partitions

    @property
    def shared(self) -> bool:
        return True

    @property
    def acknowledged(self) -> int:
        return self._acknowledged

    @property
    def unacknowledged(self) -> bool:
        return self._acknowledged < self.ticket

    @property
    def failure(self) -> Exception | None:
        return None

    async def open(self) -> None:
        if self._opened:
            return
        self._opened = True
        self.ticket = self._acknowledged = 0
        self._producer = self.cluster.new_producer()
        for partition in range(self.partitions):
            self._ends[partition] = await self.ask(lambda p=partition: self.cluster.journals[p].end)  # type: ignore[misc]
            last = self.cluster.journals[partition].batches[-1:]
            for batch in last:
                self.seen(batch)

    async def close(self) -> None:
        if not self._opened:
            return
        await self.leave()
        if self.ticket:
            await self.acknowledge(self.ticket)
        self._opened = False
        for reader in self._readers:
            reader.close()
        self._readers.clear()
        for hands in self.hands:
            hands.close()
        while not all(hands.left for hands in self.hands):
            await asyncio.sleep(self.cluster.swarm.latency)

    def append(self, partition: int, value: bytes) -> int:
        if not 0 <= partition < self.partitions:
            raise IndexError(f"partition {partition}: this log has {self.partitions}")
        return self.put(partition, value)

    def put(self, topic: Topic, value: bytes) -> int:
        """`append`, to any topic."""
        if not self._opened:
            raise LogError("the log is not open: `await log.open()` first")
        self.ticket += 1
        self._pending.append((topic, value))
        if not self._lingering:
            self._lingering = True
            self.loop.post(self.owner, self.cluster.rng.random() * self.cluster.swarm.latency, self._flush)
        return self.ticket

    async def acknowledge(self, ticket: int) -> None:
        if ticket > self._acknowledged:
            await self._waiters.add(ticket, self.loop)

    def start(self, partition: int) -> int:
        return self.cluster.journals[partition].start

    def end(self, partition: int) -> int:
        # What others trimmed meanwhile was there, though this pod may not have heard of it.
        return max(self._ends[partition], self.start(partition))

    def now_ms(self) -> int:
        self._now = max(self._now, self.loop.wall_ms() + self._skew_ms)
        return self._now

    def seen(self, batch: Batch) -> None:
        """A batch came: its end is known."""
        self._ends[batch.partition] = max(self._ends[batch.partition], batch.offset + len(batch.values))

    def read(self, partition: int, offset: int, *, limit_bytes: int = 1 << 20) -> list[Batch]:
        end = self.end(partition)
        if not self.start(partition) <= offset <= end:
            raise IndexError(f"offset {offset} of partition {partition} is outside its log, to {end}")
        return self._limited(partition, offset, end, limit_bytes)

    def _limited(self, partition: int, offset: int, end: int, limit_bytes: int) -> list[Batch]:
        found: list[Batch] = []
        size = 0
        for batch in self.cluster.journals[partition].read(offset, end - offset) if end > offset else ():
            found.append(batch)
            size += sum(map(len, batch.values))
            if size >= limit_bytes:
                break
        return found

    async def latest(self, partition: int) -> int:
        end: int = await self.ask(lambda: self.cluster.journals[partition].end)
        self._ends[partition] = max(end, self._ends[partition])
        return end

    async def fetch(self, partition: int, offset: int, *, limit_bytes: int = 1 << 20) -> list[Batch]:
        journal = self.cluster.journals[partition]

        def serve() -> list[Batch] | IndexError:
            if not journal.start <= offset <= journal.end:
                return IndexError(f"offset {offset} of partition {partition}: it has {journal.start} to {journal.end}")
            return self._limited(partition, offset, journal.end, limit_bytes)

        found: list[Batch] | IndexError = await self.ask(serve)
        if isinstance(found, IndexError):
            raise found
        for batch in found:
            self.seen(batch)
        return found

    def follow(self, partition: int, offset: int, sink: Sink, *, failed: Failed | None = None) -> Reader:
        if not self.start(partition) <= offset <= self.end(partition):
            raise IndexError(f"offset {offset} of partition {partition} is outside its log, to {self.end(partition)}")
        with self.loop.on_behalf(self.owner):
            reader = _Fetcher(self, partition, offset, sink, failed)
            self._readers.append(reader)
            if offset < self.cluster.journals[partition].end:
                reader.wake()
        return reader

    @property
    def retention_ms(self) -> int | None:
        return self.cluster.swarm.retention_ms

    async def trim(self, partition: int, offset: int) -> None:
        def serve() -> None:
            self.cluster.journals[partition].trim(offset)
            self.cluster.trace.note("trim", f"{self.name} {partition} {offset}")

        await self.ask(serve)

    def side(self, topic: str, partition: int, value: bytes) -> None:
        if self._opened and not self.dead and not self.is_cut():
            self.cluster.append_side(topic, partition, value)

    async def read_side(self, topic: str, partition: int, offset: int, *, limit_bytes: int = 1 << 20) -> list[Batch]:
        return [batch for batch in self.cluster.side.get((topic, partition), []) if batch.offset >= offset]

    def store(self, partition: int) -> Store:
        return self.disk.store(str(partition))

    def drop_store(self, partition: int) -> None:
        self.disk.store(str(partition)).write((), (), clear=(b"",))

    # The way of a record, in the order of calls: _flush, _go, _answered or _overdue.

    def _flush(self) -> None:
        self._lingering = False
        pending, self._pending = self._pending, []
        flight = _Flight(self.ticket)
        chunks: dict[Topic, _Chunk] = {}
        for topic, value in pending:
            chunk = chunks.get(topic)
            if chunk is None:
                chunk = chunks[topic] = _Chunk(topic, [], flight)
            chunk.values.append(value)
        flight.open = len(chunks)
        self._flights.append(flight)
        for topic, chunk in chunks.items():
            lane = self._lanes.setdefault(topic, _Lane())
            lane.chunks.append(chunk)
            if len(lane.chunks) == 1:
                self._first(lane)

    def _first(self, lane: _Lane) -> None:
        """Send what stands first in the lane, for the first time by this producer."""
        if lane.chunks:
            chunk = lane.chunks[0]
            chunk.number = lane.next_number
            lane.next_number += 1
            self._go(chunk)

    def _go(self, chunk: _Chunk) -> None:
        chunk.tries += 1
        tries, producer, number = chunk.tries, self._producer, chunk.number
        values, topic = list(chunk.values), chunk.topic

        def serve() -> Appended | None:
            self.cluster.late -= 1
            return self.cluster.produce(producer, number, topic, values, self.name)

        if not (self.is_severed(topic) or self._parted(values)):
            self.cluster.late += self.send(serve, lambda appended: self._answered(chunk, appended))
        self.loop.post(self.owner, self.cluster.swarm.request_timeout, self._overdue, chunk, tries, producer)

    def _parted(self, values: list[bytes]) -> bool:
        """Whether this request is lost, since it has the paths of new code."""
        p_parted = self.cluster.swarm.p_parted
        lost = bool(p_parted) and any(APP_PATHS in one for one in values) and self.cluster.rng.random() < p_parted
        if lost:
            self.cluster.trace.note("parted", self.name)
        return lost

    def _answered(self, chunk: _Chunk, appended: Appended | None) -> None:
        if chunk.done or appended is None:
            return
        chunk.done = True
        lane = self._lanes[chunk.topic]
        assert lane.chunks[0] is chunk
        lane.chunks.popleft()
        if isinstance(chunk.topic, int):
            self._ends[chunk.topic] = max(self._ends[chunk.topic], appended.offset + appended.count)
        self._first(lane)
        chunk.flight.open -= 1
        flights = self._flights
        while flights and flights[0].open == 0:
            self._acknowledged = flights.popleft().ticket
        self._waiters.release(self._acknowledged)

    def _overdue(self, chunk: _Chunk, tries: int, producer: int) -> None:
        if chunk.done or chunk.tries != tries or self.dead:
            return
        rng, swarm = self.cluster.rng, self.cluster.swarm
        if producer == self._producer and rng.random() < swarm.p_abandon:
            self._abandon()
        elif producer == self._producer:
            self._go(chunk)

    def _abandon(self) -> None:
        """A new producer: it sends everything that is not acknowledged. The old one may still deliver, after it."""
        rng, swarm, old = self.cluster.rng, self.cluster.swarm, self._producer
        self._producer = self.cluster.new_producer()
        self.cluster.trace.note("abandon", f"{self.name} {old} {self._producer}")
        for lane in self._lanes.values():
            lane.next_number = 0
            if lane.chunks:
                chunk = lane.chunks[0]
                if rng.random() < swarm.p_late:
                    self.cluster.late += 1
                    self.loop.post(
                        self.cluster.owner, rng.uniform(0.1, 20), self._late, old, chunk.number, chunk.topic,
                        list(chunk.values),
                    )  # fmt: skip
                if swarm.p_hole and len(lane.chunks) > 1 and rng.random() < swarm.p_hole:
                    # It has given up the first, never sent, and goes on with the next: which comes with a hole before.
                    self.cluster.late += 1
                    ahead = lane.chunks[1]
                    self.loop.post(
                        self.cluster.owner, self.delay(), self._late, self.cluster.new_producer(), 0, ahead.topic,
                        list(ahead.values),
                    )  # fmt: skip
                self._first(lane)

    def _late(self, producer: int, number: int, topic: Topic, values: list[bytes]) -> None:
        self.cluster.late -= 1
        if not self.dead:
            self.cluster.trace.note("late", f"{self.name} {topic}")
            self.cluster.produce(producer, number, topic, values, self.name)

    # The group

    def join(self, member: Member) -> None:
        if not self._opened:
            raise LogError("the log is not open: `await log.open()` first")
        if self._member is not None:
            raise LogError("this log has its member already: a process is one member of its group")
        self._member = member
        with self.loop.on_behalf(self.owner):
            self._join()

    async def leave(self) -> None:
        if self._member is None:
            return
        self._member, self._generation = None, 0
        self._joining += 1
        self._assigned, self._confirmed_at = [], -1e9
        if self._beat is not None:
            self._beat.cancel()
        self.send(lambda: self.cluster.group.leave(self.name), lambda _: None)

    def confirmed(self, partition: int) -> bool:
        if not 0 <= partition < self.partitions:
            raise IndexError(f"partition {partition}: this log has {self.partitions}")
        recent = self.loop.time() - self._confirmed_at < self.cluster.swarm.session
        return recent and partition in self._assigned

    def _join(self) -> None:
        """Ask to be a member; again if nothing comes back."""
        self._joining += 1
        number = self._joining

        def serve() -> None:
            self.cluster.group.join(self.name, lambda generation, mine: self._dealt(number, generation, mine))

        self.send(serve, lambda _: None)
        wait = self.cluster.swarm.session + self.cluster.swarm.request_timeout
        self._beat = self.loop.post(self.owner, wait, self._join_again, number)

    def _join_again(self, number: int) -> None:
        if self._joining == number and self._member is not None:
            self._join()

    def _dealt(self, number: int, generation: int, partitions: list[int]) -> None:
        """At the coordinator: the answer goes out."""
        if not self.dead and not self.is_cut() and self.cluster.rng.random() >= self.cluster.swarm.p_lost_answer:
            self.loop.post(self.owner, self.delay(), self._is_dealt, number, generation, partitions)

    def _is_dealt(self, number: int, generation: int, partitions: list[int]) -> None:
        if number != self._joining or self._member is None:
            return
        self._joining += 1
        self._generation, self._assigned = generation, partitions
        self._confirmed_at = self.loop.time()
        self._plan_beat()
        Context().run(self._member.assigned, list(partitions))

    def _plan_beat(self) -> None:
        if self._beat is not None:
            self._beat.cancel()
        self._beat = self.loop.post(self.owner, self.cluster.swarm.session / 4, self._heartbeat)

    def _heartbeat(self) -> None:
        if self._member is None:
            return
        generation, sent = self._generation, self.loop.time()
        self.send(
            lambda: self.cluster.group.heartbeat(self.name, generation),
            lambda word: self._beaten(generation, sent, word),
        )
        self._plan_beat()

    def _beaten(self, generation: int, sent: float, word: str) -> None:
        if self._member is None or generation != self._generation or not self._generation:
            return
        if word == "ok":
            self._confirmed_at = max(sent, self._confirmed_at)
            return
        self.cluster.trace.note("revoked", f"{self.name} {word} {self._assigned}")
        mine, self._assigned, self._confirmed_at, self._generation = self._assigned, [], -1e9, 0
        if self._beat is not None:
            self._beat.cancel()
        if mine:
            Context().run(self._member.revoked, mine)
        self._rejoin(self._joining, self.ticket, self.loop.time() + self.cluster.swarm.request_timeout)

    def _rejoin(self, number: int, ticket: int, until: float) -> None:
        """Once what the member appended when it was told is written, or it takes too long."""
        if self._member is None or number != self._joining:
            return
        if self._acknowledged >= ticket or self.loop.time() >= until:
            self._join()
        else:
            self.loop.post(self.owner, self.cluster.swarm.latency, self._rejoin, number, ticket, until)


class _Snapshots:
    """See `Snapshots`."""

    def __init__(self, log: SimLog) -> None:
        self._log = log

    async def fence(self, partition: int) -> SnapshotWriter:
        topic = self._log.cluster.snapshots[partition]
        epoch: int = await self._log.ask(topic.fence)
        self._log.cluster.trace.note("fence", f"{self._log.name} {partition} {epoch}")
        return _Writer(self._log, partition, epoch)

    async def read(self, partition: int) -> list[tuple[bytes, bytes]]:
        found: list[tuple[bytes, bytes]] = await self._log.ask(self._log.cluster.snapshots[partition].read)
        return found


class _Writer:
    """See `SnapshotWriter`: the records of a round, then the word that they count."""

    def __init__(self, log: SimLog, partition: int, epoch: int) -> None:
        self._log, self._partition, self._epoch, self._round = log, partition, epoch, 0

    async def commit(self, puts: Sequence[tuple[bytes, bytes]], deletes: Sequence[bytes]) -> None:
        topic, epoch = self._log.cluster.snapshots[self._partition], self._epoch
        self._round += 1
        number = self._round
        values = [*((key, None) for key in deletes), *puts]
        for serve in (lambda: topic.write(epoch, number, values), lambda: topic.commit(epoch, number)):
            if not await self._log.ask(serve):
                raise Fenced(f"another process writes the snapshots of partition {self._partition} now")
        self._log.cluster.trace.note("snapshot", f"{self._log.name} {self._partition} {len(puts)} {len(deletes)}")
