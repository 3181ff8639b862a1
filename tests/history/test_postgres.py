"""What PostgreSQL adds: several processes that write, a server that stops, passwords, and how it finds its indexes."""

import asyncio
from collections.abc import Generator
from traceback import format_exception
from typing import Any

import psycopg
import pytest

from perdure.history import projector
from perdure.history.postgres import PostgresHistory, schema_named
from perdure.history.projector import Projector
from perdure.history.rows import Changes, Standing
from perdure.history.schema import VERSION
from perdure.history.store import Cursor, EventQuery, HistoryDown, NoHistory, Overtaken, RunQuery
from perdure.log.memory import MemoryLog
from tests.history.server import NoPostgres, Server, programs
from tests.history.test_reading import RUNS as REQUESTED
from tests.history.test_reading import lived, write
from tests.history.test_store import RUNS, put, run
from tests.history.tools import PostgresShelf


@pytest.fixture
def shelf(postgres: str) -> Generator[PostgresShelf]:
    made = PostgresShelf(postgres)
    yield made
    made.clear()


@pytest.fixture
def history(shelf: PostgresShelf) -> Generator[PostgresHistory]:
    made = shelf.of()
    made.open()
    yield made
    made.close()


def test_each_question_has_its_index(history: PostgresHistory, monkeypatch: pytest.MonkeyPatch) -> None:
    """By PostgreSQL's own account, of a table so small that it would rather read all of it."""
    put(history, *RUNS)
    plans: dict[str, Any] = {}
    ask = history._rows

    def explained(sql: str, values: Any) -> list[Any]:
        plans[sql] = "\n".join(row[0] for row in ask(f"EXPLAIN {sql}", values))
        return ask(sql, values)

    monkeypatch.setattr(history, "_rows", explained)
    pair = ("tenant", "t1")
    for query, index in (
        (RunQuery(), "runs_by_time"),
        (RunQuery(since=1, until=2), "runs_by_time"),
        (RunQuery(cursor=Cursor(1, 2)), "runs_by_time"),
        (RunQuery(function="f"), "runs_by_function"),
        (RunQuery(status="s"), "runs_by_status"),
        (RunQuery(function="f", status="s", since=1), "runs_by_both"),
        (RunQuery(event_id="e"), "runs_by_event"),
        (RunQuery(metadata=pair), "run_metadata_pkey"),
    ):
        plans.clear()
        history.runs(query)
        assert index in plans.popitem()[1]
    history.events(EventQuery())
    assert "events_by_time" in plans.popitem()[1]
    history.events(EventQuery("x"))
    assert "events_by_name" in plans.popitem()[1]
    plans.clear()
    history.runs(RunQuery(limit=10, metadata=pair))
    history.run("run001")
    history.event("e1")
    for sql, plan in plans.items():
        assert "Seq Scan" not in plan, f"{sql} looks at everything: {plan}"


def test_the_tenth_time_it_goes_by_the_same_index(history: PostgresHistory) -> None:
    """PostgreSQL plans a statement that it knows without its values."""
    put(history, *RUNS)
    with history._reader.answering() as connection:
        connection.execute("SET plan_cache_mode = force_generic_plan")
    for _ in range(10):
        assert len(history.runs(RunQuery("f1", limit=50)).runs) == 20


@pytest.mark.parametrize("long", ["ü" * 3_000, "\0" * 3_000, "\ufdd0\0" * 700])
def test_names_longer_than_an_index_takes(history: PostgresHistory, long: str) -> None:
    """They are found by all of them, and shown by their beginning."""
    row = run(1, event_id=long, parent_op=long, metadata={"k": long})
    put(history, row, run(2, event_id=f"{long}x", metadata={"k": f"{long}x"}))
    for query in (RunQuery(event_id=long), RunQuery(metadata=("k", long))):
        (found,) = history.runs(query).runs
        assert (found.id, found.metadata) == (row.id, row.metadata)
        assert len(found.event_id) < 600


def test_who_was_overtaken_writes_nothing(shelf: PostgresShelf) -> None:
    """Two that both believe that a partition is theirs."""
    one, other = shelf.of(), shelf.of()
    for history in (one, other):
        history.open()
        assert history.standing(0) == Standing()
    put(one, *RUNS[:2], offset=5)
    with pytest.raises(Overtaken, match="partition 0 was left at 0, and another has written it to 5"):
        put(other, *RUNS[2:4], offset=7)
    assert len(one.runs(RunQuery()).runs) == 2
    assert other.standing(0) == Standing(5)
    put(other, *RUNS[2:4], offset=7)
    other.write(1, Changes(), ([], [], []), Standing(3))
    assert len(one.runs(RunQuery()).runs) == 4
    with pytest.raises(Overtaken):
        put(one, *RUNS[:2], offset=6)
    for history in (one, other):
        history.close()


