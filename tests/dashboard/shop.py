"""An app with a fate for each kind of order, in moments."""

import asyncio
from typing import Any

from perdure import App, CancelOn, Context, Event, NonRetriable, current_step

app = App("shop")


class CardDeclined(NonRetriable):
    """There is no point in asking again."""


@app.step(retries=3)
async def charge(order: str, cents: int) -> str:
    current_step().logger.info("charging %s", cents)
    if cents < 0:
        raise CardDeclined(f"order {order}: {cents} cents")
    if current_step().attempt == 1:
        await asyncio.sleep(0.05)
        raise ConnectionError("the bank does not answer")
    return f"ch-{order}"


@app.background
async def label(order: str, *, copies: int = 1) -> str:
    return f"{copies} × {order}"


@app.function(on="order/placed", cancel_on=CancelOn("order/cancelled", match="data.order"))
async def fulfil(ctx: Context, event: Event) -> dict[str, Any]:
    order = event.data["order"]
    ctx.logger.info("an order of %s", event.user.get("email"))
    paid = await charge(order, event.data.get("cents", 100))
    made = await label.call(order, copies=2)
    await ctx.wait_for_event("order/collected", match="data.order", timeout="1d")
    return {"paid": paid, "label": made}


@app.step(queue="studio")
async def draw(order: str) -> str:
    return order


@app.background
async def mail(to: str) -> str:
    return to


@app.cron("0 6 * * *")
async def sweep() -> None: ...
