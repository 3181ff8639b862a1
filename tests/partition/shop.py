"""An app of which a test sees what runs where, and when."""

import asyncio

from msgspec import Raw

from perdure import App, Context, Event
from perdure_schemas.event import EventBody
from tests.partition.cluster import Cluster, Pod


class Shop:
    """One function of three steps; the second ends when the test lets it. The lists name the pods."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.began: list[str] = []
        self.stopped: list[str] = []
        self.shipped: list[str] = []

    def app(self, name: str) -> App:
        """The same code on each pod."""
        app = App("shop")

        @app.step
        async def check(n: int) -> int:
            return n

        @app.step(retries=0)
        async def pack(n: int) -> int:
            self.began.append(name)
            try:
                await self.gate.wait()
            except asyncio.CancelledError:
                self.stopped.append(name)
                raise
            return n

        @app.step
        async def ship(n: int) -> int:
            self.shipped.append(name)
            return n

        @app.function(on="placed", id="order")
        async def order(ctx: Context, event: Event) -> int:
            return await ship(await pack(await check(event.data["n"])))

        return app


async def two_pods(shop: Shop) -> tuple[Cluster, Pod, Pod]:
    """Two pods of the same code; the first has everything."""
    cluster = Cluster()
    one = await cluster.pod("one", shop.app("one")).start()
    other = await cluster.pod("other", shop.app("other")).start()
    cluster.deal({"one": range(4)})
    await cluster.settle()
    return cluster, one, other


async def place(cluster: Cluster, pod: Pod, *names: str) -> None:
    """Orders, sent to a pod."""
    events = [EventBody(name, "placed", Raw(b'{"n":1}')) for name in names]
    sent = asyncio.ensure_future(pod.port.send(events))
    await cluster.settle()
    await sent
