"""`perdure history …`, on an embedded log that an engine has left."""

import asyncio
import json
from collections.abc import Generator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg
import pytest
from click.testing import CliRunner, Result

from perdure import App, Context, Engine, Event, NonRetriable
from perdure.cli import main
from perdure.cli.history.recording import recorded
from perdure.cli.orders import Served
from perdure.history.postgres import PostgresHistory, schema_named
from perdure.history.rows import RunRow
from perdure.history.store import HistoryDown, RunQuery
from perdure.sdk.hindsight import asking
from perdure.sdk.port import RunFilter
from perdure_connectors.http.problems import problem_of
from tests.history.tools import SqliteShelf

app = App("shop")


@app.function(on="shop/order.placed")
async def order(ctx: Context, event: Event) -> str:
    return f"{event.data['order']} shipped"


@app.function(on="shop/order.refused", retries=0)
async def refuse(ctx: Context, event: Event) -> None:
    raise NonRetriable("no such order")


@app.function(on="shop/order.held")
async def hold(ctx: Context, event: Event) -> str:
    await ctx.wait_for_event("shop/order.freed", match="data.order", timeout="1d")
    return await ctx.step("weigh", weigh)


async def weigh() -> str:
    return "3 kg"


@pytest.fixture
def database(postgres: str) -> Generator[str]:
    """A URL whose schema for `shop` is nobody else's."""
    name = f"t{uuid4().hex[:12]}"
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
        yield urlsplit(postgres)._replace(path=f"/{name}").geturl()
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


async def perdure(*args: str) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, main, list(args))


@pytest.fixture
async def log(clean: Path) -> str:
    """Of three runs, one of them of an order that would like to steer the terminal."""
    async with Engine(app, log="embedded://log") as engine:
        for number, name in enumerate(["o1", "o2", "\x1b[31m'; DROP TABLE runs"]):
            await engine.send("shop/order.placed", {"order": name, "total": number}, id=f"e{number}")
            await asyncio.sleep(0.002)  # in a millisecond of its own: newest first says nothing of two in one
        while len((await engine.port.runs(status="completed"))[0]) < 3:
            await asyncio.sleep(0.01)
    return "embedded://log"


async def test_rebuild_and_search(log: str) -> None:
    before = await perdure("history", "search", "--log", log)
    assert before.exit_code == 1
    assert "there is no history at log/history.db: `perdure history rebuild` makes it" in before.stderr
    made = await perdure("history", "rebuild", "shop", "--log", log)
    assert made.exit_code == 0, made.output
    assert "log/history.db is made anew from" in made.output
    found = await perdure("history", "search", "--log", log, "--where", "event.data.total >= 1", "--json")
    page = json.loads(found.stdout)
    assert [run["event_id"] for run in page["data"]] == ["e2", "e1"]
    assert page["cursor"] == ""
    shown = await perdure("history", "search", "--log", log, "--status", "completed", "--since", "1h", "--limit", "2")
    assert shown.exit_code == 0, shown.output
    assert shown.stdout.count("completed") == 2
    assert "there may be more: --cursor" in shown.stderr
    cursor = shown.stderr.split("--cursor")[1].strip()
    last = await perdure("history", "search", "--log", log, "--cursor", cursor)
    assert last.stdout.count("completed") == 1
    assert (await perdure("history", "search", "--log", log, "--function", "other")).stdout.strip() == "no runs"
    again = json.loads((await perdure("history", "rebuild", "shop", "--log", log, "--json")).stdout)
    assert (again["gaps"], again["halted"]) == ([], {})
    assert not list(Path("log").glob("history.db.*"))


async def test_deleted_and_made_anew_it_has_the_same_rows(clean: Path) -> None:
    """As an engine kept them: runs that completed, failed, were cancelled, ran again, and that still wait."""
    served = Served("", "embedded://log", 4)
    async with Engine(app, log="embedded://log") as engine, recorded(engine, served) as hindsight:
        assert hindsight is not None
        for number in range(12):
            for name in ("placed", "refused", "held"):
                data = {"order": f"o{number}", "total": number}
                await engine.send(f"shop/order.{name}", data, id=f"{name}{number}", user={"id": "ada"})
        held = [(await engine.port.runs(event_id=f"held{number}"))[0][0].id for number in range(12)]
        for number in range(4):
            await until(engine, held[number], "suspended")
            await engine.send("shop/order.freed", {"order": f"o{number}"})
            await engine.port.cancel(held[number + 4], "too late")
        again = [await engine.port.rerun(run) for run in held[:2]]
        for run in held[:8]:
            await engine.port.result(run, 20_000)
        for run in [*held[8:], *again]:
            await until(engine, run, "suspended")
        while (await engine.port.runs(status="running"))[0] or (await hindsight.runs(RunFilter(), 1, "")).behind:
            await asyncio.sleep(0.01)
    kept = told()
    assert len(kept["runs"]) == 38
    assert {row[3] for row in kept["runs"]} == {"completed", "failed", "cancelled", "running"}
    for file in Path("log").glob("history.db*"):
        file.unlink()
    made = await perdure("history", "rebuild", "shop", "--log", "embedded://log")
    assert made.exit_code == 0, made.output
    assert told() == kept


