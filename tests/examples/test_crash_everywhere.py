"""Every example survives a crash right after each single append, with its runs in memory and evicted at every op."""

from pathlib import Path

import pytest

import examples.contacts_import
import examples.digest
import examples.lost_customers
import examples.onboarding
import examples.order_saga
import examples.reviews
from examples.contacts_import import REVIEWED, UPLOADED, Review, Upload
from examples.onboarding import Signup, onboard
from examples.order_saga import PLACED, Order, fulfil
from perdure import Event
from perdure.testing import TestEngine, crash_everywhere
from tests.examples.test_contacts_import import copy_of
from tests.examples.test_reviews import deliver, opened, reviewed

pytestmark = pytest.mark.parametrize("evict", [False, True], ids=["resident", "evicted"])


async def test_lost_customers(evict: bool) -> None:
    """Ada buys, Bob forgets, Cleo comes back for more."""

    async def scenario(engine: TestEngine) -> None:
        for name in ("ada", "bob", "cleo"):
            user = {"email": f"{name}@x.org"}
            await engine.send("cart/product.added", {"cart_id": name}, id=f"added-{name}", user=user)
        await engine.advance("6h")
        await engine.send("cart/purchased", {"cart_id": "ada"}, id="bought-ada")
        await engine.send("cart/product.added", {"cart_id": "cleo"}, id="added-more", user={"email": "cleo@x.org"})
        await engine.finish()
        runs = engine.all_runs(examples.lost_customers.abandoned_cart)
        outcomes = sorted(run.output if run.status == "completed" else run.status for run in runs)
        assert outcomes == ["bought", "cancelled", "reminded", "reminded"]

    await crash_everywhere(examples.lost_customers.app, scenario=scenario, evict=evict)


async def test_lost_customers_by_one_event(evict: bool) -> None:
    event = Event("cart/product.added", {"cart_id": "c1"}, id="added", user={"email": "ada@x.org"})
    await crash_everywhere(examples.lost_customers.app, event, evict=evict)


async def test_digest(evict: bool) -> None:
    """A morning."""

    async def scenario(engine: TestEngine) -> None:
        await engine.advance("24h")
        (morning,) = engine.all_runs(examples.digest.morning)
        assert morning.output == 3
        assert sorted(run.output for run in engine.all_runs(examples.digest.send_digest)) == [0, 1, 3]

    await crash_everywhere(examples.digest.app, scenario=scenario, evict=evict)


async def test_contacts_import(evict: bool, tmp_path: Path) -> None:
    """Twenty rows, one of which the table refuses: each is stored once, however often its step ran."""
    path = copy_of(19, tmp_path)
    with path.open("a", encoding="utf-8") as file:
        file.write("BAD,Beyond the pole,A,B,C,91,0\n")

    async def scenario(engine: TestEngine) -> None:
        examples.contacts_import.db.execute("DELETE FROM airports")
        await engine.send(UPLOADED(Upload("u1", str(path)), id="upload", user={"id": "ada"}))
        await engine.advance("1d")
        await engine.send(REVIEWED(Review("u1", approved=True), id="review"))
        await engine.finish()
        assert engine.run(examples.contacts_import.import_contacts).output == 19
        stored = examples.contacts_import.db.execute("SELECT count(*), count(DISTINCT iata) FROM airports")
        assert stored.fetchall() == [(19, 19)]

    await crash_everywhere(examples.contacts_import.app, scenario=scenario, evict=evict)


async def test_contacts_import_rejected(evict: bool, tmp_path: Path) -> None:
    async def scenario(engine: TestEngine) -> None:
        path = copy_of(3, tmp_path)
        await engine.send(UPLOADED(Upload("u1", str(path)), id="upload", user={"id": "ada"}))
        await engine.send(REVIEWED(Review("u1", approved=False), id="review"))
        await engine.finish()
        assert engine.run(examples.contacts_import.import_contacts).output == 0
        assert not path.exists()

    await crash_everywhere(examples.contacts_import.app, scenario=scenario, evict=evict)


async def test_order_saga(evict: bool) -> None:
    """One goes through, one is declined, one is cancelled, one is never shipped."""

    async def scenario(engine: TestEngine) -> None:
        bank, warehouse = examples.order_saga.bank, examples.order_saga.warehouse
        bank.db.executescript("DELETE FROM payments; DELETE FROM holds;")
        warehouse.closed = False
        await engine.send(PLACED(Order("tea", 900), id="tea"))
        await engine.send(PLACED(Order("piano", 900_000), id="piano"))
        examples.order_saga.warehouse.closed = True
        await engine.send(PLACED(Order("cup", 1_500), id="cup"))
        await engine.send(PLACED(Order("kettle", 4_000), id="kettle"))
        for handle in await engine.runs(fulfil, event_id="cup"):
            await handle.cancel()
        await engine.finish()
        assert sorted(run.status for run in engine.all_runs(fulfil)) == ["cancelled", "completed", "failed", "failed"]
        db = examples.order_saga.bank.db
        payments = db.execute("SELECT cents, state FROM payments WHERE cents > 0 ORDER BY cents").fetchall()
        assert payments == [(900, "paid"), (1_500, "refunded"), (4_000, "refunded")]
        holds = [state for (state,) in db.execute("SELECT state FROM holds ORDER BY state")]
        assert holds == ["released", "released", "released", "shipped"]

    await crash_everywhere(examples.order_saga.app, scenario=scenario, evict=evict)


async def test_reviews(evict: bool) -> None:
    """One is reviewed, one is not; a delivery comes twice."""

    async def scenario(engine: TestEngine) -> None:
        for number in (1, 2, 2):
            await deliver(engine, f"d-{number}", "pull_request", opened(number))
        await deliver(engine, "d-3", "pull_request_review", reviewed(1))
        await engine.advance("24h")
        outputs = sorted(run.output for run in engine.all_runs(examples.reviews.watch))
        assert outputs == ["reminded", "reviewed by ada"]

    await crash_everywhere(examples.reviews.app, scenario=scenario, evict=evict)


async def test_onboarding(evict: bool) -> None:
    """From the form to the next day, with one of the three that fails."""

    async def scenario(engine: TestEngine) -> None:
        user = Signup(email="ada@x.org", company="unknown", team=["bob@x.org", "cleo@x.org"])
        run = await onboard.options(idempotency_key="ada").enqueue(user)
        await engine.finish()
        result = await run.result()
        assert result.invited == 2
        assert len(result.problems) == 1

    await crash_everywhere(examples.onboarding.app, scenario=scenario, evict=evict)


async def test_onboarding_cancelled(evict: bool) -> None:
    async def scenario(engine: TestEngine) -> None:
        run = await onboard.options(idempotency_key="ada").enqueue(Signup(email="ada@x.org", company="acme"))
        await engine.advance("1h")
        await run.cancel()
        await engine.finish()
        assert await run.status() == "cancelled"
        assert examples.onboarding.db.execute("SELECT * FROM workspaces").fetchall() == []

    await crash_everywhere(examples.onboarding.app, scenario=scenario, evict=evict)
