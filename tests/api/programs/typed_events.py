"""Events: types and names as triggers, unions, waits that know what they return."""

from datetime import UTC, datetime
from typing import Any, assert_type

from msgspec import Struct

from perdure import App, Context, Event, EventType, Trigger

app = App("shop")


class Cart(Struct):
    cart_id: str
    items: list[str]


class Purchase(Struct):
    order_id: str
    total: int


ADDED = EventType("cart/added", Cart)
BOUGHT = EventType("cart/bought", Purchase)

assert_type(ADDED(Cart("c1", [])), Event[Cart])
assert_type(ADDED | BOUGHT, EventType[Cart | Purchase])
ADDED(Cart("c1", ["tea"]), id="e1", user={"id": 7}, ts=datetime(2026, 1, 1, tzinfo=UTC))


@app.function(on=ADDED)
async def by_type(ctx: Context, event: Event[Cart]) -> str:
    assert_type(event.data.items, list[str])
    assert_type(event.ts, datetime | None)
    bought = await ctx.wait_for_event(BOUGHT, match="data.order_id", timeout="2h45m")
    assert_type(bought, Event[Purchase] | None)
    if bought is not None:
        return bought.data.order_id
    for_ever = await ctx.wait_for_event(BOUGHT, match={"data.order_id": "o1"}, where="async.data.total > 3")
    assert_type(for_ever, Event[Purchase])
    return str(for_ever.data.total)


@app.function(on=ADDED | BOUGHT)
async def by_union(ctx: Context, event: Event[Cart | Purchase]) -> None:
    if isinstance(event.data, Cart):
        ctx.logger.info("%s", event.data.cart_id)


@app.function(on="cart/*")
async def by_pattern(ctx: Context, event: Event) -> None:
    assert_type(event.data, dict[str, Any])
    named = await ctx.wait_for_event("cart/bought", match="data.cart_id")
    assert_type(named, Event[dict[str, Any]])
    timed = await ctx.wait_for_event("cart/bought", match="data.cart_id", timeout="1 day")
    assert_type(timed, Event[dict[str, Any]] | None)


@app.function(on=["cart/added", "cart/changed"])
async def by_names(ctx: Context, event: Event[Cart]) -> int:
    return len(event.data.items)


@app.function(on=Trigger(ADDED, where="event.data.items.size() > 3"))
async def by_condition(ctx: Context, event: Event[Cart]) -> None:
    await ctx.send(BOUGHT(Purchase("o1", 3)))
    assert_type(await ctx.send("cart/seen", {"cart_id": event.data.cart_id}, id="e2"), str)
    assert_type(await ctx.send_many([ADDED(event.data), BOUGHT(Purchase("o2", 4))]), list[str])
