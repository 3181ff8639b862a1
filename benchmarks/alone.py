"""One run at a time: how long a caller waits, and whether a long run slows down."""

import time
from itertools import pairwise
from pathlib import Path

from benchmarks.brokers import engine_of
from benchmarks.floor import Floor
from benchmarks.measure import Result, percentile
from benchmarks.programs import app, marked, marks, steps
from perdure import Engine


async def latency(folder: Path, *, runs: int, log: str = "") -> Result:
    """One run of one step after another, in turns with the floor's, which makes the same appends; then one of fifty."""
    bare = await Floor.opened(folder, log)
    async with engine_of(app, folder, log):
        for _ in range(50):
            await steps.call(1)
            await bare.go("warm", 1, 1, 1)
        took, floor = [], []
        for number in range(runs):
            took.append(await _ms(1))
            began = time.perf_counter()
            await bare.go(f"lat{number}-", 1, 1, 1)
            floor.append((time.perf_counter() - began) * 1000)
        fifty = [await _ms(50) / 50 for _ in range(10)]
    await bare.stop()
    ours, theirs = percentile(took, 0.5), percentile(floor, 0.5)
    return {
        "p50_ms": round(ours, 3),
        "p99_ms": round(percentile(took, 0.99), 3),
        "floor_p50_ms": round(theirs, 3),
        "over_floor": round(ours / theirs, 3),
        "ms_per_step_of_50": round(percentile(fifty, 0.5), 3),
    }


async def _ms(count: int) -> float:
    began = time.perf_counter()
    await steps.call(count)
    return (time.perf_counter() - began) * 1000


async def long(folder: Path, *, steps_of_run: int) -> Result:
    """One run of many steps: processor time and time of its last thousand steps over those of its first."""
    async with Engine(app, log=f"embedded://{folder}/log"):
        await steps.call(1000)
        marks.clear()
        await marked.call(steps_of_run)
    thousands = [(b[0] - a[0], b[1] - a[1]) for a, b in pairwise(marks)]
    first, last = thousands[0], thousands[-1]
    return {
        "cpu_us_step_first": round(first[1] * 1000, 1),
        "cpu_us_step_last": round(last[1] * 1000, 1),
        "last_over_first_cpu": round(last[1] / first[1], 3),
        "last_over_first_time": round(last[0] / first[0], 3),
    }
