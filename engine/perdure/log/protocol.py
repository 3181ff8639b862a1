"""The log, as the rest of the engine sees it. One protocol, several implementations, one conformance suite.

    offset      0     1     2     3     4     5     6
              +-----+-----+-----+-----+-----+-----+ - - +
    journal p |  a  |  b  |  c  |  d  |  e  |  f  |     |
              +-----+-----+-----+-----+-----+-----+ - - +
                 ^                       ^           ^
                 start                   |           appended, not acknowledged: nobody reads it
                 (first kept)            |
                                         end: one past the last acknowledged record.
                                         A reader at offset o is given o, o+1, … end-1, in order, then what comes.

- An offset belongs to one record for ever. Offsets in a partition are dense here and may have gaps on other logs:
  only their order counts.
- `append` takes a record and returns a *ticket*: tickets are numbered from 1, since `open`, in the order of
  appending over all partitions of this log object. A ticket is acknowledged when its record, and every record of a
  lower ticket, is durable. Records of one partition are stored in the order of their tickets. After a failure
  everything from the first unacknowledged ticket is written again: at least once, never reordered, never with a hole.
  A producer that was given up may still deliver: of what a shared log has in this order, copies may stand anywhere.
- A reader's sink is called on the loop's thread, in an empty context, with batches of acknowledged records only,
  never from within `follow`. It must not raise: a reader whose sink raises is closed, since going on would skip
  what was not taken.
- The owner of a partition trims what nothing needs any more: `start` moves up, `end` and the offsets of what is kept
  stay as they are.
- A batch has one timestamp (milliseconds since the epoch): the log's own clock, which never goes back.
- A log belongs to one process (memory, embedded), or is shared by the pods of an app. Every pod appends to and follows
  every partition; to *own* one, that is to run its runs and checkpoint its state, is for the member of the app's group
  that it is assigned to. On a shared log `end` is what this process knows; `latest` asks the log.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

SIDES = ("logs", "dead-letters")
"""The side topics."""


class Batch(NamedTuple):
    """Consecutive records of one partition. `values[i]` stands at `offset + i`."""

    partition: int
    offset: int
    timestamp_ms: int
    values: Sequence[bytes]


Sink = Callable[[Batch], None]
Failed = Callable[[Exception], None]


class Reader(Protocol):
    """A subscription. `close` may be called twice; no batch comes after it."""

    def close(self) -> None: ...


class Store(Protocol):
    """Key-value space of one partition, beside its log. All keys and values are bytes, ordered by key."""

    def get(self, key: bytes, /) -> bytes | None: ...

    def scan(self, prefix: bytes, /, start: bytes = b"", limit: int = 0) -> list[tuple[bytes, bytes]]:
        """Pairs whose key begins with `prefix`, in key order, from `start` (a whole key) on; `limit` 0 is all."""
        ...

    def write(
        self, puts: Sequence[tuple[bytes, bytes]], deletes: Sequence[bytes], /, clear: Sequence[bytes] = ()
    ) -> None:
        """All or nothing: first every key under the prefixes of `clear` goes, then `deletes`, then `puts` come.

        Seen by `get` and `scan` at once, durable no later than the next append.

        Raises `LogFull` if the disk is full; nothing is written then.
        """
        ...


class Member(Protocol):
    """Who is told which partitions are ours. Called on the loop's thread, in an empty context.

    Never from within `join`, but by logs of one process, which assign all partitions before `join` returns.
    """

    def assigned(self, partitions: Sequence[int], /) -> None:
        """These are ours from here on, as far as the group knows: another may still believe the same of itself.

        None, for a member that there is no partition left for.
        """
        ...

    def revoked(self, partitions: Sequence[int], /) -> None:
        """These are being given away. Rebalancing is eager: they may come back with the next `assigned`.

        What is appended in here is written before the next owner reads the end of the log, if it can be.
        """
        ...


class SnapshotWriter(Protocol):
    """The one writer of a partition's snapshots, until another fences it."""

    async def commit(self, puts: Sequence[tuple[bytes, bytes]], deletes: Sequence[bytes]) -> None:
        """One round, all or nothing; durable when this returns.

        Raises `Fenced` if a later writer has taken over; nothing of the round is there then, and none will follow.
        """
        ...


