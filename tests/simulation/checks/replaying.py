"""I16: a replay of any prefix asks for the recorded ops, with the recorded arguments, and gets the recorded results.

A partition is folded once more. Before chosen records a run is begun on what is folded by then, by the worker as it
ships, with steps whose bodies never end; what it would write is caught, and compared with what the log has later.
"""

import asyncio
import itertools
import logging
from collections.abc import Callable, Mapping, Sequence, Sized
from functools import cache
from random import Random
from typing import Any

import msgspec

from perdure import App
from perdure.errors import LogError
from perdure.flow import decode, fold
from perdure.flow.states import RunState
from perdure.flow.view import View
from perdure.log.protocol import Batch
from perdure.partition import Processor
from perdure.sdk.handle import RunHandle
from perdure.sdk.prepare import prepare
from perdure.worker import Worker
from perdure_schemas.records import OpOpened, Owner, Record, RunFinished, RunParked
from tests.evidence.refolding import Records
from tests.simulation.checks.evidence import Evidence
from tests.simulation.checks.tales import Tale
from tests.simulation.checks.ways import ways_at, went_both_ways
from tests.simulation.programs.app import Troupe
from tests.simulation.programs.player import Scene

MOST_TURNS = 20_000
REPLAYS = 24
"""In each partition."""
_TROUPE = Troupe()


class StoodStill(Scene):
    """Bodies never end. What the code of a run gets goes to the ledger of the world; what is fickle reads its tale."""

    def __init__(self, evidence: Evidence) -> None:
        super().__init__(evidence.ledger)
        self._tales = evidence.tales

    def way(self, run: str, place: str, version: int) -> int:
        return min(ways_at(self._tales[run], place), default=0)

    async def dawdle(self) -> None:
        return

    async def work(self, job: Any) -> str:
        await asyncio.Event().wait()
        return ""

    def labour(self, job: Any) -> str:
        return ""


class Replica(Processor):
    """A partition as it was: what is written goes nowhere, and is remembered."""

    def __init__(self, view: View, everything: Records, code: str) -> None:
        self.view = view
        self.partition = view.partition
        self.code = code
        self.owner = Owner(0, "replica")
        self.performing = True
        self.halted = ""
        self.offset = 0
        self.log = _Frozen(everything)  # type: ignore[assignment]
        self.written: list[Record] = []

    def append(self, record: Record) -> int:
        self.written.append(record)
        return 0

    def append_outcome(self, record: Any) -> None:
        self.written.append(record)

    def opine(self, record: Any) -> None:
        self.written.append(record)

    def side(self, topic: str, record: msgspec.Struct) -> None:
        return

    def wake(self, run: str) -> None:
        return

    def rest(self, run: str) -> None:
        return

    def release_run(self, run: str) -> None:
        return

    def ahead(self, run: RunState, lines: Any = None) -> bool:
        return False


class _Frozen:
    """A log to read from."""

    def __init__(self, everything: Records) -> None:
        self._everything = everything

    def read(self, partition: int, offset: int, *, limit_bytes: int = 0) -> list[Batch]:
        at, stamp_ms, raw = self._everything[offset]
        assert at == offset
        return [Batch(partition, offset, stamp_ms, [raw])]


class _Nobody:
    def run_ended(self, partition: int, run: str) -> None:
        return

    def progressed(self) -> None:
        return

    def partition_halted(self, partition: int, reason: str) -> None:
        raise LogError(reason)

    def partition_dropped(self, partition: int) -> None:
        return


