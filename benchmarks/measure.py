"""Clocks, memory and the event loop: what every measurement shares."""

import asyncio
import gc
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from pathlib import Path
from typing import Any

from perdure import Engine
from perdure.worker.collector import GC_THRESHOLDS

Result = dict[str, Any]


class Meter:
    """Time and processor time (all threads of this process) since it was made."""

    def __init__(self) -> None:
        self._time = time.perf_counter()
        self._cpu = time.process_time()

    def read(self) -> tuple[float, float]:
        """Seconds, and seconds of processor time."""
        return time.perf_counter() - self._time, time.process_time() - self._cpu

    def per(self, count: int, unit: str) -> Result:
        """`{unit}s_s` and `cpu_us_{unit}` of `count` units done since."""
        seconds, cpu = self.read()
        return {f"{unit}s_s": round(count / seconds), f"cpu_us_{unit}": round(cpu / count * 1e6, 2)}


def pss_bytes() -> int:
    """Memory of this process, shared pages by their share."""
    gc.collect()
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/smaps_rollup has no Pss: line")


def percentile(values: Iterable[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


async def bounded(jobs: Sequence[Any], at_once: int, do: Callable[[Any], Awaitable[Any]]) -> None:
    """`do` for each job, at most `at_once` at a time, the next as soon as one ends."""
    left = iter(jobs)

    async def work() -> None:
        for job in left:
            await do(job)

    await asyncio.gather(*(work() for _ in range(min(at_once, len(jobs)))))


async def quiet(engine: Engine, seconds: float = 0.5) -> None:
    """Until nothing new was read from the log for so long."""
    processors = engine.nodes[0].processors
    before = -1
    while (now := sum(processor.records["read"] for processor in processors)) != before:
        before = now
        await asyncio.sleep(seconds)


def run(main: Coroutine[Any, Any, Result]) -> Result:
    """On uvloop where it is installed."""
    gc.set_threshold(*GC_THRESHOLDS)
    try:
        import uvloop
    except ImportError:
        return asyncio.run(main)
    return uvloop.run(main)


def say(text: str) -> None:
    """Progress, for people."""
    print(text, file=sys.stderr, flush=True)
