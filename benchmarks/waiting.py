"""Runs that wait: for an event each, and for their children."""

import asyncio
import time
from pathlib import Path

from benchmarks.measure import Meter, Result, bounded, percentile, quiet
from benchmarks.programs import app, parent, waiter
from perdure import Engine


async def wait(folder: Path, *, runs: int, in_flight: int) -> Result:
    """Runs that each wait for an event of their own. The clock runs from the first event to the last result."""
    async with Engine(app, log=f"embedded://{folder}/log") as engine:
        for name, number in (("warm", 200), ("cold", runs)):
            keys = [f"{name}-{i}" for i in range(number)]
            meter = Meter()
            handles = dict(zip(keys, await asyncio.gather(*(waiter.enqueue(key) for key in keys)), strict=True))
            start = meter.per(number, "start")
            await quiet(engine)

            async def send(key: str) -> None:
                await engine.send("bench/go", {"key": key})

            meter = Meter()
            results = asyncio.gather(*(handle.result() for handle in handles.values()))
            await bounded(keys, in_flight, send)
            await results
    return {"runs": runs, **meter.per(number, "event"), **start}


async def fanout(folder: Path, *, children: int, rounds: int) -> Result:
    """A parent and its children, side by side; medians of the rounds."""
    async with Engine(app, log=f"embedded://{folder}/log"):
        await parent.call(500)
        seconds: list[float] = []
        cpu: list[float] = []
        for _ in range(rounds):
            began, cpu_began = time.perf_counter(), time.process_time()
            await parent.call(children)
            seconds.append(time.perf_counter() - began)
            cpu.append(time.process_time() - cpu_began)
    return {
        "children": children,
        "us_child": round(percentile(seconds, 0.5) / children * 1e6, 1),
        "cpu_us_child": round(percentile(cpu, 0.5) / children * 1e6, 1),
    }
