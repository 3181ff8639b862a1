"""Clients and engines: a service that sends, calls and asks, and the gateway mounted in it."""

from collections.abc import Awaitable, Callable
from typing import Any, assert_type

from msgspec import Struct

from perdure import App, Client, Context, Engine, Event, EventType, RunHandle

app = App("shop")
more = App("mail")


class Order(Struct):
    id: str


PLACED = EventType("order/placed", Order)


@app.function(on=PLACED)
async def fulfil(ctx: Context, event: Event[Order]) -> int:
    return len(event.data.id)


async def main() -> None:
    async with Client(app, more, log="http://localhost:8288") as client:
        assert_type(client, Client)
        event_id = await client.send(PLACED(Order("o1")))
        assert_type(event_id, str)
        await client.send("order/placed", {"id": "o1"}, user={"id": 3})
        runs = await client.runs(fulfil, status="running", event_id=event_id)
        assert_type(runs, list[RunHandle[int]])
        assert_type([await run.result() for run in runs], list[int])
    Engine(app, log="embedded:///var/lib/shop", queues=["gpu"])
    async with Engine(app, log="embedded:///var/lib/shop", queues={"gpu": 1}) as engine:
        assert_type(engine, Engine)
        asgi: Callable[..., Awaitable[None]] = engine.asgi()
        print(asgi)
        assert_type(await engine.send_many([PLACED(Order("o2"))]), list[str])


def plain_dicts(event: Event) -> dict[str, Any]:
    return event.data
