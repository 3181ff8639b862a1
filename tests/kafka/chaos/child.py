"""A worker that is killed, stopped and left without its brokers.

    python -m tests.kafka.chaos.child LOG STEPS

Orders come as lines of JSON on stdin and are answered on stdout once they are durable. Each body of a step appends one
line to STEPS when it begins, with the token that it is going to give:

    <wall ms> <pid> <token> <key>
"""

import asyncio
import json
import os
import secrets
import sys
import time
from pathlib import Path
from typing import Any, TypedDict

from perdure import App, Context, Engine, Event, current_step
from perdure.partition import snapshots

PARTITIONS = 8
WORK, SECOND = "chaos/work", "chaos/second"
STEPS_OF_A_RUN = 5
ROUND_MS = int(os.environ.get("CHAOS_ROUND_MS", "3000"))

app = App("chaos")
_steps = -1


class Work(TypedDict):
    n: int
    sleep_ms: int
    paired: bool
    """Its run waits for a second event."""


def token() -> str:
    """What nobody else can have made."""
    made = secrets.token_hex(8)
    line = f"{time.time_ns() // 1_000_000} {os.getpid()} {made} {current_step().key}\n"
    os.write(_steps, line.encode())
    return made


@app.step
async def draw(n: int) -> str:
    made = token()
    await asyncio.sleep(0.01 * n)
    return made


@app.step
def draw_in_a_thread() -> str:
    made = token()
    time.sleep(0.005)
    return made


@app.function(on=WORK)
async def work(ctx: Context, event: Event[Work]) -> list[str]:
    tokens = [await draw(0)]
    tokens += await asyncio.gather(draw(1), draw(2))
    await ctx.sleep(f"{event.data['sleep_ms']}ms")
    tokens.append(await draw_in_a_thread())
    if event.data["paired"]:
        await ctx.wait_for_event(SECOND, match="data.n")
    tokens.append(await draw(3))
    return tokens


def say(**fields: Any) -> None:
    os.write(1, json.dumps(fields).encode() + b"\n")


async def obey(engine: Engine, order: dict[str, Any]) -> None:
    if order["order"] == "send":
        await engine.send(order["name"], order["data"], id=order["id"])
        say(sent=order["id"])
    else:
        runs, _ = await engine.port.runs(limit=1_000_000)
        (node,) = engine.nodes
        mine = [one.partition for one in node.processors if one.performing]
        say(owned=mine, states={run.id: [run.function, run.status] for run in runs})


async def main(log: str, steps: Path) -> None:
    global _steps
    _steps = os.open(steps, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    snapshots.ROUND_MS = ROUND_MS
    async with Engine(app, log=log, partitions=PARTITIONS) as engine:
        say(ready=os.getpid())
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        tasks = [asyncio.ensure_future(obey(engine, json.loads(line))) async for line in reader]
        for task in tasks:
            task.cancel()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