async def until(engine: Engine, run: str, status: str) -> None:
    while await engine.port.status(run) != status:
        await asyncio.sleep(0.01)


def told() -> dict[str, list[Any]]:
    """All rows but those of how far it has read, which goes on until the engine's last word."""
    rows = SqliteShelf(Path("log")).everything("history")
    return {name: rows[name] for name in rows if name not in ("state", "standing")}


async def test_on_postgresql(log: str, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same commands. Making it anew while somebody reads leaves the old one until the new one is whole."""
    monkeypatch.setenv("PERDURE_HISTORY", database)
    before = await perdure("history", "search", "--log", log, "--app", "shop")
    assert before.exit_code == 1
    assert "there is no history at postgresql://" in before.stderr
    for _ in range(2):
        made = await perdure("history", "rebuild", "shop", "--log", log)
        assert made.exit_code == 0, made.output
        assert "schema perdure_shop is made anew from" in made.output
        found = await perdure("history", "search", "--log", log, "--app", "shop", "--status", "completed", "--json")
        assert len(json.loads(found.stdout)["data"]) == 3
    assert not Path("log/history.db").exists()
    whose = await perdure("history", "search", "--log", log)
    assert whose.exit_code == 2
    assert "--app: say whose history" in whose.stderr


async def test_an_engine_keeps_it_up_wherever_it_is(
    clean: Path, database: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A database that does not answer holds nobody up, and who asks for what lies there is told so."""
    monkeypatch.setattr(asking, "PATIENCE_S", 0.01)
    for url in (database, "postgresql://nobody:s3cret@127.0.0.1:1/none"):
        served = Served("", "embedded://log", 4, url)
        async with Engine(app, log="embedded://log") as engine, recorded(engine, served) as hindsight:
            run = await order.enqueue(Event("shop/order.placed", {"order": "o1"}))
            assert await run.result() == "o1 shipped"
            found: list[RunRow] = []
            while url == database and not found:
                found = await asyncio.to_thread(_completed, url)
            assert hindsight is not None
            if url != database:
                with pytest.raises(HistoryDown) as down:
                    await hindsight.runs(RunFilter(), 10, "")
                assert problem_of(down.value).status_code == 503
                assert "s3cret" not in str(down.value)
    assert "history stands still (HistoryDown" in caplog.text
    assert "s3cret" not in caplog.text


def _completed(url: str) -> list[RunRow]:
    store = PostgresHistory(url, schema_named("shop"), writes=False)
    try:
        return store.runs(RunQuery(status="completed")).runs
    finally:
        store.close()


async def test_an_engine_that_runs_has_its_log_to_itself(log: str) -> None:
    async with Engine(app, log=log):
        refused = await perdure("history", "rebuild", "shop", "--log", log)
    assert refused.exit_code == 5
    assert "is in use by process" in refused.stderr


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--since", "yesterday"), "--since 'yesterday': say 1h, 7d, a time such as 2026-11-21T18:00"),
        (("--metadata", "tenant"), "--metadata 'tenant': say KEY=VALUE"),
        (("--where", "event.data.total >"), "the expression ends"),
        (("--where", "async.data.total > 1"), "async"),
        (("--cursor", "x; DROP"), "is not one that a page gave"),
        (("--log", "memory://"), "a log in memory is gone with its engine"),
        (("--log", "kafka://localhost:9092"), "--app: say whose history"),
        (("--history", "mysql://u:s3cret@h/d"), "--history: say postgresql://USER:PASSWORD@HOST/DATABASE"),
        (("--history", "postgresql://u:s3@cret@h/d", "--app", "shop"), "with %40 for an @ in the password"),
    ],
)
async def test_what_cannot_be_right(args: tuple[str, ...], says: str, clean: Path) -> None:
    result = await perdure("history", "search", *args)
    assert result.exit_code in (1, 2)
    assert says in " ".join(result.stderr.split())
    assert "cret" not in result.stderr


async def test_a_retention_that_cannot_be(clean: Path) -> None:
    result = await perdure("history", "rebuild", "shop", "--history-retention", "soon")
    assert result.exit_code == 2
    assert "or forever" in result.stderr
