"""The examples in worlds where whatever can fail does: what they promise to their users holds all the same."""

import csv
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from examples import contacts_import, digest, lost_customers, onboarding, order_saga
from examples.contacts_import import Airport
from examples.order_saga import Bank, Warehouse
from perdure.errors import UnknownRun
from perdure.flow.routing import run_id
from tests.evidence.entries import entries_of, without_repetitions
from tests.simulation.checks.besides import check_beside
from tests.simulation.checks.matching import check_matching
from tests.simulation.checks.tales import Tale, tell
from tests.simulation.storms import check_folds, swarm_of
from tests.simulation.world import World

SEEDS = 6
HOUR_MS = 3_600_000


def leap(here: World, hours: float) -> None:
    here.leap(here.loop.wall_ms() + int(hours * HOUR_MS))


def check(here: World) -> list[Tale]:
    """What holds of every log, and that each run has ended; the runs."""
    check_folds(here)
    journal = {one.partition: entries_of(one.partition, one.everything()) for one in here.journals}
    effective, _ = without_repetitions(journal)
    tales, _ = tell(effective)
    check_matching(effective, tales)
    check_beside(journal)
    runs = [tale for tale in tales.values() if tale.request is not None]
    assert not [tale for tale in runs if tale.live], "I14"
    return runs


def by_event(runs: list[Tale]) -> dict[str, Tale]:
    """The run that each event has started."""
    return {tale.request.record["event_id"]: tale for tale in runs if tale.request and tale.cause == "event"}


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
            started = by_event(check(here))
            for cart in range(3):
                ended = [started[f"added-{cart}-{n}"].status for n in range(4)]
                assert ended == ["cancelled"] * 3 + ["completed"], f"cart {cart}: {ended}"

        here.play(story)
        assert not here.problems, here.problems


@pytest.fixture
def db() -> Iterator[sqlite3.Connection]:
    """What steps write to is not of this world: it outlives every pod."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    yield connection
    connection.close()


@pytest.mark.parametrize("seed", range(SEEDS))
def test_order_saga(seed: int, db: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who gets no parcel has paid nothing in the end, and nothing is held for anybody who has none."""
    db.executescript(order_saga.SCHEMA)
    warehouse = Warehouse(db)
    monkeypatch.setattr(order_saga, "bank", Bank(db), raising=False)
    monkeypatch.setattr(order_saga, "warehouse", warehouse, raising=False)
    with World(seed, order_saga.app, swarm_of(seed)) as here:

        async def story(here: World) -> None:
            tries = here.draw("orders")
            for n in range(8):
                cents = 900_000 if n == 3 else 100 * n
                await here.send("order/placed", {"id": f"o{n}", "cents": cents}, id=f"order-{n}")
                warehouse.closed = tries.random() < 0.5
                if n % 3 == 2:
                    with suppress(UnknownRun):  # its request is on its way
                        await here.cancel(run_id("orders", "fulfil", f"order-{n}"))
                await here.sleep(tries.random())
            warehouse.closed = tries.random() < 0.3
            here.heal()
            await here.finish()
            paid = dict(db.execute("SELECT key, state FROM payments"))
            held = dict(db.execute("SELECT key, state FROM holds"))
            for run in by_event(check(here)).values():
                if run.id not in paid and run.status == "cancelled":
                    continue  # it was cancelled before it was asked for, and never began
                mine = [state for key, state in held.items() if key.startswith(run.id)]
                if run.status == "completed":
                    assert (paid[run.id], mine) == ("paid", ["shipped"])
                else:
                    assert paid[run.id] in ("refunded", "void"), f"{run.id} is {run.status}: {paid[run.id]}"

        here.play(story)
        assert not here.problems, here.problems


