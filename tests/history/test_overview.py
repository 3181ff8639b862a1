"""`/v1/overview`, and what it is made of."""

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from perdure import App, Engine, NonRetriable
from perdure.history.rows import Changes, RunData, RunRow, Standing, Tally
from perdure.history.store import LastFailed, Tallied
from perdure.history.tallies import (
    SIZES_MS,
    UPTO_MS,
    class_of,
    length_of,
    lengths,
    quantile_of,
    size_of,
    tally_end,
    tally_start,
)
from perdure.sdk.hindsight.numbers import numbers_of
from perdure.sdk.port import Bucket
from tests.history.beside import beside
from tests.history.tools import Shelf
from tests.http.serving import client_of


def shop() -> App:
    app = App("shop")

    @app.background
    async def mail(to: str) -> str:
        if to == "nobody":
            raise NonRetriable("no such address")
        return to

    @app.background
    async def sleeper() -> None:
        await asyncio.Event().wait()

    return app


studio = App("studio")
"""A pool imports what it runs."""
gates: dict[str, asyncio.Event] = {}


@studio.step(queue="gpu", retries=1)
async def draw(number: int) -> int:
    if number == 0:
        raise ConnectionError("later")
    gates["taken"].set()
    await gates["go"].wait()
    return number


@studio.step(queue="cpu")
async def count(number: int) -> int:
    return number


@studio.background
async def picture(number: int) -> int:
    return await draw(number)


@studio.background
async def frame() -> None: ...


@studio.background
async def sell() -> None: ...


async def test_how_an_app_does(tmp_path: Path) -> None:
    async with beside(shop(), tmp_path) as running:
        for to in ("ada", "bob", "eve", "nobody"):
            run = (await running.api.post("/v1/functions/mail/runs", json={"args": [to]})).json()["run_id"]
            await running.api.get(f"/v1/runs/{run}/result")
        await running.api.post("/v1/functions/sleeper/runs", json={})
        told: dict[str, Any] = (await running.api.get("/v1/overview")).json()
        fine: dict[str, Any] = (await running.api.get("/v1/overview", params={"since": "1h"})).json()
        for refused in ("40d", "9999999999999", "soon"):
            assert (await running.api.get("/v1/overview", params={"since": refused})).status_code == 400
    mail, sleeper = told["functions"]
    assert (mail["function"], mail["started"], mail["finished"], mail["failed"]) == ("mail", 4, 4, 1)
    assert (mail["completed"], mail["success_rate"]) == (3, 0.75)
    assert 0 < mail["p50_ms"] <= mail["p95_ms"]
    assert sum(bucket["started"] for bucket in mail["buckets"]) == 4
    assert (sleeper["started"], "success_rate" in sleeper, "p50_ms" in sleeper) == (1, False, False)
    (failing,) = told["failing"]
    assert (failing["function"], failing["failed"], failing["run"]) == ("mail", 1, run)
    assert failing["error"]["message"] == "no such address"
    assert told["live"]["running"] == 1
    assert (told["behind"], set(told["lag"].values())) == (0, {0})
    assert (told["bucket_ms"], fine["bucket_ms"]) == (3_600_000, 300_000)
    assert fine["functions"][0]["started"] == 4


async def test_what_waits(tmp_path: Path) -> None:
    """Of each kind, and what is over does not count."""
    taken, go = gates["taken"], gates["go"] = asyncio.Event(), asyncio.Event()
    async with beside(studio, tmp_path) as running:

        async def asked(function: str, **body: Any) -> str:
            answer = await running.api.post(f"/v1/functions/{function}/runs", json=body)
            found: str = answer.json()["run_id"]
            return found

        async def waits() -> dict[str, Any]:
            found: dict[str, Any] = (await running.api.get("/v1/overview")).json()["waits"]
            return found

        idle = [{"queue": queue, "waiting": 0, "taken": 0, "resting": 0} for queue in ("cpu", "gpu")]
        assert await waits() == {"paused": {}, "delayed": 0, "held": 0, "queues": idle}
        await running.api.post("/v1/functions/frame/pause")
        while (await waits())["paused"] != {"frame": 0}:
            await asyncio.sleep(0.01)
        frames = [await asked("frame") for _ in range(2)]
        later = await asked("sell", delay="1h")
        await asked("picture", args=[0])
        one = await asked("picture", args=[1])
        await taken.wait()
        expected = {"paused": {"frame": 2}, "delayed": 1, "held": 0}
        expected |= {"queues": [idle[0], {"queue": "gpu", "waiting": 0, "taken": 1, "resting": 1}]}
        while await waits() != expected:
            await asyncio.sleep(0.01)
        go.set()
        await running.api.post("/v1/functions/frame/resume")
        await running.api.delete(f"/v1/runs/{later}")
        for run in (*frames, one):
            await running.api.get(f"/v1/runs/{run}/result")
        expected |= {"paused": {}, "delayed": 0, "queues": [idle[0], {**idle[1], "resting": 1}]}
        assert await waits() == expected


