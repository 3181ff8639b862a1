"""The simulator itself: what it promises to those who look for faults of the engine with it."""

import pytest

from perdure import App
from tests.simulation import shop
from tests.simulation.swarm import Swarm
from tests.simulation.world import World, world

app = App("sim")


@app.step
async def charge(order: int) -> int:
    world().happened(f"charge {order}")
    return order * 2


@app.step
def pack(order: int) -> str:
    world().happened(f"pack {order}")
    return f"packed {order}"


@app.function(on="order/placed")
async def ship(ctx, event):
    paid = await charge(event.data["n"])
    await ctx.sleep("1h")
    return [paid, await pack(paid)]


def once(seed: int, swarm: Swarm | None = None) -> World:
    with World(seed, app, swarm) as here:

        async def story(here: World) -> None:
            for n in range(5):
                await here.send("order/placed", {"n": n}, id=f"e{n}")
            await here.sleep(3)
            here.heal()
            await here.finish()

        here.play(story)
        assert not here.problems, here.problems
        assert {what for _, _, what in here.effects} == {
            f"{w}" for n in range(5) for w in (f"charge {n}", f"pack {2 * n}")
        }
    return here


@pytest.mark.parametrize("seed", range(3))
def test_one_pod_without_faults(seed: int) -> None:
    here = once(seed, Swarm(pods=1))
    print(here.report())


@pytest.mark.parametrize("seed", range(3))
def test_the_same_seed_is_the_same_trace(seed: int) -> None:
    assert once(seed, Swarm(pods=1)).trace.digest == once(seed, Swarm(pods=1)).trace.digest


def test_a_fire_that_came_too_early_corrects_the_clock_of_who_wrote_it() -> None:
    """Brokers' clocks differ by seconds and partitions move between them: a timer takes a fire or two, not hundreds."""
    for seed in range(10):
        with World(seed, shop.made(), Swarm(pods=2, skew_ms=5_000, leader=0.3)) as here:
            here.play(shop.story)
            shop.check(here)
            fired = [value for records in here.records() for _, _, value in records if b'"timer.fired"' in value]
            timers = set(fired)
            assert len(fired) <= 3 * len(timers), f"{len(fired)} fires of {len(timers)} timers"
