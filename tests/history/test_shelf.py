"""Where jobs are kept, for one process or for several."""

import asyncio
from collections.abc import Callable, Generator
from pathlib import Path
from time import sleep
from typing import Any
from uuid import uuid4

import pytest

from perdure.history.postgres_shelf import PostgresShelf
from perdure.history.store import HistoryDown
from perdure.sdk.hindsight import jobs as bulk
from perdure.sdk.hindsight.jobs import Jobs
from perdure.sdk.hindsight.shelf import FileShelf, Shelf
from perdure.sdk.port import RunFilter
from tests.history.beside import beside
from tests.history.test_jobs import shop

Opened = Callable[[], Shelf]


@pytest.fixture
def shared(postgres: str) -> Generator[Callable[[], PostgresShelf]]:
    """Each call is another process's."""
    schema = f"jobs_{uuid4().hex[:12]}"
    opened: list[PostgresShelf] = []

    def another() -> PostgresShelf:
        opened.append(PostgresShelf(postgres, schema))
        return opened[-1]

    yield another
    another().drop()
    for shelf in opened:
        shelf.close()


@pytest.fixture(params=["files", "postgres"])
def another(request: pytest.FixtureRequest, tmp_path: Path) -> Opened:
    if request.param == "files":
        return lambda: FileShelf(tmp_path / "jobs")
    found: Opened = request.getfixturevalue("shared")
    return found


def test_a_job_is_made_once_and_kept(another: Opened) -> None:
    shelf = another()
    assert (shelf.all(), shelf.find("a")) == ([], None)
    assert shelf.make("a", b"made", b"[]")
    assert not shelf.make("a", b"other", b"[1]")
    assert shelf.make("b", b"b", b"[2]")
    shelf.keep("a", b"half", 5, finished=False)
    assert (shelf.find("a"), shelf.runs("a"), sorted(shelf.all())) == (b"half", b"[]", [b"b", b"half"])
    assert another().find("a") == b"half"
    assert shelf.take("a")
    shelf.keep("a", b"over", 9, finished=True)
    shelf.leave("a")
    shelf.forget(["b", "nothing"])
    assert another().all() == [b"over"]
    shelf.close()


def test_one_process_does_a_job_until_it_ends(shared: Callable[[], PostgresShelf]) -> None:
    first, second = shared(), shared()
    first.make("a", b"made", b"[]")
    assert [shelf.take("a") for shelf in (first, second)] == [True, False]
    first._link.close()
    while not second.take("a"):  # The server hears of it a moment later.
        sleep(0.01)
    second.keep("a", b"three", 3, finished=False)
    # The first has not heard that it lost the job, and is not as far.
    first.keep("a", b"two", 2, finished=False)
    assert first.find("a") == b"three"
    second.keep("a", b"over", 3, finished=True)
    first.keep("a", b"four", 4, finished=False)
    second.leave("a")
    assert (first.find("a"), first.take("a"), second.take("nothing")) == (b"over", False, False)
    first.close()
    with pytest.raises(HistoryDown, match="is closed"):
        first.find("a")


async def test_another_process_goes_on_with_what_one_has_left(
    shared: Callable[[], PostgresShelf], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "AT_ONCE", 2)
    monkeypatch.setattr(bulk, "LOOK_S", 0.01)
    async with beside(shop(), tmp_path) as running:
        made = [await running.api.post("/v1/functions/waits/runs", json={"args": [n]}) for n in range(5)]
        first, second = (Jobs(running.hindsight, running.port, shared()) for _ in range(2))
        stuck = asyncio.Event()

        async def never(*_: Any) -> None:
            stuck.set()
            await asyncio.Event().wait()

        with monkeypatch.context() as dying:
            dying.setattr(Jobs, "_keep", never)
            first.open()
            job = await first.start("cancel", RunFilter(function="waits"))
            await stuck.wait()
            await first.close()
        second.open()
        while (told := await second.find(job.id)).state != "finished":
            await asyncio.sleep(0.01)
        assert (told.count, told.done, told.failed) == (5, 5, 0)
        for one in made:
            run = one.json()["run_id"]
            assert (await running.api.get(f"/v1/runs/{run}/result")).json()["status"] == "cancelled"
        await second.close()


async def test_a_shelf_that_does_not_answer_is_asked_again(
    shared: Callable[[], PostgresShelf], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that could not be gone on with is taken up again."""
    monkeypatch.setattr(bulk, "LOOK_S", 0.01)
    shelf = shared()
    runs, away = shelf.runs, 3

    def sometimes(job: str) -> bytes:
        nonlocal away
        away -= 1
        if away >= 0:
            raise HistoryDown("it is away")
        return runs(job)

    monkeypatch.setattr(shelf, "runs", sometimes)
    async with beside(shop(), tmp_path) as running:
        await running.api.post("/v1/functions/waits/runs", json={"args": [1]})
        jobs = Jobs(running.hindsight, running.port, shelf)
        jobs.open()
        job = await jobs.start("cancel", RunFilter(function="waits"))
        while (await jobs.find(job.id)).state != "finished":
            await asyncio.sleep(0.01)
        await jobs.close()
