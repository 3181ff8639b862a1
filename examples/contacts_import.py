"""An import that a person approves: upload, validate, enrich, wait up to seven days for the review, store every row.

Every row is a step of its own: it is stored, retried and, if need be, failed alone, fifty at a time. Kill the process
wherever you like (`make demo` does): rows whose result is recorded are not touched again, and the few that were in
flight run again under the same key, by which the table knows them.

    python examples/contacts_import.py [FILE.csv]        imports airports.csv, with the review after two days
    perdure dev examples.contacts_import:app             the same code, served

The rows go to the SQLite file that CONTACTS_DB names (contacts.db).
"""

import asyncio
import csv
import os
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
from msgspec import Struct

from perdure import App, Context, Event, EventType, Retry, current_step

SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
CREATE TABLE IF NOT EXISTS airports (
    key TEXT PRIMARY KEY,
    iata TEXT, name TEXT, city TEXT, state TEXT, country TEXT,
    latitude REAL CHECK (latitude BETWEEN -90 AND 90),
    longitude REAL CHECK (longitude BETWEEN -180 AND 180),
    place TEXT
);
CREATE TABLE IF NOT EXISTS attempts (key TEXT, process INTEGER);
CREATE TABLE IF NOT EXISTS outbox (key TEXT PRIMARY KEY, recipient TEXT, text TEXT);
"""

db: sqlite3.Connection


@asynccontextmanager
async def database() -> AsyncGenerator[None]:
    """Opens the database once in each process that runs steps."""
    global db
    db = sqlite3.connect(os.environ.get("CONTACTS_DB", "contacts.db"), isolation_level=None)
    db.executescript(SCHEMA)
    try:
        yield
    finally:
        db.close()


app = App("crm", lifespan=database)


class Upload(Struct):
    """A list of contacts that a user has uploaded."""

    upload_id: str
    path: str


class Review(Struct):
    """What the reviewer says. A filter such as `state=AK` picks rows; all filters have to fit."""

    upload_id: str
    approved: bool
    filters: list[str] = []


class Airport(Struct):
    """A row of airports.csv. `place` is filled in by `enrich`."""

    iata: str
    name: str
    city: str
    state: str
    country: str
    latitude: float
    longitude: float
    place: str = ""


UPLOADED = EventType("api/contact_list.uploaded", Upload)
REVIEWED = EventType("api/contact_list.reviewed", Review)


@app.step
def validate(path: str) -> list[str]:
    """What is wrong with the file, line by line."""
    errors: list[str] = []
    try:
        with open(path, encoding="utf-8", newline="") as file:
            for line, row in enumerate(csv.DictReader(file), start=2):
                try:
                    msgspec.convert(row, Airport, strict=False)
                except msgspec.ValidationError as error:
                    errors.append(f"line {line}: {error}")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        errors.append(str(error))
    return errors


@app.step
def enrich(path: str) -> str:
    """Writes a copy of the file in which each row says in words where it is."""
    enriched = f"{path}.enriched"
    with open(f"{enriched}.part", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, Airport.__struct_fields__)
        writer.writeheader()
        for row in read(path):
            row.place = ", ".join(part for part in (row.city, row.state, row.country) if part != "NA")
            writer.writerow(msgspec.structs.asdict(row))
    os.replace(file.name, enriched)
    return enriched


@app.step
def load(path: str, filters: list[str]) -> list[Airport]:
    """The rows that all filters let through."""
    wanted = [tuple(condition.split("=", 1)) for condition in filters]
    return [row for row in read(path) if all(getattr(row, column) == value for column, value in wanted)]


@app.step
def discard(*paths: str) -> None:
    """Deletes what was uploaded and made of it."""
    for path in paths:
        Path(path).unlink(missing_ok=True)


@app.step(retries=Retry(5, never_on=(sqlite3.IntegrityError,)), timeout="30s")
async def insert(row: Airport) -> str:
    """Stores one row. However often it runs, the row is there once: every attempt of a step has the same key."""
    key = current_step().key
    db.execute("INSERT INTO attempts VALUES (?, ?)", (key, os.getpid()))
    values = (key, *msgspec.structs.astuple(row))
    db.execute("INSERT INTO airports VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO NOTHING", values)
    await asyncio.sleep(0.02)  # a database elsewhere would take as long to answer
    return row.iata


@app.step
async def mail(user: str, text: str) -> None:
    """Stands for a mail service that takes a key, as good ones do."""
    db.execute("INSERT INTO outbox VALUES (?, ?, ?) ON CONFLICT (key) DO NOTHING", (current_step().key, user, text))


@app.function(on=UPLOADED)
async def import_contacts(ctx: Context, event: Event[Upload]) -> int:
    """Returns how many rows were stored."""
    upload, user = event.data, event.user["id"]
    if errors := await validate(upload.path):
        await mail(user, f"{len(errors)} bad rows: {'; '.join(errors[:3])}")
        return 0
    enriched = await enrich(upload.path)
    review = await ctx.wait_for_event(REVIEWED, match="data.upload_id", timeout="7d")
    if review is None or not review.data.approved:
        await discard(upload.path, enriched)
        return 0
    rows = await load(enriched, review.data.filters)
    await ctx.report(rows=len(rows))
    done = await ctx.map(insert, rows, limit=50, return_exceptions=True)
    failed = [row.iata for row, outcome in zip(rows, done, strict=True) if isinstance(outcome, Exception)]
    stored = len(rows) - len(failed)
    await ctx.report(stored=stored, failed=len(failed))
    await mail(user, f"{stored} of {len(rows)} contacts imported{': not ' * bool(failed)}{', '.join(failed)}")
    return stored


def read(path: str) -> list[Airport]:
    """The rows of a file that has been validated."""
    with open(path, encoding="utf-8", newline="") as file:
        return [msgspec.convert(row, Airport, strict=False) for row in csv.DictReader(file)]


async def main(source: Path) -> None:
    """Imports `source`: uploads a copy of it and approves the review two days later."""
    from perdure.testing import TestEngine

    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("CONTACTS_DB", f"{folder}/contacts.db")
        path = shutil.copy(source, folder)
        async with TestEngine(app) as engine:
            await engine.send(UPLOADED(Upload("upload-1", path), user={"id": "ada"}))
            await engine.advance("2d")
            await engine.send(REVIEWED(Review("upload-1", approved=True)))
            await engine.finish()
            print(*db.execute("SELECT 'mail to ' || recipient, text FROM outbox").fetchone(), sep=": ")
            for row in db.execute("SELECT iata, name, place FROM airports LIMIT 5"):
                print(" ", *row, sep="  ")


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]) if sys.argv[1:] else Path(__file__).parent / "data" / "airports.csv"))
