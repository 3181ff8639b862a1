"""Owners of one partition whose code goes different ways: a run goes the way that its log has first, or is parked.

Programs are fickle in their steps alone (`syntax.Fickle`); here all else that a run awaits has other arguments by pod.
"""

import asyncio
from collections import defaultdict
from typing import Any

import msgspec
import pytest

from perdure import App, Context, Event
from perdure.flow.states import TERMINAL
from tests.simulation.swarm import Swarm
from tests.simulation.world import World, world

app = App("ways")
RUNS = 80
CAUGHT = (26, 74)
"""Seeds in which a run went on the other way, as long as nobody compared what another owner had opened."""


def way() -> int:
    """Which way the code of this pod goes."""
    return int(world().loop.current.name.partition(".")[0][-1]) % 2


@app.background
async def child(n: int) -> int:
    return n


@app.function(on="begin", waits=["way"])
async def ways(ctx: Context, event: Event[Any]) -> list[int]:
    """Each way that it went, by ops of one kind."""
    gone: list[int] = []
    for _ in range(3):
        gone.append(way())
        match event.data["n"] % 4:
            case 0:
                await ctx.send("gone", {"way": gone[-1]})
            case 1:
                await ctx.sleep(f"{gone[-1] + 1}s")
            case 2:
                await ctx.wait_for_event("way", timeout=f"{gone[-1] + 1}ms")
            case _:
                await child.call(gone[-1])
    return gone


def way_of(opening: dict[str, Any]) -> int:
    """By the arguments of an op."""
    match opening["type"]:
        case "send":
            return int(opening["events"][0]["data"]["way"])
        case "sleep":
            return int(opening["for_ms"]) // 1_000 - 1
        case "wait":
            return int(opening["timeout_ms"]) - 1
        case _:
            return int(opening["arguments"]["inline"][0][0])


def swarm() -> Swarm:
    """Pods are taken for dead, and are not."""
    found = Swarm(pods=4, partitions=1, latency=0.02, tail=0.05, session=3.0, request_timeout=0.5, grace_seconds=0.5)
    found.freeze = found.cut = found.rebalance = 0.3
    found.p_lost_request = found.p_lost_answer = 0.3
    found.p_abandon, found.p_late = 0.8, 0.8
    return found


def logged(here: World) -> dict[str, list[int]]:
    """Run → the ways of its ops, by the first opening of each, which counts."""
    found: dict[str, dict[str, int]] = defaultdict(dict)
    for _, _, raw in here.records()[0]:
        record = msgspec.json.decode(raw)
        if record["kind"] == "op.opened":
            found[record["run"]].setdefault(record["op"], way_of(record["opening"]))
    return {run: list(gone.values()) for run, gone in found.items()}


@pytest.mark.parametrize("seed", [*range(3), *CAUGHT])
def test_a_run_goes_the_way_that_its_log_has(seed: int) -> None:
    with World(seed, app, swarm()) as here:

        async def story(here: World) -> None:
            sent: list[asyncio.Task[Any]] = []
            for n in range(RUNS):
                sent.append(asyncio.ensure_future(here.send("begin", {"n": n}, id=f"begin-{n}")))
                await here.sleep(0.5)
            await asyncio.gather(*sent)
            here.heal()
            await here.finish(days=30)

        here.play(story)
        assert not here.problems
        gone = logged(here)
        for _, processor in here.owned():
            for run in processor.view.runs.values():
                assert run.status == "parked" or run.status in TERMINAL, f"I14: run {run.id} is {run.status}"
                if run.function == "ways" and run.result is not None:
                    payload = processor.payload(run.result)
                    assert isinstance(payload.inline, msgspec.Raw)
                    told = msgspec.json.decode(payload.inline)
                    assert told == gone[run.id], f"I16: run {run.id} went {told}, and its log has {gone[run.id]}"
