"""The import: validate, review in time or not, rows that fail alone, rows stored once."""

import asyncio
import csv
import sqlite3
from collections import Counter
from pathlib import Path

import pytest

import examples.contacts_import as example
from examples.contacts_import import REVIEWED, UPLOADED, Airport, Review, Upload, app, import_contacts, insert
from perdure import StepError, current_step
from perdure.testing import Run, TestEngine

AIRPORTS = Path(example.__file__).parent / "data" / "airports.csv"


def query(sql: str) -> list[tuple[object, ...]]:
    """Asks the database of this test."""
    return example.db.execute(sql).fetchall()


def copy_of(rows: int, folder: Path) -> Path:
    """The first rows of airports.csv."""
    path = folder / "upload.csv"
    lines = AIRPORTS.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(lines[: rows + 1]), encoding="utf-8")
    return path


async def upload(engine: TestEngine, path: Path, upload_id: str = "u1") -> None:
    """Ada uploads a file."""
    await engine.send(UPLOADED(Upload(upload_id, str(path)), user={"id": "ada"}))


async def review(
    engine: TestEngine, upload_id: str = "u1", *, approved: bool = True, filters: list[str] | None = None
) -> None:
    """Somebody reviews it."""
    await engine.send(REVIEWED(Review(upload_id, approved, filters or [])))


def inserts(run: Run[int]) -> list[int]:
    """The attempts of each `insert` of a run."""
    return [step.attempts for step in run.steps if step.name == "insert"]


async def test_an_approved_list_is_stored_row_by_row(tmp_path: Path) -> None:
    async with TestEngine(app) as engine:
        await upload(engine, copy_of(120, tmp_path))
        await engine.advance("2d")
        assert query("SELECT * FROM airports") == []
        await review(engine)
        await engine.finish()
        run = engine.run(import_contacts)
        assert (run.status, run.output) == ("completed", 120)
        assert inserts(run) == [1] * 120
        assert query("SELECT count(*), count(DISTINCT iata) FROM airports") == [(120, 120)]
        assert query("SELECT count(*), count(DISTINCT key) FROM attempts") == [(120, 120)]
        assert query("SELECT recipient, text FROM outbox") == [("ada", "120 of 120 contacts imported")]


async def test_rows_are_stored_as_they_were_with_their_place(tmp_path: Path) -> None:
    async with TestEngine(app) as engine:
        path = copy_of(3, tmp_path)
        await upload(engine, path)
        await review(engine)
        await engine.finish()
        stored = query("SELECT iata, name, city, state, country, latitude, longitude, place FROM airports")
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row[0] for row in stored] == [row["iata"] for row in rows]
        assert stored[0] == (
            *("00M", "Thigpen", "Bay Springs", "MS", "USA", 31.95376472, -89.23450472),
            "Bay Springs, MS, USA",
        )


async def test_filters_choose_rows(tmp_path: Path) -> None:
    async with TestEngine(app) as engine:
        await upload(engine, copy_of(50, tmp_path))
        await review(engine, filters=["state=TX", "country=USA"])
        await engine.finish()
        states = Counter(query("SELECT state FROM airports"))
        assert set(states) == {("TX",)}
        assert engine.run(import_contacts).output == states.total() > 0


async def test_a_bad_file_is_answered_by_mail_and_ends(tmp_path: Path) -> None:
    path = tmp_path / "bad.csv"
    path.write_text("iata,name,city,state,country,latitude,longitude\nX1,Here,A,B,C,north,7\nX2,There,A,B,C,5,6\n")
    async with TestEngine(app) as engine:
        await upload(engine, path)
        run = engine.run(import_contacts)
        assert (run.status, run.output) == ("completed", 0)
        ((recipient, text),) = query("SELECT recipient, text FROM outbox")
        assert recipient == "ada"
        assert str(text).startswith("1 bad rows: line 2: Expected `float`")
        assert query("SELECT * FROM attempts") == []


