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
- A reader's sink is called on the loop's thread, in an empty context, with batches of acknowledged records only,
  never from within `follow`. It must not raise: a reader whose sink raises is closed, since going on would skip
  what was not taken.
- A batch has one timestamp (milliseconds since the epoch): the log's own clock, which never goes back.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol


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


class Log(Protocol):
    """See the module's text. All methods are called on the loop's thread."""

    @property
    def partitions(self) -> int: ...

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

    def read(self, partition: int, offset: int, *, limit_bytes: int = 1 << 20) -> list[Batch]:
        """Acknowledged batches from `offset` on (the first may be cut to begin there); empty at the end.

        At least one batch is given if there is one, however large. Raises `LogCorrupt` on a damaged or missing
        record, `IndexError` below `start` or beyond `end`.
        """
        ...

    def follow(self, partition: int, offset: int, sink: Sink, *, failed: Failed | None = None) -> Reader:
        """Give `sink` every batch from `offset` on, for ever: first what is stored, in slices, then what comes.

        If a record cannot be read or the sink raises, the reader is closed and `failed` is called once with the
        reason (without it, the loop's exception handler). Raises `IndexError` like `read`.
        """
        ...

    def side(self, topic: str, partition: int, value: bytes) -> None:
        """Best-effort append to a side topic (`logs`, `dead-letters`): no ticket, dropped when the log is failing."""
        ...

    def read_side(self, topic: str, partition: int, offset: int, *, limit_bytes: int = 1 << 20) -> list[Batch]:
        """Like `read`, of a side topic; empty beyond its end, or if there is no such topic."""
        ...

    def store(self, partition: int) -> Store:
        """The state beside this partition."""
        ...

    def drop_store(self, partition: int) -> None:
        """Forget the state: it is folded again from the log."""
        ...
