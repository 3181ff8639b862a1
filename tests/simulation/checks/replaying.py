"""I16: a replay of any prefix asks for the recorded ops, with the recorded arguments, and gets the recorded results.

A partition is folded once more. Before chosen records a run is replayed on what is folded by then, as users replay
theirs (`perdure.past`): no step begins; what the run would write is caught, and compared with what the log has later.
"""

import itertools
import logging
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import cache
from random import Random
from typing import Any

import msgspec

from perdure import App
from perdure.flow import decode, fold
from perdure.flow.view import View
from perdure.past.moments import ends_of, forget_effects, stand_before
from perdure.past.replay import Replayed, Replayer
from tests.simulation.checks.evidence import Evidence
from tests.simulation.checks.tales import Tale
from tests.simulation.checks.ways import ways_at, went_both_ways
from tests.simulation.programs.app import Troupe
from tests.simulation.programs.player import Scene

REPLAYS = 24
"""In each partition."""
Records = Sequence[tuple[int, int, bytes]]
_TROUPE = Troupe()


class StoodStill(Scene):
    """No step begins. What the code of a run gets goes to the ledger of the world; what is fickle reads its tale."""

    def __init__(self, evidence: Evidence) -> None:
        super().__init__(evidence.ledger)
        self._tales = evidence.tales

    def way(self, run: str, place: str, version: int) -> int:
        return min(ways_at(self._tales[run], place), default=0)

    async def dawdle(self) -> None:
        return

    async def work(self, job: Any) -> str:
        self.ledger.conflicts.append("I6: a step begins in a replay")
        return ""

    def labour(self, job: Any) -> str:
        self.ledger.conflicts.append("I6: a step begins in a replay")
        return ""


class PrefixReplays:
    """Replays runs of one partition."""

    def __init__(
        self,
        evidence: Evidence,
        partition: int,
        everything: Records,
        rng: Random,
        replayers: Mapping[str, Replayer],
    ) -> None:
        self._evidence = evidence
        self._everything = everything
        self._rng = rng
        self._replayers = replayers
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
            forget_effects(self._view)

    async def _once(self, run: str) -> None:
        view = self._view
        state, routes = view.live(run), view.routes()
        if state is None or state.status != "running" or "retry" in state.timers or routes is None:
            return
        replayed = await self._replayers[routes.definition.digest].replay(view, run)
        if replayed.verdict == "held":
            return  # It came from where newer code is the current one already: whoever has it here holds it.
        self.replays += 1
        self._compare(self._evidence.tales[run], replayed)

    def _compare(self, tale: Tale, replayed: Replayed) -> None:
        where = f"I16: run {tale.id}, replayed up to {self._view.offset}"
        assert replayed.verdict != "stuck", f"{where}: {replayed.message}"
        assert replayed.verdict != "parks" or went_both_ways(tale), f"{where}: {replayed.message}"
        if replayed.verdict == "ends" and tale.end is not None and tale.end.kind == "run.finished":
            ended = tale.end.record
            then = self._evidence.payload(ended["result"], "result") if "result" in ended else None
            mine = replayed.result if replayed.status == "completed" else None
            now = None if mine is None else msgspec.json.decode(mine)
            assert (replayed.status, now) == (ended["status"], then), f"{where}: ended with {replayed}, not {ended}"
        for one in replayed.asked:
            op = tale.ops.get(one.op)
            if op is None or replayed.verdict == "parks":
                continue
            assert not op.digest or op.digest == one.digest, f"{where}: {one.op} has {one.digest}, and had {op}"
            assert one.standing != "new" or one.kind != "step" or op.type in ("step", "queued"), f"{where}: {one}, {op}"


@cache
def _apps() -> Mapping[str, App]:
    """By the digest of their code."""
    made = itertools.product(range(3), (False, True), (False, True))
    apps = [_TROUPE.app(version, pools=pools, changing=changing) for version, pools, changing in made]
    return {app.definition().digest: app for app in apps}


async def check_replays(evidence: Evidence, rng: Random) -> int:
    """All partitions, on an ordinary loop. How many replays there were."""
    replays = 0
    async with _replayers(evidence) as replayers:
        for partition, records in _partitions(evidence):
            prefixes = PrefixReplays(evidence, partition, records, rng, replayers)
            await prefixes.replay()
            replays += prefixes.replays
    return replays


async def check_finished(evidence: Evidence) -> int:
    """Every run that has ended, replayed as its users would: the recorded ops, and the recorded end. How many."""
    replays = 0
    async with _replayers(evidence) as replayers:
        for partition, records in _partitions(evidence):
            ends = ends_of(View(partition, len(evidence.journal)), records)
            of = {end.offset: run for run, end in ends.items()}
            view = View(partition, len(evidence.journal))
            for offset in stand_before(view, records, of):
                routes, state = view.routes(), view.live(of[offset])
                if routes is None or state is None:
                    continue  # it was cancelled before it was requested
                replayed = await replayers[routes.definition.digest].replay(view, of[offset], end=ends[of[offset]])
                replays += _as_recorded(evidence, evidence.tales[of[offset]], replayed)
    return replays


def _as_recorded(evidence: Evidence, tale: Tale, replayed: Replayed) -> bool:
    """False if nothing can be said of it: its code was another one's, or fickle."""
    if replayed.verdict == "held" or went_both_ways(tale):
        return False
    where = f"I16: run {tale.id}"
    assert replayed.verdict == "as_recorded", f"{where}: {replayed}"
    asked = {one.op: one.digest for one in replayed.asked}
    recorded = {name: op.digest for name, op in tale.ops.items() if op.outcome or op.opened}
    began = {body.op for body in evidence.ledger.bodies if body.run == tale.id}
    assert recorded.keys() <= asked.keys(), f"{where}: {recorded.keys() - asked.keys()} were not asked for"
    # What it stood at when others ended it may never have come to the log, nor what was on its way when a pod died.
    new = asked.keys() - recorded.keys() - began - {one.op for one in replayed.at}
    assert not new or evidence.deaths, f"{where}: {new} are new"
    differ = [name for name, digest in recorded.items() if digest and digest != asked[name]]
    assert not differ, f"{where}: {differ} have other arguments"
    return True


def _partitions(evidence: Evidence) -> Iterator[tuple[int, Records]]:
    for partition, entries in evidence.journal.items():
        yield partition, [(entry.offset, entry.ms, entry.raw) for entry in entries]


@asynccontextmanager
async def _replayers(evidence: Evidence) -> AsyncIterator[Mapping[str, Replayer]]:
    """By the digest of their code."""
    _TROUPE.stage.scene = StoodStill(evidence)
    worker_log = logging.getLogger("perdure.worker")
    worker_log.disabled = True  # runs that are stopped half-way say so, each time
    replayers = {digest: Replayer(app) for digest, app in _apps().items()}
    yield replayers
    for replayer in replayers.values():
        await replayer.close()
    worker_log.disabled = False
    assert not evidence.ledger.conflicts, f"{evidence.ledger.conflicts[0]} (by a replay)"
