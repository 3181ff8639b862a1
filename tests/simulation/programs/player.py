"""Plays programs: each node as user code would be written, and what came of it as JSON.

What a node gives begins with a word for what happened; an error goes up as it would in anyone's code.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from perdure import Context, Function, NonRetriable, RetryAfter, Step, current_step
from tests.simulation.programs import syntax
from tests.simulation.programs.ledger import Ledger
from tests.simulation.programs.syntax import LATER_MS, Program

Told = list[Any]
Pause = Callable[[int], Coroutine[Any, Any, None]]


class Oops(NonRetriable):
    """What fails for good."""


async def no_pause(ms: int) -> None:
    """Where the clock is the test's own, a step may not wait for it: it takes turns instead."""
    for _ in range(min(ms, 5)):
        await asyncio.sleep(0)


class Scene:
    """What bodies of steps know of the world around them."""

    def __init__(
        self,
        ledger: Ledger | None = None,
        *,
        pod: Callable[[], str] = lambda: "pod",
        alive: Callable[[], bool] = lambda: True,
        pause: Pause = no_pause,
        way: Callable[[int], int] = lambda version: 0,
    ) -> None:
        """`way` is what fickle code of a version reads at the moment: 0 or 1."""
        self.ledger = ledger or Ledger()
        self.pause = pause
        self._way = way
        self._pod = pod
        self._alive = alive

    def _body(self, word: str) -> None:
        if self._alive():
            self.ledger.body(self._pod(), word)

    def saw(self, run: str, place: str, told: Told, before_ms: int, after_ms: int) -> None:
        """What the run's code got at a place of its program."""
        if self._alive():
            self.ledger.saw(run, place, told, before_ms, after_ms)

    def way(self, run: str, place: str, version: int) -> int:
        """What fickle code reads at a place of its program."""
        return self._way(version)

    async def dawdle(self) -> None:
        """Code waits on something of its own: no two times as long."""
        await self.pause(random.choice((0, 1, 5, 60)))

    async def work(self, job: syntax.Step) -> str:
        """The body of an async step."""
        self._body("began")
        try:
            if job.took_ms:
                await self.pause(job.took_ms)
            result = outcome(job, current_step().attempt)
        except BaseException:
            self._body("raised")
            raise
        self._body("done")
        return result

    def labour(self, job: syntax.Step) -> str:
        """The body of a step in a thread."""
        self._body("began")
        try:
            result = outcome(job, current_step().attempt)
        except BaseException:
            self._body("raised")
            raise
        self._body("done")
        return result


@dataclass
class Stage:
    """Where an app plays: in another scene for each world. What has begun in one stays in it."""

    scene: Scene


def outcome(job: syntax.Step, attempt: int) -> str:
    """What an attempt of a step gives, or raises."""
    if attempt <= job.fails:
        if job.how == "final":
            raise Oops("by chance")
        if job.how == "later":
            raise RetryAfter(f"{LATER_MS}ms", "by chance")
        raise ConnectionError("by chance")
    return text_of(job)


def text_of(job: syntax.Step) -> str:
    """What a step gives when it does not fail."""
    return f"{job.value}" + "x" * job.size


def kind_of(error: BaseException) -> str:
    return type(error).__name__


