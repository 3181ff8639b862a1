"""Past events for a function that did not get them: those that its triggers fit, each once."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from perdure import App, CancelOn, Context, Event, Trigger
from perdure.sdk.hindsight import jobs as bulk
from perdure.sdk.hindsight.jobs import Jobs
from perdure.sdk.hindsight.shelf import FileShelf
from perdure.sdk.local_port import LocalPort
from tests.history.beside import Beside, beside

RATE = 1.7
"""Nobody else sleeps for so long."""


def old() -> App:
    app = App("shop")

    @app.function(on="order/placed")
    async def ship(ctx: Context, event: Event) -> str:
        return "shipped"

    return app


def new() -> App:
    """`thank` asks for more than it did: it had no function before, and `ship` has all its runs."""
    app = old()

    @app.function(on=Trigger("order/*", where="event.data.total > 1"), cancel_on=CancelOn("order/paid", match="data.n"))
    async def thank(ctx: Context, event: Event) -> str:
        await ctx.wait_for_event("order/rated", match="data.n", timeout="1d")
        return "thanked"

    @app.background
    async def mail() -> None: ...

    return app


@pytest.fixture
async def running(tmp_path: Path) -> AsyncGenerator[Beside]:
    """The new code, on the log of six orders that the old one has shipped."""
    log = f"embedded://{tmp_path}/log"
    async with beside(old(), tmp_path, log) as before:
        for number in range(6):
            await before.engine.send("order/placed", {"n": number, "total": number}, id=f"e{number}")
        await before.engine.send("order/rated", {"n": 2}, id="rated")
        while len(await runs(before, "ship", "completed")) < 6:
            await asyncio.sleep(0.01)
    async with beside(new(), tmp_path, log) as now:
        yield now


async def runs(of: Beside, function: str, status: str = "") -> list[dict[str, Any]]:
    wanted = {"function": function, "limit": "100", **({"status": status} if status else {})}
    found: list[dict[str, Any]] = (await of.api.get("/v1/runs", params=wanted)).json()["data"]
    return found


async def backfilled(of: Beside, **more: Any) -> dict[str, Any]:
    body = {"action": "backfill", "function": "thank", "since": 0, **more}
    job: dict[str, Any] = (await of.api.post("/v1/jobs", json=body)).json()
    while job["state"] == "running":
        await asyncio.sleep(0.01)
        job = (await of.api.get(f"/v1/jobs/{job['id']}")).json()
    return job


def events_of(found: list[dict[str, Any]]) -> Counter[str]:
    return Counter(run["event_id"] for run in found)


async def test_each_event_that_a_trigger_fits_starts_one_run(running: Beside) -> None:
    counted = await backfilled(running, dry_run=True)
    assert (counted["state"], counted["count"]) == ("counted", 4)
    assert await runs(running, "thank") == []
    job = await backfilled(running)
    assert (job["count"], job["done"], job.get("failed", 0), job["function"]) == (4, 4, 0, "thank")
    assert events_of(await runs(running, "thank")) == Counter(["e2", "e3", "e4", "e5"])
    assert (await backfilled(running))["count"] == 0
    assert (await backfilled(running, function="ship"))["count"] == 0
    explained = (await running.api.get("/v1/events/e2")).json()
    assert {one["function"] for one in explained["decisions"] if one["decision"] == "started"} == {"ship", "thank"}


async def test_which_events_may_be_said(running: Beside) -> None:
    page = (await running.api.get("/v1/events", params={"name": "order/placed"})).json()["data"]
    fourth = next(one["received_at"] for one in page if one["id"] == "e4")
    assert (await backfilled(running, where="event.data.total == 3"))["count"] == 1
    assert (await backfilled(running, until=fourth, dry_run=True))["count"] <= 2
    assert (await backfilled(running, since=fourth + 60_000))["count"] == 0
    assert events_of(await runs(running, "thank")) == Counter(["e3"])


async def test_for_waits_and_rules_counts_what_comes_after_it_was_asked_for(running: Beside) -> None:
    """`e2` was rated before: its run waits for what comes now."""
    await backfilled(running, where="event.data.total <= 3")
    await asyncio.sleep(0.005)  # the log's clock tells in milliseconds what came after what
    await running.engine.send("order/rated", {"n": 2})
    await running.engine.send("order/paid", {"n": 3, "total": 0})
    ended: dict[str, str] = {}
    while set(ended) != {"e2", "e3"}:
        await asyncio.sleep(0.01)
        ended = {run["event_id"]: run["status"] for run in await runs(running, "thank") if "ended_at" in run}
    assert ended == {"e2": "completed", "e3": "cancelled"}


async def test_what_ended_before_the_window_is_known_to_history(
    running: Beside, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that was made when there were no runs asks again, long after: the folds have forgotten what ended."""
    monkeypatch.setattr(bulk, "events_for", _all)
    asked: list[str] = []

    async def backfill(port: LocalPort, request: Any) -> None:
        asked.append(request.event_id)

    with monkeypatch.context() as forgetful:
        forgetful.setattr(LocalPort, "now", lambda port, run: None)
        forgetful.setattr(LocalPort, "backfill", backfill)
        job = await backfilled(running, function="ship")
    assert (job["count"], job["done"], job.get("failed", 0)) == (6, 6, 0)
    assert asked == []


