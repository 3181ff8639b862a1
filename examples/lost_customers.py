"""Lost customers: who puts something into the cart and does not buy it within a day gets one reminder.

Each `cart/product.added` starts a run and, by `cancel_on`, ends the older run of the same cart: the day counts from the
last product. The wait misses nothing: a purchase that came before the wait was opened counts too.

    python examples/lost_customers.py                    a day in the life of three carts, in a moment
    perdure dev examples.lost_customers:app              the same code, served, with real days
"""

import asyncio

from perdure import App, CancelOn, Context, Event

app = App("shop")


@app.step(retries=3)
async def send_reminder(email: str) -> None:
    """Stands for a mail service."""
    print(f"  mail to {email}: your cart is still waiting for you")


@app.function(on="cart/product.added", cancel_on=CancelOn("cart/product.added", match="data.cart_id"))
async def abandoned_cart(ctx: Context, event: Event) -> str:
    """Waits a day for the purchase of this very cart."""
    if await ctx.wait_for_event("cart/purchased", match="data.cart_id", timeout="24h"):
        return "bought"
    await send_reminder(event.user["email"])
    return "reminded"


async def main() -> None:
    """Three customers: one buys, one forgets, one comes back for more and then forgets."""
    from perdure.testing import TestEngine

    async with TestEngine(app) as engine:
        for name in ("ada", "bob", "cleo"):
            await engine.send("cart/product.added", {"cart_id": name}, user={"email": f"{name}@x.org"})
        await engine.advance("6h")
        await engine.send("cart/purchased", {"cart_id": "ada"})
        await engine.send("cart/product.added", {"cart_id": "cleo"}, user={"email": "cleo@x.org"})
        print("a day later:")
        await engine.finish()
        for run in engine.all_runs(abandoned_cart):
            print(f"  {run.id}  {run.status:9}  {run.output if run.status == 'completed' else ''}")


if __name__ == "__main__":
    asyncio.run(main())
