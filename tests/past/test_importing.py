"""`perdure import`: a past in a log of its own, in which nothing goes on but what is started there."""

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from perdure import App, Context, Ended, Engine, Event
from perdure.cli import main
from perdure.errors import NonRetriable
from perdure.history.sqlite import SqliteHistory
from perdure.history.store import RunQuery
from perdure.log.memory import MemoryLog
from perdure.partition import snapshots
from perdure.past.file import lines_of, read_file, written
from perdure.past.importing import REASON, Imported, checked, write
from perdure.past.reading import Wanted, read_tape
from perdure.past.redaction import redacted, rule_of
from perdure.past.tape import Tape, whole_view_of
from perdure.sdk.port import RunSummary
from perdure.testing import TestEngine
from perdure.testing.port import TestPort
from tests.partition.test_trimming import LARGE, begin, body, rest
from tests.past.test_fork import forked, outcome, result

LIVING = {"sleeps", "waits", "calls", "later", "label"}
calls: list[str] = []


@pytest.fixture(autouse=True)
def no_calls() -> Iterator[None]:
    calls.clear()
    yield
    calls.clear()


def shop(*, cron: bool = True) -> App:
    app = App("shop")

    @app.step
    async def charge(order: str) -> str:
        calls.append(f"charge {order}")
        return f"paid {order}"

    async def told(ctx: Context, ended: Ended) -> None:
        calls.append("handler")

    ends: Any = {"on_failure": told, "on_cancel": told}

    @app.background(id="label")
    async def label(ctx: Context, order: str) -> str:
        await ctx.sleep("2d")
        return await charge(order)

    @app.function(on="placed", id="ends", **ends)
    async def ordered(ctx: Context, event: Event[Any]) -> str:
        paid = await charge(event.data["order"])
        await ctx.send("sent", {"order": event.data["order"]})
        return paid

    @app.function(on="placed", id="fails", **ends)
    async def fails(ctx: Context, event: Event[Any]) -> None:
        await charge(event.data["order"])
        raise NonRetriable("no money")

    @app.function(on="placed", id="sleeps", **ends)
    async def sleeps(ctx: Context, event: Event[Any]) -> str:
        await charge(event.data["order"])
        await ctx.sleep("1d")
        return await charge(event.data["order"])

    @app.function(on="placed", id="waits", **ends)
    async def waits(ctx: Context, event: Event[Any]) -> str:
        await ctx.wait_for_event("paid", match="data.order", timeout="3d")
        return await charge(event.data["order"])

    @app.function(on="placed", id="calls", **ends)
    async def parent(ctx: Context, event: Event[Any]) -> str:
        return await label.call(event.data["order"])

    @app.function(on="placed", id="slow", timeout="1h")
    async def slow(ctx: Context, event: Event[Any]) -> None:
        await ctx.sleep("1d")

    @app.function(on="perdure/function.failed", id="listens")
    async def listens(ctx: Context, event: Event[Any]) -> None:
        calls.append("told of a failure")

    if cron:

        @app.cron("*/5 * * * *", id="later")
        async def later(ctx: Context) -> None:
            await ctx.sleep("30d")

    return app


app = shop(cron=False)


async def some_past(engine: TestEngine) -> None:
    await engine.send("placed", {"order": "o1"})
    await engine.advance("66m")
    await engine.send("placed", {"order": "o2"})


async def runs_of(engine: TestEngine) -> dict[str, RunSummary]:
    found, cursor = await TestPort(engine).runs(limit=500)
    assert not cursor
    return {run.id: run for run in found}


async def imported(tape: Tape, engine: TestEngine) -> Imported:
    await engine.log.open()
    return await write(checked(tape, "it"), engine.log)


async def test_a_past_is_shown_and_nothing_of_it_goes_on() -> None:
    async with TestEngine(shop()) as production:
        await some_past(production)
        before = await runs_of(production)
        details = {run: await TestPort(production).run(run) for run in before}
        tape = await read_tape(production.log)
    calls.clear()
    laptop = TestEngine(shop(cron=False), start=production.now + timedelta(hours=1))
    done = await imported(tape, laptop)
    living = {run.id for run in before.values() if run.function in LIVING} | {
        run.id for run in before.values() if run.function == "slow" and run.status == "suspended"
    }
    assert (done.runs, set(done.cancelled), done.left_out) == (len(before), living, ())
    async with laptop:
        after = await runs_of(laptop)
        assert set(after) == set(before)
        for id, run in before.items():
            if id in living:
                assert after[id].status == "cancelled"
                ended = await TestPort(laptop).result(id)
                assert ended.error is not None
                assert ended.error.message == REASON
            else:
                assert after[id] == run
                assert await TestPort(laptop).run(id) == details[id]
        # Neither time, nor what they waited for, nor a crash lets anything of it go on.
        await laptop.send("paid", {"order": "o1"}, id="new-1")
        await laptop.advance("1h")
        await laptop.crash()
        await laptop.advance("10d")
        assert calls == []
        await laptop.send("placed", {"order": "o3"}, id="new-2")
        assert sorted(calls) == ["charge o3"] * 3 + ["handler", "told of a failure"]


