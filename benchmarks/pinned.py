"""Two workers of one app, a core each, against one: steps that burn processor time, on Kafka.

    parent ──"go RUNS"──► worker 1 ──enqueues──► journal ──► workers 1 and 2, as processes
       ▲                                                       │
       └────── {owned, steps, cpu}, each fiftieth of a second ─┘

Measured is the time from the word to go until all steps were read back, wherever they ran. On a machine that has other
work the shares of the cores that the workers got say what the ratio is worth.
"""

import asyncio
import os
import secrets
import sys
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Self

import msgspec

from benchmarks.brokers import delete_topics
from benchmarks.children import ROOT, MeasurementFailed
from benchmarks.measure import Result, run
from benchmarks.programs import app, burned, burning
from perdure import Engine

STEPS = 10
PARTITIONS = 8
_SAY_SECONDS = 0.02
_START_SECONDS = 60
_LIMIT_SECONDS = 300


class Said(msgspec.Struct):
    """What a worker says of itself."""

    owned: int
    steps: int
    cpu: float


class Worker:
    """A worker's process, as its parent has it. `said` is the last that was heard."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.said = Said(0, 0, 0.0)
        self._listening = asyncio.ensure_future(self._listen())

    @classmethod
    @asynccontextmanager
    async def started(cls, url: str, core: int) -> AsyncGenerator[Self]:
        command = [sys.executable, "-m", "benchmarks.pinned", url, str(core)]
        pipe = asyncio.subprocess.PIPE
        worker = cls(await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, cwd=ROOT))
        try:
            yield worker
        finally:
            await worker._stop()

    def tell(self, runs: int) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(b"%d\n" % runs)

    async def _listen(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            self.said = msgspec.json.decode(line, type=Said)

    async def _stop(self) -> None:
        """Its end of file is the word to stop."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(_START_SECONDS):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        await self._listening


async def pinned(folder: Path, *, runs: int, workers: int, log: str) -> Result:
    """Steps a second of so many workers, each on a core of its own."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < workers:
        raise MeasurementFailed(f"{workers} workers need a core each, and there are {len(cores)}")
    url = f"{log}/bench-{secrets.token_hex(6)}?data={folder}"
    try:
        async with AsyncExitStack() as stack:
            started: list[Worker] = []
            for number in range(workers):
                place = f"{url}/{number}"
                started.append(await stack.enter_async_context(Worker.started(place, cores[number])))
                await _owned(started)
            return await _measured(started, runs)
    finally:
        await delete_topics(url)


async def _owned(workers: Sequence[Worker]) -> None:
    """Returns when they have the partitions in equal parts."""
    share = PARTITIONS // len(workers)
    async with asyncio.timeout(_START_SECONDS):
        while any(worker.said.owned != share for worker in workers):
            await asyncio.sleep(_SAY_SECONDS)


async def _measured(workers: Sequence[Worker], runs: int) -> Result:
    cpu = [worker.said.cpu for worker in workers]
    began = time.perf_counter()
    workers[0].tell(runs)
    async with asyncio.timeout(_LIMIT_SECONDS):
        while sum(worker.said.steps for worker in workers) < runs * STEPS:
            await asyncio.sleep(_SAY_SECONDS / 4)
    seconds = time.perf_counter() - began
    used = [worker.said.cpu - before for worker, before in zip(workers, cpu, strict=True)]
    return {
        "steps_s": round(runs * STEPS / seconds, 1),
        "cpu_ms_step": round(sum(used) * 1000 / (runs * STEPS), 3),
        "shares_of_cores": [round(one / seconds, 2) for one in used],
        "steps": [worker.said.steps for worker in workers],
    }


async def _work(url: str) -> Result:
    """The worker's process."""
    words = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(words), sys.stdin)
    async with Engine(app, log=url, partitions=PARTITIONS) as engine:
        saying = asyncio.ensure_future(_say(engine))
        async for word in words:
            await asyncio.gather(*(burning.enqueue(STEPS) for _ in range(int(word))))
        saying.cancel()
    return {}


async def _say(engine: Engine) -> None:
    while True:
        owned = sum(processor.performing for processor in engine.nodes[0].processors)
        print(msgspec.json.encode(Said(owned, burned[0], time.process_time())).decode(), flush=True)
        await asyncio.sleep(_SAY_SECONDS)


def main(url: str, core: str) -> None:
    os.sched_setaffinity(0, {int(core)})
    run(_work(url))


if __name__ == "__main__":
    main(*sys.argv[1:])
