"""The functions that are measured. Steps do nothing, mostly: what is left is the engine's own cost."""

import asyncio
import time

from perdure import App, Context, Event

app = App("bench")
BURN_SECONDS = 0.002
triggered_runs: list[int] = [0]
burned: list[int] = [0]
marks: list[tuple[float, float]] = []
"""(time, processor time) at every thousandth step of `marked`."""


@app.step
async def noop(i: int) -> dict[str, int]:
    return {"i": i}


@app.background
async def steps(n: int) -> str:
    for i in range(n):
        await noop(i)
    return "done"


@app.step
async def burn(i: int) -> int:
    """Two milliseconds of this thread's processor time, however long they take."""
    until = time.thread_time() + BURN_SECONDS
    while time.thread_time() < until:
        pass
    return i


@app.background
async def burning(n: int) -> str:
    """As `steps`, counting those that were read back."""
    for i in range(n):
        await burn(i)
        burned[0] += 1
    return "done"


@app.background
async def marked(n: int) -> str:
    """As `steps`, noting what each thousand took."""
    marks.append((time.perf_counter(), time.process_time()))
    for i in range(1, n + 1):
        await noop(i)
        if i % 1000 == 0:
            marks.append((time.perf_counter(), time.process_time()))
    return "done"


@app.background
async def waiter(ctx: Context, key: str) -> str:
    await ctx.wait_for_event("bench/go", match={"data.key": key})
    return "done"


@app.background
async def child(i: int) -> int:
    return i


@app.background
async def parent(n: int) -> int:
    return sum(await asyncio.gather(*(child.call(i) for i in range(n))))


@app.background
async def sleeper(ctx: Context, n: int) -> int:
    await ctx.sleep("1 day")
    return n


@app.function(on="bench/one")
async def triggered(ctx: Context, event: Event) -> None:
    """A run that ends at once: the cost of an event that starts one."""
    triggered_runs[0] += 1
