"""A history that others write: how far it is, what they change, and what its own folds know of the engine's state."""

import asyncio
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from perdure.flow.states import CronState, Meta, PausedRun, QueuedState
from perdure.history import elsewhere, remembered
from perdure.history.elsewhere import KeptElsewhere
from perdure.history.postgres import PostgresHistory
from perdure.history.postgres_news import MOST
from perdure.history.postgres_shelf import PostgresShelf as PostgresShelfOfJobs
from perdure.history.projector import NEAR
from perdure.history.remembered import InQueue
from perdure.history.rows import Changes, RunNews, Standing
from perdure.history.sqlite import SqliteHistory
from perdure.history.store import History, HistoryDown, RunQuery
from perdure_schemas.definition import Definition
from perdure_schemas.payload import Payload
from perdure_schemas.records import Queued, RetryRule
from tests.history.test_store import put, run
from tests.history.tools import PostgresShelf, Shelf

_ENCODE = msgspec.json.Encoder().encode


# What the folds know


def test_how_many_wait(shelf: Shelf) -> None:
    history = shelf.opened()
    put(history, run(1, status="queued", due=99), run(2, status="queued"), run(3, status="running"))
    assert [history.delayed(limit) for limit in (9, 0)] == [1, 0]
    assert [history.live("queued", 9, run(number).function) for number in (1, 2)] == [1, 1]
    assert history.live("queued", 9, "none") == 0
    history.close()


def test_what_the_folds_remember(shelf: Shelf) -> None:
    """Of two partitions, of which one has heard of newer code, and of a pause, later."""
    history = shelf.opened()
    assert (remembered.queues(history), remembered.active_code(history)) == ({}, None)
    older, newer = (Definition(app="shop", digest=digest) for digest in ("older", "newer"))
    _remember(
        history, 0, 5,
        {
            b"#meta": Meta(current=12, paused={"mail": 700}),
            b"d/1": older,
            b"d/12": newer,
            b"q/r1/0/draw#1": in_queue("gpu"),
            b"q/r2/0/draw#1": in_queue("gpu", claim="c", member="m"),
            b"q/r3/0/draw#1": in_queue("cpu", resting=True),
            b"h/r4": PausedRun("mail", 3, 3),
        },
    )  # fmt: skip
    _remember(
        history, 1, 7,
        {
            b"#meta": Meta(current=1, paused={"mail": 600, "sweep": 650}),
            b"d/1": older,
            b"q/r5/0/draw#1": in_queue("gpu"),
            b"h/r6": PausedRun("mail", 4, 4),
            b"c/sweep": CronState("0 6 * * *", "UTC", 9_000, 1),
        },
    )  # fmt: skip
    assert dict(history.stands()) == {0: 5, 1: 7}
    assert remembered.queues(history) == {"gpu": InQueue(waiting=2, taken=1), "cpu": InQueue(resting=1)}
    assert remembered.waiting_to_start(history) == {"mail": 2}
    assert remembered.paused(history) == {"mail": 600, "sweep": 650}
    assert remembered.next_fires(history) == {"sweep": 9_000}
    code = remembered.active_code(history)
    assert code is not None
    assert code.digest == "newer"
    assert len(history.remembered(b"q/", 3)) == 3
    history.close()


def in_queue(queue: str, **more: Any) -> QueuedState:
    opening = Queued(queue, "draw", Payload(msgspec.Raw(b"[[],{}]")), RetryRule(1, 1, 1.0, 1), 1_000)
    return QueuedState(opening, "", **more)


def _remember(history: History, partition: int, offset: int, rows: Mapping[bytes, object]) -> None:
    history.standing(partition)
    history.write(partition, Changes(), ([(key, _ENCODE(row)) for key, row in rows.items()], [], []), Standing(offset))


# What others change


@pytest.fixture
def places(postgres: str) -> Generator[PostgresShelf]:
    made = PostgresShelf(postgres)
    yield made
    made.clear()


