"""Functions defined and called wrongly. Both checkers must report exactly the marked lines."""

from msgspec import Struct

from perdure import App, CancelOn, Context, Event, EventType

app = App("shop")


class Cart(Struct):
    cart_id: str


class Purchase(Struct):
    order_id: str


ADDED = EventType("cart/added", Cart)
ADDED(Purchase("o1"))  # error: another event's data
CancelOn("cart/removed", timeout=5)  # error: a duration is no number


@app.function(on=ADDED)  # error: the handler takes another event
async def other_data(ctx: Context, event: Event[Purchase]) -> None: ...


@app.function(on=ADDED)  # error: no context
async def no_context(event: Event[Cart]) -> None: ...


@app.function(on=ADDED)  # error: not async
def not_async(ctx: Context, event: Event[Cart]) -> None: ...


@app.function(on=ADDED, timeout=300)  # error: a duration is no number
async def plain_number(ctx: Context, event: Event[Cart]) -> None: ...


@app.cron("* * * * *")  # error: nobody gives a schedule arguments
async def with_arguments(tenant: str) -> None: ...


@app.function(on=ADDED)
async def good(ctx: Context, event: Event[Cart]) -> int:
    return 1


@app.background
async def fetch(ctx: Context, url: str) -> bytes:
    return url.encode()


async def main(ctx: Context) -> None:
    fetch("http://localhost")  # error: calling a function is .call or .enqueue
    good(ctx, ADDED(Cart("c1")))  # error: the same
    await fetch.call(3)  # error: wrong type
    await fetch.call(ctx, "http://localhost")  # error: the context is the engine's to give
    await fetch.enqueue()  # error: missing argument
    text: str = await fetch.call("http://localhost")  # error: wrong result
    await fetch.options(delay=3).enqueue("http://localhost")  # error: a duration is no number
    await good.call(Event("cart/added", Purchase("o1")))  # error: another event's data
    print(text)
