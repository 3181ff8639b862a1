"""A run's records in words, by the folds: what each did, and how the run and its ops were after it."""

import httpx
import pytest

from perdure import App, Context, Event, StepError
from perdure.errors import PastGone, UnknownRun
from perdure.past.file import lines_of
from perdure.past.reading import Wanted, read_tape
from perdure.past.records import RecordTold, records_of
from perdure.past.tape import Tape
from perdure.testing import TestEngine
from tests.http.fake_port import FakePort
from tests.http.serving import client_of
from tests.past.shop import shop

app = App("trips")


@app.step(retries=1)
async def book(place: str) -> str:
    raise ConnectionError(place)


@app.background
async def mail(to: str) -> str:
    return to


@app.function(on="trip", retries=0)
async def trip(ctx: Context, event: Event) -> None:
    await mail.call("ada")
    await ctx.sleep("1h")
    try:
        await book("Rome")
    except StepError:
        await ctx.wait_for_event("answer", match="data.trip", timeout="1d")
        await mail.enqueue("bob")
    raise ValueError("no trip")


def told(records: list[RecordTold]) -> list[tuple[str, str, str]]:
    return [(one.words, one.status, one.op_status) for one in records]


async def tape_of_shop() -> tuple[Tape, str]:
    """Of a run that was paid."""
    async with TestEngine(shop()) as engine:
        await engine.send("placed", {"cart": 1, "text": "x"})
        await engine.send("paid", {"cart": 1}, id="p1")
        (run,) = engine.all_runs(engine.app.functions["order"])
        return await read_tape(engine.log, Wanted(frozenset([run.id]))), run.id


async def test_each_record_says_what_it_did() -> None:
    tape, run = await tape_of_shop()
    assert told(records_of(tape, run)) == [
        ("the run was asked for", "running", ""),
        ("step pack completed", "running", "completed"),
        ("wait paid began", "running", "open"),
        ("wait paid took event p1", "running", "completed"),
        ("it completed", "completed", ""),
    ]
    assert [one.offset for one in records_of(tape, run)] == [one.offset for one in tape.entries_of(run)]


async def test_retries_calls_sleeps_and_a_failure_are_told() -> None:
    async with TestEngine(app) as engine:
        await engine.send("trip", {"trip": 1})
        await engine.advance("2d")
        (run,) = engine.all_runs(trip)
        found = told(records_of(await read_tape(engine.log), run.id))
    assert found == [
        ("the run was asked for", "running", ""),
        ("call mail began", "running", "open"),
        ("mail: the other run has ended", "running", "completed"),
        ("sleep began", "running", "open"),
        ("sleep is over", "running", "completed"),
        ("step book failed, and is tried again", "running", "open"),
        ("step book is tried again", "running", "open"),
        ("step book failed", "running", "failed"),
        ("wait answer began", "running", "open"),
        ("wait answer timed out", "running", "completed"),
        ("enqueue mail began", "running", "completed"),
        ("it failed", "failed", ""),
    ]


async def test_what_is_not_there_or_not_any_more_is_said() -> None:
    tape, run = await tape_of_shop()
    with pytest.raises(UnknownRun):
        records_of(tape, run[:4] + "0" * 32)
    (part,) = [part for part in tape.parts.values() if tape.entries_of(run)[0] in part.entries]
    late = [one for one in part.entries if one.kind != "run.requested"]
    gone = tape._replace(parts={part.partition: part._replace(entries=late, start=10)})
    with pytest.raises(PastGone):
        records_of(gone, run)


async def test_the_api_gives_them() -> None:
    port = FakePort()
    tape, run = await tape_of_shop()
    port.add(run)
    port.tapes[run] = b"".join(lines_of(tape))

    async def ask(path: str) -> httpx.Response:
        async with client_of(port) as client:
            return await client.get(path)

    answer = (await ask(f"/v1/runs/{run}/records")).json()
    assert (len(answer["data"]), answer["cursor"]) == (5, "")
    wait = answer["data"][2]
    assert (wait["kind"], wait["op"], wait["op_status"], wait["status"]) == (
        *("op.opened", "0/wait:paid#1", "open"),
        "running",
    )
    unknown = await ask("/v1/runs/nope/records")
    assert (unknown.status_code, unknown.json()["type"]) == (404, "urn:perdure:error:UnknownRun")
    wrong = await ask(f"/v1/runs/{run}/records?at=7")
    assert (wrong.status_code, "there is no parameter 'at'" in wrong.text) == (400, True)
