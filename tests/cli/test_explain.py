"""`perdure explain`, of an engine with a history."""

import asyncio
import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from perdure.cli import main
from perdure.sdk.http_sync import SyncHttpPort
from perdure.sdk.port import RunFilter
from tests.history.beside import beside
from tests.history.test_events_asked import shop
from tests.http.serving import served


async def perdure(*args: str) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, main, list(args))


async def test_explain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with beside(shop(), tmp_path) as running, served(running.port, hindsight=running.hindsight) as url:
        monkeypatch.setenv("PERDURE_URL", url)
        await running.engine.send("order/placed", {"order": "o1", "total": 7}, id="e1")
        await running.engine.send("order/plced", {}, id="e2")
        told = await perdure("explain", "e1")
        assert told.exit_code == 0, told.output
        assert "started      order " in told.stdout
        assert "where false  big: where='event.data.total > 100' is not true of it" in told.stdout
        nothing = await perdure("explain", "e2")
        assert "it did nothing: no function has a trigger" in nothing.stdout
        assert json.loads((await perdure("explain", "e1", "--json")).stdout)["decisions"][0]["decision"] == "started"
        assert (await perdure("explain", "e9")).exit_code == 3


async def test_watch_goes_on_with_what_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until nobody answers any more."""
    monkeypatch.setattr(import_module("perdure.cli.runs.listing"), "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(import_module("perdure.cli.command"), "REACH_S", 0.0)
    looks = 0

    async with beside(shop(), tmp_path) as running:
        look = SyncHttpPort.search

        def looked(port: SyncHttpPort, wanted: RunFilter, **page: Any) -> Any:
            nonlocal looks
            looks += 1
            return look(port, wanted, **page)

        monkeypatch.setattr(SyncHttpPort, "search", looked)
        async with served(running.port, hindsight=running.hindsight) as url:
            monkeypatch.setenv("PERDURE_URL", url)
            watching = asyncio.create_task(perdure("runs", "list", "--watch", "--json"))
            while not looks:
                await asyncio.sleep(0.01)
            await running.engine.send("order/placed", {"order": "o1", "total": 7}, id="e1")
            while (await running.api.get("/v1/runs")).json()["data"][0]["status"] != "suspended":
                await asyncio.sleep(0.01)
            seen = looks
            while looks < seen + 2:
                await asyncio.sleep(0.01)
        told = [json.loads(line) for line in (await watching).stdout.splitlines()]
    assert told.pop()["error"]["type"] == "EngineUnreachable"
    assert {one["event_id"] for one in told} == {"e1"}
    assert told[-1]["status"] == "suspended"
    assert (await perdure("runs", "list", "--watch", "--cursor", "1-1")).exit_code == 2


async def test_bulk_is_a_job_that_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_module("perdure.cli.runs.bulk"), "LOOK_SECONDS", 0.0)
    async with (
        beside(shop(), tmp_path) as running,
        served(running.port, hindsight=running.hindsight, bulk=running.jobs) as url,
    ):
        monkeypatch.setenv("PERDURE_URL", url)
        for number in range(3):
            await running.engine.send("order/placed", {"order": f"o{number}", "total": 7}, id=f"e{number}")
        done = await perdure("runs", "cancel", "--where", "event.data.order != 'o1'", "--yes")
        assert (done.exit_code, done.stdout) == (0, "cancelled 2 runs\n"), done.output
        again = json.loads((await perdure("runs", "rerun", "--status", "cancelled", "--json")).stdout)
        assert (again["state"], again["count"], again["done"]) == ("finished", 2, 2)
        assert (await perdure("runs", "cancel")).exit_code == 2
        assert (await perdure("runs", "rerun", "r1", "--status", "failed")).exit_code == 2