class Player:
    """Plays programs in one run, by `steps` of each form.

    `own`: whether its trigger has data to compare with; `tea`: the change is in.
    """

    def __init__(
        self, ctx: Context, scene: Scene, steps: Mapping[str, Step[[syntax.Step], str]],
        function: Function[[Program], Told], *, version: int, own: bool, tea: bool,
    ) -> None:  # fmt: skip
        self._ctx = ctx
        self._scene = scene
        self._steps = steps
        self._function = function
        self._version = version
        self._own = own
        self._tea = tea

    def _ms(self) -> int:
        return round(self._ctx.now().timestamp() * 1000)

    async def play(self, node: Program, place: str = "0") -> Told:
        """What came of `node`; what leaves saw is told to the ledger."""
        match node:
            case syntax.Step() | syntax.Sleep() | syntax.Wait() | syntax.Send() | syntax.Chance():
                return await self._seen(place, lambda: self._leaf(node))
            case syntax.Fickle():
                return await self._seen(place, lambda: self._fickle(node, place))
            case syntax.Raise():
                raise Oops("by chance") if node.final else ValueError("by chance")
            case syntax.Seq():
                return ["seq", *[await self.play(part, f"{place}.{i}") for i, part in enumerate(node.parts)]]
            case syntax.Gather():
                return await self._gathered(node, place)
            case syntax.Group():
                return await self._grouped(node, place)
            case syntax.InTurn():
                return await self._in_turn(node, place)
            case syntax.Queue():
                return await self._queued(node, place)
            case syntax.Race():
                return await self._raced(node, place)
            case syntax.Map():
                return await self._mapped(node)
            case syntax.Timeout():
                return await self._seen(f"{place}!", lambda: self._timed(node, place))
            case syntax.Catch():
                return await self._caught(node, place)
            case syntax.Guard():
                return await self._guarded(node, place)
            case syntax.Patched():
                way = "new" if self._tea else "old"
                return [way, *await self.play(node.new if self._tea else node.old, f"{place}.{way}")]
            case syntax.Child():
                return await self._seen(place, lambda: self._child(node))

    async def _seen(self, place: str, play: Callable[[], Awaitable[Told]]) -> Told:
        before = self._ms()
        try:
            told = await play()
        except Exception as error:
            self._saw(place, ["error", kind_of(error)], before)
            raise
        self._saw(place, told, before)
        return told

    def _saw(self, place: str, told: Told, before: int) -> None:
        """What `finally` does in a run that leaves memory is no part of the run."""
        if self._ctx._execution.signal is None:
            self._scene.saw(self._ctx.run_id, place, told, before, self._ms())

    async def _leaf(self, node: Program) -> Told:
        ctx = self._ctx
        match node:
            case syntax.Step():
                return ["ok", await self._step(node)]
            case syntax.Sleep():
                span = timedelta(milliseconds=node.ms)
                await ctx.sleep(ctx.now() + span if node.moment else span)
                return ["slept"]
            case syntax.Wait():
                return await self._wait(node)
            case syntax.Send():
                return ["sent", await ctx.send(node.name, {"k": node.k, "u": node.u, "n": node.n})]
            case _:
                return ["chance", ctx.random.randrange(1_000), str(ctx.uuid())]

    async def _step(self, node: syntax.Step) -> str:
        if node.dawdles:
            await self._scene.dawdle()
        if node.form == "inline":
            return await self._ctx.step("inline", self._scene.work, node, retries=syntax.LIMIT)
        return await self._steps[node.form](node)

    async def _fickle(self, node: syntax.Fickle, place: str) -> Told:
        """Its ops bear the names of their places, so that the log says which way a run went where."""
        way = self._scene.way(self._ctx.run_id, place, self._version)
        job = syntax.Step(value=way)
        name = f"{place} {way}" if node.named else place
        got = await self._ctx.step(name, self._scene.work, job, retries=syntax.LIMIT)
        if got != text_of(job):
            self._scene.ledger.conflicts.append(
                f"I16: run {self._ctx.run_id} at {place} asked for {text_of(job)}, and was given {got}"
            )
        return ["way", got]

    async def _wait(self, node: syntax.Wait) -> Told:
        """The forms of `match` and `where` that there are."""
        ctx = self._ctx
        where = "" if node.above is None else f"async.data.n > {node.above}"
        options: dict[str, Any] = {"where": where} if where else {}
        if node.by and node.value is None and self._own:
            options["match"] = f"data.{node.by}"
        elif node.by:
            options["match"] = {f"data.{node.by}": node.value or 0}
        if node.ms is not None:
            options["timeout"] = f"{node.ms}ms"
        event = await ctx.wait_for_event(node.name, **options)
        return ["late"] if event is None else ["went", event.id, event.data["n"]]

    async def _gathered(self, node: syntax.Gather, place: str) -> Told:
        plays = [self.play(part, f"{place}.{i}") for i, part in enumerate(node.parts)]
        if node.strict:
            return ["gather", *await asyncio.gather(*plays)]
        found = await asyncio.gather(*plays, return_exceptions=True)
        return ["gather", *[_told(one) for one in found]]

    async def _grouped(self, node: syntax.Group, place: str) -> Told:
        kinds: list[str] = []
        tasks: list[asyncio.Task[Told]] = []
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self.play(part, f"{place}.{i}")) for i, part in enumerate(node.parts)]
        except* Exception as errors:
            kinds = sorted(kind_of(error) for error in errors.exceptions)
        return ["group failed", kinds] if kinds else ["group", *[task.result() for task in tasks]]

    async def _numbered(self, node: Program, place: str, index: int) -> Told:
        return [index, await self.play(node, f"{place}.{index}")]

    async def _in_turn(self, node: syntax.InTurn, place: str) -> Told:
        begun: list[asyncio.Task[Any]] = []
        over = False

        async def one(index: int, part: Program) -> Told:
            task = asyncio.current_task()
            assert task is not None
            begun.append(task)
            return [] if over else await self._numbered(part, place, index)

        try:
            found = asyncio.as_completed([one(index, part) for index, part in enumerate(node.parts)])
            return ["in turn", *[await told for told in found]]
        finally:
            over = True
            await _stop(begun)

    async def _queued(self, node: syntax.Queue, place: str) -> Told:
        jobs: asyncio.Queue[tuple[int, Program]] = asyncio.Queue()
        ended: asyncio.Queue[Told] = asyncio.Queue()
        for job in enumerate(node.parts):
            jobs.put_nowait(job)

        async def worker() -> None:
            while not jobs.empty():
                index, part = jobs.get_nowait()
                try:
                    told = await self.play(part, f"{place}.{index}")
                except Exception as error:
                    told = _told(error)
                ended.put_nowait([index, told])

        workers = [asyncio.ensure_future(worker()) for _ in range(node.workers)]
        try:
            return ["queue", *[await ended.get() for _ in node.parts]]
        finally:
            await _stop(workers)

    async def _raced(self, node: syntax.Race, place: str) -> Told:
        plays = [self.play(part, f"{place}.{i}") for i, part in enumerate(node.parts)]
        index, told = await self._ctx.race(*plays)
        return ["race", index, told]

    async def _mapped(self, node: syntax.Map) -> Told:
        found = await self._ctx.map(self._step, node.parts, limit=node.limit, return_exceptions=True)
        return ["map", *[_told(one if isinstance(one, BaseException) else ["ok", one]) for one in found]]

    async def _timed(self, node: syntax.Timeout, place: str) -> Told:
        try:
            async with self._ctx.timeout(f"{node.ms}ms"):
                return ["in time", await self.play(node.part, f"{place}.part")]
        except TimeoutError:
            return ["timed out"]

    async def _caught(self, node: syntax.Catch, place: str) -> Told:
        try:
            return ["kept", await self.play(node.part, f"{place}.part")]
        except Exception as error:
            return ["undone", kind_of(error), await self.play(node.undo, f"{place}.undo")]

    async def _guarded(self, node: syntax.Guard, place: str) -> Told:
        try:
            told = await self.play(node.part, f"{place}.part")
        finally:
            after = await self.play(node.undo, f"{place}.undo")
        return ["guarded", told, after]

    async def _child(self, node: syntax.Child) -> Told:
        function = self._function
        if node.delay_ms:
            function = function.options(delay=f"{node.delay_ms}ms")
        if node.how == "call":
            return ["called", await function.call(node.part)]
        run = await function.enqueue(node.part)
        match node.how:
            case "result":
                return ["result", run.id, await run.result()]
            case "rerun":
                again = await run.rerun()
                return ["rerun", again.id, await again.result()]
            case "cancel":
                await run.cancel(reason="by chance")
                return ["cancelled", run.id]
            case "status":
                return ["status", run.id, await run.status()]
            case _:
                return ["enqueued", run.id]


def _told(one: Told | BaseException) -> Told:
    return ["error", kind_of(one)] if isinstance(one, BaseException) else one


async def _stop(tasks: "list[asyncio.Task[Any]]") -> None:
    """As careful code does it: end those that are not done, and ask each for its error."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