def test_what_is_written_is_told_to_who_listens(places: PostgresShelf) -> None:
    """Once, in order, and in as many messages as it takes; of too many runs, that there were."""
    writer = places.of()
    writer.open()
    news = places.of(writes=False).news()
    put(writer, run(0))
    # What changed before it listened is not known to it.
    assert news.next(0) is None
    assert news.next(0) == []
    writer.write(1, Changes(), ([], [], []), Standing(1))
    rows = [run(number, status="queued") for number in range(1, 300)]
    put(writer, *rows, offset=2)
    put(writer, run(301, function="\0\ufdd0ü" * 300), offset=3)
    heard: list[RunNews] = []
    while len(heard) < 300:
        some = news.next(5)
        assert some
        heard += some
    assert heard[:-1] == [RunNews(row.id, row.function, "queued") for row in rows]
    assert heard[-1].function == "\0\ufdd0ü" * 300
    for rows in ([run(number) for number in range(1_000, 1_001 + MOST)], [run(302, function="x" * 8_000)]):
        put(writer, *rows, offset=4 + len(rows))
        assert news.next(5) is None
    news.close()
    writer.close()


def test_who_only_reads_needs_no_more_rights(places: PostgresShelf) -> None:
    """All but bulk jobs, for which a schema is made."""
    writer = places.of()
    writer.open()
    put(writer, run(1))
    role = f"reader_{uuid4().hex[:12]}"
    url = make_conninfo(places.url, options=f"-c role={role}")
    with psycopg.connect(places.url, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {role}".encode())
        connection.execute(f"GRANT USAGE ON SCHEMA {writer.schema} TO {role}".encode())
        connection.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA {writer.schema} TO {role}".encode())
        reader = PostgresHistory(url, writer.schema, writes=False)
        news, shelf = reader.news(), PostgresShelfOfJobs(url, f"{writer.schema}_jobs")
        reader.open()
        assert news.next(0) is None
        put(writer, run(2), offset=2)
        assert news.next(5) == [RunNews("run002", "f2", "completed")]
        assert [one.id for one in reader.runs(RunQuery()).runs] == ["run002", "run001"]
        assert dict(reader.stands()) == {0: 2}
        with pytest.raises(HistoryDown, match="permission denied"):
            shelf.all()
        for one in (reader, news, shelf, writer):
            one.close()
        connection.execute(f"DROP OWNED BY {role}".encode())
        connection.execute(f"DROP ROLE {role}".encode())


class FakeNews:
    """As it is told to be."""

    def __init__(self, *said: Sequence[RunNews] | Exception | None) -> None:
        self._said = [*said]
        self.all_said = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def next(self, wait_s: float) -> Sequence[RunNews] | None:
        if not self._said:
            self._loop.call_soon_threadsafe(self.all_said.set)
            return []
        one = self._said.pop(0)
        if isinstance(one, Exception):
            raise one
        return one

    def close(self) -> None:
        """Nothing is open."""


async def test_who_watches_hears_it_also_after_the_database_was_away(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setattr(elsewhere, "AGAIN_S", 0.0)
    one = RunNews("r1", "mail", "queued")
    away = HistoryDown("it is away")
    news = FakeNews(None, [one], [], away, away, None, [one, one])
    follower = KeptElsewhere(SqliteHistory(tmp_path / "h.db"), news, _ends)
    heard: list[Sequence[RunNews] | None] = []
    follower.on_runs = heard.append
    running = asyncio.create_task(follower.run())
    await news.all_said.wait()
    follower.stop()
    await running
    await follower.close()
    assert heard == [None, [one], None, [one, one]]
    assert caplog.messages == ["history does not answer: it is away", "history answers again"]


async def _ends() -> Mapping[int, int]:
    return {0: 10, 1: 20}


async def test_who_asks_waits_until_others_have_written(tmp_path: Path) -> None:
    store = SqliteHistory(tmp_path / "h.db")
    store.open()
    follower = KeptElsewhere(store, FakeNews(), _ends)
    assert await follower.reach(0) == 30
    asked = asyncio.create_task(follower.reach(60))
    for partition, offset in ((0, 10), (1, 25)):
        assert not asked.done()
        store.write(partition, Changes(), ([], [], []), Standing(offset))
    assert await asked == 0

    async def far() -> Mapping[int, int]:
        return {0: 11 + NEAR}

    assert await KeptElsewhere(store, FakeNews(), far).reach(60) == 1 + NEAR
    store.close()
