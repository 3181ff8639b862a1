"""`/v1/live`: who watches is told what changed, in bounded memory and at a bounded pace."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from perdure import App
from perdure.sdk.hindsight import live
from perdure.sdk.hindsight.live import Change, Told, Watched
from perdure.sdk.keys import Keyring, new_key
from perdure_connectors.http import live as stream
from tests.history.beside import Beside, beside
from tests.http.serving import served


def shop() -> App:
    app = App("shop")

    @app.background
    async def mail(to: str) -> str:
        return to

    return app


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "PAUSE_S", 0.0)


@asynccontextmanager
async def streaming(url: str, last: str = "", **query: str) -> AsyncGenerator[Any]:
    """Messages, each as (event, id, data), from the moment on at which the stream has begun."""
    headers = {"last-event-id": last} if last else {}
    async with (
        httpx.AsyncClient(timeout=60) as client,
        client.stream("GET", f"{url}/v1/live", params=query, headers=headers) as answer,
    ):
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = answer.aiter_lines()
        assert (await anext(lines)).startswith(":")
        yield _messages(lines)


async def _messages(lines: Any) -> AsyncGenerator[tuple[str, str, Any]]:
    message: dict[str, str] = {}
    async for line in lines:
        if line and not line.startswith(":"):
            name, _, value = line.partition(": ")
            message[name] = value
        elif message:
            yield message["event"], message["id"], msgspec.json.decode(message["data"])
            message = {}


async def _mailed(running: Beside) -> str:
    run: str = (await running.api.post("/v1/functions/mail/runs", json={"args": ["ada"]})).json()["run_id"]
    return run


async def test_runs_are_told_as_they_change(tmp_path: Path) -> None:
    async with beside(shop(), tmp_path) as running, served(running.port, hindsight=running.hindsight) as url:
        status = ""
        async with streaming(url) as messages:
            run = await _mailed(running)
            while status != "completed":
                kind, _, changes = await anext(messages)
                assert kind == "runs"
                (change,) = [one for one in changes if one["id"] == run]
                assert (change["function"], change["n"] >= 1) == ("mail", True)
                status = change["status"]
        # It may be told as it is by now before history has read its end, which is one more change then.
        assert (await running.api.get("/v1/runs")).json()["behind"] == 0
        last = stream._id(running.hindsight.watched.number)
        async with streaming(url, last, timeout="0s") as messages:
            # The run may have been written once more after it was told that it had ended.
            last = [last, *[one[1] async for one in messages]][-1]
        async with streaming(url, last, timeout="0s") as messages:
            assert [one async for one in messages] == []
        run = await _mailed(running)
        await running.api.get(f"/v1/runs/{run}/result")
        await running.api.get("/v1/runs")
        async with streaming(url, last) as messages:
            assert (await anext(messages))[0] == "resync"
        async with streaming(url, "of-another-process") as messages:
            assert (await anext(messages))[0] == "resync"
    assert not running.hindsight.watched


async def test_it_ends_when_the_engine_closes(tmp_path: Path) -> None:
    async with httpx.AsyncClient(timeout=60) as client, beside(shop(), tmp_path) as running:
        async with served(running.port, hindsight=running.hindsight) as url:
            answer = await client.send(client.build_request("GET", f"{url}/v1/live"), stream=True)
            lines = answer.aiter_lines()
            assert (await anext(lines)).startswith(":")
        # `served` has closed, and waited for what it was answering.
        assert await _rest(lines) == []
        await answer.aclose()
    assert not running.hindsight.watched


async def _rest(lines: Any) -> list[str]:
    return [line async for line in lines if line and not line.startswith(":")]


async def test_it_takes_a_key(tmp_path: Path) -> None:
    _, grant = new_key(frozenset({"send"}), "sender")
    keys = Keyring([grant])
    async with (
        beside(shop(), tmp_path) as running,
        served(running.port, keys=keys, hindsight=running.hindsight) as url,
        httpx.AsyncClient() as client,
    ):
        assert (await client.get(f"{url}/v1/live")).status_code == 401


def _change(run: str, status: str = "running") -> Change:
    return Change(run, "f", status, 1)


async def test_what_changed_often_is_told_once() -> None:
    watched = Watched()
    watch = watched.open()
    watched.tell([_change("a"), _change("b")])
    watched.tell([_change("a", "completed")])
    assert await watch.next() == Told(2, [Change("a", "f", "completed", 2), _change("b")])
    watched.tell([])
    watched.tell([_change("c")])
    assert await watch.next() == Told(4, [_change("c")])


async def test_who_is_too_slow_is_told_to_look_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """And keeps nothing meanwhile."""
    monkeypatch.setattr(live, "MOST", 3)
    watched = Watched()
    slow, quick = watched.open(), watched.open()
    for number in range(9):
        watched.tell([_change(f"r{number}")])
        assert await quick.next() == Told(number + 1, [_change(f"r{number}")])
    assert await slow.next() == Told(9, None)
    watched.tell([_change("z")])
    assert await slow.next() == Told(10, [_change("z")])
    watched.close(slow)
    watched.close(quick)
    assert not watched