class Replayer:
    """Replays runs of one partition."""

    def __init__(self, evidence: Evidence, partition: int, everything: Records, rng: Random) -> None:
        self._evidence = evidence
        self._everything = everything
        self._rng = rng
        self._view = View(partition, len(evidence.journal))
        self.replays = 0

    async def replay(self) -> None:
        """Fold all, and stop before each end of a run, and before some other records."""
        ends = {
            tale.end.offset: tale.id
            for tale in self._evidence.tales.values()
            if tale.end is not None and tale.end.partition == self._view.partition and tale.end.kind == "run.finished"
        }
        chosen = set(self._rng.sample(sorted(ends), min(len(ends), REPLAYS // 2)))
        for offset, stamp_ms, raw in self._everything:
            if offset in chosen:
                await self._once(ends[offset])
            elif self._rng.random() < REPLAYS / 2 / len(self._everything):
                running = sorted(one.id for one in self._view.runs.values() if one.status == "running")
                if running:
                    await self._once(self._rng.choice(running))
            fold(self._view, decode(raw), raw, offset, stamp_ms)
            self._view.effects.acts.clear()
            self._view.effects.sends.clear()
            self._view.effects.commands.clear()

    async def _once(self, run: str) -> None:
        view = self._view
        state = view.live(run)
        routes = view.routes()
        if state is None or state.status != "running" or "retry" in state.timers or routes is None:
            return
        app = _apps()[routes.definition.digest]
        if state.function not in app.functions:
            return  # It came from where newer code is the current one already: whoever has it here holds it.
        replica = Replica(view, self._everything, routes.definition.digest)
        worker = Worker(
            app.specs,
            prepare,
            lambda spec, of: RunHandle(app.functions[spec.id], of),
            _Nobody(),
            lambda: view.at,
            steps=app.pool_steps,
        )
        worker.processors = {view.partition: replica}
        worker.recover(view.partition, [state], False)
        execution = worker.executions[run]
        await _at_rest(lambda: execution.replaying and not execution.gone())
        asked = dict(execution.recorded)
        bodies = set(execution.bodies)
        await worker.close()
        await _at_rest(lambda: False)  # what cleans up after itself has its turns
        self.replays += 1
        self._compare(self._evidence.tales[run], replica.written, asked, bodies)

    def _compare(self, tale: Tale, written: Sequence[Record], asked: Mapping[str, str], bodies: set[str]) -> None:
        where = f"I16: run {tale.id}, replayed up to {self._view.offset}"
        for record in written:
            if isinstance(record, RunParked) and not went_both_ways(tale):
                raise AssertionError(f"{where}: {record.message}")
            if isinstance(record, RunFinished) and tale.end is not None and tale.end.kind == "run.finished":
                ended = tale.end.record
                result = self._evidence.payload(ended["result"], "result") if "result" in ended else None
                mine = None if record.result is None else msgspec.json.decode(msgspec.json.encode(record.result.inline))
                assert (record.status, mine) == (ended["status"], result), f"{where}: ended with {record}, not {ended}"
            if isinstance(record, OpOpened):
                op = tale.ops.get(record.op)
                assert op is None or not op.digest or op.digest == record.digest, f"{where}: {record} was {op}"
        for name in bodies:
            op = tale.ops.get(name)
            assert op is None or op.type in ("step", "queued"), f"{where}: {name} was a {op and op.type}"
        for name, digest in asked.items():
            op = tale.ops.get(name)
            assert op is None or not op.digest or op.digest == digest, f"{where}: {name} has {digest}, and had {op}"


@cache
def _apps() -> Mapping[str, App]:
    """By the digest of their code."""
    made = itertools.product(range(3), (False, True), (False, True))
    apps = [_TROUPE.app(version, pools=pools, changing=changing) for version, pools, changing in made]
    return {app.definition().digest: app for app in apps}


async def _at_rest(busy: Callable[[], bool]) -> None:
    """Until it is not busy, and nobody but us has anything to do."""
    ready: Sized = getattr(asyncio.get_running_loop(), "_ready")  # noqa: B009 - typeshed does not know it
    for _ in range(MOST_TURNS):
        await asyncio.sleep(0)
        if not ready and not busy():
            return
    raise AssertionError("I16: a replay does not come to its end")


async def check_replays(evidence: Evidence, rng: Random) -> int:
    """All partitions, on an ordinary loop. How many replays there were."""
    replays = 0
    _TROUPE.stage.scene = StoodStill(evidence)
    logging.getLogger("perdure.worker").disabled = True  # runs that are stopped half-way say so, each time
    for partition, entries in evidence.journal.items():
        replayer = Replayer(evidence, partition, [(entry.offset, entry.ms, entry.raw) for entry in entries], rng)
        await replayer.replay()
        replays += replayer.replays
    logging.getLogger("perdure.worker").disabled = False
    assert not evidence.ledger.conflicts, f"{evidence.ledger.conflicts[0]} (by a replay)"
    return replays