async def test_it_folds_to_what_it_was_and_exports_again() -> None:
    async with TestEngine(shop()) as production:
        await some_past(production)
        tape = await read_tape(production.log)
        ended = [run for run in tape.runs() if production_status(tape, run) in ("completed", "failed")]
    laptop = TestEngine(shop(cron=False), start=production.now)
    await imported(tape, laptop)
    again = await read_tape(laptop.log)
    assert again.app == tape.app
    for run in ended:
        assert [(one.offset, one.at, one.kind) for one in again.entries_of(run)] == [
            (one.offset, one.at, one.kind) for one in tape.entries_of(run)
        ]
        assert production_status(again, run) == production_status(tape, run)


def production_status(tape: Tape, run: str) -> str:
    view = whole_view_of(tape, tape.part_of(run).partition)
    state = view.runs.get(run)
    assert state is not None
    return state.status


@pytest.mark.parametrize("function", ["ends", "sleeps", "fails"])
async def test_chosen_runs_are_forked_and_go_on_live(function: str) -> None:
    async with TestEngine(shop()) as production:
        await some_past(production)
        chosen = next(id for id, run in (await runs_of(production)).items() if run.function == function)
        detail = await TestPort(production).run(chosen)
        tape = await read_tape(production.log, Wanted(frozenset({chosen})))
    laptop = TestEngine(shop(cron=False), start=production.now)
    await imported(tape, laptop)
    async with laptop:
        assert (await TestPort(laptop).run(chosen)).ops == detail.ops
        assert function == "sleeps" or await TestPort(laptop).run(chosen) == detail
    tape, _ = redacted(tape, [rule_of("data.order")])
    laptop = TestEngine(shop(cron=False), start=production.now)
    assert (await imported(tape, laptop)).runs == 1
    calls.clear()
    async with laptop:
        assert set(await runs_of(laptop)) == {chosen}
        new = await forked(laptop, chosen, "0/charge#1", change=result("by hand"))
        await laptop.finish()
        detail = await TestPort(laptop).run(new)
        assert (detail.run.rerun_of, detail.run.status) == (chosen, "failed" if function == "fails" else "completed")
        if function == "ends":
            assert (await outcome(laptop, new), calls) == ("by hand", [])
        elif function == "sleeps":
            assert len(calls) == 1


async def test_of_a_trimmed_log_there_are_the_runs_whose_records_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "TRIM_MS", 0)
    log = MemoryLog(3, retention_ms=0)
    node, port = await begin(log)
    for n in range(3):
        await port.send([body("placed", f"e{n}", b'{"cart":%d,"fails":false,"text":"%b"}' % (n, LARGE.encode()))])
        await rest(node)
    await port.send([body("placed", "last", b'{"cart":9,"fails":false,"text":"x"}')])
    while not (found := [run for run in (await port.runs())[0] if run.event_id == "last"]):
        await asyncio.sleep(0)
    tape = await read_tape(log)
    whole = {one.entity for part in tape.parts.values() for one in part.entries if one.kind == "run.requested"}
    await node.close()
    target = MemoryLog(3)
    await target.open()
    done = await write(checked(tape, "it"), target)
    assert found[0].id in whole
    assert set(done.left_out) == set(tape.runs()) - whole
    assert done.left_out
    again = await read_tape(target)
    assert {production_status(again, run) for run in done.cancelled} == {"cancelled"}
    for partition in range(3):
        assert whole_view_of(again, partition).meta.current == 1
    await target.close()


def perdure(*args: str) -> Result:
    return CliRunner().invoke(main, list(args))


@pytest.fixture
async def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    async with TestEngine(shop()) as production:
        await some_past(production)
        tape = await read_tape(production.log)
    with written(tmp_path / "past.ndjson") as out:
        out.writelines(lines_of(tape))
    calls.clear()
    return tmp_path / "past.ndjson"


