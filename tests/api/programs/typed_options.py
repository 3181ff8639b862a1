"""Every option of an event function, and schedules."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta

from msgspec import Struct

from perdure import (
    App,
    CancelOn,
    Context,
    Ended,
    Event,
    EventType,
    Retry,
)


class Row(Struct):
    id: int


ROW = EventType("row/changed", Row)
GONE = EventType("row/gone", Row)


@asynccontextmanager
async def pools() -> AsyncGenerator[None, None]:
    yield


async def tell(ctx: Context, ended: Ended) -> None:
    ctx.logger.error("%s %s", ended.run_id, ended.status)


class Rot13:
    def encode(self, payload: bytes, /) -> bytes:
        return payload

    def decode(self, payload: bytes, /) -> bytes:
        return payload


app = App("rows", include=["shop.tasks"], lifespan=pools, on_failure=tell, codec=Rot13())


@app.function(
    on=ROW,
    id="sync",
    retries=Retry(limit=3, first="1s", factor=3, longest=timedelta(hours=1), never_on=(ValueError,)),
    timeout="14d",
    discard_after="1h",
    cancel_on=[CancelOn(GONE, match="data.id"), CancelOn("row/dropped", where="async.data.id > 3", timeout="1h")],
    waits=[GONE, "row/renamed"],
    lookback="7d",
    on_failure=tell,
    on_cancel=tell,
)
async def sync(ctx: Context, event: Event[Row]) -> int:
    return event.data.id


@app.cron("0 9 * * 1-5", tz="Europe/Berlin", catchup=True, retries=2)
async def digest(ctx: Context) -> str:
    return ctx.now().isoformat()


@app.cron("*/5 * * * *")
async def tick() -> None: ...


async def by_hand() -> str:
    await tick.call()
    return await digest.call()
