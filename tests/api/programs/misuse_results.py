"""Results taken for what they are not. Both checkers must report exactly the marked lines."""

from msgspec import Struct

from perdure import App, Client, Context, Ended, Event, EventType, Function
from perdure.testing import TestEngine

app = App("shop")


class Cart(Struct):
    cart_id: str


ADDED = EventType("cart/added", Cart)


@app.step
async def charge(cents: int) -> str:
    return str(cents)


@app.function(on=ADDED)
async def remind(ctx: Context, event: Event[Cart]) -> str:
    timed = await ctx.wait_for_event(ADDED, timeout="1h")
    print(timed.data)  # error: None after the timeout
    print(event.data.order_id)  # error: no such field
    some = await ctx.map(charge, [1], return_exceptions=True)
    print(some[0].upper())  # error: may be an exception
    won = await ctx.race(charge(1), ctx.wait_for_event(ADDED))
    if won[0] == 1:
        print(won[1].upper())  # error: the event won
    await ctx.wait_for_event(ADDED, timeout=300)  # error: a duration is no number
    await ctx.send("cart/seen")  # error: no data
    await ctx.report(cart=event)  # error: not a plain value
    return "reminded"


async def undo(ctx: Context, ended: Ended) -> None:
    print(ended.result(charge).upper())  # error: the step may not have run
    print(ended.error.message)  # error: None when cancelled
    ended.result("charge")  # error: the step itself, not its name


async def main(client: Client, engine: TestEngine, wrong: Function[[int], int]) -> None:
    runs = await client.runs(remind, status="sleeping")  # error: no such status
    number: int = await remind.handle("r1").result()  # error: wrong result
    print(engine.run(remind).output + 1)  # error: wrong result
    engine.fake(charge, lambda: "3")  # error: takes other arguments
    await engine.advance(3)  # error: a duration is no number
    print(runs, number, wrong)
