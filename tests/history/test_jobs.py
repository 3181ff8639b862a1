"""Bulk cancel and re-run: counted first, done in the background, also by the process that comes after."""

import asyncio
import os
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from perdure import App, Engine, NonRetriable
from perdure.errors import LogError, UnknownRun
from perdure.sdk.hindsight import jobs as bulk
from perdure.sdk.hindsight.jobs import Jobs
from perdure.sdk.hindsight.shelf import FileShelf
from perdure.sdk.local_port import LocalPort
from tests.history.beside import Beside, beside
from tests.http.serving import client_of


def shop() -> App:
    app = App("shop")

    @app.background
    async def waits(number: int) -> None:
        await asyncio.Event().wait()

    @app.background
    async def fails(number: int) -> None:
        raise NonRetriable(f"{number} cannot be")

    return app


@pytest.fixture
async def running(tmp_path: Path) -> AsyncGenerator[Beside]:
    async with beside(shop(), tmp_path) as running:
        yield running


async def _many(running: Beside, function: str, count: int) -> list[str]:
    asked = [
        await running.api.post(f"/v1/functions/{function}/runs", json={"args": [number]}) for number in range(count)
    ]
    return [answer.json()["run_id"] for answer in asked]


async def _done(running: Beside, job: dict[str, Any]) -> dict[str, Any]:
    while job["state"] != "finished":
        await asyncio.sleep(0.01)
        job = (await running.api.get(f"/v1/jobs/{job['id']}")).json()
    return job


async def test_cancel(running: Beside) -> None:
    mine = await _many(running, "waits", 5)
    body = {"action": "cancel", "function": "waits", "reason": "recall"}
    counted = await running.api.post("/v1/jobs", json={**body, "dry_run": True})
    assert (counted.status_code, counted.json()["count"], counted.json()["state"]) == (200, 5, "counted")
    assert (await running.api.get("/v1/jobs")).json()["data"] == []
    made = await running.api.post("/v1/jobs", json={**body, "id": "recall-1"})
    assert (made.status_code, made.json()["count"]) == (202, 5)
    again = await running.api.post("/v1/jobs", json={**body, "id": "recall-1"})
    assert again.json()["made_at"] == made.json()["made_at"]
    job = await _done(running, made.json())
    assert (job["done"], job.get("failed", 0), job["reason"]) == (5, 0, "recall")
    for run in mine:
        assert (await running.api.get(f"/v1/runs/{run}/result")).json()["status"] == "cancelled"
    assert [one["id"] for one in (await running.api.get("/v1/jobs")).json()["data"]] == ["recall-1"]
    assert (await running.api.get("/v1/jobs/other")).status_code == 404


async def test_rerun_is_once_whoever_asks_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process dies after its commands and before it kept how far it was: the next asks again, and it counts once."""
    monkeypatch.setattr(bulk, "AT_ONCE", 2)
    async with beside(shop(), tmp_path) as running:
        for run in await _many(running, "fails", 5):
            await running.api.get(f"/v1/runs/{run}/result")
        stuck = asyncio.Event()

        async def never(jobs: Jobs, job: Any) -> None:
            stuck.set()
            await asyncio.Event().wait()

        with monkeypatch.context() as dying:
            dying.setattr(Jobs, "_keep", never)
            made = (await running.api.post("/v1/jobs", json={"action": "rerun", "status": "failed"})).json()
            await stuck.wait()
            await running.jobs.close()
        jobs = Jobs(running.hindsight, running.port, FileShelf(tmp_path / "jobs"))
        jobs.open()
        while (await jobs.find(made["id"])).state != "finished":
            await asyncio.sleep(0.01)
        told = await jobs.find(made["id"])
        assert (told.count, told.done, told.failed) == (5, 5, 0)
        await jobs.close()
        while len(reruns := await _reruns(running)) < 5 or not all("ended_at" in one for one in reruns):
            await asyncio.sleep(0.01)
        assert len({one["rerun_of"] for one in reruns}) == len(reruns) == 5


async def _reruns(running: Beside) -> list[dict[str, Any]]:
    page = (await running.api.get("/v1/runs", params={"function": "fails"})).json()
    return [one for one in page["data"] if one.get("rerun_of")]


async def test_it_waits_for_the_log_and_tells_what_was_in_vain(
    running: Beside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "AGAIN_S", 0.0)
    first, second = await _many(running, "waits", 2)
    cancel, refused = LocalPort.cancel, 3

    async def cancels(port: LocalPort, run_id: str, reason: str = "", command: str = "") -> None:
        nonlocal refused
        refused -= 1
        if refused >= 0:
            raise LogError("the log is away")
        if run_id == first:
            raise UnknownRun("it is gone")
        await cancel(port, run_id, reason, command)

    monkeypatch.setattr(LocalPort, "cancel", cancels)
    job = await _done(
        running, (await running.api.post("/v1/jobs", json={"action": "cancel", "function": "waits"})).json()
    )
    assert (job["done"], job["failed"], job["error"]) == (2, 1, "it is gone")
    assert (await running.api.get(f"/v1/runs/{second}/result")).json()["status"] == "cancelled"


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"action": "cancel"}, "which runs?"),
        ({"action": "cancel", "status": "failed"}, "are over"),
        ({"action": "rerun", "status": "queued"}, "are not over"),
        ({"action": "delete", "function": "waits"}, "does not fit"),
        ({"action": "cancel", "function": "waits", "where": "event."}, "where:"),
        ({"action": "cancel", "function": "waits", "id": "../x"}, "letters, digits"),
        ({"action": "cancel", "since": -1}, "since=-1"),
        ({"action": "cancel", "function": "waits", "colour": "red"}, "does not fit"),
    ],
)
async def test_what_cannot_be_right_is_refused(running: Beside, body: dict[str, Any], says: str) -> None:
    answer = await running.api.post("/v1/jobs", json=body)
    assert answer.status_code == 400, answer.text
    assert says in answer.json()["detail"]


async def test_more_than_a_job_may_be_about_is_refused(running: Beside, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "MOST_RUNS", 2)
    await _many(running, "waits", 3)
    answer = await running.api.post("/v1/jobs", json={"action": "cancel", "function": "waits"})
    assert (answer.status_code, "more than 2 runs fit" in answer.json()["detail"]) == (400, True)


async def test_jobs_that_are_long_over_are_forgotten(running: Beside, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "KEPT", 1)
    body = {"action": "cancel", "function": "waits"}
    for name in ("a", "b"):
        await _done(running, (await running.api.post("/v1/jobs", json={**body, "id": name})).json())
    while len((await running.api.get("/v1/jobs")).json()["data"]) > 1:
        await asyncio.sleep(0.01)
    assert sorted(os.listdir(running.store.path.parent / "jobs")) == ["b.job", "b.runs"]


async def test_without_history_there_are_no_jobs() -> None:
    async with Engine(shop(), log="memory://") as engine, client_of(engine.port) as api:
        answer = await api.post("/v1/jobs", json={"action": "cancel", "function": "waits"})
        assert answer.status_code == 501
