"""Exported runs without what was sensitive: gone everywhere, of the same types, and run again as before."""

from typing import Any

import msgspec
import pytest

from perdure import App, Context, Event
from perdure.errors import DefinitionError
from perdure.flow import decode
from perdure.log.memory import MemoryLog
from perdure.partition import snapshots
from perdure.past.file import lines_of
from perdure.past.reading import read_tape
from perdure.past.redaction import redacted, rule_of
from perdure.past.replay import RecordedEnd, Replayer
from perdure.past.tape import Entry, Tape, view_of
from perdure.testing import TestEngine
from perdure_schemas.records import RunFinished
from tests.partition.test_trimming import begin, body, rest

SECRETS = ("ada@lovelace.org", "4111111111111111", "Ada Lovelace", "2c5ea4c0-4067-4fe9-8bad-9b1deb4d3b7d")


class Account(msgspec.Struct):
    email: str
    card: str
    token: str
    cents: int
    vip: bool


def bank() -> App:
    app = App("bank")

    @app.step
    async def charge(account: Account, *, name: str) -> dict[str, Any]:
        if account.cents == 13:
            raise ValueError(f"{name} is out of luck")
        return {"receipt": f"{name} paid {account.card}", "card": account.card, "cents": account.cents}

    @app.background(retries=0)
    async def greet(email: str) -> str:
        return f"hello {email}"

    @app.function(on="signed-up", id="welcome", retries=0)
    async def welcome(ctx: Context, event: Event[Account]) -> str:
        account = event.data
        paid = await charge(account, name="Ada Lovelace")
        answer = await ctx.wait_for_event("confirmed", match="data.email")
        greeting = await greet.call(account.email)
        return f"{greeting}: {paid['receipt']}, {answer is not None}"

    return app


ACCOUNT = {"email": SECRETS[0], "card": SECRETS[1], "token": SECRETS[3], "cents": 900, "vip": True}
RULES = ("data.email", "data.card", "data.token", "data.vip", "steps.charge.name")


async def taped(app: App, **changed: object) -> Tape:
    async with TestEngine(app) as engine:
        await engine.send("signed-up", {**ACCOUNT, **changed})
        await engine.send("confirmed", {"email": SECRETS[0]})
        await engine.finish()
        return await read_tape(engine.log)


async def test_what_rules_name_is_gone_wherever_it_stood_and_runs_are_replayed_as_before() -> None:
    app = bank()
    tape = await taped(app)
    before = b"".join(lines_of(tape)).decode()
    assert all(secret in before for secret in SECRETS)
    without, counts = redacted(tape, [rule_of(rule) for rule in (*RULES, "data.emial")])
    after = b"".join(lines_of(without)).decode()
    assert not [secret for secret in SECRETS if secret in after]
    runs = without.runs()
    assert not [one for run in runs for one in without.entries_of(run) if b"x3:" in one.raw], (
        "a digest could be guessed"
    )
    assert {rule for rule, count in counts.items() if not count} == {"data.emial"}
    assert without.redacted == (*RULES, "data.emial")
    assert '"redacted":["data.email"' in after
    replayer = Replayer(app)
    for run in runs:
        ended = next(one for one in without.entries_of(run) if one.kind == "run.finished")
        finished = decode(ended.raw)
        assert isinstance(finished, RunFinished)
        end = RecordedEnd(finished.status, ended.at, ended.offset, finished)
        replayed = await replayer.replay(view_of(without, run, ended.offset - 1), run, end=end)
        assert replayed.verdict == "as_recorded", replayed
    await replayer.close()


async def test_values_keep_their_types_and_what_was_equal_still_is() -> None:
    without, _ = redacted(await taped(bank()), [rule_of(rule) for rule in ("data.*", "steps.*.receipt")])
    bodies = [
        msgspec.json.decode(one.raw)["event"]
        for part in without.parts.values()
        for one in part.entries
        if one.kind == "event.received"
    ]
    account = msgspec.convert(next(one["data"] for one in bodies if one["name"] == "signed-up"), Account)
    confirmed = next(one["data"] for one in bodies if one["name"] == "confirmed")
    assert account.email == confirmed["email"]
    assert account.email.endswith("@example.invalid")
    assert (len(account.card), account.card.isdigit()) == (16, True)
    assert (account.cents, account.vip) == (0, False)
    assert account.token.startswith("00000000-0000-4000-8000-")


async def test_a_step_between_two_attempts_is_replayed_too() -> None:
    app = App("bank")

    @app.step(retries=3)
    async def call(email: str) -> str:
        raise ConnectionError(email)

    @app.function(on="signed-up", id="welcome")
    async def welcome(ctx: Context, event: Event[Account]) -> str:
        return await call(event.data.email)

    async with TestEngine(app) as engine:
        await engine.send("signed-up", ACCOUNT)
        tape = await read_tape(engine.log)
        run = engine.run(welcome).id
    without, _ = redacted(tape, [rule_of("data.email")])
    assert SECRETS[0] not in b"".join(lines_of(without)).decode()
    replayer = Replayer(app)
    replayed = await replayer.replay(view_of(without, run), run)
    await replayer.close()
    assert (replayed.verdict, [one.name for one in replayed.at]) == ("waits", ["call"])


async def test_what_the_state_stands_for_is_not_redacted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "TRIM_MS", 0)
    log = MemoryLog(1, retention_ms=0)
    node, port = await begin(log)
    await port.send([body("placed", "e0", b'{"cart":1,"fails":false,"text":"x"}')])
    await rest(node)
    tape = await read_tape(log)
    await node.close()
    with pytest.raises(DefinitionError, match="the log was trimmed"):
        redacted(tape, [rule_of("data.text")])


async def test_the_history_of_a_fork_is_redacted_as_the_run_that_it_is_of() -> None:
    tape = await taped(bank())
    partition = 0
    line = (
        b'{"kind":"step.completed","run":"r","op":"0/charge#1","attempt":1,"digest":"",'
        b'"result":{"inline":{"card":"41"}},"v":1}'
    )
    raw = b'{"kind":"run.recalled","run":"r","n":0,"at":1,"line":%b,"v":1}' % line
    recalled = Entry(partition, 10_000, 1, 1, raw, "run.recalled", "r")
    part = tape.parts[partition]
    forked = tape._replace(parts={partition: part._replace(entries=[*part.entries, recalled])})
    without, counts = redacted(forked, [rule_of("steps.charge.card")])
    assert counts["steps.charge.card"] >= 1
    assert b'"card":"41"' not in without.parts[partition].entries[-1].raw


async def test_errors_tell_nothing_either() -> None:
    app = bank()
    tape = await taped(app, cents=13)
    assert b"out of luck" in b"".join(lines_of(tape))
    without, _ = redacted(tape, [rule_of("steps.charge.name")])
    text = b"".join(lines_of(without)).decode()
    assert "Ada Lovelace" not in text
    assert "redacted-1 is out of luck" in text


async def test_digests_are_left_where_nothing_was_replaced() -> None:
    tape = await taped(bank())
    without, _ = redacted(tape, [rule_of("arguments.nothing")])
    assert without.parts == tape.parts


@pytest.mark.parametrize("text", ["", "email", "steps", "data..x", "data.", "steps..card", "journal.x"])
def test_a_rule_that_names_no_values_is_refused(text: str) -> None:
    with pytest.raises(DefinitionError, match="names no values: say data"):
        rule_of(text)
