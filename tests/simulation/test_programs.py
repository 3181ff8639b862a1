"""Programs by chance on one engine in memory, with crashes after random records: the short form of the simulation.

More of them:

    PERDURE_PROGRAMS=500 python -m pytest tests/simulation/test_programs.py
"""

import os
import random

import pytest

from perdure.flow.states import TERMINAL
from perdure.testing import TestEngine
from tests.evidence.entries import entries_of
from tests.evidence.folding import records
from tests.evidence.refolding import check_refold
from tests.simulation.checks.evidence import Evidence
from tests.simulation.checks.invariants import check_invariants
from tests.simulation.checks.leftovers import LATE, nothing_is_left
from tests.simulation.checks.prefixes import check_prefixes
from tests.simulation.checks.replaying import check_finished, check_replays
from tests.simulation.checks.tapes import check_tapes
from tests.simulation.programs.alone import Alone, crashing
from tests.simulation.programs.app import make_app
from tests.simulation.programs.plan import Plan, random_plan
from tests.simulation.programs.player import Scene, Stage

PROGRAMS = int(os.environ.get("PERDURE_PROGRAMS", "24"))
FIRST = int(os.environ.get("PERDURE_SEED", "0"))


@pytest.mark.parametrize("seed", range(FIRST, FIRST + PROGRAMS))
async def test_random_programs(seed: int) -> None:
    rng = random.Random(seed)
    await play(random_plan(rng, rng.randint(5, 25)), rng)


async def play(plan: Plan, rng: random.Random) -> None:
    scene = Scene()
    async with TestEngine(make_app(Stage(scene)), evict=rng.random() < 0.3) as engine:
        engine.log.on_append = crashing(rng)
        alone = Alone(engine, scene)
        await alone.play(plan)
        engine.log.on_append = None
        check_refold(engine, rng)
        await engine.crash()
        check_refold(engine, rng)
        await alone.finish()
        left = [state for p in engine.node.processors for state in p.view.runs.values() if state.status not in TERMINAL]
        assert not left, f"I14: {left}"
        evidence = evidence_of(alone)
        check_invariants(evidence)
        check_prefixes(evidence)
        await check_replays(evidence, rng)
        assert await check_tapes(evidence.journal, rng)
        before = {p: list(records(engine.log, p)) for p in range(engine.log.partitions)}
        assert await check_finished(evidence) > 0 or not alone.asked
        assert before == {p: list(records(engine.log, p)) for p in range(engine.log.partitions)}
        await engine.advance("4000d")  # a test engine keeps for ten years what has ended
        for n in range(60):
            # Log time passes with what is appended.
            await engine.send("late", {}, id=f"{LATE}{n}")
        nothing_is_left(processor.view for processor in engine.node.processors)
        check_refold(engine, rng)


def evidence_of(alone: Alone) -> Evidence:
    engine = alone.engine
    return Evidence(
        {p: entries_of(p, records(engine.log, p)) for p in range(engine.log.partitions)},
        alone.scene.ledger,
        alone.events,
        set(alone.asked),
        alone.cancelled,
        states={
            state.id: (state.function, state.status)
            for processor in engine.node.processors
            for state in processor.view.runs.values()
        },
        deaths=engine.crashes,
    )
