"""A plan in one process: the test engine, whose clock is the plan's own, and which dies when the plan says so."""

import random
from collections.abc import Callable
from datetime import timedelta

from perdure import Event
from perdure.testing import TestEngine
from tests.simulation.programs.app import begin_data, make_app
from tests.simulation.programs.generate import KEYS, USERS
from tests.simulation.programs.plan import AnyMove, Begin, Crash, Enqueue, Meddle, Pass, Plan, Tell
from tests.simulation.programs.player import Scene, Stage

ROUNDS = 60
"""So many times all that is waited for comes, at the end: then nobody waits any more."""


class Alone:
    """Plays a plan. `asked`: runs, in the order in which they were asked for; `cancelled`: those cancelled."""

    def __init__(self, engine: TestEngine, scene: Scene) -> None:
        self.engine = engine
        self.scene = scene
        self.asked: list[str] = []
        self.cancelled: set[str] = set()
        self.events: set[str] = set()

    async def play(self, plan: Plan) -> None:
        for move in plan:
            await self._move(move)

    async def _move(self, move: AnyMove) -> None:
        engine = self.engine
        match move:
            case Enqueue():
                function = engine.app.functions["play"].options(
                    idempotency_key=move.key, delay=timedelta(milliseconds=move.delay_ms)
                )
                self.asked.append((await function.enqueue(move.program)).id)
            case Begin():
                data = begin_data(move.k, move.u, move.again, move.program)
                ts = engine.now + timedelta(milliseconds=move.after_ms) if move.after_ms else None
                await self._send(Event("begin", data, move.id, ts=ts))
            case Tell():
                await self._send(Event(move.name, {"k": move.k, "u": move.u, "n": move.n}, move.id))
            case Meddle():
                await self._meddle(move)
            case Pass():
                await engine.advance(f"{move.ms}ms")
            case Crash():
                if move.version is not None:
                    engine.app = make_app(Stage(self.scene), move.version)
                await engine.crash()

    async def _send(self, event: Event) -> None:
        known = event.id in self.events
        await self.engine.send(event)
        self.events.add(event.id)
        if not known:
            for name in ("begun", "abandoned", "basket"):
                runs = await self.engine.runs(self.engine.app.functions[name], event_id=event.id)
                self.asked += sorted(run.id for run in runs)

    async def _meddle(self, move: Meddle) -> None:
        if not self.asked:
            return
        run = self.engine.app.functions["play"].handle(self.asked[move.nth % len(self.asked)])
        match move.what:
            case "cancel":
                await run.cancel()
                self.cancelled.add(run.id)
            case "rerun":
                self.asked.append((await run.rerun()).id)
            case "status":
                await run.status()

    async def finish(self) -> None:
        """Faults are over: all that is waited for comes, until nobody waits."""
        for n in range(ROUNDS):
            await self.engine.finish(within="30d")
            if not self._waiting():
                return
            for k in range(KEYS):
                for u in range(USERS):
                    for name in ("go", "begin") if n % 4 == 3 else ("go",):
                        data = {"k": k, "u": u, "n": 9, "again": 0, "program": {"do": "seq", "parts": []}}
                        await self._send(Event(name, data, f"{name}-end-{n}-{k}-{u}"))

    def _waiting(self) -> bool:
        return self.engine._live()


def crashing(rng: random.Random) -> Callable[[int], bool]:
    """A crash right after a record now and then, for `MemoryLog.on_append`."""
    chance = rng.choice((0.0, 0.002, 0.02))
    return lambda record: rng.random() < chance
