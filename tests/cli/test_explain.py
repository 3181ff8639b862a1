"""`perdure explain`, of an engine with a history."""

import asyncio
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from perdure.cli import main
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