class Snapshots(Protocol):
    """A compacted topic beside a shared journal: store keys of all entities that outlive what is trimmed."""

    async def fence(self, partition: int) -> SnapshotWriter:
        """From here on earlier writers of this partition are refused, and their open round is aborted."""
        ...

    async def read(self, partition: int) -> list[tuple[bytes, bytes]]:
        """To the end as it stands now: of committed rounds only, the latest value of each key that was not deleted."""
        ...


class Command(Protocol):
    """A command in the hands of one member of its queue's group."""

    @property
    def value(self) -> bytes: ...

    def done(self) -> None:
        """Nobody else need see it: progress is committed once all that was appended before this call is durable.

        A command that is never done goes to another member when this one is gone.
        """
        ...


Take = Callable[[Command], None]


class Commands(Protocol):
    """Steps for worker pools: a topic and a group of competing consumers for each queue. At least once.

    topic of a queue    | a | b | c | d | e | f |
                          done  ^   ^   ^ in hand: at most `limit` of a member; done in any order
    """

    @property
    def local(self) -> bool:
        """Every member lives in this process: what the process before it had in hand, nobody has."""
        ...

    def put(self, queue: str, key: str, value: bytes) -> int:
        """Append a command; its ticket is numbered and acknowledged as that of `Log.append`.

        Commands of one key are given out in the order of putting, as long as the membership stands.
        """
        ...

    def subscribe(self, queue: str, take: Take, *, limit: int) -> Reader:
        """Take part in a queue's work: `take` gets durable commands that no other member has at present.

        It is called as a reader's sink is, and has `limit` commands at a time that are not done. Closing the reader
        gives back those that it has.
        """
        ...


class Arrived(Command, Protocol):
    """An event as its producer wrote it, in the hands of one pod of this app."""

    @property
    def headers(self) -> Sequence[tuple[str, bytes]]: ...

    @property
    def timestamp_ms(self) -> int:
        """Of the log's clock."""
        ...

    @property
    def origin(self) -> tuple[str, int, int]:
        """Topic, partition and offset: the same each time that it is read."""
        ...


class Events(Protocol):
    """A topic beside the journals, to which any service writes, and which every app of the namespace reads for itself.

    What is put here is taken in by this app as well: it arrives at one of its pods.
    """

    def put(self, event: str, value: bytes) -> int:
        """Append the event of this id; its ticket is numbered and acknowledged as that of `Log.append`."""
        ...

    def subscribe(self, take: Callable[[Arrived], None]) -> Reader:
        """Take part in reading: `take` gets each event that no pod of the app has said `done` of. At least once."""
        ...

    async def ends(self) -> Sequence[int]:
        """By partition of the topic, the offset that the next event will have there."""
        ...

    @property
    def gaps(self) -> Mapping[int, tuple[int, int]]:
        """Partition of the topic → offsets, from and to, that are gone and were never taken in.

        None of what comes after them is, until somebody says that it is known (`perdure topics skip-gap`).
        """
        ...

    def refuse(self, arrived: Arrived, reason: str) -> None:
        """Nobody can read it: its place and the reason go to `dead-letters`, durable before it counts as done."""
        ...


