"""The floor: a bare loop that does only what a durable step cannot avoid.

    append (JSON record) → durable → read back → decode → put in RocksDB with the offset → resume a coroutine

The engine is measured against it, in pairs. `python -m benchmarks.floor RUNS STEPS [IN_FLIGHT]` runs it alone.
"""

import asyncio
import concurrent.futures
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import msgspec
from msgspec import Raw
from rocksdict import Options, Rdict, WriteBatch

from benchmarks.brokers import KafkaLog
from benchmarks.measure import Meter, Result, percentile, run


class Requested(msgspec.Struct, tag_field="kind", tag="run.requested"):
    run: str
    function: str
    data: Raw


class Completed(msgspec.Struct, tag_field="kind", tag="step.completed"):
    run: str
    op: str
    attempt: int
    data: Raw


class Finished(msgspec.Struct, tag_field="kind", tag="run.finished"):
    run: str
    data: Raw


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Requested | Completed | Finished).decode
_value = msgspec.json.Decoder().decode


def _open(path: Path) -> Rdict:
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    return Rdict(str(path), options)


class Log(Protocol):
    async def start(self, read: Callable[[list[bytes]], None]) -> None: ...
    def append(self, record: bytes) -> None: ...
    async def stop(self) -> None: ...


class EmbeddedLog:
    """Group commit: one write of all that is pending, one fsync in a thread, then all of it is read back."""

    def __init__(self, path: Path) -> None:
        self._db = _open(path)
        self._read: Callable[[list[bytes]], None]
        self._loop = asyncio.get_running_loop()
        self._pool = concurrent.futures.ThreadPoolExecutor(1)
        self._pending: list[bytes] = []
        self._busy = False
        self._offset = 0

    async def start(self, read: Callable[[list[bytes]], None]) -> None:
        self._read = read

    def append(self, record: bytes) -> None:
        self._pending.append(record)
        if not self._busy:
            self._busy = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        flushed, self._pending = self._pending, []
        batch = WriteBatch(raw_mode=True)
        offset = self._offset
        for record in flushed:
            batch.put(offset.to_bytes(8, "big"), record)
            offset += 1
        self._offset = offset
        self._db.write(batch)
        flush = self._loop.run_in_executor(self._pool, self._db.flush_wal, True)
        flush.add_done_callback(lambda _: self._flushed(flushed))

    def _flushed(self, flushed: list[bytes]) -> None:
        if self._pending:
            self._flush()
        else:
            self._busy = False
        self._read(flushed)

    async def stop(self) -> None:
        self._pool.shutdown()
        self._db.close()


class Floor:
    """Runs of no-op steps over such a log. The next run is asked for when one has finished."""

    def __init__(self, folder: Path, log: Log) -> None:
        self._loop = asyncio.get_running_loop()
        self._log = log
        self._state = _open(folder / "floor-state")
        self._waiting: dict[tuple[str, str], asyncio.Future[Any]] = {}
        self._steps = 0
        self._prefix = ""
        self._asked = self._runs = self._finished = 0
        self._all: asyncio.Future[None] = self._loop.create_future()

    @classmethod
    async def opened(cls, folder: Path, log: str) -> "Floor":
        floor = cls(folder, KafkaLog(log) if log else EmbeddedLog(folder / "floor"))
        await floor._log.start(floor._read)
        return floor

    async def go(self, prefix: str, runs: int, steps: int, in_flight: int) -> None:
        self._prefix, self._runs, self._steps = prefix, runs, steps
        self._asked = self._finished = 0
        self._all = self._loop.create_future()
        for _ in range(min(in_flight, runs)):
            self._ask()
        await self._all

    def _ask(self) -> None:
        self._log.append(_encode(Requested(f"{self._prefix}{self._asked:024d}", "steps10", Raw(b'{"a":1}'))))
        self._asked += 1

    def _read(self, records: list[bytes]) -> None:
        batch = WriteBatch(raw_mode=True)
        for raw in records:
            record = _decode(raw)
            kind = type(record)
            if kind is Completed:
                batch.put(f"{record.run}/{record.op}".encode(), raw)
                future = self._waiting.pop((record.run, record.op), None)
                if future is not None:
                    future.set_result(_value(record.data))
            elif kind is Requested:
                batch.put(record.run.encode(), raw)
                asyncio.ensure_future(self._run(record.run))  # noqa: RUF006 - its future's waiter keeps it alive
            else:
                batch.put(record.run.encode(), raw)
                self._finished += 1
                if self._asked < self._runs:
                    self._ask()
                elif self._finished == self._runs:
                    self._all.set_result(None)
        batch.put(b"@offset", b"0")
        self._state.write(batch)

    async def _step(self, run_id: str, op: str) -> Any:
        future = self._waiting[run_id, op] = self._loop.create_future()
        self._log.append(_encode(Completed(run_id, op, 0, Raw(_encode({"ok": True})))))
        return await future

    async def _run(self, run_id: str) -> None:
        for i in range(self._steps):
            await self._step(run_id, f"step:{i}")
        self._log.append(_encode(Finished(run_id, Raw(b'"done"'))))

    async def stop(self) -> None:
        await self._log.stop()
        self._state.close()


async def floor(folder: Path, *, runs: int, in_flight: int, steps: int = 10, log: str = "") -> Result:
    """The workloads `steps10` and `latency`, as bare as can be."""
    bare = await Floor.opened(folder, log)
    await bare.go("warm", 2 * in_flight, steps, in_flight)
    meter = Meter()
    await bare.go("sat", runs, steps, in_flight)
    saturated = meter.per(runs * steps, "step")
    took: list[float] = []
    for i in range(100):
        began = time.perf_counter()
        await bare.go(f"lat{i}-", 1, 1, 1)
        took.append((time.perf_counter() - began) * 1000)
    began = time.perf_counter()
    await bare.go("seq", 1, 50, 1)
    alone = (time.perf_counter() - began) * 1000 / 50
    await bare.stop()
    return {
        **saturated,
        "p50_ms": round(percentile(took, 0.5), 3),
        "p99_ms": round(percentile(took, 0.99), 3),
        "ms_per_step_of_50": round(alone, 3),
    }


if __name__ == "__main__":
    count, length, *more = map(int, sys.argv[1:])
    with tempfile.TemporaryDirectory() as made:
        print(run(floor(Path(made), runs=count, in_flight=more[0] if more else count, steps=length)))
