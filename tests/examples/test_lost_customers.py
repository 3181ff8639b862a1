"""The abandoned cart: bought, reminded, replaced by a later one of the same cart."""

import pytest

from examples.lost_customers import abandoned_cart, app, send_reminder
from perdure import Event
from perdure.testing import TestEngine


async def add(engine: TestEngine, cart_id: str, email: str = "ada@x.org") -> str:
    """A product goes into the cart."""
    return await engine.send("cart/product.added", {"cart_id": cart_id}, user={"email": email})


async def test_who_buys_in_time_is_left_alone() -> None:
    async with TestEngine(app) as engine:
        await add(engine, "c1")
        await engine.advance("23h")
        await engine.send("cart/purchased", {"cart_id": "c1"})
        await engine.finish()
        run = engine.run(abandoned_cart)
        assert (run.status, run.output) == ("completed", "bought")


async def test_who_does_not_buy_is_reminded_once_after_a_day() -> None:
    reminded: list[str] = []

    def note(email: str) -> None:
        reminded.append(email)

    async with TestEngine(app) as engine:
        engine.fake(send_reminder, note)
        await add(engine, "c1", "bob@x.org")
        await engine.advance("23h59m")
        assert reminded == []
        await engine.advance("2m")
        assert reminded == ["bob@x.org"]
        await engine.finish()
        assert engine.run(abandoned_cart).output == "reminded"
        assert reminded == ["bob@x.org"]


async def test_the_purchase_of_another_cart_changes_nothing() -> None:
    async with TestEngine(app) as engine:
        await add(engine, "c1")
        await engine.send("cart/purchased", {"cart_id": "c2"})
        await engine.finish()
        assert engine.run(abandoned_cart).output == "reminded"


async def test_a_later_product_of_the_same_cart_starts_the_day_anew() -> None:
    reminded: list[str] = []

    def note(email: str) -> None:
        reminded.append(email)

    async with TestEngine(app) as engine:
        engine.fake(send_reminder, note)
        await add(engine, "c1")
        await add(engine, "other")
        await engine.advance("12h")
        await add(engine, "c1")
        await engine.advance("13h")
        assert sorted(run.status for run in engine.all_runs(abandoned_cart)) == ["cancelled", "completed", "suspended"]
        assert len(reminded) == 1  # the other cart
        await engine.finish()
        outcomes = sorted(run.status for run in engine.all_runs(abandoned_cart))
        assert outcomes == ["cancelled", "completed", "completed"]
        assert len(reminded) == 2


async def test_a_second_product_within_the_same_millisecond_leaves_one_run() -> None:
    async with TestEngine(app) as engine:
        await add(engine, "c1")
        await add(engine, "c1")
        await engine.finish()
        assert sorted(run.status for run in engine.all_runs(abandoned_cart)) == ["cancelled", "completed"]


async def test_a_purchase_right_after_the_product_is_seen() -> None:
    """Both events are in the log before the run opens its wait."""
    async with TestEngine(app) as engine:
        await engine.send_many(
            [Event("cart/product.added", {"cart_id": "c1"}), Event("cart/purchased", {"cart_id": "c1"})]
        )
        await engine.finish()
        assert engine.run(abandoned_cart).output == "bought"


async def test_a_mail_service_that_is_down_for_a_while_is_asked_again() -> None:
    asked: list[str] = []

    def flaky(email: str) -> None:
        asked.append(email)
        if len(asked) < 3:
            raise ConnectionError("mail service is down")

    async with TestEngine(app) as engine:
        engine.fake(send_reminder, flaky)
        await add(engine, "c1")
        await engine.finish()
        run = engine.run(abandoned_cart)
        assert run.output == "reminded"
        assert len(asked) == 3
        assert [step.attempts for step in run.steps if step.name == "send_reminder"] == [3]


async def test_a_mail_service_that_stays_down_fails_the_run() -> None:
    def down(email: str) -> None:
        raise ConnectionError("mail service is down")

    async with TestEngine(app) as engine:
        engine.fake(send_reminder, down)
        await add(engine, "c1")
        await engine.finish()
        run = engine.run(abandoned_cart)
        assert run.status == "failed"
        assert run.error is not None
        assert "mail service is down" in str(run.error)


@pytest.mark.parametrize("evict", [False, True])
async def test_it_survives_a_crash_while_it_waits(evict: bool) -> None:
    async with TestEngine(app, evict=evict) as engine:
        await add(engine, "c1")
        await engine.crash()
        await engine.send("cart/purchased", {"cart_id": "c1"})
        await engine.crash()
        await engine.finish()
        assert engine.run(abandoned_cart).output == "bought"
