"""The examples in worlds where whatever can fail does: what they promise to their users holds all the same."""

import sqlite3
from contextlib import suppress

import pytest

import examples.order_saga
from examples import lost_customers
from examples.order_saga import SCHEMA, Bank, Warehouse
from perdure.errors import UnknownRun
from perdure.flow.routing import run_id
from tests.evidence.entries import entries_of, without_repetitions
from tests.simulation.checks.matching import check_matching
from tests.simulation.checks.tales import tell
from tests.simulation.storms import check_folds, swarm_of
from tests.simulation.world import World

SEEDS = 6
HOUR_MS = 3_600_000


def leap(here: World, hours: float) -> None:
    here.leap(here.loop.wall_ms() + int(hours * HOUR_MS))


def check(here: World) -> dict[str, tuple[str, str]]:
    """What holds of every log; the status and the trigger of each run."""
    check_folds(here)
    journal = {one.partition: entries_of(one.partition, one.everything()) for one in here.journals}
    effective, _ = without_repetitions(journal)
    tales = tell(effective)
    check_matching(effective, tales)
    found: dict[str, tuple[str, str]] = {}
    for tale in tales.values():
        if tale.request is not None and tale.cause == "event":
            assert not tale.live, f"I14: {tale}"
            found[tale.request.record["event_id"]] = tale.status, tale.id
    return found


@pytest.mark.parametrize("seed", range(SEEDS))
def test_lost_customers(seed: int) -> None:
    """Each cart has one run that is not cancelled: that of its last product."""
    swarm = swarm_of(seed)
    with World(seed, lost_customers.app, swarm) as here:

        async def story(here: World) -> None:
            for n in range(4):
                for cart in range(3):
                    data = {"cart_id": f"c{cart}"}
                    await here.send("cart/product.added", data, id=f"added-{cart}-{n}", user={"email": "ada@x.org"})
                leap(here, 5)
                await here.sleep(2)
            await here.send("cart/purchased", {"cart_id": "c0"}, id="bought")
            here.heal()
            await here.finish()
            found = check(here)
            for cart in range(3):
                ended = [found[f"added-{cart}-{n}"][0] for n in range(4)]
                assert ended == ["cancelled"] * 3 + ["completed"], f"cart {cart}: {ended}"

        here.play(story)
        assert not here.problems, here.problems


@pytest.mark.parametrize("seed", range(SEEDS))
def test_order_saga(seed: int) -> None:
    """Who gets no parcel has paid nothing in the end, and nothing is held for anybody who has none."""
    db = sqlite3.connect(":memory:", isolation_level=None)
    db.executescript(SCHEMA)
    examples.order_saga.bank, examples.order_saga.warehouse = Bank(db), Warehouse(db)
    with World(seed, examples.order_saga.app, swarm_of(seed)) as here:

        async def story(here: World) -> None:
            tries = here.draw("orders")
            for n in range(8):
                cents = 900_000 if n == 3 else 100 * n
                await here.send("order/placed", {"id": f"o{n}", "cents": cents}, id=f"order-{n}")
                examples.order_saga.warehouse.closed = tries.random() < 0.5
                if n % 3 == 2:
                    with suppress(UnknownRun):  # its request is on its way
                        await here.cancel(run_id("orders", "fulfil", f"order-{n}"))
                await here.sleep(tries.random())
            examples.order_saga.warehouse.closed = tries.random() < 0.3
            here.heal()
            await here.finish()
            found = check(here)
            paid = dict(db.execute("SELECT key, state FROM payments"))
            held = dict(db.execute("SELECT key, state FROM holds"))
            for status, run in found.values():
                if run not in paid and status == "cancelled":
                    continue  # it was cancelled before it was asked for, and never began
                mine = [state for key, state in held.items() if key.startswith(run)]
                if status == "completed":
                    assert (paid[run], mine) == ("paid", ["shipped"])
                else:
                    assert paid[run] in ("refunded", "void"), f"{run} is {status}, and its money {paid[run]}"

        here.play(story)
        assert not here.problems, here.problems
    db.close()
