"""An app whose runs the tests look back at."""

from typing import Any

from perdure import App, Context, Event


def shop() -> App:
    app = App("shop")

    @app.step
    async def pack(text: str) -> str:
        return text * 3_000

    @app.function(on="placed", id="order")
    async def order(ctx: Context, event: Event[Any]) -> int:
        packed = await pack(event.data["text"])
        paid = await ctx.wait_for_event("paid", match="data.cart", timeout="1h")
        return len(packed) + (0 if paid is None else 1)

    return app
