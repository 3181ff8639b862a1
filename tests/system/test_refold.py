"""I2: what the engine keeps equals a fold of its log from the first record, in any batching; I7, I8 beside it.

The logs are those of all examples, with crashes after random records; those of random programs are in tests/simulation.
"""

import random
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

import examples.contacts_import
import examples.digest
import examples.lost_customers
import examples.onboarding
import examples.order_saga
from examples.contacts_import import REVIEWED, UPLOADED, Review, Upload
from examples.onboarding import Signup, onboard
from examples.order_saga import PLACED, Order, fulfil
from perdure import App
from perdure.log.embedded import EmbeddedLog
from perdure.testing import TestEngine
from tests.evidence.refolding import check_refold

Scenario = Callable[[TestEngine], Awaitable[object]]


@pytest.fixture(autouse=True)
def databases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The examples keep their data here."""
    monkeypatch.setenv("CONTACTS_DB", str(tmp_path / "contacts.db"))
    monkeypatch.setenv("ORDERS_DB", str(tmp_path / "orders.db"))
    monkeypatch.setenv("ONBOARDING_DATA", str(tmp_path / "onboarding"))


# The examples


async def test_lost_customers(tmp_path: Path) -> None:
    async def scenario(engine: TestEngine) -> None:
        for name in ("ada", "bob", "cleo"):
            user = {"email": f"{name}@x.org"}
            await engine.send("cart/product.added", {"cart_id": name}, id=f"added-{name}", user=user)
        await engine.advance("6h")
        await engine.send("cart/purchased", {"cart_id": "ada"}, id="bought-ada")
        await engine.send("cart/product.added", {"cart_id": "cleo"}, id="added-more", user={"email": "cleo@x.org"})
        await engine.finish()
        await engine.advance("3d")

    await with_crashes(examples.lost_customers.app, scenario, tmp_path)


async def test_digest(tmp_path: Path) -> None:
    async def scenario(engine: TestEngine) -> None:
        await engine.advance("4d")

    await with_crashes(examples.digest.app, scenario, tmp_path)


async def test_contacts_import(tmp_path: Path) -> None:
    table = Path(examples.contacts_import.__file__).parent / "data" / "airports.csv"
    lines = table.read_text(encoding="utf-8").splitlines()

    async def scenario(engine: TestEngine) -> None:
        for name, approved in (("u1", True), ("u2", False), ("u3", None)):
            path = tmp_path / name
            path.write_text("\n".join(lines[:60] + ["BAD,Beyond the pole,A,B,C,91,0"] * (name == "u1")) + "\n")
            await engine.send(UPLOADED(Upload(name, str(path)), id=name, user={"id": "ada"}))
            if approved is not None:
                await engine.send(REVIEWED(Review(name, approved=approved), id=f"review-{name}"))
        await engine.finish()

    await with_crashes(examples.contacts_import.app, scenario, tmp_path)


async def test_order_saga(tmp_path: Path) -> None:
    async def scenario(engine: TestEngine) -> None:
        await engine.send(PLACED(Order("tea", 900), id="tea"))
        await engine.send(PLACED(Order("piano", 900_000), id="piano"))
        examples.order_saga.warehouse.closed = True
        await engine.send(PLACED(Order("cup", 1_500), id="cup"))
        await engine.send(PLACED(Order("kettle", 4_000), id="kettle"))
        for handle in await engine.runs(fulfil, event_id="cup"):
            await handle.cancel()
        await engine.finish()

    await with_crashes(examples.order_saga.app, scenario, tmp_path)


async def test_onboarding(tmp_path: Path) -> None:
    async def scenario(engine: TestEngine) -> None:
        for number, company in enumerate(("acme", "unknown", "acme")):
            user = Signup(email=f"u{number}@x.org", company=company, team=["bob@x.org", "cleo@x.org"])
            run = await onboard.options(idempotency_key=user.email).enqueue(user)
            if number == 2:
                await run.cancel()
        await engine.finish()

    await with_crashes(examples.onboarding.app, scenario, tmp_path)


async def with_crashes(app: App, scenario: Scenario, folder: Path) -> None:
    """The scenario in one piece, then a few times with crashes after random records.

    The folds in batches are kept in RocksDB, those of random programs in memory.
    """
    for seed in range(4):
        rng = random.Random(seed)
        engine = TestEngine(app, evict=seed % 2 == 1)
        if engine.log.shared and seed > 1:
            return  # a life on Kafka takes its time: there in one piece, and once with crashes
        async with engine:
            if seed:
                engine.log.on_append = lambda record, rng=rng: rng.random() < 0.03
            await scenario(engine)
            engine.log.on_append = None
            await engine.settle()
            scratch = EmbeddedLog(folder / f"scratch{seed}", 1)
            await scratch.open()
            check_refold(engine, rng, scratch)
            await scratch.close()
