"""Random programs: what user code can do with a run, put together by chance and run by one interpreter.

A program is JSON, so that it can be an argument or an event's data:

    ["seq", p, …] ["gather", p, …] ["group", p, …] ["race", p, p] ["timeout", ms, p] ["map", limit, n]
    ["step", fails] ["thread", n] ["big", n] ["sleep", ms] ["wait", k, ms] ["any", ms] ["send", k] ["raise", final]
    ["call", p] ["enqueue", p] ["cancel", p] ["result", p] ["rerun", p]
"""

import asyncio
import random
from collections.abc import Awaitable
from typing import Any

from perdure import App, CancelOn, Context, Ended, Event, NonRetriable, Retry, RunFailed, StepError, current_step

Program = list[Any]
KEYS = 3
LEAVES = ("step", "step", "thread", "big", "sleep", "wait", "any", "send")
BRANCHES = ("seq", "seq", "gather", "group", "race", "timeout", "map")
CHILDREN = ("call", "call", "enqueue", "cancel", "result", "rerun")
SPANS_MS = (1, 500, 60_000, 3_600_000)


def random_program(rng: random.Random, size: int) -> Program:
    """A program of about `size` ops."""
    if size <= 1:
        return _leaf(rng)
    if rng.random() < 0.2:
        return [rng.choice(CHILDREN), random_program(rng, size - 1)]
    kind = rng.choice(BRANCHES)
    if kind == "map":
        return ["map", rng.randint(1, 3), rng.randint(1, 5)]
    if kind == "timeout":
        return ["timeout", rng.choice(SPANS_MS), random_program(rng, size - 1)]
    parts = 2 if kind == "race" else rng.randint(2, 4)
    return [kind, *(random_program(rng, size // parts) for _ in range(parts))]


def _leaf(rng: random.Random) -> Program:
    kind = "raise" if rng.random() < 0.04 else rng.choice(LEAVES)
    match kind:
        case "step":
            return ["step", rng.choice((0, 0, 0, 1, 2, 9))]
        case "thread":
            return ["thread", rng.randrange(100)]
        case "sleep" | "any":
            return [kind, rng.choice(SPANS_MS)]
        case "wait":
            return ["wait", rng.randrange(KEYS), rng.choice(SPANS_MS)]
        case "send":
            return ["send", rng.randrange(KEYS)]
        case "big":
            return ["big", rng.choice((4_000, 5_000, 20_000))]
        case _:
            return ["raise", rng.random() < 0.5]


class Oops(NonRetriable):
    """What a final `raise` raises; the other kind is retried."""


def make_app(version: int = 0) -> App:
    """A new app whose functions interpret programs. Versions differ in what the interpreter does not use."""
    app = App("programs")

    @app.step(retries=Retry(3))
    async def work(fails: int) -> int:
        if current_step().attempt <= fails:
            raise ConnectionError("not yet")
        return fails

    @app.step
    def thread(n: int) -> int:
        return n + 1

    @app.step
    async def big(text: str) -> str:
        return text.upper()

    async def ended(ctx: Context, what: Ended) -> None:
        await work(0)

    @app.background(retries=1)
    async def play(ctx: Context, program: Program) -> list[str]:
        return await interpret(ctx, program)

    async def interpret(ctx: Context, program: Program) -> list[str]:
        kind, *rest = program
        match kind:
            case "seq":
                return [text for part in rest for text in await interpret(ctx, part)]
            case "gather":
                found = await asyncio.gather(*(interpret(ctx, part) for part in rest), return_exceptions=True)
                return [text for one in found for text in _told(one)]
            case "group":
                return await grouped(ctx, rest)
            case "race":
                index, texts = await ctx.race(interpret(ctx, rest[0]), interpret(ctx, rest[1]))
                return [f"race {index}", *texts]
            case "timeout":
                return await timed(ctx, rest[0], rest[1])
            case "map":
                return [str(n) for n in await ctx.map(work, [0] * rest[1], limit=rest[0])]
            case "call" | "enqueue" | "cancel" | "result" | "rerun":
                return await child(ctx, kind, rest[0])
            case _:
                return [await leaf(ctx, kind, rest)]

    async def grouped(ctx: Context, parts: list[Program]) -> list[str]:
        failed = 0
        tasks: list[asyncio.Task[list[str]]] = []
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(interpret(ctx, part)) for part in parts]
        except* Exception as errors:
            failed = len(errors.exceptions)
        return [f"{failed} failed"] if failed else [text for task in tasks for text in task.result()]

    async def timed(ctx: Context, ms: int, part: Program) -> list[str]:
        try:
            async with ctx.timeout(f"{ms}ms"):
                return await interpret(ctx, part)
        except TimeoutError:
            return ["timeout"]

    async def child(ctx: Context, kind: str, part: Program) -> list[str]:
        try:
            if kind == "call":
                return await play.call(part)
            run = await play.enqueue(part)
            if kind == "cancel":
                await run.cancel(reason="by chance")
            if kind == "rerun":
                run = await run.rerun()
            return await run.result() if kind in ("result", "rerun") else [kind]
        except RunFailed:
            return ["run failed"]

    async def leaf(ctx: Context, kind: str, rest: list[Any]) -> str:
        match kind:
            case "step":
                return await caught(work(rest[0]))
            case "thread":
                return str(await thread(rest[0]))
            case "big":
                return f"big {len(await big('x' * rest[0]))}"
            case "sleep":
                await ctx.sleep(f"{rest[0]}ms")
                return "slept"
            case "wait":
                event = await ctx.wait_for_event("go", match={"data.k": rest[0]}, timeout=f"{rest[1]}ms")
                return "no go" if event is None else f"go {event.data['n']}"
            case "any":
                event = await ctx.wait_for_event("go", where="async.data.n > 2", timeout=f"{rest[0]}ms")
                return "none" if event is None else f"any {event.data['n']}"
            case "send":
                await ctx.send("go", {"k": rest[0], "n": 0})
                return "sent"
            case _:
                raise Oops("by chance") if rest[0] else ValueError("again by chance")

    async def caught(step: Awaitable[int]) -> str:
        try:
            return str(await step)
        except StepError as error:
            return f"failed after {error.attempts}"

    @app.function(on="begin", cancel_on=CancelOn("stop", match="data.k"), on_cancel=ended, on_failure=ended)
    async def begun(ctx: Context, event: Event) -> list[str]:
        if event.data["again"]:
            texts = await interpret(ctx, event.data["program"])
            if len(texts) % 2:
                await ctx.continue_as(Event("begin", {**event.data, "again": event.data["again"] - 1}))
        own = await ctx.wait_for_event("go", match={"data.k": event.data["k"]}, timeout="10m")
        return [*await interpret(ctx, event.data["program"]), str(own is not None)]

    if version:

        @app.background(id=f"of version {version}")
        async def of_version() -> int:
            return version

    return app


def _told(outcome: list[str] | BaseException) -> list[str]:
    return [type(outcome).__name__] if isinstance(outcome, BaseException) else outcome
