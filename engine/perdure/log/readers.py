"""Readers of a log that holds its tail in memory: catch up in slices, then be handed each flush as it is.

    stored   |-----------------------------| end
    reader      o--slice--o--slice--o--...-o  now live: the next flush begins exactly here

Everything happens on the loop's thread, and a flush moves `end` and calls the live sinks in one go. So a reader
that finds itself at `end` has missed nothing and has seen nothing twice, and needs no lock to say so.
"""

import asyncio
from collections.abc import Callable
from contextvars import Context
from typing import Protocol

from perdure.errors import LogCorrupt, LogError
from perdure.log.protocol import Batch, Failed, Sink

_AGAIN_S = 0.1
SLICE_BYTES = 1 << 18  # about 2,000 records: some milliseconds of folding between two turns of the loop

Read = Callable[[int, int, int], list[Batch]]
"""(partition, offset, limit in bytes) → batches."""


class Source(Protocol):
    """Who gives the batches."""

    def remove(self, follower: "Follower", /) -> None:
        """It was closed."""
        ...


class Follower:
    """One subscription; see `Reader`. Its source says where it stands."""

    __slots__ = ("_failed", "_readers", "_sink", "closed", "partition", "position")

    def __init__(self, readers: Source, partition: int, offset: int, sink: Sink, failed: Failed | None) -> None:
        self._readers = readers
        self._sink = sink
        self._failed = failed
        self.partition = partition
        self.position = offset
        self.closed = False

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._readers.remove(self)

    def give(self, batch: Batch) -> None:
        """Hand over one batch, unless the reader was closed by the sink of the one before."""
        if self.closed:
            return
        try:
            self._sink(batch)
        except Exception as error:  # the sink is the engine's: its failure must not stop the others, or the flush
            self.fail(error)

    def fail(self, error: Exception) -> None:
        """Stop for good: going on would skip what was not taken."""
        self.close()
        if self._failed is not None:
            self._failed(error)
        else:
            message = f"a reader of partition {self.partition} stopped"
            asyncio.get_running_loop().call_exception_handler({"message": message, "exception": error})


class Readers:
    """All readers of one log.

    `read` gives stored batches, `end` the end of a partition; both as in `Log`.
    """

    def __init__(self, partitions: int, read: Read, end: Callable[[int], int]) -> None:
        self._read = read
        self._end = end
        self._all: set[Follower] = set()
        # Tuples are replaced, never changed: a sink may open and close readers while one is walked through.
        self._live: list[tuple[Follower, ...]] = [()] * partitions

    def follow(self, partition: int, offset: int, sink: Sink, failed: Failed | None) -> Follower:
        follower = Follower(self, partition, offset, sink, failed)
        self._all.add(follower)
        self._advance(follower)
        return follower

    def deliver(self, batch: Batch) -> None:
        """Give a batch that just became durable to everyone at the tail. `end` has already moved past it."""
        for follower in self._live[batch.partition]:
            follower.give(batch)

    def remove(self, follower: Follower) -> None:
        self._all.discard(follower)
        live = self._live[follower.partition]
        if follower in live:
            self._live[follower.partition] = tuple(other for other in live if other is not follower)

    def close(self) -> None:
        for follower in tuple(self._all):
            follower.close()

    def _advance(self, follower: Follower) -> None:
        partition = follower.partition
        if follower.position == self._end(partition):
            self._live[partition] = (*self._live[partition], follower)
        else:
            # An empty context: what runs below belongs to the engine, not to whoever asked for it.
            asyncio.get_running_loop().call_soon(self._slice, follower, context=Context())

    def _slice(self, follower: Follower) -> None:
        if follower.closed:
            return
        try:
            batches = self._read(follower.partition, follower.position, SLICE_BYTES)
        except Exception as error:
            if isinstance(error, LogError) and not isinstance(error, LogCorrupt):
                # The log is failing, and so far that it cannot even read; it says so elsewhere, and tries again.
                asyncio.get_running_loop().call_later(_AGAIN_S, self._slice, follower, context=Context())
            else:  # damage met while catching up stops this reader, loudly
                follower.fail(error)
            return
        for batch in batches:
            follower.position = batch.offset + len(batch.values)
            follower.give(batch)
        if not follower.closed:
            self._advance(follower)
