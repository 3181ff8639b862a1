"""The process that is killed: the import of the examples, with every attempt of a step written to a file.

    python -m tests.system.kill.child FOLDER

Orders come as lines of JSON on stdin, each with a number, and are answered on stdout once they are durable. The steps
write two lines to FOLDER/steps.txt, before and after their work:

    started|done|raised <wall ms> <pid> <attempt> <thread|task> <key>
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zlib import crc32

from examples.contacts_import import REVIEWED, UPLOADED, Upload, app
from perdure import Context, Engine, Event, Step, current_step

WATCH_TICKS = 6
FAILING = 37
"""One row in so many fails at its first attempt, and is tried again a second later."""


def wall_ms() -> int:
    return time.time_ns() // 1_000_000


class StepsFile:
    """Appended to by one `write` a line, so that a killed process leaves whole lines."""

    def __init__(self) -> None:
        self._fd = -1

    def open(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def write(self, word: str, kind: str) -> None:
        step = current_step()
        line = f"{word} {wall_ms()} {os.getpid()} {step.attempt} {kind} {step.key}\n"
        os.write(self._fd, line.encode())


STEPS = StepsFile()


@app.step
async def tick(n: int) -> int:
    await asyncio.sleep(0.005)
    return n


@app.function(on=UPLOADED)
async def watch(ctx: Context, event: Event[Upload]) -> str:
    """Beside each import: sleeps and a wait that may time out, so that timers fire under the kills as well."""
    total = 0
    for n in range(WATCH_TICKS):
        await ctx.sleep("350ms")
        total += await tick(n)
    review = await ctx.wait_for_event(REVIEWED, match="data.upload_id", timeout="1500ms")
    return f"{total} {'late' if review is None else 'reviewed'}"


def fails_first(key: str) -> bool:
    """Whether the step of this key fails at its first attempt."""
    return key.rpartition("/")[2].startswith("insert") and crc32(key.encode()) % FAILING == 0


def _stumble() -> None:
    step = current_step()
    if step.attempt == 1 and fails_first(step.key):
        raise ConnectionError("the table is locked")


def trace(step: Step[..., Any]) -> None:
    """Both lines around the step's body; the body stays what the example has."""
    step.spec.fn = _traced_task(step.spec.fn) if step.spec.is_async else _traced_thread(step.spec.fn)


def _traced_task(fn: Callable[..., Any]) -> Callable[..., Any]:
    async def traced(*args: Any, **kwargs: Any) -> Any:
        STEPS.write("started", "task")
        try:
            _stumble()
            result = await fn(*args, **kwargs)
        except BaseException:
            STEPS.write("raised", "task")
            raise
        STEPS.write("done", "task")
        return result

    return traced


def _traced_thread(fn: Callable[..., Any]) -> Callable[..., Any]:
    def traced(*args: Any, **kwargs: Any) -> Any:
        STEPS.write("started", "thread")
        result = fn(*args, **kwargs)
        STEPS.write("done", "thread")
        return result

    return traced


def say(**fields: Any) -> None:
    os.write(1, json.dumps(fields).encode() + b"\n")


class Orders:
    """What the parent asks for."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._tasks: set[asyncio.Task[None]] = set()

    async def follow(self) -> None:
        """Until stdin ends."""
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        async for line in reader:
            task = asyncio.ensure_future(self._obey(json.loads(line)))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _obey(self, order: dict[str, Any]) -> None:
        match order["order"]:
            case "send":
                event = await self._engine.send(order["name"], order["data"], id=order["id"], user={"id": "ada"})
                answer: dict[str, Any] = {"event": event}
            case "cancel":
                answer = await self._cancel(order)
            case "states":
                answer = await self._states()
            case _:
                answer = self._counts()
        say(n=order["n"], at=wall_ms(), **answer)

    async def _cancel(self, order: dict[str, Any]) -> dict[str, Any]:
        runs, _ = await self._engine.port.runs(event_id=order["event"])
        for run in runs:
            await self._engine.port.cancel(run.id)
        return {"cancelled": [run.id for run in runs]}

    async def _states(self) -> dict[str, Any]:
        runs, cursor = await self._engine.port.runs(limit=1_000_000)
        assert not cursor
        return {"runs": {run.id: [run.function, run.status, run.event_id] for run in runs}}

    def _counts(self) -> dict[str, Any]:
        (node,) = self._engine.nodes
        return {"counts": [{**one.records, "offset": one.offset} for one in node.processors]}


async def main(folder: Path) -> None:
    os.environ["CONTACTS_DB"] = str(folder / "contacts.db")
    STEPS.open(folder / "steps.txt")
    app.load()
    for step in app.steps:
        trace(step)
    async with Engine(app, log=f"embedded://{folder}/log") as engine:
        say(ready=os.getpid())
        await Orders(engine).follow()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
