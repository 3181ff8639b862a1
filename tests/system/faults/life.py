"""The process that dies: it appends, reads, folds and checkpoints on an embedded log, and says what it was promised.

    python -m tests.system.faults.life          orders as lines of JSON on stdin; one forked process for each

    {"root": folder, "life": 3, "seed": 1, "buffer": 65536, "shim": path of the record of changes, "sync_us": 2000}

It writes to ROOT/log, and one line at a time to ROOT/said:

    opened 12 0 7          the log is open, and the partitions end there
    told 60 20 25 15 9 9 4 ticket 60 is acknowledged: up to it the partitions were given 20, 25, 15 records in this
                           life, and checkpoints at 9, 9, 4 were written
    given 1 8 crc crc …    a reader of partition 1 was given records from offset 8 on
    troubled LogFull       the log refuses, for now

Forking spares each life the start of an interpreter: there will be thousands.
"""

import asyncio
import ctypes
import json
import os
import random
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import perdure.log.disk
import perdure.log.embedded
from perdure.errors import LogError
from perdure.log.embedded import EmbeddedLog
from perdure.log.embedded_store import EmbeddedStore
from perdure.log.flusher import Flush, Flusher
from perdure.log.protocol import Batch
from tests.system.faults.records import PARTITIONS, Fold, Record, make

WRITERS = 4
HOUR_MS = 3_600_000


@dataclass
class Order:
    """How a life is to be."""

    root: str
    life: int
    seed: int
    buffer: int = 32 << 20
    """RocksDB's write buffer: small ones make many tables and change WALs often."""
    shim: str = ""
    sync_us: int = 0
    full: bool = False
    """There is no room now and then (by the shim)."""
    failing: bool = False
    """A sync fails now and then (by the shim)."""
    clock: bool = False
    """The clock leaps now and then (by the shim)."""
    said: str = ""
    """Where it says what it was promised, if not in ROOT."""
    lie: str = ""
    """One of `LIES`: what a log might do wrong, to see whether it is noticed."""


class Shim:
    """What the process asks of the file layer that it runs on; nothing if there is none."""

    def __init__(self, order: Order) -> None:
        self._library = ctypes.CDLL(None) if order.shim else None
        if self._library is not None:
            self._library.faults_start(order.root.encode(), order.shim.encode(), order.sync_us)

    def full(self, on: bool) -> None:
        if self._library is not None:
            self._library.faults_full(int(on))

    def fail_syncs(self, count: int) -> None:
        if self._library is not None:
            self._library.faults_fail_syncs(count)

    def clock(self, off_ms: int) -> None:
        if self._library is not None:
            self._library.faults_clock(ctypes.c_int64(off_ms))


