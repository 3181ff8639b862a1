"""The same past, from whatever source the command line names."""

import asyncio
from pathlib import Path

import click
import pytest

from perdure import Engine, Event
from perdure.cli import main
from perdure.cli.exits import UsageProblem
from perdure.cli.past import past_source
from perdure.errors import LogError, LogMismatch, UnknownRun
from perdure.past.file import lines_of, written
from perdure.past.reading import Wanted
from perdure.past.tape import Tape, view_of
from tests.http.serving import served
from tests.past.shop import shop
from tests.simulation.checks.tapes import what_is_known

EVERYTHING = Wanted()
OTHER = "0000" + "ab" * 16


def read(
    wanted: Wanted = EVERYTHING,
    *,
    log: str | None = None,
    file: Path | None = None,
    url: str | None = None,
    app: str = "",
) -> Tape:
    with click.Context(main) as context:
        return past_source(context, log, file, url, app)(wanted)


def known_of(tape: Tape, run: str) -> list[object]:
    return what_is_known(view_of(tape, run), run)


async def test_a_running_engine_a_log_and_a_file_give_the_same(durable_url: str, tmp_path: Path) -> None:
    app = shop()
    async with Engine(app, log=durable_url, partitions=3) as engine:
        await engine.send_many([Event(name="placed", data={"cart": n, "text": "x"}) for n in range(3)])
        while len(handles := await engine.runs(app.functions["order"])) < 3:
            await asyncio.sleep(0.01)
        await engine.send("paid", {"cart": 1})
        while "completed" not in [await handle.status() for handle in handles]:
            await asyncio.sleep(0.01)
        runs = frozenset(handle.id for handle in handles)
        async with served(engine.port) as url:
            live = await asyncio.to_thread(read, Wanted(runs), url=url, app="shop")
            with pytest.raises(UnknownRun, match=OTHER):
                await asyncio.to_thread(read, Wanted(frozenset([OTHER])), url=url)
            with pytest.raises(UsageProblem, match="has runs of app 'shop', and not of 'another'"):
                await asyncio.to_thread(read, Wanted(runs), url=url, app="another")
    later = await asyncio.to_thread(read, Wanted(runs), log=durable_url)
    assert later.app == live.app == "shop"
    assert sorted(later.runs()) == sorted(live.runs()) == sorted(runs)
    with written(tmp_path / "runs.ndjson") as file:
        file.writelines(lines_of(live))
    kept = read(file=tmp_path / "runs.ndjson", app="shop")
    for run in runs:
        assert known_of(later, run) == known_of(live, run) == known_of(kept, run)
    with pytest.raises(UsageProblem, match="has runs of app 'shop', and not of 'another'"):
        read(file=tmp_path / "runs.ndjson", app="another")


def test_one_source_is_named() -> None:
    with pytest.raises(UsageProblem, match="one of both"):
        read(log="log", file=Path("file"))


def test_a_source_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(LogMismatch, match="there is no log in"):
        read(log=str(tmp_path))
    with pytest.raises(LogError, match="cannot be read"):
        read(file=tmp_path / "no.zst")