class Log(Protocol):
    """See the module's text. All methods are called on the loop's thread."""

    @property
    def partitions(self) -> int: ...

    @property
    def shared(self) -> bool:
        """Whether other processes append, read and own beside this one."""
        ...

    @property
    def acknowledged(self) -> int:
        """All tickets up to this one are durable. Tickets begin at 1."""
        ...

    @property
    def failure(self) -> Exception | None:
        """Why writes are failing at present (`LogFull`, `LogCorrupt`); None while all is well."""
        ...

    async def open(self) -> None:
        """Raises `LogInUse`, `LogMismatch`, `LogCorrupt`; each message says what to do."""
        ...

    async def close(self) -> None:
        """Writes what is pending, then closes. Idempotent."""
        ...

    def append(self, partition: int, value: bytes) -> int:
        """Queue one record; returns its ticket. Never blocks: a failing log keeps the record and tries again.

        Raises `IndexError` for a partition that is not there, `LogError` if the log is not open.
        """
        ...

    async def acknowledge(self, ticket: int) -> None:
        """Return once `ticket` is durable. Raises `LogFull` as soon as the log finds that it cannot write now

        (the record stays queued: what was not acknowledged may still appear).
        """
        ...

    def start(self, partition: int) -> int:
        """Offset of the first record kept."""
        ...

    def end(self, partition: int) -> int:
        """One past the last acknowledged record."""
        ...

    def now_ms(self) -> int:
        """The log's estimate of its own clock, in milliseconds since the epoch. Never goes back."""
        ...

    def follow(self, partition: int, offset: int, sink: Sink, *, failed: Failed | None = None) -> Reader:
        """Give `sink` every batch from `offset` on, for ever: first what is stored, in slices, then what comes.

        If a record cannot be read or the sink raises, the reader is closed and `failed` is called once with the
        reason (without it, the loop's exception handler). So it is where another process trims what this reader has
        not read: `start` says so by then. Raises `IndexError` below `start` or beyond `end`.
        """
        ...

    @property
    def retention_ms(self) -> int | None:
        """How long, by log time, its owner leaves people what only they may still want to read. None: for ever."""
        ...

    async def trim(self, partition: int, offset: int) -> None:
        """Records below `offset` are gone for everybody: `start` moves up to it, and never goes back.

        Nothing happens if the log begins there already; beyond the end it is trimmed to the end. What side topics of
        this partition have that is older than `retention_ms` may go with it. Raises `LogError` if it cannot be done.
        """
        ...

    def side(self, topic: str, partition: int, value: bytes) -> None:
        """Best-effort append to a side topic (one of `SIDES`): no ticket, dropped when the log is failing."""
        ...

    async def read_side(self, topic: str, partition: int, offset: int, *, limit_bytes: int = 1 << 20) -> list[Batch]:
        """Batches of a side topic from `offset` on, or from the first that is kept; empty if there is nothing."""
        ...

    def store(self, partition: int) -> Store:
        """The state beside this partition."""
        ...

    def drop_store(self, partition: int) -> None:
        """Forget the state: it is folded again from the log."""
        ...

    async def latest(self, partition: int) -> int:
        """One past the last record that anybody has written, asked of the log itself: `end` may lag behind it."""
        ...

    async def fetch(self, partition: int, offset: int, *, limit_bytes: int = 1 << 20) -> list[Batch]:
        """Acknowledged batches from `offset` on (the first may be cut to begin there); empty at the end.

        Asked of the log itself, beyond what this process knows. At least one batch is given if there is one, however
        large. Raises `LogCorrupt` on a damaged or missing record, `IndexError` below its start or beyond its end.
        """
        ...

    def join(self, member: Member) -> None:
        """Become a member of the app's group. At most one at a time, and only while the log is open."""
        ...

    async def leave(self) -> None:
        """Leave the group: others take over at once. The member is told nothing from here on. Idempotent."""
        ...

    def confirmed(self, partition: int) -> bool:
        """The last heartbeat succeeded, and the group says that the partition is ours."""
        ...

    @property
    def snapshots(self) -> Snapshots | None:
        """None where log and state share one disk: the state is its own snapshot there."""
        ...

    @property
    def commands(self) -> Commands | None:
        """None where no pool can join."""
        ...

    @property
    def events(self) -> Events | None:
        """None where events come through this process alone."""
        ...


class LocalLog(Log, Protocol):
    """A log of one process, which has all of it at hand."""

    def read(self, partition: int, offset: int, *, limit_bytes: int = 1 << 20) -> list[Batch]:
        """`fetch`, at once."""
        ...