@pytest.mark.parametrize("content", [b"iata,name\n\xff\xfe,x\n", None])
async def test_a_file_that_cannot_be_read_is_a_bad_file(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "bad.csv"
    if content is not None:
        path.write_bytes(content)
    async with TestEngine(app) as engine:
        await upload(engine, path)
        assert engine.run(import_contacts).output == 0
        assert len(query("SELECT * FROM outbox")) == 1


@pytest.mark.parametrize("answer", ["rejected", "late"])
async def test_what_is_not_approved_within_a_week_is_deleted(tmp_path: Path, answer: str) -> None:
    async with TestEngine(app) as engine:
        path = copy_of(5, tmp_path)
        await upload(engine, path)
        await engine.advance("6d")
        assert path.exists()
        if answer == "rejected":
            await review(engine, approved=False)
        await engine.finish()
        await review(engine)  # too late in both cases
        await engine.finish()
        assert engine.run(import_contacts).output == 0
        assert list(tmp_path.glob("upload.csv*")) == []
        assert query("SELECT * FROM airports") == []


async def test_the_review_of_another_upload_is_not_mine(tmp_path: Path) -> None:
    async with TestEngine(app) as engine:
        await upload(engine, copy_of(5, tmp_path), "u1")
        await review(engine, "u2")
        await engine.advance("1h")
        assert engine.run(import_contacts).status not in {"completed", "failed"}
        assert query("SELECT * FROM airports") == []
        await review(engine, "u1")
        await engine.finish()
        assert engine.run(import_contacts).output == 5


async def test_a_review_sent_before_the_wait_is_opened_counts(tmp_path: Path) -> None:
    async with TestEngine(app) as engine:
        path = str(copy_of(5, tmp_path))
        await engine.send_many(
            [UPLOADED(Upload("u1", path), user={"id": "ada"}), REVIEWED(Review("u1", approved=True))]
        )
        await engine.finish()
        assert engine.run(import_contacts).output == 5


async def test_a_row_that_cannot_be_stored_fails_alone_and_is_visible(tmp_path: Path) -> None:
    """The table refuses a latitude of 91 and the longitude of 200: at once, since asking again does not help."""
    path = copy_of(10, tmp_path)
    with path.open("a", encoding="utf-8") as file:
        file.write("BAD,Beyond the pole,A,B,C,91,0\nWOR,Worse,A,B,C,0,200\n")
    async with TestEngine(app) as engine:
        await upload(engine, path)
        await review(engine)
        await engine.finish()
        run = engine.run(import_contacts)
        assert (run.status, run.output) == ("completed", 10)
        failed = [step for step in run.steps if step.error is not None]
        assert [step.name for step in failed] == ["insert", "insert"]
        assert all("CHECK constraint failed" in str(step.error) for step in failed)
        assert inserts(run) == [1] * 12
        assert query("SELECT count(*) FROM airports") == [(10,)]
        assert query("SELECT text FROM outbox") == [("10 of 12 contacts imported: not BAD, WOR",)]


async def test_a_row_is_retried_alone(tmp_path: Path) -> None:
    """One row has trouble twice: it alone is asked for three times, by the same key."""
    keys: list[tuple[str, str]] = []

    async def flaky(row: Airport) -> str:
        keys.append((row.iata, current_step().key))
        if row.iata == "01G" and len([key for key in keys if key[0] == "01G"]) < 3:
            raise ConnectionError("database is away")
        return row.iata

    async with TestEngine(app) as engine:
        engine.fake(insert, flaky)
        await upload(engine, copy_of(20, tmp_path))
        await review(engine)
        await engine.finish()
        run = engine.run(import_contacts)
        assert run.output == 20
        assert sorted(inserts(run)) == [1] * 19 + [3]
        assert len(set(keys)) == 20  # one key a row, also for the row with three attempts
        assert len(keys) == 22


async def test_a_row_that_stays_in_trouble_uses_up_its_attempts(tmp_path: Path) -> None:
    def broken(row: Airport) -> str:
        if row.iata == "01G":
            raise ConnectionError("database is away")
        return row.iata

    async with TestEngine(app) as engine:
        engine.fake(insert, broken)
        await upload(engine, copy_of(20, tmp_path))
        await review(engine)
        await engine.finish()
        run = engine.run(import_contacts)
        assert run.output == 19
        (failed,) = [step for step in run.steps if step.error is not None]
        assert failed.attempts == 6
        assert isinstance(failed.error, StepError)
        assert failed.error.caused_by(ConnectionError)


async def test_fifty_at_a_time(tmp_path: Path) -> None:
    now, most = 0, 0

    async def slow(row: Airport) -> str:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.001)
        now -= 1
        return row.iata

    async with TestEngine(app) as engine:
        engine.fake(insert, slow)
        await upload(engine, copy_of(200, tmp_path))
        await review(engine)
        await engine.finish()
        assert engine.run(import_contacts).output == 200
        assert most == 50


async def test_a_crash_in_the_middle_stores_no_row_twice(tmp_path: Path) -> None:
    """The engine dies while fifty rows are in flight; each is in the table once, and the attempts show it."""
    async with TestEngine(app) as engine:
        await upload(engine, copy_of(150, tmp_path))
        sending = asyncio.ensure_future(review(engine))
        while not query("SELECT 1 FROM airports LIMIT 1 OFFSET 60"):
            await asyncio.sleep(0.001)
        await engine.crash()
        await asyncio.gather(sending, return_exceptions=True)
        await engine.finish()
        assert engine.run(import_contacts).output == 150
        assert query("SELECT count(*), count(DISTINCT iata) FROM airports") == [(150, 150)]
        ((attempts,),) = query("SELECT count(*) FROM attempts")
        assert isinstance(attempts, int)
        assert attempts > 150


def test_the_table_is_the_one_that_its_origin_states() -> None:
    """3,376 rows, each of which fits the row type."""
    assert len(example.read(str(AIRPORTS))) == 3376


def test_the_table_refuses_a_key_that_it_has(databases: Path) -> None:
    """What makes an attempt harmless is the table, not the engine."""
    db = sqlite3.connect(databases / "contacts.db")
    db.executescript(example.SCHEMA)
    db.execute("INSERT INTO airports (key) VALUES ('k')")
    with pytest.raises(sqlite3.IntegrityError):
        db.execute("INSERT INTO airports (key) VALUES ('k')")
    db.close()