async def test_without_history_there_is_no_overview() -> None:
    async with Engine(shop(), log="memory://") as engine, client_of(engine.port) as api:
        assert (await api.get("/v1/overview")).status_code == 501


def test_tallies_add_up_and_go_by_age(shelf: Shelf) -> None:
    history = shelf.opened()
    hour = SIZES_MS[1]
    for number in range(3):
        changes = Changes()
        tally_start(changes.tallies, "f", hour * 10 + 1)
        tally_end(changes.tallies, "f", "completed" if number else "discarded", hour * (10 + number), 100)
        history.write(0, changes, ([], [], []), Standing(number))
    assert sorted(history.tallies(hour, hour * 11 + 5)) == [
        Tallied("f", 0, f"took{class_of(100)}", 3),
        Tallied("f", hour * 11, "completed", 1),
        Tallied("f", hour * 12, "completed", 1),
    ]
    assert Tallied("f", hour * 10, "started", 3) in history.tallies(hour, 0)
    assert Tallied("f", hour * 10, "discarded", 1) in history.tallies(hour, 0)
    history.retain(hour * 18)
    assert {one.at for one in history.tallies(hour, 0) if one.at} == {hour * 12}
    history.close()


def test_the_last_that_failed_and_how_many_run(shelf: Shelf) -> None:
    history, changes = shelf.opened(), Changes()
    for number, status in enumerate(["failed", "failed", "running", "completed"]):
        run = f"r{number}"
        changes.new[run] = None
        ended = None if status == "running" else number + 100
        changes.runs[run] = RunRow(
            run, 0, "f", status, "event", number, number, ended, None, 1, "", "", "", "", None, {}
        )
        changes.data[run] = RunData(error=b'{"type":"E","message":"no"}')
    history.write(0, changes, ([], [], []), Standing(1))
    assert history.last_failed("f", 0) == LastFailed("r1", 101, b'{"type":"E","message":"no"}')
    assert history.last_failed("f", 2) is None
    assert (history.live("running", 9), history.live("failed", 1), history.live("queued", 9)) == (1, 1, 0)
    history.close()


def test_numbers_of_tallies() -> None:
    tallied = [
        Tallied("f", 100, "started", 3),
        Tallied("f", 200, "started", 1),
        Tallied("f", 200, "completed", 2),
        Tallied("f", 200, "failed", 1),
        Tallied("f", 200, "cancelled", 1),
        Tallied("f", 0, "took0", 1),
        Tallied("f", 0, f"took{class_of(8_000)}", 3),
        Tallied("perdure/notice", 100, "started", 9),
        Tallied("discarded", 100, "started", 5),
        Tallied("discarded", 100, "discarded", 2),
    ]
    many, one = numbers_of(tallied)
    assert (many.function, many.started, many.finished) == ("discarded", 5, 2)
    assert (one.started, one.finished, one.completed, one.failed, one.success_rate) == (4, 4, 2, 1, 0.6667)
    assert (one.p50_ms, one.p95_ms) == (length_of(class_of(8_000)), length_of(class_of(8_000)))
    assert one.buckets == (Bucket(100, 3, 0, 0), Bucket(200, 1, 4, 1))


@pytest.mark.parametrize("length", [1, 2, 3, 9, 100, 1_000, 59_999, 86_400_000, 10**12])
def test_a_length_is_a_fifth_too_long_at_most(length: int) -> None:
    told = quantile_of({class_of(length): 1}, 0.5)
    assert told is not None
    assert length * 0.99 - 1 <= told <= length * 1.2 + 1


def test_lengths_and_sizes() -> None:
    assert quantile_of({}, 0.5) is None
    assert (class_of(-5), class_of(0), class_of(1)) == (0, 0, 0)
    assert lengths([("took12", 2), ("discarded", 9), ("started", 1)]) == {12: 2}
    assert (size_of(UPTO_MS[0]), size_of(UPTO_MS[1]), size_of(UPTO_MS[1] + 1)) == SIZES_MS
    tallies: Counter[Tally] = Counter()
    tally_start(tallies, "f", 3_600_001)
    assert tallies == {Tally(size, 3_600_000 // size * size, "f", "started"): 1 for size in SIZES_MS}
