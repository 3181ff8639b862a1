"""Webhooks of GitHub: a pull request that nobody has looked at within a day gets one reminder.

GitHub sends `pull_request` and `pull_request_review` to `POST /w/github`, signed. A delivery that is sent again, as
people do who look at the list of those that failed, is the same event and starts nothing new. The second event ends the
wait that the first one began.

    python examples/reviews.py                           deliveries as GitHub makes them, and a day in a moment
    perdure dev examples.reviews:app                     the same code, served: [tool.perdure.webhooks.github] and
                                                         PERDURE_WEBHOOKS_GITHUB_SECRET say who may send
"""

import asyncio
import json
import socket
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import uvicorn

from perdure import App, Context, Engine, Event, EventType, Trigger
from perdure_connectors.webhook import Source, github

app = App("reviews")

PULL_REQUEST = EventType("github/pull_request", dict[str, Any])


@app.step
async def remind(url: str) -> None:
    """Stands for a comment on the pull request."""
    print("comment on", url)


@app.function(on=Trigger(PULL_REQUEST, where="event.data.action == 'opened'"))
async def watch(ctx: Context, event: Event[dict[str, Any]]) -> str:
    """Returns what came of it."""
    review = await ctx.wait_for_event("github/pull_request_review", match="data.pull_request.id", timeout="24h")
    if review:
        return f"reviewed by {review.data['review']['user']['login']}"
    await remind(event.data["pull_request"]["html_url"])
    return "reminded"


def delivery(id: str, type: str, content: Mapping[str, Any], secret: bytes) -> tuple[bytes, dict[str, str]]:
    """Body and headers of a delivery, as GitHub makes them."""
    body = json.dumps(content).encode()
    headers = {"content-type": "application/json", "x-github-delivery": id, "x-github-event": type}
    return body, headers | {"x-hub-signature-256": github.sign(body, secret)}


@asynccontextmanager
async def served(engine: Engine, source: Source) -> AsyncGenerator[str]:
    """The address where GitHub would send to."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(engine.asgi(webhooks=[source]), lifespan="off", log_level="warning")
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/w/{source.name}"
        finally:
            server.should_exit = True
            await serving


async def main() -> None:
    """Two pull requests, of which one gets its review. One delivery comes twice, one is forged."""
    from perdure.testing import TestEngine

    secret = b"known to GitHub and to us"
    pulls = [{"id": n, "html_url": f"https://github.example/pull/{n}"} for n in (1, 2)]
    opened = [{"action": "opened", "pull_request": pull} for pull in pulls]
    review = {"action": "submitted", "pull_request": pulls[0], "review": {"user": {"login": "ada"}}}
    deliveries = [
        delivery("d-1", "pull_request", opened[0], secret),
        delivery("d-2", "pull_request", opened[1], secret),
        delivery("d-2", "pull_request", opened[1], secret),
        delivery("d-3", "pull_request_review", review, secret),
        delivery("d-4", "pull_request_review", review, b"guessed"),
    ]
    async with (
        TestEngine(app) as test,
        Engine(app) as engine,
        served(engine, Source("github", "github", [secret])) as url,
    ):
        async with aiohttp.ClientSession() as session:
            for body, headers in deliveries:
                async with session.post(url, data=body, headers=headers) as answer:
                    print(headers["x-github-delivery"], answer.status, await answer.text())
        await test.advance("24h")
        for run in test.all_runs(watch):
            print(run.id, run.output)


if __name__ == "__main__":
    asyncio.run(main())
