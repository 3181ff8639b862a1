"""Sleeping runs: the memory that each takes, and how soon an engine is ready that was killed with all of them."""

import os
import signal
import sys
import time
from pathlib import Path

import msgspec

from benchmarks.measure import Meter, Result, bounded, pss_bytes, quiet
from benchmarks.programs import app, sleeper, steps
from perdure import Engine

TAIL = 5_000
"""Runs begun after the weighing: their records are a tail that the restart has to fold."""


async def fill(folder: Path, *, runs: int, in_flight: int) -> Result:
    """Start the sleepers and weigh them; then start some more, and die by SIGKILL at their last acknowledgement."""
    engine = await Engine(app, log=f"embedded://{folder}/log").__aenter__()
    await bounded(range(500), in_flight, lambda _: steps.call(10))
    await quiet(engine, 1)
    before = pss_bytes()
    meter = Meter()
    await bounded(range(runs), in_flight, sleeper.enqueue)
    started = meter.per(runs, "start")
    await quiet(engine, 2)
    grown = pss_bytes() - before
    await bounded(range(runs, runs + TAIL), in_flight, sleeper.enqueue)
    result = {"runs": runs, **started, "pss_before_mb": before >> 20, "pss_growth_mb": grown >> 20,
              "pss_bytes_run": round(grown / runs)}  # fmt: skip
    sys.stdout.buffer.write(msgspec.json.encode(result) + b"\n")
    sys.stdout.flush()
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")


async def restart(folder: Path, *, runs: int) -> Result:
    """Open what `fill` left behind, and count who sleeps."""
    before = pss_bytes()
    began = time.perf_counter()
    async with Engine(app, log=f"embedded://{folder}/log") as engine:
        ready = time.perf_counter() - began
        await quiet(engine, 1)
        grown = pss_bytes() - before
        asleep, _ = await engine.port.runs(function="sleeper", status="suspended", limit=runs + TAIL)
    assert len(asleep) == runs + TAIL, f"{len(asleep)} of {runs + TAIL} acknowledged runs sleep after the restart"
    return {"ready_s": round(ready, 3), "pss_growth_mb": grown >> 20, "asleep": len(asleep)}