@pytest.mark.parametrize("seed", range(SEEDS))
def test_contacts_import(seed: int, db: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each good row of an approved list is stored once, and nothing of one that was not approved in time."""
    db.executescript(contacts_import.SCHEMA)
    monkeypatch.setattr(contacts_import, "db", db, raising=False)
    for name in ("approved", "refused", "forgotten"):
        with open(tmp_path / name, "w", encoding="utf-8", newline="") as file:
            table = csv.writer(file)
            table.writerow(Airport.__struct_fields__[:-1])
            for n in range(15):
                # The table refuses the eighth for good: there is no such latitude.
                table.writerow([f"{name}-{n}", "Bay", "X", "AK" if n % 3 else "TX", "USA", 91 if n == 7 else 60, n])
    with World(seed, contacts_import.app, swarm_of(seed)) as here:

        async def review(upload: str, **said: object) -> None:
            await here.send("api/contact_list.reviewed", {"upload_id": upload, **said}, id=f"review-{upload}")

        async def story(here: World) -> None:
            for name in ("approved", "refused", "forgotten"):
                upload = {"upload_id": name, "path": str(tmp_path / name)}
                await here.send("api/contact_list.uploaded", upload, id=name, user={"id": "ada"})
            await here.sleep(here.draw("review").random() * 5)
            leap(here, 48)
            await review("approved", approved=True, filters=["state=AK"])
            await review("refused", approved=False)
            await here.sleep(3)
            here.heal()
            await here.finish()
            assert Counter(run.status for run in by_event(check(here)).values()) == {"completed": 3}
            stored = sorted(iata for (iata,) in db.execute("SELECT iata FROM airports"))
            assert stored == sorted(f"approved-{n}" for n in range(15) if n % 3 and n != 7)
            assert [text for (text,) in db.execute("SELECT text FROM outbox")] == [
                "9 of 10 contacts imported: not approved-7"
            ]
            assert {path.name.partition(".")[0] for path in tmp_path.iterdir()} == {"approved"}

        here.play(story)
        assert not here.problems, here.problems


@pytest.mark.parametrize("seed", range(SEEDS))
def test_digest(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each morning has one run for each user, and who asks for news has her mail."""
    with World(seed, digest.app, swarm_of(seed)) as here:
        monkeypatch.setattr(digest, "print", here.happened, raising=False)

        async def story(here: World) -> None:
            days: list[str] = []
            for _ in range(3):
                now = datetime.fromtimestamp(here.loop.wall_ms() / 1000, UTC)
                leap(here, (8 - now.hour - now.minute / 60) % 24 or 24)
                days.append(f"{datetime.fromtimestamp(here.loop.wall_ms() / 1000, UTC):%Y-%m-%d}")
                await here.sleep(5)
            here.heal()
            await here.finish()
            runs = Counter((run.function, run.status) for run in check(here))
            mornings = runs["morning", "completed"]
            # Fires that nobody was there for come as one.
            assert 1 <= mornings <= len(days)
            assert runs == {("morning", "completed"): mornings, ("send_digest", "completed"): mornings * 3}
            mailed = {what.split(":")[1].split()[-1] for _, _, what in here.effects}
            assert len(mailed) == mornings
            assert days[-1] in mailed <= set(days)
            readers = {user.email for user in digest.USERS if user.topics}
            for day in mailed:
                mails = [what for _, _, what in here.effects if day in what]
                assert {what.split()[2].rstrip(":") for what in mails} == readers, day

        here.play(story)
        assert not here.problems, here.problems


@pytest.mark.parametrize("seed", range(SEEDS))
def test_onboarding(seed: int, db: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is through has her workspace and her mails, once each; who was cancelled sees it."""
    db.executescript(onboarding.SCHEMA)
    monkeypatch.setattr(onboarding, "db", db, raising=False)
    companies = {"ada": "acme", "bob": "unknown", "cleo": "acme", "dora": "acme"}
    with World(seed, onboarding.app, swarm_of(seed)) as here:

        async def story(here: World) -> None:
            asked: dict[str, str] = {}
            for name, company in companies.items():
                user = {"email": name, "company": company, "team": ["eve", "fred"]}
                asked[name] = await here.enqueue("onboard", user, id=name)
                assert await here.enqueue("onboard", user, id=name) == asked[name]
            await here.sleep(here.draw("cancel").random() * 4)
            with suppress(UnknownRun):  # its request is on its way
                await here.cancel(asked["dora"])
            here.heal()
            await here.finish()
            runs = {run.id: run for run in check(here)}
            for name in companies:
                status = runs[asked[name]].status
                assert status == "completed" or name == "dora", f"{name}: {status}"
                mails = Counter(text for (text,) in db.execute("SELECT text FROM outbox WHERE recipient = ?", (name,)))
                (seen,) = next(db.execute("SELECT status FROM users WHERE email = ?", (name,)), ("",))
                if status == "completed":
                    assert mails["Welcome!"] == mails["How was your first day?"] == 1
                    assert seen == "ready, 2 invited"
                    assert len(db.execute("SELECT * FROM workspaces WHERE owner = ?", (name,)).fetchall()) == 1
                else:
                    assert seen in ("", "setting up", "onboarding cancelled"), seen
            invited = [text for (text,) in db.execute("SELECT text FROM outbox WHERE recipient = 'eve'")]
            assert {f"{name} invites you" for name in ("ada", "bob", "cleo")} <= set(invited)
            assert len(invited) == len(set(invited))

        here.play(story)
        assert not here.problems, here.problems
