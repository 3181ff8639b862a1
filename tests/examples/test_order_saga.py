"""The saga: shipped, declined, never shipped, cancelled; what was done is undone."""

import asyncio

import pytest

import examples.order_saga as example
from examples.order_saga import PLACED, CardDeclined, Order, app, charge, fulfil, refund
from perdure import NonRetriable, RetryAfter, current_step
from perdure.testing import TestEngine


def payments() -> list[tuple[int, str]]:
    """Cents, and whether they were given back."""
    return example.bank.db.execute("SELECT cents, state FROM payments WHERE cents > 0 ORDER BY cents").fetchall()


def holds() -> list[str]:
    """What became of each hold."""
    return [state for (state,) in example.warehouse.db.execute("SELECT state FROM holds ORDER BY state")]


async def test_an_order_is_reserved_paid_and_shipped() -> None:
    async with TestEngine(app) as engine:
        await engine.send(PLACED(Order("o1", 900)))
        run = engine.run(fulfil)
        assert (run.status, run.output) == ("completed", "parcel-o1")
        assert [step.name for step in run.steps] == ["reserve", "charge", "ship"]
        assert payments() == [(900, "paid")]
        assert holds() == ["shipped"]


async def test_a_declined_card_is_not_asked_again_and_the_goods_go_back() -> None:
    async with TestEngine(app) as engine:
        await engine.send(PLACED(Order("o1", 900_000)))
        await engine.finish()
        run = engine.run(fulfil)
        assert run.status == "failed"
        assert run.error is not None
        assert run.error.caused_by(CardDeclined)
        assert run.error.caused_by(NonRetriable)
        assert [step.attempts for step in run.steps if step.name == "charge"] == [1]
        assert payments() == []
        assert holds() == ["released"]


async def test_a_warehouse_that_opens_again_ships() -> None:
    async with TestEngine(app) as engine:
        example.warehouse.closed = True
        await engine.send(PLACED(Order("o1", 900)))
        await engine.advance("10m")
        assert engine.run(fulfil).status not in {"completed", "failed"}
        example.warehouse.closed = False
        await engine.finish()
        assert engine.run(fulfil).output == "parcel-o1"
        assert payments() == [(900, "paid")]
        assert holds() == ["shipped"]


async def test_what_is_never_shipped_is_refunded() -> None:
    async with TestEngine(app) as engine:
        example.warehouse.closed = True
        await engine.send(PLACED(Order("o1", 900)))
        await engine.finish()
        run = engine.run(fulfil)
        assert run.status == "failed"
        assert [step.attempts for step in run.steps if step.name == "ship"] == [21]
        assert payments() == [(900, "refunded")]
        assert holds() == ["released"]


@pytest.mark.parametrize("evict", [False, True])
async def test_a_cancelled_order_is_refunded(evict: bool) -> None:
    async with TestEngine(app, evict=evict) as engine:
        example.warehouse.closed = True
        event_id = await engine.send(PLACED(Order("o1", 900)))
        (handle,) = await engine.runs(fulfil, event_id=event_id)
        await handle.cancel(reason="changed her mind")
        example.warehouse.closed = False
        await engine.finish()
        assert engine.run(fulfil).status == "cancelled"
        assert payments() == [(900, "refunded")]
        assert holds() == ["released"]


async def test_cancelling_what_has_shipped_changes_nothing() -> None:
    async with TestEngine(app) as engine:
        event_id = await engine.send(PLACED(Order("o1", 900)))
        (handle,) = await engine.runs(fulfil, event_id=event_id)
        await handle.cancel()
        await engine.finish()
        assert engine.run(fulfil).status == "completed"
        assert payments() == [(900, "paid")]
        assert holds() == ["shipped"]


async def test_an_order_takes_two_weeks_at_most() -> None:
    """A charge that gets no answer counts as not done: the run times out, and the goods go back."""

    async def asks_for_patience(order: Order) -> example.Receipt:
        raise RetryAfter("5d")

    async with TestEngine(app) as engine:
        engine.fake(charge, asks_for_patience)
        await engine.send(PLACED(Order("o1", 900)))
        await engine.advance("13d")
        assert holds() == ["reserved"]
        await engine.advance("2d")
        assert engine.run(fulfil).status in {"failed", "cancelled"}
        assert holds() == ["released"]


async def test_undoing_is_retried_too() -> None:
    calls: list[str] = []

    async def flaky(key: str) -> None:
        calls.append(key)
        if len(calls) < 3:
            raise ConnectionError("bank is away")
        await example.bank.refund(key)

    async with TestEngine(app) as engine:
        engine.fake(refund, flaky)
        example.warehouse.closed = True
        await engine.send(PLACED(Order("o1", 900)))
        await engine.finish()
        assert len(calls) == 3
        assert len(set(calls)) == 1
        assert payments() == [(900, "refunded")]
        assert holds() == ["released"]


async def test_a_cancel_between_the_payment_and_its_record_is_refunded() -> None:
    """The bank has the money and has not answered yet: the log will never know of this payment."""
    paid = asyncio.Event()

    async def slow(order: Order) -> example.Receipt:
        await example.bank.pay(order.cents, key=current_step().run_id)
        paid.set()
        await asyncio.sleep(3600)
        raise AssertionError("cancelled before")

    async with TestEngine(app) as engine:
        engine.fake(charge, slow)
        sending = asyncio.ensure_future(engine.send(PLACED(Order("o1", 900), id="o1")))
        await paid.wait()
        (handle,) = await engine.runs(fulfil, event_id="o1")
        await handle.cancel()
        await sending
        await engine.finish()
        assert engine.run(fulfil).status == "cancelled"
        assert payments() == [(900, "refunded")]
        assert holds() == ["released"]


async def test_the_bank_knows_a_key_that_it_has_seen() -> None:
    async with TestEngine(app):
        assert await example.bank.pay(900, "k") == await example.bank.pay(900, "k") == "k"
        assert payments() == [(900, "paid")]


async def test_the_bank_takes_no_payment_that_has_been_undone() -> None:
    async with TestEngine(app):
        await example.bank.refund("k")
        assert await example.bank.pay(900, "k") is None
        assert payments() == []
