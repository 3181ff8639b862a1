"""Steps: plain and async functions keep their parameters and results; the inline form infers both."""

from typing import assert_type

from msgspec import Struct

from perdure import App, Context, Event, Retry, Step, current_step

app = App("shop")


class Receipt(Struct):
    charge_id: str


@app.step
async def charge(order: str, cents: int = 100) -> Receipt:
    return Receipt(f"{order}-{cents}-{current_step().key}")


@app.step
def parse(text: str) -> list[int]:
    return [int(part) for part in text.split()]


@app.step(name="send mail", retries=Retry(limit=9, first="2s"), timeout="30s", record_input=False)
async def mail(to: str) -> None: ...


@app.step(retries=1, queue="gpu")
def embed(text: str) -> list[float]:
    return [float(len(text))]


def add(a: int, b: int) -> int:
    return a + b


async def fetch(url: str) -> bytes:
    return url.encode()


one: Step[[str], list[int]] = parse


@app.function(on="order/placed")
async def fulfil(ctx: Context, event: Event) -> int:
    assert_type(await charge("o1"), Receipt)
    assert_type(await charge(order="o1", cents=5), Receipt)
    assert_type(await parse("1 2"), list[int])
    assert_type(await mail("a@b.c"), None)
    assert_type(await embed.options(timeout="5m", queue="gpu-large")("hello"), list[float])
    assert_type(await ctx.step("add", add, 1, 2), int)
    assert_type(await ctx.step("fetch", fetch, "http://localhost", retries=2, timeout="10s"), bytes)
    assert_type(await ctx.step("typed", parse_later, returns=list[int]), list[int])
    assert_type(current_step().attempt, int)
    return sum(await one("1 2 3"))


def parse_later() -> list[int]:
    return [1]