async def test_a_folder_that_an_engine_opens(file: Path) -> None:
    found = await asyncio.to_thread(perdure, "import", "past.ndjson", "--log", "embedded://laptop", "--json")
    assert found.exit_code == 0, found.output
    told = json.loads(found.stdout)
    assert (told["app"], told["partitions"], told["left_out"]) == ("shop", read_file(file).partitions, [])
    async with Engine(app, log="embedded://laptop?retention=forever", partitions=told["partitions"]) as engine:
        event = await engine.send("placed", {"order": "o9"})
        while not (new := await engine.runs(app.functions["ends"], event_id=event)):
            await asyncio.sleep(0.01)
        assert await new[0].result() == "paid o9"
    assert set(calls) <= {"charge o9", "handler", "told of a failure"}
    tape = read_file(file)
    run = next(id for id in tape.runs() if production_status(tape, id) == "completed")
    rebuilt = await asyncio.to_thread(
        perdure, "history", "rebuild", "shop", "--log", "laptop", "--history-retention", "forever"
    )
    assert rebuilt.exit_code == 0, rebuilt.output
    history = SqliteHistory(Path("laptop/history.db"), writes=False)
    history.open()
    try:
        listed = {one.id: one.status for one in history.runs(RunQuery(limit=500)).runs}
    finally:
        history.close()
    statuses = {id: production_status(tape, id) for id in tape.runs()}
    living = ("running", "queued")
    assert {id: listed[id] for id in statuses} == {
        id: "cancelled" if status in living else status for id, status in statuses.items()
    }
    replayed = await asyncio.to_thread(
        perdure, "replay", run, "tests.past.test_importing:app", "--log", "laptop", "--json"
    )
    assert (replayed.exit_code, json.loads(replayed.stdout)["verdict"]) == (0, "as_recorded"), replayed.output
    shown = [
        json.loads((await asyncio.to_thread(perdure, "state", run, *source, "--json")).stdout)
        for source in (("--log", "laptop"), ("--file", "past.ndjson"))
    ]
    assert shown[0] == shown[1]
    refused = await asyncio.to_thread(perdure, "import", "past.ndjson", "--log", "laptop")
    assert (refused.exit_code, "is not empty" in refused.output) == (5, True)


def test_what_cannot_be_imported_is_said_and_leaves_nothing(file: Path, tmp_path: Path) -> None:
    lines = file.read_bytes().splitlines(keepends=True)
    bad = {
        "cut.ndjson": (lines[:-3], "cut off"),
        "other.ndjson": ([b"{}\n"], "not what `perdure export` writes"),
        "newer.ndjson": ([lines[0].replace(b'"version":1', b'"version":9'), *lines[1:]], "install a newer one"),
        "fewer.ndjson": ([lines[0].replace(b'"partitions":', b'"partitions":7000'), *lines[1:]], "no log of 7000"),
        "kinds.ndjson": ([line.replace(b'"step.completed"', b'"step.dreamt"') for line in lines], "cannot be folded"),
    }
    for name, (content, words) in bad.items():
        tmp_path.joinpath(name).write_bytes(b"".join(content))
        found = perdure("import", name, "--log", "laptop")
        assert (found.exit_code, words in " ".join(found.output.split())) == (5, True), found.output
        assert not Path("laptop").exists()
    elsewhere = perdure("import", "past.ndjson", "--log", "kafka://localhost:9092/ns")
    assert (elsewhere.exit_code, "topics copy" in elsewhere.output) == (2, True)
    # What an import that failed has left is made anew.
    assert Path("laptop.copying").exists()
    found = perdure("import", "past.ndjson", "--log", "laptop")
    assert found.exit_code == 0, found.output
    assert "had not ended: cancelled in this copy" in " ".join(found.output.split())
    assert not Path("laptop.copying").exists()


KILLED = """
import os, signal, sys
from perdure.past import importing

copy = importing._Writer.copy
seen = 0

async def dying(self, entry):
    global seen
    seen += 1
    if seen == 20:
        os.kill(os.getpid(), signal.SIGKILL)
    await copy(self, entry)

importing._Writer.copy = dying
from perdure.cli import main
main(["import", "past.ndjson", "--log", "laptop"])
"""


def test_killed_in_the_middle_it_begins_anew(file: Path) -> None:
    died = subprocess.run([sys.executable, "-c", KILLED], check=False, timeout=60)
    assert died.returncode == -signal.SIGKILL
    assert (Path("laptop").exists(), Path("laptop.copying").exists()) == (False, True)
    found = perdure("import", "past.ndjson", "--log", "laptop", "--json")
    assert (found.exit_code, json.loads(found.stdout)["runs"]) == (0, len(read_file(file).runs()))