async def _all(*args: Any) -> list[str]:
    return [f"e{number}" for number in range(6)]


async def test_who_dies_between_asking_and_keeping_asks_again_in_vain(
    running: Beside, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next process does not know that it was done, and history may not have come to it."""
    stuck = asyncio.Event()

    async def never(jobs: Jobs, job: Any) -> None:
        stuck.set()
        await asyncio.Event().wait()

    async def unknown(*args: Any) -> bool:
        return False

    monkeypatch.setattr("perdure.sdk.hindsight.Hindsight.knows_run", unknown)
    with monkeypatch.context() as dying:
        dying.setattr(Jobs, "_keep", never)
        made = (await running.api.post("/v1/jobs", json={"action": "backfill", "function": "thank", "since": 0})).json()
        await stuck.wait()
        await running.jobs.close()
    jobs = Jobs(running.hindsight, running.port, FileShelf(tmp_path / "jobs"))
    jobs.open()
    while (await jobs.find(made["id"])).state != "finished":
        await asyncio.sleep(0.01)
    await jobs.close()
    assert events_of(await runs(running, "thank")) == Counter(["e2", "e3", "e4", "e5"])


async def test_it_begins_no_more_than_it_may(running: Beside, monkeypatch: pytest.MonkeyPatch) -> None:
    """One at a time, and it waits as long as that takes."""
    slept: list[float] = []
    sleep = asyncio.sleep

    async def soon(seconds: float, result: Any = None) -> None:
        if seconds == 1 / RATE:
            slept.append(seconds)
            seconds = 0
        await sleep(seconds)

    monkeypatch.setattr("perdure.sdk.hindsight.jobs.asyncio.sleep", soon)
    job = await backfilled(running, rate=RATE)
    assert (job["done"], job["rate"]) == (4, RATE)
    assert slept == [1 / RATE] * 4


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({"function": "thank"}, 400, "give the function that is to get them, and since when"),
        ({"since": 0}, 400, "give the function that is to get them, and since when"),
        ({"function": "thank", "since": 0, "status": "failed"}, 400, "of past events there is no status"),
        ({"function": "thank", "since": 0, "where": "event."}, 400, "event."),
        ({"function": "thank", "since": 0, "rate": -1}, 400, "rate=-1"),
        ({"function": "mail", "since": 0}, 400, "is a background function: no event starts it"),
        ({"function": "thnak", "since": 0}, 404, "events start ship, thank"),
    ],
)
async def test_what_cannot_be_right_is_refused(running: Beside, body: dict[str, Any], status: int, says: str) -> None:
    answer = await running.api.post("/v1/jobs", json={"action": "backfill", **body})
    assert (answer.status_code, says in answer.json()["detail"]) == (status, True), answer.text
