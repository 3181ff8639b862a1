"""`perdure replay` and `perdure check`, on an embedded log that an engine has left."""

import asyncio
import json
import os
import sys
from collections.abc import Generator
from contextlib import suppress
from importlib import import_module
from pathlib import Path

import pexpect
import pytest
from click.testing import CliRunner, Result

from perdure import Engine, RunFailed
from perdure.cli import main
from tests.http.serving import served

MODULE = "replayed_shop"
CODE = """
import asyncio

from perdure import App, Context, Event

app = App("shop")


@app.step
async def charge(order: str, cents: int) -> str:
    return f"receipt-{order}-{cents}"


@app.step
async def ship(receipt: str) -> str:
    return receipt.upper()


@app.function(id="fulfil", on="order/placed", retries=0)
async def fulfil(ctx: Context, event: Event) -> list[str]:
    order, total = event.data["order"], 0
    for cents in event.data["items"]:
        total += cents
    receipt = await charge(order, total)
    parcels = await asyncio.gather(ship(receipt), ship(receipt + "-b"))
    mean = total / len(event.data["items"])
    return [*parcels, f"{mean}"]


@app.function(id="wait", on="order/placed")
async def wait(ctx: Context, event: Event) -> None:
    await charge("later", 1)
    await ctx.sleep("1d")
"""


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[dict[str, str]]:
    """A log in `log` and the app beside it; the runs in it by order, and those that sleep by `asleep` and order."""
    (tmp_path / f"{MODULE}.py").write_text(CODE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    app = import_module(MODULE).app

    async def happen() -> dict[str, str]:
        found: dict[str, str] = {}
        async with Engine(app, log="embedded://log", partitions=2) as engine:
            for order, items in (("tea", [5, 7]), ("air", [])):
                await engine.send("order/placed", {"order": order, "items": items}, id=order)
                (run,) = await engine.runs(app.functions["fulfil"], event_id=order)
                (asleep,) = await engine.runs(app.functions["wait"], event_id=order)
                found |= {order: run.id, f"asleep {order}": asleep.id}
                with suppress(RunFailed):
                    await run.result(timeout="30s")
                while await asleep.status() != "suspended":
                    await asyncio.sleep(0.01)
        return found

    yield asyncio.run(happen())
    sys.modules.pop(MODULE, None)


def perdure(*args: str) -> Result:
    return CliRunner().invoke(main, [*args, "--log", "log"])


def deploy(tmp_path: Path, old: str, new: str) -> None:
    """The code changes; another process would import it anew."""
    assert old in CODE
    (tmp_path / f"{MODULE}.py").write_text(CODE.replace(old, new), encoding="utf-8")
    sys.modules.pop(MODULE, None)
    # Two versions within a second would have one compiled file.
    for compiled in (tmp_path / "__pycache__").glob("*"):
        compiled.unlink()


def test_a_run_is_replayed_as_recorded(runs: dict[str, str]) -> None:
    done = perdure("replay", runs["tea"], f"{MODULE}:app")
    assert done.exit_code == 0, done.output
    assert "as recorded: completed" in done.output
    assert '"receipt-tea-12"' in done.output
    told = json.loads(perdure("replay", runs["tea"], f"{MODULE}:app", "--json").output)
    assert told["verdict"] == "as_recorded"
    assert [one["op"] for one in told["ops"]] == ["0/charge#1", "0/ship#1", "0/ship#2"]
    assert {one["standing"] for one in told["ops"]} == {"answered"}
    waits = json.loads(perdure("replay", runs["asleep tea"], f"{MODULE}:app", "--json").output)
    assert (waits["verdict"], waits["at"]) == ("waits", ["0/sleep#1"])


def test_a_failed_run_shows_where_it_fails(runs: dict[str, str]) -> None:
    done = perdure("replay", runs["air"], f"{MODULE}:app")
    assert done.exit_code == 0
    assert 'mean = total / len(event.data["items"])' in done.output
    assert "ZeroDivisionError" in done.output


def test_until_a_step_shows_the_place_and_its_locals(runs: dict[str, str]) -> None:
    for step in ("ship#2", "0/ship#2"):
        done = perdure("replay", runs["tea"], f"{MODULE}:app", "--until", step)
        assert done.exit_code == 0, done.output
        assert "in fulfil" in done.output
        assert "receipt = 'receipt-tea-12'" in done.output
    never = perdure("replay", runs["tea"], f"{MODULE}:app", "--until", "bill")
    assert never.exit_code == 2
    assert "it asked for 0/charge#1, 0/ship#1, 0/ship#2" in never.output


def test_a_trace_has_each_op_as_it_is_asked_for_and_answered(runs: dict[str, str]) -> None:
    done = perdure("replay", runs["tea"], f"{MODULE}:app", "--trace")
    said = [line.split()[2:] for line in done.output.splitlines() if "asks for" in line or "answered  " in line]
    assert [" ".join(words) for words in said][:6] == [
        "asks for 0/charge#1",
        'answered 0/charge#1 "receipt-tea-12"',
        "asks for 0/ship#1",
        "asks for 0/ship#2",
        'answered 0/ship#1 "RECEIPT-TEA-12"',
        'answered 0/ship#2 "RECEIPT-TEA-12-B"',
    ]


def test_changed_code_that_parks_shows_both_sides(runs: dict[str, str], tmp_path: Path) -> None:
    deploy(tmp_path, "await charge(order, total)", 'await ctx.step("bill", str, total)')
    done = perdure("replay", runs["tea"], f"{MODULE}:app")
    assert done.exit_code == 1
    assert "log   0/charge#1" in done.output
    assert "code  0/bill#1" in done.output


def test_what_is_not_there(runs: dict[str, str]) -> None:
    assert perdure("replay", "0" * 36, f"{MODULE}:app").exit_code == 3
    assert perdure("replay", runs["tea"], f"{MODULE}:app", "--pdb", "--json").exit_code == 2


class Session:
    """A talk with `perdure replay --pdb` on a terminal."""

    def __init__(self, folder: Path, *args: str) -> None:
        command = ["-m", "perdure", "replay", *args, f"{MODULE}:app", "--log", "log", "--pdb"]
        env = os.environ | {"TERM": "dumb", "PYTHONPATH": os.pathsep.join([str(folder), *sys.path])}
        self.child = pexpect.spawn(
            sys.executable, command, cwd=str(folder), env=env, encoding="utf-8", timeout=60, dimensions=(60, 160)
        )

    def prompt(self) -> str:
        """What was said before the debugger asks."""
        self.child.expect_exact("(Pdb) ")
        return self.child.before or ""

    def say(self, command: str) -> str:
        """What the debugger says to it."""
        self.child.sendline(command)
        return self.prompt()

    def end(self, command: str, *, code: int = 0) -> str:
        """What is said after the last command."""
        self.child.sendline(command)
        self.child.expect(pexpect.EOF)
        self.child.close()
        assert self.child.exitstatus == code
        return self.child.before or ""


def test_pdb_stops_at_the_first_op_and_goes_on_in_the_users_code(runs: dict[str, str], tmp_path: Path) -> None:
    session = Session(tmp_path, runs["tea"])
    assert "-> receipt = await charge(order, total)" in session.prompt()
    assert "('tea', 12)" in session.say("p order, total")
    assert "-> parcels = await asyncio.gather(" in session.say("n")
    assert "'receipt-tea-12'" in session.say("p receipt")
    assert '-> mean = total / len(event.data["items"])' in session.say("n")
    assert "['RECEIPT-TEA-12', 'RECEIPT-TEA-12-B']" in session.say("p parcels")
    assert "as recorded: completed" in session.end("c")


def test_pdb_stops_at_a_step_that_another_task_asks_for(runs: dict[str, str], tmp_path: Path) -> None:
    session = Session(tmp_path, runs["tea"], "--until", "ship#2")
    assert "-> parcels = await asyncio.gather(" in session.prompt()
    assert "'receipt-tea-12'" in session.say("p receipt")
    assert "-> mean = total" in session.say("n")
    assert "fulfil()" in session.say("w")
    assert "-> return [*parcels" in session.say("s")
    assert "as recorded: completed" in session.end("n")


def test_pdb_looks_at_where_a_run_failed(runs: dict[str, str], tmp_path: Path) -> None:
    session = Session(tmp_path, runs["air"])
    said = session.prompt()
    assert "ZeroDivisionError" in said
    assert '-> mean = total / len(event.data["items"])' in said
    assert "(0, 'air')" in session.say("p total, order")
    assert "as recorded: failed" in session.end("q")


def test_pdb_stops_where_changed_code_asks_for_something_else(runs: dict[str, str], tmp_path: Path) -> None:
    deploy(tmp_path, "await charge(order, total)", 'await ctx.step("bill", str, total)')
    session = Session(tmp_path, runs["tea"], "--until", "0/bill#1")
    assert '-> receipt = await ctx.step("bill", str, total)' in session.prompt()
    assert "('tea', 12)" in session.say("p order, total")
    assert "code  0/bill#1" in session.end("c", code=1)


def test_pdb_can_be_left(runs: dict[str, str], tmp_path: Path) -> None:
    session = Session(tmp_path, runs["tea"])
    session.prompt()
    assert "stopped" in session.end("q")


def test_a_check_before_a_deploy(runs: dict[str, str], tmp_path: Path) -> None:
    """Nothing changed, then a step of the runs that sleep is another one."""
    fine = perdure("check", f"{MODULE}:app")
    assert fine.exit_code == 0, fine.output
    assert "2 runs under way would go on" in fine.output
    deploy(tmp_path, 'await charge("later", 1)', 'await charge("sooner", 1)')
    broken = perdure("check", f"{MODULE}:app")
    assert broken.exit_code == 1
    assert "2 runs of wait would park: charge was recorded with other arguments" in broken.output
    assert runs["asleep tea"] in broken.output
    assert "log   0/charge#1" in broken.output
    assert f"{MODULE}:app --pdb --until 0/charge#1" in broken.output
    told = json.loads(perdure("check", f"{MODULE}:app", "--json", "--finished", "9").output)
    assert (told["in_flight"], told["finished"], told["well"]) == (2, 2, {"as_recorded": 2})
    (group,) = told["groups"]
    assert (group["function"], group["verdict"], group["count"]) == ("wait", "parks", 2)
    assert sorted(group["examples"]) == sorted([runs["asleep tea"], runs["asleep air"]])


async def test_beside_a_running_engine(runs: dict[str, str], tmp_path: Path) -> None:
    """Its folder is in use: what there is to know is asked of it."""

    async def ask(*args: str) -> Result:
        return await asyncio.to_thread(CliRunner().invoke, main, [*args, "--url", url])

    async with (
        Engine(import_module(MODULE).app, log="embedded://log", partitions=2) as engine,
        served(engine.port) as url,
    ):
        done = await ask("replay", runs["tea"], f"{MODULE}:app")
        assert done.exit_code == 0, done.output
        assert "as recorded: completed" in done.output
        deploy(tmp_path, 'await charge("later", 1)', 'await charge("sooner", 1)')
        broken = await ask("check", f"{MODULE}:app", "--finished", "5")
        assert broken.exit_code == 1, broken.output
        assert "2 runs of wait would park: charge was recorded with other arguments" in broken.output
        assert "2 of 2 that have ended would end as they did" in broken.output
