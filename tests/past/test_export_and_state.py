"""`perdure export` and `perdure state`, of a log that no engine has open, and of the file."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from perdure import Engine, Event
from perdure.cli import main
from perdure.past.file import read_file
from tests.past.shop import shop
from tests.past.test_redaction import ACCOUNT, SECRETS, bank


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("URL", "LOG", "PORT", "APP"):
        monkeypatch.delenv(f"PERDURE_{name}", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def perdure(*args: str) -> Result:
    return CliRunner().invoke(main, list(args))


def asked(*args: str) -> Any:
    found = perdure(*args, "--json")
    assert found.exit_code == 0, found.output
    return json.loads(found.stdout)


@pytest.fixture
async def runs(durable_url: str) -> list[str]:
    """Of one that was paid, and of one that waits."""
    app = shop()
    async with Engine(app, log=durable_url, partitions=2) as engine:
        for n in range(2):
            await engine.send_many([Event(name="placed", data={"cart": n, "text": "x"}, id=f"e{n}")])
        while len(found := await engine.runs(app.functions["order"])) < 2:
            await asyncio.sleep(0.01)
        (paid,) = await engine.runs(app.functions["order"], event_id="e0")
        await engine.send("paid", {"cart": 0}, id="p0")
        assert await paid.result() == 3_001
        (waits,) = {one.id for one in found} - {paid.id}
        while {op.type for op in (await engine.port.run(waits)).ops} != {"step", "wait"}:
            await asyncio.sleep(0.01)
        return [paid.id, waits]


def test_a_run_is_shown_as_it_was_at_each_of_its_records(runs: list[str], durable_url: str) -> None:
    paid, waits = runs
    whole = asked("state", paid, "--log", durable_url)
    assert (whole["run"]["status"], whole["nth"], whole["of"]) == ("completed", whole["of"], whole["of"])
    assert asked("export", paid, "--log", durable_url)["runs"] == 1
    seen = []
    for entry in read_file(Path("runs.ndjson")).entries_of(paid):
        found = asked("state", paid, "--file", "runs.ndjson", "--at", str(entry.offset))
        assert found["offset"] == entry.offset
        seen.append((found["kind"], found["run"]["status"], len(found["lines"]), list(found["run"].get("open", {}))))
    assert seen == [
        ("run.requested", "running", 0, []),
        ("step.completed", "running", 1, []),
        ("op.opened", "running", 2, ["0/wait:paid#1"]),
        ("match.offered", "running", 3, []),
        ("run.finished", "completed", 0, []),
    ]
    told = perdure("state", waits, "--log", durable_url)
    assert told.exit_code == 0
    for words in ("order", "running", "record 3 of 3, op.opened", "step.completed", "open wait", "until 20"):
        assert words in told.output, told.output
    moment = asked("state", waits, "--log", durable_url, "--at", "2100-01-01")
    assert moment["nth"] == 3
    gone = perdure("state", waits, "--log", durable_url, "--at", "2000-01-01")
    assert (gone.exit_code, "before the first record" in gone.output) == (3, True)
    none = perdure("state", "0000" + "ab" * 16, "--log", durable_url)
    assert (none.exit_code, "no run" in none.output) == (3, True)


def test_a_join_key_is_shown_with_who_waits_and_what_is_kept(runs: list[str], durable_url: str) -> None:
    key = ("--key", "paid", "data.cart")
    waited = asked("state", *key, "1", "--log", durable_url)
    assert [one["run"] for one in waited["subscriptions"]] == [runs[1]]
    assert waited["events"] == []
    kept = asked("state", *key, "0", "--log", durable_url)
    assert [one["event"]["id"] for one in kept["events"]] == ["p0"]
    assert kept["subscriptions"] == []
    before = asked("state", *key, "0", "--log", durable_url, "--at", str(kept["events"][0]["position"] - 1))
    assert before["events"] == []
    assert runs[1] in perdure("state", *key, "1", "--log", durable_url).output
    assert "event" in perdure("state", *key, "0", "--log", durable_url).output
    assert "nobody waits" in perdure("state", *key, '"1"', "--log", durable_url).output
    assert asked("export", "--all", "--log", durable_url)["runs"] == 2
    assert asked("state", *key, "1", "--file", "runs.ndjson") == waited
    refused = perdure("state", *key, "null", "--log", durable_url)
    assert (refused.exit_code, "matches nothing" in refused.output) == (2, True)


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["export"], "say which runs"),
        (["export", "a" * 36, "--since", "7d"], "say which runs"),
        (["export", "--all", "--redact", "email"], "names no values"),
        (["state"], "say of what"),
        (["state", "a" * 36, "--key", "a", "b", "c"], "say of what"),
        (["state", "--key", "a", "b", "c"], "name a --log or a --file"),
        (["state", "a" * 36, "--log", "x", "--file", "y"], "one of both"),
    ],
)
def test_what_was_typed_wrong_is_said(args: list[str], told: str) -> None:
    found = perdure(*args)
    assert (found.exit_code, told in found.output) == (2, True), found.output


async def test_rules_of_the_settings_count_for_each_export(folder: Path, durable_url: str) -> None:
    app = bank()
    async with Engine(app, log=durable_url, partitions=1) as engine:
        await engine.send("signed-up", ACCOUNT, id="e1")
        while not await engine.runs(app.functions["welcome"]):
            await asyncio.sleep(0.01)
    folder.joinpath("perdure.toml").write_text('[redact]\nrules = ["data.email", "data.emial"]\n')
    args = ("export", "--all", "--log", durable_url, "-o", "bank.ndjson.zst", "--redact", "data.card")
    told = await asyncio.to_thread(asked, *args)
    assert (told["redacted"], told["found_nothing"]) == (["data.email", "data.emial", "data.card"], ["data.emial"])
    raw = b"".join(one.raw for part in read_file(folder / "bank.ndjson.zst").parts.values() for one in part.entries)
    assert [secret.encode() in raw for secret in (SECRETS[0], SECRETS[1], SECRETS[3])] == [False, False, True]
    said = await asyncio.to_thread(perdure, *args)
    assert "data.emial: no value was found there" in said.output
    folder.joinpath("perdure.toml").write_text("[redact]\nrules = 7\n")
    wrong = await asyncio.to_thread(perdure, *args)
    assert (wrong.exit_code, "has a list of texts" in wrong.output) == (2, True)


async def test_what_is_not_there_is_not_written(runs: list[str], durable_url: str, folder: Path) -> None:
    found = await asyncio.to_thread(perdure, "export", runs[0], "0000" + "ab" * 16, "--log", durable_url)
    assert (found.exit_code, "nothing is known there" in found.output) == (3, True)
    assert not folder.joinpath("runs.ndjson").exists()