class Life:
    def __init__(self, order: Order) -> None:
        self.order = order
        self.shim = Shim(order)
        self.random = random.Random(order.seed)
        self._said = os.open(order.said or Path(order.root) / "said", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        if order.clock:
            self.shim.clock(self.random.choice((-HOUR_MS, 0, HOUR_MS)))
        self.log = EmbeddedLog(Path(order.root) / "log", PARTITIONS)
        self.counts = [0] * PARTITIONS
        self.ticket = 0
        self.folds = [Fold() for _ in range(PARTITIONS)]
        self.stored = [0] * PARTITIONS
        self.notes = 0
        self._tasks: list[asyncio.Task[None]] = []

    def say(self, *words: object) -> None:
        os.write(self._said, (" ".join(map(str, words)) + "\n").encode())

    async def live(self) -> None:
        """For ever."""
        await self.log.open()
        log = self.log
        self.say("opened", *(log.end(p) for p in range(PARTITIONS)))
        for partition, fold in enumerate(self.folds):
            fold.load(log.store(partition).scan(b""))
            self.stored[partition] = fold.offset
            log.follow(partition, fold.offset, self.take)
            log.follow(partition, self.random.randint(0, log.end(partition)), self.glance)
        self._tasks = [asyncio.ensure_future(self.write()) for _ in range(WRITERS)]
        self._tasks.append(asyncio.ensure_future(self.checkpoint()))
        self._tasks.append(asyncio.ensure_future(self.trouble()))
        await asyncio.gather(*self._tasks)

    def take(self, batch: Batch) -> None:
        fold = self.folds[batch.partition]
        assert batch.offset == fold.offset, f"offset {batch.offset} follows {fold.offset}"
        for raw in batch.values:
            fold.take(raw)
        self.glance(batch)

    def glance(self, batch: Batch) -> None:
        self.say("given", batch.partition, batch.offset, *map(crc32, batch.values))

    async def write(self) -> None:
        while True:
            for _ in range(self.random.choice((1, 1, 3, 10, 40))):
                self.append(self.random.randrange(PARTITIONS))
            promise = (self.ticket, *self.counts, *self.stored)
            try:
                await self.log.acknowledge(self.ticket)
            except LogError as error:
                self.say("troubled", type(error).__name__)
                await self.better()
                continue
            self.say("told", *promise)
            if self.random.random() < 0.2:
                await asyncio.sleep(self.random.random() / 500)

    def append(self, partition: int) -> None:
        record = Record(self.order.life, partition, self.counts[partition], self.ticket + 1)
        ticket = self.log.append(partition, make(self.random, record))
        self.counts[partition] += 1
        self.ticket += 1
        assert ticket == self.ticket
        if self.random.random() < 0.05:
            self.log.side("notes", partition, b"%d %d" % (self.order.life, self.notes))
            self.notes += 1

    async def better(self) -> None:
        while self.log.failure is not None:
            await asyncio.sleep(0.005)

    async def checkpoint(self) -> None:
        """As the engine does: all changes of a partition and its place, in one write."""
        while True:
            await asyncio.sleep(self.random.random() / 100)
            partition = self.random.randrange(PARTITIONS)
            fold = self.folds[partition]
            sealed = fold.seal()
            while True:
                try:
                    self.log.store(partition).write(*sealed)
                    break
                except LogError:
                    await self.better()
            # Sealed and written in one go unless there was trouble; then the fold may have gone on.
            self.stored[partition] = int(sealed[0][-1][1].split()[0])

    async def trouble(self) -> None:
        """What the file layer and the clock do to us."""
        while True:
            await asyncio.sleep(self.random.random() / 10)
            if self.order.clock:
                self.shim.clock(self.random.randint(-HOUR_MS, HOUR_MS))
            if self.order.failing:
                self.shim.fail_syncs(self.random.randint(1, 3))
            if self.order.full:
                self.shim.full(True)
                await asyncio.sleep(self.random.random() / 8)
                self.shim.full(False)


def _acknowledge_unsynced() -> None:
    def flush(flusher: Flusher, flush: Flush) -> None:
        flusher._loop.call_soon(flusher._done, None)

    Flusher.flush = flush  # type: ignore[assignment,method-assign]


def _names_unsynced() -> None:
    for name in ("sync_directory", "make_directories"):
        setattr(perdure.log.embedded, name, lambda directory: directory.mkdir(exist_ok=True))


def _checkpoint_in_two() -> None:
    real = EmbeddedStore.write

    def write(store: EmbeddedStore, puts: Any, deletes: Any, clear: Any = ()) -> None:
        real(store, puts[-1:], ())
        real(store, puts[:-1], deletes, clear)

    EmbeddedStore.write = write  # type: ignore[method-assign]


LIES = {
    "acknowledge unsynced": _acknowledge_unsynced,
    "names unsynced": _names_unsynced,
    "checkpoint in two": _checkpoint_in_two,
}


def run(order: Order) -> None:
    if order.lie:
        LIES[order.lie]()
    perdure.log.disk.WRITE_BUFFER_BYTES = order.buffer
    perdure.log.embedded._RETRY_S = 0.005, 0.05  # a life is short
    try:
        asyncio.run(Life(order).live())
    except BaseException as error:
        print(f"life {order.life} of {order.root}: {error!r}", file=sys.stderr, flush=True)
        raise


def nursery() -> None:
    """Answers each order with the pid of the life, and once it has ended with how."""
    for line in sys.stdin:
        order: dict[str, Any] = json.loads(line)
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                run(Order(**order))
            finally:
                os._exit(code)
        os.write(1, b"%d\n" % pid)
        _, status = os.waitpid(pid, 0)
        os.write(1, b"%d\n" % os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    nursery()
