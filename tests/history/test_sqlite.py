"""What becomes of the file, and which indexes SQLite goes by."""

import sqlite3
from pathlib import Path

import pytest

from perdure.history.rows import Standing
from perdure.history.sqlite import SqliteHistory
from perdure.history.store import Cursor, EventQuery, NoHistory, RunQuery
from tests.history.test_store import RUNS, put


def test_each_question_has_its_index(tmp_path: Path) -> None:
    """By SQLite's own account of how it goes about it."""
    history = SqliteHistory(tmp_path / "h.db")
    history.open()
    said: list[str] = []
    assert history._reader is not None
    history._reader.set_trace_callback(said.append)
    pair = ("tenant", "t1")
    for query in (
        *(RunQuery(), RunQuery(function="f"), RunQuery(status="s"), RunQuery(function="f", status="s", since=1)),
        *(RunQuery(event_id="e"), RunQuery(metadata=pair), RunQuery(cursor=Cursor(1, 2)), RunQuery(since=1, until=2)),
    ):
        history.runs(query)
    history.events(EventQuery())
    history.events(EventQuery("x"))
    history._reader.set_trace_callback(None)
    assert len(said) == 10
    for sql in said:
        plan = " ".join(row[3] for row in history._reader.execute(f"EXPLAIN QUERY PLAN {sql}"))
        assert "TEMP B-TREE" not in plan, f"{sql} sorts: {plan}"
        assert "USING INDEX" in plan or "USING PRIMARY KEY" in plan, f"{sql} looks at everything: {plan}"
    history.close()


def test_another_version_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "h.db"
    history = SqliteHistory(path)
    history.open()
    put(history, *RUNS)
    history.close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 7")
    connection.close()
    with pytest.raises(NoHistory, match=r"of version 7.*history rebuild"):
        SqliteHistory(path, writes=False).open()
    why = history.open()
    assert why is not None
    assert "is of version 7" in why
    assert history.runs(RunQuery()).runs == []
    assert history.standing(0) == Standing()
    history.close()
    assert history.open() is None
    history.close()


def test_a_damaged_one_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "h.db"
    path.write_bytes(b"this is no database" * 100)
    with pytest.raises(NoHistory, match="cannot be read"):
        SqliteHistory(path, writes=False).open()
    history = SqliteHistory(path)
    why = history.open()
    assert why is not None
    assert "is damaged" in why
    assert history.runs(RunQuery()).runs == []
    history.close()


def test_a_database_of_something_else_stays(tmp_path: Path) -> None:
    path = tmp_path / "h.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE theirs (x)")
    connection.execute("PRAGMA application_id = 42")
    connection.close()
    with pytest.raises(NoHistory, match="something else"):
        SqliteHistory(path).open()
    assert path.exists()
