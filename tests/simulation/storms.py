"""One seed: its world, its plan, and everything that must hold when it is over."""

import asyncio
import gc
import sys
from dataclasses import replace
from random import Random
from typing import NamedTuple

import perdure.worker.stragglers
from tests.evidence.folding import assert_all_arrived, assert_same, fold_records
from tests.evidence.refolding import check_other_ways
from tests.simulation.checks.besides import check_beside
from tests.simulation.checks.evidence import Evidence
from tests.simulation.checks.invariants import check_invariants
from tests.simulation.checks.leftovers import nothing_is_left
from tests.simulation.checks.prefixes import check_prefixes
from tests.simulation.checks.replaying import check_replays
from tests.simulation.checks.tapes import check_tapes
from tests.simulation.control import Patches
from tests.simulation.programs.aimed import aimed_plan, moves, parted
from tests.simulation.programs.ledger import Ledger
from tests.simulation.programs.plan import Crash, Plan, random_plan, whole_plan, with_pauses
from tests.simulation.programs.together import Together, apps
from tests.simulation.swarm import WHOLE_FROM, Swarm, drawn, move, part
from tests.simulation.world import World

AIMED = 0.25
"""So many of the plans are no chance alone."""
PARTED = 0.06
"""In so many of the worlds the paths of new code come late to some partitions: they draw from streams of their own."""
PAUSES = 0.1
"""In so many of the plans by chance alone functions are paused: from a stream of their own, too."""
MOVES = 0.06
"""In so many of the others partitions go to and fro while pods get new code: from streams of their own, too."""


TOPIC = 0.1
"""In so many of the others clients' events come by a topic of their own: from a stream of its own, too."""


class Outcome(NamedTuple):
    """What a seed was."""

    seed: int
    seconds: float
    """Virtual time that was lived through."""
    leapt: float
    """Seconds that the clocks leapt over, from timer to timer."""
    records: int
    replays: int
    faults: dict[str, int]
    trace: str


def plan_of(seed: int) -> Plan:
    """What comes from outside under this seed."""
    if _is_parted(seed):
        return parted(Random(f"{seed}/parted, plan"))
    if _moves(seed):
        return moves(Random(f"{seed}/moves, plan"))
    aims = Random(f"{seed}/aims")
    if seed >= WHOLE_FROM and aims.random() < AIMED:
        return aimed_plan(aims)
    rng = Random(f"{seed}/plan")
    plan = random_plan(rng, rng.randint(5, 20))
    if seed >= WHOLE_FROM:
        plan = whole_plan(plan, Random(f"{seed}/whole"), pools=drawn(seed).pools)
        pauses = Random(f"{seed}/pauses")
        if pauses.random() < PAUSES:
            plan = with_pauses(plan, pauses)
    return tuple(move for move in plan if not isinstance(move, Crash) or move.version is not None)


def _is_parted(seed: int) -> bool:
    return seed >= WHOLE_FROM and Random(f"{seed}/parted").random() < PARTED


def _moves(seed: int) -> bool:
    return seed >= WHOLE_FROM and Random(f"{seed}/moves").random() < MOVES


def swarm_of(seed: int) -> Swarm:
    """Which faults its world has."""
    swarm = drawn(seed)
    if _is_parted(seed):
        part(swarm, Random(f"{seed}/parted, swarm"))
    elif _moves(seed):
        move(swarm, Random(f"{seed}/moves, swarm"))
    elif seed >= WHOLE_FROM and (topic := Random(f"{seed}/topic")).random() < TOPIC:
        swarm.embedded, swarm.events = False, topic.choice((1, 2, 3))
    # Plans have their own deploys: back to older code only where no run may be in the new way.
    swarm.deploy = 0.0
    if swarm.embedded:
        # State that was lost can be folded again only from a journal that was not trimmed: it halts, as it should.
        swarm.p_flip = 0.0
    return swarm


def storm(
    seed: int, plan: Plan | None = None, swarm: Swarm | None = None, *, trace: list[str] | None = None
) -> Outcome:
    """Play it. Raises AssertionError with the number of what does not hold; the end of its trace is in `trace`."""
    plan = plan_of(seed) if plan is None else plan
    ledger = Ledger()
    swarm = replace(swarm) if swarm is not None else swarm_of(seed)
    here = World(seed, apps(ledger, swarm), swarm)
    try:
        evidence = played_out(here, plan, ledger)
    finally:
        if trace is not None:
            trace += here.trace.lines
    check_prefixes(evidence)
    replays = _replayed(evidence, here.draw("replays"))
    asyncio.run(check_tapes(evidence.journal, here.draw("tapes")))
    check_beside(evidence.journal)
    records = sum(len(entries) for entries in evidence.journal.values())
    return Outcome(seed, here.time, here.loop.leapt, records, replays, dict(here.trace.counts), here.trace.digest)


def _replayed(evidence: Evidence, rng: Random) -> int:
    """On an ordinary loop. Runs are stopped half-way there: what their clean-up says to the collector is no news, and

    those that go on all the same, in real time, are not waited for.
    """
    patches = Patches()
    patches.set(sys, "unraisablehook", lambda _: None)
    patches.set(perdure.worker.stragglers, "PATIENCE_SECONDS", 0.05)
    try:
        return asyncio.run(check_replays(evidence, rng))
    finally:
        gc.collect()
        patches.undo()


def played_out(here: World, plan: Plan, ledger: Ledger) -> Evidence:
    """To its end, checked as far as that can be done while it stands."""
    with here:
        together = Together(here, ledger)

        async def story(here: World) -> Evidence:
            await together.play(plan)
            await together.finish()
            check_folds(here)
            evidence = together.evidence()
            check_invariants(evidence)
            await together.forget()
            nothing_is_left(processor.view for _, processor in here.owned())
            check_folds(here)
            return evidence

        evidence = here.play(story)
        assert not here.problems, here.problems
        return evidence


def check_folds(here: World) -> None:
    """I2, I3, I8, I13: every pod's state of a partition is that of a fold of all that was ever in it."""
    for journal in here.journals:
        everything = journal.everything()
        once = fold_records(everything, journal.partition, here.swarm.partitions)
        for _, processor in here.owned():
            if processor.partition == journal.partition:
                upto = [one for one in everything if one[0] < processor.offset]
                whole = len(upto) == len(everything)
                again = once if whole else fold_records(upto, journal.partition, here.swarm.partitions)
                assert_same(processor.view, again.view, f"partition {journal.partition}, as it lives")
        check_other_ways(everything, once.view, here.draw(f"refold {journal.partition}"))
    performing = {one.partition: one.view for _, one in here.owned() if one.performing}
    assert_all_arrived([performing[partition] for partition in range(here.swarm.partitions)])
