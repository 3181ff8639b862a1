"""`perdure replay` and `check` on whatever the past is read from."""

import asyncio
import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from perdure import Engine
from perdure.cli import main
from perdure.cli.sharing import opened_any
from perdure.past.file import lines_of, written
from perdure.past.reading import read_tape

MODULE = "any_shop"
CODE = """
from perdure import App, Context, Event

app = App("any")


@app.function(id="flow", on="go")
async def flow(ctx: Context, event: Event) -> str:
    first = await ctx.step("first", str, event.data["n"])
    if event.data["n"]:
        await ctx.sleep("1d")
    return first
"""


async def ask(*args: str) -> Any:
    done = await asyncio.to_thread(CliRunner().invoke, main, [*args, "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.output)


async def test_any_log_and_a_file_of_it(durable_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / f"{MODULE}.py").write_text(CODE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    app, target = import_module(MODULE).app, f"{MODULE}:app"
    async with Engine(app, log=durable_url, partitions=3) as engine:
        for n in (0, 1):
            await engine.send("go", {"n": n}, id=f"e{n}")
        while len(handles := await engine.runs(app.functions["flow"])) < 2:
            await asyncio.sleep(0.01)
        while sorted([await one.status() for one in handles]) != ["completed", "suspended"]:
            await asyncio.sleep(0.01)
        runs = {await one.status(): one.id for one in handles}
    async with opened_any(durable_url, "any") as log:
        tape = await read_tape(log)
    with written(tmp_path / "past.ndjson") as file:
        file.writelines(lines_of(tape))
    for source in (["--log", durable_url], ["--file", "past.ndjson"]):
        ended = await ask("replay", runs["completed"], target, *source)
        assert (ended["verdict"], ended["status"]) == ("as_recorded", "completed")
        asleep = await ask("replay", runs["suspended"], target, *source)
        assert (asleep["verdict"], asleep["at"]) == ("waits", ["0/sleep#1"])
        report = await ask("check", target, "--finished", "3", *source)
        assert (report["in_flight"], report["well"]) == (1, {"waits": 1, "as_recorded": 1})
    del sys.modules[MODULE]
