"""History beside an engine, on each log: as it is kept up, and as it is made anew."""

import asyncio
from typing import Any

import msgspec

from perdure import App, Context, Engine, Event
from perdure.history.projector import Projector
from perdure.history.store import History, RunPage
from tests.history.tools import Shelf


def shop() -> App:
    app = App("shop")
    tries = 0

    @app.step(retries=2)
    async def charge(order: str) -> str:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise ConnectionError("try again")
        return f"{order} charged"

    @app.background
    async def mail(to: str) -> str:
        return f"to {to}"

    @app.function(on="order/placed")
    async def order(ctx: Context, event: Event) -> list[Any]:
        mailed = await mail.call(event.data["order"])
        await ctx.sleep("10ms")
        paid = await ctx.wait_for_event("order/paid", match="data.order", timeout="1d")
        return [mailed, await charge(event.data["order"]), paid is not None]

    return app


async def test_what_is_kept_up_is_what_is_made_anew(log_url: str, shelf: Shelf) -> None:
    """And a run's page has all that its waterfall is drawn from."""
    live, anew = shelf.of("live"), shelf.of("anew")
    async with Engine(shop(), log=log_url) as engine:
        log = engine.nodes[0].log
        reading = Projector(log, live)
        await reading.open()
        running = asyncio.create_task(reading.run())
        await engine.send("order/placed", {"order": "o1"}, id="e1")
        # On Kafka both would be taken in side by side, and a payment that is taken in first is not one after the order.
        while (placed := live.event("e1")) is None or not placed.runs:
            await asyncio.sleep(0.01)
        await engine.send("order/paid", {"order": "o1"}, id="e2")
        page = await _ended(live, "e1")
        reading.stop()
        await running
        await reading.catch_up()
        again = Projector(log, anew)
        await again.open()
        await again.catch_up()
        for projector in (reading, again):
            await projector.close()
    assert shelf.everything("anew") == shelf.everything("live")
    assert page.run.status == "completed"
    ops = {op.op: op for op in page.ops}
    assert [(op.op, op.type, op.status) for op in page.ops] == [
        ("0/mail#1", "call", "completed"),
        ("0/sleep#1", "sleep", "completed"),
        ("0/wait:order/paid#1", "wait", "completed"),
        ("0/charge#1", "step", "completed"),
    ]
    assert [child.function for child in page.children] == ["mail"]
    assert page.children[0].parent_op == "0/mail#1"
    assert [(mark.op, mark.kind) for mark in page.marks] == [("0/charge#1", "failed"), ("0/charge#1", "retried")]
    failed = msgspec.json.decode(page.marks[0].detail)
    assert failed["error"]["message"] == "try again"
    assert failed["due"] >= page.marks[0].at
    charge = ops["0/charge#1"]
    assert charge.attempt == 2
    assert charge.took_us is not None
    assert charge.input is not None
    assert msgspec.json.decode(charge.input) == {"inline": [["o1"], {}]}
    assert charge.result is not None
    assert msgspec.json.decode(charge.result) == {"inline": "o1 charged"}
    assert page.run.requested_at <= charge.opened_at <= (charge.ended_at or 0) <= (page.run.ended_at or 0)


async def _ended(history: History, event: str) -> RunPage:
    """The page of the run that the event started, once it is over and its events are known."""
    while True:
        await asyncio.sleep(0.05)
        page, taken = history.event(event), history.event("e2")
        if page is None or not page.runs or page.runs[0].ended_at is None or taken is None or not taken.uses:
            continue
        run = history.run(page.runs[0].id)
        assert run is not None
        if all(child.ended_at is not None for child in run.children) and run.children:
            return run
