"""Background functions: called and enqueued by name, with the parameters they were written with."""

from collections.abc import Sequence
from typing import assert_type

from perdure import App, Context, Function, RunHandle, RunStatus

app = App("crawl")


@app.background
async def fetch(url: str, depth: int = 1) -> str:
    return f"{url} {depth}"


@app.background(
    retries=5,
    timeout="1h",
)
async def crawl(ctx: Context, tenant: str, urls: Sequence[str]) -> list[str]:
    assert_type(await ctx.map(fetch.call, urls, limit=50), list[str])
    assert_type(await ctx.map(fetch.call, urls, return_exceptions=True), list[str | Exception])
    return [tenant]


@app.background
def count(words: list[str]) -> int:
    return len(words)


by_parameters: Function[[str, Sequence[str]], list[str]] = crawl


async def main() -> None:
    assert_type(await fetch.call("http://localhost", depth=3), str)
    assert_type(await crawl.call("acme", ["a", "b"]), list[str])
    assert_type(await count.call(["a"]), int)
    handle = await crawl.options(delay="5m", idempotency_key="k", metadata={"by": "cron"}).enqueue("acme", urls=[])
    assert_type(handle, RunHandle[list[str]])
    assert_type(await handle.result(timeout="20s"), list[str])
    assert_type(await handle.status(), RunStatus)
    assert_type(await handle.rerun(), RunHandle[list[str]])
    assert_type(crawl.handle("r1"), RunHandle[list[str]])
    await handle.cancel(reason="changed my mind")
    assert_type(crawl.id, str)
