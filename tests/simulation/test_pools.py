"""Steps of queues in worlds where whatever can fail does: each run ends, and each step has one outcome."""

import asyncio
import os
from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from perdure import App, Context, Event, StepError, current_step
from perdure.flow import decode
from perdure_schemas.payload import Payload
from perdure_schemas.records import (
    OpClosed,
    OpOpened,
    Queued,
    RunCancelRequested,
    RunFinished,
    StepAnswered,
    StepClaimed,
    StepCompleted,
)
from tests.simulation.storms import check_folds, swarm_of
from tests.simulation.swarm import Swarm
from tests.simulation.world import World, world

app = App("pools")


@app.step(queue="gpu")
async def embed(n: int) -> int:
    world().happened(f"embed {n}")
    await asyncio.sleep(0.05)
    return n * 2


@app.step(queue="gpu", retries=30)
def fragile(n: int) -> str:
    if world().draw(f"fragile {n} {current_step().attempt}").random() < 0.4:
        raise RuntimeError("dropped")
    return f"whole {n}"


@app.step(queue="slow")
async def train(n: int) -> int:
    """Longer than a lease."""
    world().happened(f"train {n}")
    await asyncio.sleep(12)
    return n


@app.step(queue="gpu", retries=0)
async def refuses(n: int) -> None:
    raise ValueError(f"no {n}")


@app.function(on="data/came")
async def work(ctx: Context, event: Event[Any]) -> list[object]:
    n = event.data["n"]
    first = await embed(n)
    side: list[object] = [*await asyncio.gather(fragile(n), embed(n + 100), embed(n + 200))]
    try:
        await refuses(n)
    except StepError as error:
        side.append(error.message)
    trained = await train(n) if n % 3 == 0 else -1
    return [first, *side, trained]


@app.function(on="data/came")
async def races(ctx: Context, event: Event[Any]) -> int:
    """The step loses, or the sleep does: whichever it is, it is so on every replay."""
    winner, _ = await ctx.race(train(event.data["n"] + 1000), ctx.sleep(timedelta(seconds=10 + event.data["n"])))
    return winner


@app.background
async def unwanted(n: int) -> int:
    return await train(n + 2000)


async def story(here: World) -> None:
    rng = here.draw("story")
    runs: list[str] = []
    for n in range(5):
        await here.send("data/came", {"n": n}, id=f"came-{n}")
        runs.append(await here.enqueue("unwanted", n, id=f"unwanted-{n}"))
        await here.sleep(rng.random() * 3)
        if n % 2:
            await here.cancel(runs[n])
    await here.sleep(5 * rng.random())
    here.heal()
    await here.finish()
    check(here)
    check_folds(here)


def check(here: World) -> None:
    """Every run ended as it should, and nothing of its steps is left."""
    found: dict[str, list[tuple[str, Any]]] = {}
    for _, processor in here.owned():
        assert list(processor.view.queued.items()) == [], "a step stands in its queue and its run has ended"
        for state in processor.view.runs.values():
            payload = processor.payload(state.result) if state.result is not None else Payload(msgspec.Raw(b"null"))
            assert isinstance(payload.inline, msgspec.Raw)
            why = state.error.message if state.error is not None and state.status != "cancelled" else ""
            found.setdefault(state.function, []).append((state.status, why or msgspec.json.decode(payload.inline)))
    whole = [
        ("completed", [n * 2, f"whole {n}", n * 2 + 200, n * 2 + 400, f"no {n}", n if n % 3 == 0 else -1])
        for n in range(5)
    ]
    lone = [("cancelled", None)] + [("completed", 2000 + n) for n in range(5)]
    for name, expected in (("work", whole), ("races", [("completed", n) for n in (0, 1)]), ("unwanted", lone)):
        assert len(found[name]) == 5
        # Faults may strike whoever has it as often as a step that kills its members would.
        others = [
            one for one in found[name] if one[0] != "failed" or not one[1].endswith("times while step 'train' ran")
        ]
        assert [one for one in others if one not in expected] == []
        assert len(found[name]) - len(others) <= 2
    for journal in here.journals:
        check_claims(raw for _, _, raw in journal.everything())


def check_claims(journal: Iterable[bytes]) -> None:
    """I6, by code of its own: a claim is granted only if it was made while the step was open and nobody had it."""
    steps: dict[tuple[str, str], _Step] = {}
    ended: set[str] = set()
    for raw in journal:
        record = decode(raw)
        run = getattr(record, "run", "")
        step = steps.get((run, getattr(record, "op", "")))
        if isinstance(record, OpOpened) and isinstance(record.opening, Queued) and step is None:
            steps[run, record.op] = _Step()
        elif isinstance(record, RunFinished | RunCancelRequested):
            ended.add(run)
        elif isinstance(record, StepCompleted | OpClosed) and step is not None:
            step.open = False
        elif isinstance(record, StepClaimed) and step is not None and not record.beat:
            if step.open and run not in ended:
                step.claims.add(record.claim)
        elif isinstance(record, StepAnswered) and record.granted:
            assert step is not None
            assert record.claim in step.claims, "I6: granted, and made when nobody wanted it any more"


class _Step:
    def __init__(self) -> None:
        self.open = True
        self.claims: set[str] = set()


def swarm(seed: int) -> Swarm:
    """Virtual time costs: a step may outlast its lease all the same."""
    return replace(swarm_of(seed), lease_ms=10_000, ask_again_seconds=0.5)


@pytest.mark.parametrize("seed", range(int(os.environ.get("PERDURE_POOL_SEEDS", "6"))))
def test_queues_in_a_world_of_faults(seed: int) -> None:
    here = World(seed, app, swarm(seed))
    with here:
        here.play(story)
        assert not here.problems, here.problems


def test_the_same_seed_is_the_same_world() -> None:
    """I15."""
    digests: list[str] = []
    for _ in range(2):
        here = World(11, app, swarm(11))
        with here:
            here.play(story)
        digests.append(here.trace.digest)
    assert digests[0] == digests[1]
