"""How fast `perdure check` is, and what memory it takes: `python -m benchmarks.checking --runs 10000 --ended 50000`.

Runs of three steps that wait for an event, on an embedded log, behind others that have ended. The check is a process of
its own: its peak memory is told, and that of reading the code and nothing else.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

from perdure import App, Context, Engine, Event
from perdure.flow.view import View
from perdure.log import open_log
from perdure.past.checking import Check
from perdure.past.replay import Replayer

AT_ONCE = 500
PARTITIONS = 4
app = App("bench")


@app.step
async def work(n: int) -> int:
    return n + 1


@app.function(id="order", on="order/placed")
async def order(ctx: Context, event: Event) -> int:
    n: int = event.data["n"]
    for _ in range(3):
        n = await work(n)
    if event.data["waits"]:
        await ctx.wait_for_event("order/shipped", match="data.n")
    return n


async def fill(folder: Path, runs: int, ended: int) -> None:
    """Runs that have ended, and then those that go on."""
    async with Engine(app, log=f"embedded://{folder}?retention=forever", partitions=PARTITIONS) as engine:
        for begin in range(0, ended + runs, AT_ONCE):
            numbers = range(begin, min(begin + AT_ONCE, ended + runs))
            await engine.send_many(Event("order/placed", {"n": n, "waits": n >= ended}) for n in numbers)
        while sum(one.running for one in await engine.port_of(app.name).functions()) != runs:
            await asyncio.sleep(0.1)
        await asyncio.sleep(2)  # the last ones come to their waits


async def check(folder: Path) -> dict[str, float]:
    """Of a folder that `fill` left."""
    before = _peak_mb()
    log = open_log(f"embedded://{folder}?retention=forever", app="bench", partitions=PARTITIONS)
    await log.open()
    replayer, replaying = Replayer(app), 0.0

    class Timed(Check):
        async def view(self, view: View) -> None:
            nonlocal replaying
            begun = perf_counter()
            await super().view(view)
            replaying += perf_counter() - begun

    began = perf_counter()
    report = await Timed(replayer).log(log)
    took = perf_counter() - began
    await replayer.close()
    await log.close()
    assert report.well == {"waits": report.in_flight}, report
    return {
        "runs": report.in_flight,
        "seconds": took,
        "of_replaying": replaying,
        "replayed_a_second": report.in_flight / replaying,
        "checked_a_second": report.in_flight / took,
        "before_mb": before,
        "peak_mb": _peak_mb(),
    }


def _peak_mb() -> float:
    """Of this process since it was executed; that of `getrusage` knows its parent's too."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.checking", description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--ended", type=int, default=50_000)
    parser.add_argument("--folder", type=Path, help="only check the log that is there")
    given = parser.parse_args()
    if given.folder is not None:
        print(json.dumps(asyncio.run(check(given.folder))))
        return
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(fill(Path(folder), given.runs, given.ended))
        subprocess.run([sys.executable, "-m", "benchmarks.checking", "--folder", folder], check=True)


if __name__ == "__main__":
    main()
