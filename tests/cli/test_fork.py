"""`perdure fork`, and the same by the API: of a run of a running engine, of a log that it left, of a file."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner, Result

from perdure import App, Context, Engine, Event
from perdure.cli import main
from perdure.cli.sharing import opened_any
from perdure.past.file import lines_of
from perdure.past.reading import read_run
from tests.http.serving import served

app = App("shop")
charged: list[str] = []


@app.step
async def charge(order: str, amount: int) -> str:
    charged.append(f"{order} {amount}")
    return f"paid {amount}"


@app.function(on="placed")
async def order(ctx: Context, event: Event[Any]) -> str:
    amount: int = await ctx.step("price", lambda: 100)
    checked = await ctx.wait_for_event("checked", match="data.order", timeout="1s")
    by = "nobody" if checked is None else checked.data["by"]
    return f"{await charge(event.data['order'], amount)}, checked by {by}"


@app.background
async def label(ctx: Context, text: str) -> str:
    return await ctx.step("print", str.upper, text)


async def perdure(*args: str) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, main, list(args))


@asynccontextmanager
async def running(monkeypatch: pytest.MonkeyPatch, log: str = "embedded://log") -> AsyncGenerator[tuple[Engine, str]]:
    async with Engine(app, log=log) as engine, served(engine.port) as url:
        monkeypatch.setenv("PERDURE_URL", url)
        yield engine, url


async def ordered(engine: Engine) -> str:
    charged.clear()
    event_id = await engine.send("placed", {"order": "o1"})
    while not (found := (await engine.port.runs(event_id=event_id))[0]):
        await asyncio.sleep(0.01)
    assert await outcome(engine, found[0].id) == "paid 100, checked by nobody"
    assert charged == ["o1 100"]
    charged.clear()
    return found[0].id


async def outcome(engine: Engine, run: str) -> Any:
    ended = await engine.port.result(run, 20_000)
    assert ended.status == "completed", ended
    assert ended.result is not None
    return json.loads(bytes(ended.result))  # type: ignore[arg-type]


async def test_of_a_running_engine(clean: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(monkeypatch) as (engine, _):
        run = await ordered(engine)
        again = await perdure("fork", run, "--at", "charge")
        assert again.exit_code == 0, again.output
        assert await outcome(engine, again.stdout.strip()) == "paid 100, checked by nobody"
        assert charged == ["o1 100"]
        for changed, expected in (
            ('result="by hand"', "by hand, checked by nobody"),
            ("result=@there.json", "from a file, checked by nobody"),
        ):
            Path("there.json").write_text('"from a file"\n', encoding="utf-8")
            told = await perdure("fork", run, "--at", "0/charge#1", "--set", changed, "--json")
            assert await outcome(engine, json.loads(told.stdout)["run_id"]) == expected
        wait = next(op.op for op in (await engine.port.run(run)).ops if op.type == "wait")
        told = await perdure("fork", run, "--at", wait, "--set", 'event={"order": "o1", "by": "ann"}', "--recorded")
        assert await outcome(engine, told.stdout.strip()) == "paid 100, checked by ann"
        assert charged == ["o1 100"]
        told = await perdure("fork", run, "--at", "charge", "--event", '{"order": "o2"}')
        assert (await outcome(engine, told.stdout.strip()), charged[1:]) == ("paid 100, checked by nobody", ["o2 100"])


async def test_the_key_makes_it_one_run(clean: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(monkeypatch) as (engine, _):
        run = await ordered(engine)
        first, second = [await perdure("fork", run, "--at", "charge", "--key", "k") for _ in range(2)]
        assert first.stdout == second.stdout
        await outcome(engine, first.stdout.strip())
        assert charged == ["o1 100"]


async def test_of_what_it_is_called_with(clean: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(monkeypatch) as (engine, _):
        run = (await label.enqueue("a")).id
        assert await outcome(engine, run) == "A"
        told = await perdure("fork", run, "--at", "print", "--args", '[["b"], {}]')
        assert await outcome(engine, told.stdout.strip()) == "B"
        refused = await perdure("fork", run, "--at", "print", "--args", '[["b", "c"], {}]')
        assert refused.exit_code == 1, refused.output
        refused = await perdure("fork", run, "--at", "print", "--event", "{}")
        assert "was not started by an event" in refused.output


async def test_of_a_log_or_a_file_into_another_engine(clean: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What happened in production goes on here."""
    async with Engine(app, log="embedded://production") as engine:
        run = await ordered(engine)
    async with opened_any("embedded://production", "shop") as log:
        Path("run.ndjson").write_bytes(b"".join(lines_of(await read_run(log, run, "shop"))))
    async with running(monkeypatch) as (engine, _):
        for source in (["--log", "embedded://production"], ["--file", "run.ndjson"]):
            told = await perdure("fork", run, "--at", "charge", *source)
            assert told.exit_code == 0, told.output
            assert await outcome(engine, told.stdout.strip()) == "paid 100, checked by nobody"
    assert charged == ["o1 100"] * 2


async def test_by_the_api(clean: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(monkeypatch) as (engine, url), httpx.AsyncClient(base_url=url) as api:
        run = await ordered(engine)
        made = await api.post(f"/v1/runs/{run}/fork", json={"at": "charge", "result": "by hand", "key": "k"})
        assert made.status_code == 201, made.text
        assert await outcome(engine, made.json()["run_id"]) == "by hand, checked by nobody"
        for body, status, words in (
            ({"at": "ship"}, 404, "has no op 'ship'; it has 0/price#1"),
            ({"at": "charge", "result": 1, "timeout": True}, 400, "an op brings one of them"),
            ({"at": "charge", "timeout": True}, 400, "it takes a result or an error"),
            ({}, 400, "`at`"),
        ):
            refused = await api.post(f"/v1/runs/{run}/fork", json=body)
            assert (refused.status_code, words in refused.json()["detail"]) == (status, True), refused.text
        assert (await api.post(f"/v1/runs/{'0' * 36}/fork", json={"at": "x"})).status_code == 404


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["--at", "charge", "--set", "result=paid"], 2, "--set result is not JSON"),
        (["--at", "charge", "--set", "paid"], 2, "say result=JSON (a text in quotes"),
        (["--at", "charge", "--set", "event=[1]"], 2, "must be a JSON object"),
        (["--at", "charge", "--event", "nothing"], 2, "--event is not JSON"),
        (["--set", "result=1"], 2, "Missing option '--at'"),
        (["--at", "ship"], 3, "has no op 'ship'; it has 0/price#1"),
        (["--at", "charge", "--set", "timeout"], 1, "it takes a result or an error"),
    ],
)
async def test_wrong_usage(
    clean: Path, monkeypatch: pytest.MonkeyPatch, args: list[str], code: int, words: str
) -> None:
    async with running(monkeypatch, "memory://") as (engine, _):
        run = await ordered(engine)
        done = await perdure("fork", run, *args)
    assert (done.exit_code, words in " ".join(done.output.split())) == (code, True), done.output