async def test_several_processes_write_one_history(shelf: PostgresShelf) -> None:
    """Each its partitions; one of them takes over what the other was about to write."""
    log = MemoryLog(2)
    await log.open()
    for number, run_id in enumerate(REQUESTED[:4]):
        await write(log, *lived(run_id)[: 4 if number < 3 else 2])
    owners = {0: 1, 1: 0}

    def pod_of(number: int) -> Projector:
        return Projector(log, shelf.of(), owned=lambda partition: owners[partition] == number)

    pods = [pod_of(0), pod_of(1)]
    for pod in pods:
        await pod.open()
        await pod._turn()
    owners[0] = 0
    await write(log, *lived(REQUESTED[4]))
    # The former owner reads on once more before it hears of it.
    await pods[1]._slice(0)
    await pods[0]._turn()
    await write(log, lived(REQUESTED[3])[2])
    for pod in (*pods, *pods):
        await pod._slice(0)
    for pod in pods:
        await pod.close()
    whole = Projector(log, shelf.of("whole"))
    await whole.open()
    await whole.catch_up()
    await whole.close()
    await log.close()
    assert shelf.everything() == shelf.everything("whole")


def test_another_version(shelf: PostgresShelf, history: PostgresHistory) -> None:
    """Older rows are made anew. Newer ones are left to newer code, also by one that writes already."""
    put(history, *RUNS)
    _set_version(history, VERSION - 1)
    with pytest.raises(NoHistory, match="history rebuild"):
        shelf.of(writes=False).open()
    newer = shelf.of()
    why = newer.open()
    assert why is not None
    assert f"of version {VERSION - 1}" in why
    assert newer.standing(0) == Standing()
    assert newer.runs(RunQuery()).runs == []
    newer.standing(0)
    _set_version(newer, VERSION + 1)
    with pytest.raises(NoHistory, match=f"of version {VERSION + 1}"):
        put(newer, *RUNS)
    with pytest.raises(NoHistory, match=f"of version {VERSION + 1}"):
        shelf.of().open()
    newer.close()


def _set_version(history: PostgresHistory, version: int) -> None:
    with history._writer.answering() as connection:
        connection.execute("UPDATE about SET version = %s", [version])


def test_a_schema_of_something_else_stays(shelf: PostgresShelf) -> None:
    other = shelf.of("theirs")
    with psycopg.connect(shelf.url, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {other.schema} CREATE TABLE theirs (x int)".encode())
        with pytest.raises(NoHistory, match="tables of something else"):
            other.open()
        connection.execute(f"SELECT x FROM {other.schema}.theirs".encode())


def test_an_app_with_a_long_name() -> None:
    assert schema_named("shop") == "perdure_shop"
    names = {schema_named("ü" * 40 + end) for end in "ab"}
    assert len(names) == 2
    assert all(len(name.encode()) <= 63 for name in names)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://perdure:s3cr/et@localhost/db",
        "postgresql://perdure:s3c@r3t@localhost/db",
        "postgresql://perdure:s3cret@localhost:port/db",
        "postgresql://perdure:s3cret@localhost/db?nothing=1",
        "postgresql://perdure:%s3cret@localhost/db",
    ],
)
def test_a_url_that_is_none_is_not_repeated(url: str) -> None:
    with pytest.raises(NoHistory, match="say postgresql://USER:PASSWORD@HOST:5432/DATABASE") as raised:
        PostgresHistory(url, "s")
    assert "s3c" not in "".join(format_exception(raised.value))


def test_a_password_is_never_said() -> None:
    history = PostgresHistory("postgresql://perdure:s3cret@127.0.0.1:1/db", "s")
    with pytest.raises(HistoryDown, match="connection failed") as raised:
        history.open()
    said = "".join(format_exception(raised.value))
    assert "connection to server at" in said
    assert "s3cret" not in said
    assert history.shown == "postgresql://127.0.0.1/db, schema s"


async def test_a_stopped_server_loses_nothing(
    shelf: PostgresShelf, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is away at the start, and once more; that is said once each time, and all is read when it answers."""
    monkeypatch.setattr(projector, "IDLE_S", 0.01)
    monkeypatch.setattr(projector, "AGAIN_S", 0.01)
    try:
        programs()
    except NoPostgres as error:
        pytest.skip(str(error))
    server = await asyncio.to_thread(Server)
    log = MemoryLog(2)
    await log.open()
    history = PostgresHistory(server.url, "s")
    reader = PostgresHistory(server.url, "s", writes=False)
    reading = Projector(log, history, retention_ms=None)
    running = asyncio.create_task(_opened_and_run(reading))
    try:
        for number in (1, 2):
            await write(log, *lived(REQUESTED[2 * number]))
            while reading._failures < 3:
                await asyncio.sleep(0.01)
            await write(log, *lived(REQUESTED[2 * number + 1]))
            assert caplog.text.count("history stands still") == number
            await asyncio.to_thread(server.start)
            while history._stands.get(0) != log.end(0) or reading._failures:
                await asyncio.sleep(0.01)
            # Who asked before it was stopped gets its answer after it, too.
            assert len((await asyncio.to_thread(reader.runs, RunQuery())).runs) == 2 * number
            await asyncio.to_thread(server.stop)
            with pytest.raises(HistoryDown):
                await asyncio.to_thread(reader.runs, RunQuery())
            await asyncio.to_thread(server.start)
            assert len((await asyncio.to_thread(reader.runs, RunQuery())).runs) == 2 * number
            await asyncio.to_thread(server.stop)
        assert caplog.text.count("history goes on") >= 2
    finally:
        reading.stop()
        await running
        await reading.close()
        reader.close()
        await log.close()
        await asyncio.to_thread(server.close)


async def _opened_and_run(reading: Projector) -> None:
    with pytest.raises(HistoryDown):
        await reading.open()
    await reading.run()
