"""Webhooks of GitHub, through the gateway into the example's functions."""

from typing import Any

import httpx

from examples.reviews import app, delivery, remind, watch
from perdure.testing import TestEngine
from perdure_connectors.http import gateway
from perdure_connectors.webhook import Source

SECRET = b"known to both"
SOURCES = [Source("github", "github", [SECRET])]


def opened(number: int) -> dict[str, Any]:
    return {"action": "opened", "pull_request": {"id": number, "html_url": f"https://github.example/pull/{number}"}}


def reviewed(number: int) -> dict[str, Any]:
    return {"action": "submitted", "pull_request": {"id": number}, "review": {"user": {"login": "ada"}}}


async def deliver(
    engine: TestEngine, id: str, type: str, content: dict[str, Any], secret: bytes = SECRET
) -> httpx.Response:
    body, headers = delivery(id, type, content, secret)
    transport = httpx.ASGITransport(gateway(engine.port, app.name, webhooks=SOURCES), client=("192.0.2.1", 1))
    async with httpx.AsyncClient(transport=transport, base_url="https://hooks.example") as client:
        return await client.post("/w/github", content=body, headers=headers)


async def test_a_pull_request_without_a_review_is_reminded_of_once() -> None:
    reminded: list[str] = []

    def note(url: str) -> None:
        reminded.append(url)

    async with TestEngine(app) as engine:
        engine.fake(remind, note)
        for _ in range(3):
            assert (await deliver(engine, "d-1", "pull_request", opened(1))).status_code == 200
        await deliver(engine, "d-2", "pull_request", opened(1) | {"action": "labeled"})
        await deliver(engine, "d-3", "pull_request_review", reviewed(2))
        await engine.advance("24h")
        assert engine.run(watch).output == "reminded"
    assert reminded == ["https://github.example/pull/1"]


async def test_a_review_ends_the_wait_unless_it_is_forged() -> None:
    async with TestEngine(app) as engine:
        await deliver(engine, "d-1", "pull_request", opened(1))
        assert (await deliver(engine, "d-2", "pull_request_review", reviewed(1), b"guessed")).status_code == 401
        assert engine.run(watch).status != "completed"
        await deliver(engine, "d-3", "pull_request_review", reviewed(1))
        assert engine.run(watch).output == "reviewed by ada"
