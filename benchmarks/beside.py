"""The engine with and without a history beside it, in turns within one process."""

import asyncio
from pathlib import Path
from statistics import median

from benchmarks.measure import Meter, Result, bounded
from benchmarks.programs import app, steps
from benchmarks.saturated import STEPS
from perdure import Engine
from perdure.history.projector import Projector
from perdure.history.sqlite import FILE, SqliteHistory


async def history(folder: Path, *, runs: int, in_flight: int, pairs: int) -> Result:
    """`steps10`; what one half has left unread, the next with a history may read."""
    reads = False
    async with Engine(app, log=f"embedded://{folder}/log") as engine:
        projector = Projector(engine.nodes[0].log, SqliteHistory(folder / FILE), owned=lambda partition: reads)
        await projector.open()
        reading = asyncio.create_task(projector.run())
        await bounded(range(2 * in_flight), in_flight, lambda _: steps.call(STEPS))
        found: dict[bool, list[Result]] = {False: [], True: []}
        for number in range(pairs):
            for reads in (False, True) if number % 2 else (True, False):
                await asyncio.sleep(0.3)  # a slice that was begun comes to its end; a look at the log begins the next
                meter = Meter()
                await bounded(range(runs), in_flight, lambda _: steps.call(STEPS))
                found[reads].append(meter.per(runs * STEPS, "step"))
        projector.stop()
        await reading
        await projector.close()
    ratios = [beside["steps_s"] / alone["steps_s"] for alone, beside in zip(found[False], found[True], strict=True)]
    return {
        "alone_steps_s": median(one["steps_s"] for one in found[False]),
        "beside_steps_s": median(one["steps_s"] for one in found[True]),
        "beside_over_alone": round(median(ratios), 3),
        "pairs": [round(ratio, 3) for ratio in sorted(ratios)],
    }
