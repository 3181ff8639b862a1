"""Steps used wrongly. Both checkers must report exactly the marked lines."""

from perdure import App, Context, Event

app = App("shop")


@app.step
async def charge(cents: int) -> str:
    return str(cents)


@app.step(retrys=3)  # error: unknown option
async def misspelt() -> None: ...


@app.step(timeout=300)  # error: a duration is no number
async def too_plain() -> None: ...


@app.step(queue=5)  # error: a queue has a name
async def unnamed() -> None: ...


def add(a: int, b: int) -> int:
    return a + b


@app.function(on="order/placed")
async def fulfil(ctx: Context, event: Event) -> None:
    await charge("3")  # error: wrong type
    await charge()  # error: missing argument
    await charge(3, 4)  # error: too many
    paid: str = charge(3)  # error: not awaited
    number: int = await charge(3)  # error: wrong result
    await ctx.step("add", add, 1, "2")  # error: wrong type
    await ctx.step(add, 1, 2)  # error: no name
    await ctx.map(charge, ["3"])  # error: wrong items
    await ctx.sleep(300)  # error: a duration is no number
    print(paid, number)
