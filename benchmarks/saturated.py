"""Many runs at once: what a step, and an event, costs when the process is full."""

import asyncio
from pathlib import Path

from benchmarks.brokers import engine_of
from benchmarks.measure import Meter, Result, bounded
from benchmarks.programs import app, steps, triggered_runs
from perdure import Engine, Event

STEPS = 10
_BATCH = 100


async def steps10(folder: Path, *, runs: int, in_flight: int, log: str = "") -> Result:
    """Runs of ten no-op steps, each awaited by its caller."""
    async with engine_of(app, folder, log):
        await bounded(range(2 * in_flight), in_flight, lambda _: steps.call(STEPS))
        meter = Meter()
        await bounded(range(runs), in_flight, lambda _: steps.call(STEPS))
        return meter.per(runs * STEPS, "step")


async def events(folder: Path, *, count: int, in_flight: int) -> Result:
    """Events that nobody listens to, and events that start one run each; sent a hundred at a time."""
    async with Engine(app, log=f"embedded://{folder}/log") as engine:

        async def send(name: str, number: int) -> None:
            batches = [[Event(name, {"i": i}) for i in range(at, at + _BATCH)] for at in range(0, number, _BATCH)]
            await bounded(batches, max(1, in_flight // _BATCH), engine.send_many)

        async def ran(number: int) -> None:
            while triggered_runs[0] < number:
                await asyncio.sleep(0.001)

        await send("bench/none", 1000)
        meter = Meter()
        await send("bench/none", count)
        ignored = meter.per(count, "event")
        await send("bench/one", 1000)
        await ran(1000)
        meter = Meter()
        await send("bench/one", count)
        await ran(1000 + count)
        return {"triggering_nothing": ignored, "one_function": meter.per(count, "event")}
