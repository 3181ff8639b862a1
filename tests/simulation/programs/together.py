"""A plan in a world of many pods: what comes from outside comes from clients that ask until they are answered."""

import asyncio
from collections.abc import Mapping

import msgspec

from perdure import App
from perdure.errors import UnknownRun
from perdure.flow.routing import run_id
from perdure.flow.states import TERMINAL
from perdure.sdk.port import Enqueue as Request
from perdure_schemas.event import EventBody
from tests.evidence.entries import entries_of
from tests.simulation.checks.evidence import Evidence
from tests.simulation.checks.leftovers import LATE
from tests.simulation.checks.ways import ways_of
from tests.simulation.programs.app import Troupe, begin_data
from tests.simulation.programs.generate import KEYS, USERS
from tests.simulation.programs.ledger import Ledger
from tests.simulation.programs.plan import AnyMove, Begin, Crash, Enqueue, Meddle, Pass, Pause, Plan, Tell
from tests.simulation.programs.player import Scene
from tests.simulation.swarm import Swarm
from tests.simulation.world import World, world

ROUNDS = 60
"""So many times all that is waited for comes, at the end: then nobody waits any more."""
LIVED_MS = 5_000
"""So much of a passing is lived through; the clocks leap over the rest."""
FORGOTTEN_MS = 4 * 86_400_000
"""Beyond the window and the look-back of everything."""
_TROUPE = Troupe()
_STARTED_BY = {"begin": ("begun",), "cart": ("abandoned", "basket")}
"""By all versions of the app."""


async def _pause(ms: int) -> None:
    await asyncio.sleep(ms / 1000)


def apps(ledger: Ledger, swarm: Swarm) -> Mapping[str, App]:
    """The app of each version, for all pods of a world."""
    _TROUPE.stage.scene = Scene(ledger, pod=lambda: world().loop.current.name, alive=_alive, pause=_pause, way=_way)
    return {f"v{version}": _TROUPE.app(version, pools=swarm.pools, changing=swarm.changing) for version in range(3)}


def _way(version: int) -> int:
    """What fickle code reads: the second version changed it, the third one takes that back; and some pods differ."""
    here = world()
    differs = here.loop.current.name.partition(".")[0] in here.odd
    return int((version == 1) != differs)


def _alive() -> bool:
    """What a dead process does is not heard of."""
    return not world().over and not world().loop.current.dead


class Together:
    """Plays a plan in a world, to its end and beyond."""

    def __init__(self, here: World, ledger: Ledger) -> None:
        self.here = here
        self.ledger = ledger
        self.asked: list[str] = []
        self.acknowledged: set[str] = set()
        self.may_cancel: set[str] = set()
        self.cancelled: set[str] = set()
        self.events: set[str] = set()
        self._tries = here.draw("plan")
        self._deployed: dict[str, None] = {here.version: None}
        self._paused: dict[str, None] = {}

    async def play(self, plan: Plan) -> None:
        """Clients do not wait for each other's answers, now and then."""
        late: list[asyncio.Task[None]] = []
        for move in plan:
            if self.here.swarm.differ:
                self.here.odd ^= {pod.name for pod in self.here.pods if self._tries.random() < 0.3}
            if self._tries.random() < 0.3 and not isinstance(move, Pass | Crash):
                late.append(asyncio.ensure_future(self._move(move)))
            else:
                await self._move(move)
        if late:
            await asyncio.gather(*late)

    async def _move(self, move: AnyMove) -> None:
        match move:
            case Enqueue():
                arguments = msgspec.Raw(msgspec.json.encode([[move.program], {}]))
                request = Request("play", arguments, idempotency_key=move.key, delay_ms=move.delay_ms or None)
                run = await self.here.ask(lambda port: port.enqueue(request))
                self.asked.append(run)
                self.acknowledged.add(run)
            case Begin():
                ts = self.here.loop.wall_ms() + move.after_ms if move.after_ms else None
                await self._send("begin", begin_data(move.k, move.u, move.again, move.program), move.id, ts)
            case Tell():
                await self._send(move.name, {"k": move.k, "u": move.u, "n": move.n}, move.id)
            case Meddle():
                await self._meddle(move)
            case Pass():
                await self._pass(move.ms)
            case Pause():
                await self._set_paused(move.function, move.key, paused=move.paused)
            case Crash():
                if move.version is not None:
                    self._deployed.setdefault(f"v{move.version}")
                    self.here.deploy(f"v{move.version}")

    async def _send(self, name: str, data: object, id: str, ts: int | None = None) -> None:
        body = EventBody(id, name, msgspec.Raw(msgspec.json.encode(data)), ts=ts)
        await self.here.ask(lambda port: port.send([body]))
        if id not in self.events:
            self.events.add(id)
            self.asked += [run_id("programs", function, id) for function in _STARTED_BY.get(name, ())]

    async def _meddle(self, move: Meddle) -> None:
        if not self.asked:
            return
        run = self.asked[move.nth % len(self.asked)]
        try:
            match move.what:
                case "cancel":
                    await self._cancel(run)
                case "rerun":
                    again = await self.here.ask(lambda port: port.rerun(run, move.key))
                    self.asked.append(again)
                case "status":
                    await self.here.ask(lambda port: port.status(run))
        except UnknownRun:
            # Its request is on its way from another partition.
            return

    async def _set_paused(self, function: str, key: str, *, paused: bool) -> None:
        if paused:
            self._paused[function] = None
            await self.here.ask(lambda port: port.pause(function, key))
        else:
            await self.here.ask(lambda port: port.resume(function, key))

    async def _pass(self, ms: int) -> None:
        if ms > LIVED_MS:
            self.here.leap(self.here.loop.wall_ms() + ms - LIVED_MS)
        await self.here.sleep(min(ms, LIVED_MS) / 1000)

    # The end

    async def finish(self) -> None:
        """Faults are over: all that is waited for comes, until nobody waits."""
        here = self.here
        # Code that came later holds what it took further: older code would leave it alone for ever.
        here.odd.clear()
        here.heal([*self._deployed][-1])
        for function in self._paused:
            await self._set_paused(function, f"{function} goes on", paused=False)
        for n in range(ROUNDS):
            await here.finish(days=30)
            if not self._waiting() and not self._parked():
                return
            if self._held():
                here.heal(self._newest())
                continue
            await self._let_go()
            for k in range(KEYS):
                for u in range(USERS):
                    for name in ("go", "begin") if n % 4 == 3 else ("go",):
                        data = {"k": k, "u": u, "n": 9, "again": 0, "program": {"do": "seq", "parts": []}}
                        await self._send(name, data, f"{name}-end-{n}-{k}-{u}")
        raise AssertionError(
            f"I14: all that could be waited for came {ROUNDS} times, and these wait on: {self._left()}"
        )

    def _held(self) -> bool:
        return any(pod.node is not None and pod.node.worker.held for pod in self.here.pods if pod.alive)

    def _newest(self) -> str:
        """The newest code by the log: a definition may have come there only after that of a later deploy."""
        numbers = next(one.view.meta.numbers for _, one in self.here.owned() if one.partition == 0 and one.performing)
        return max(self.here.apps, key=lambda version: numbers.get(self.here.apps[version].definition().digest, 0))

    async def _let_go(self) -> None:
        """Parked runs are tried by the code of each way in turn. Where fickle code went one way only, its code goes on.

        What it goes on to wait for comes later, under other code, which parks it again: stuck is what neither takes
        further. What code has parked it does not try again before other code did.
        """
        if not self._parked():
            return
        stuck: list[set[str]] = []
        for version in ("v2", "v1", "v2"):
            self.here.heal(version, activate=True)
            await self.here.finish(days=30)
            stuck.append({*self._parked()})
        for run in sorted(stuck[1] & stuck[2]):
            ways = ways_of(run, (entry for journal in self.here.journals for _, _, entry in journal.everything()))
            assert ways == {0, 1}, f"I14: run {run} is parked, and went the way {ways} only"
            await self._cancel(run)

    def _parked(self) -> list[str]:
        return sorted(
            state.id for _, one in self.here.owned() for state in one.view.runs.values() if state.status == "parked"
        )

    async def _cancel(self, run: str) -> None:
        self.may_cancel.add(run)
        await self.here.ask(lambda port: port.cancel(run))
        self.cancelled.add(run)

    def _left(self) -> list[str]:
        return [
            f"{state.id} {state.function} {state.status} {list(state.open)}"
            for _, processor in self.here.owned()
            for state in processor.view.runs.values()
            if state.status not in TERMINAL
        ]

    def _waiting(self) -> bool:
        return any(
            state.status not in TERMINAL and state.status != "parked"
            for _, processor in self.here.owned()
            for state in processor.view.runs.values()
        )

    async def forget(self) -> None:
        """Log time passes until all that has ended is beyond the window."""
        here = self.here
        here.leap(here.loop.wall_ms() + FORGOTTEN_MS)
        for n in range(20 * here.swarm.partitions):
            await self._send("late", {}, f"{LATE}{n}")
        await here.settle()

    def evidence(self) -> Evidence:
        here = self.here
        digests = {version: app.definition().digest for version, app in here.apps.items()}
        return Evidence(
            {journal.partition: entries_of(journal.partition, journal.everything()) for journal in here.journals},
            self.ledger,
            set(self.events),
            set(self.acknowledged),
            set(self.cancelled),
            set(self.may_cancel),
            {
                state.id: (state.function, state.status)
                for _, processor in here.owned()
                for state in processor.view.runs.values()
            },
            # Who is silent for a lease counts as dead, too.
            codes={life: digests[version] for life, version in here.ran.items()},
            taken_up=here.taken_up,
            deaths=sum(here.trace.counts[kind] for kind in ("killed", "frozen", "cut", "severed")),
            came={
                (journal.partition, offset): number
                for journal in here.journals
                for offset, number in enumerate(journal.came)
            },
        )
