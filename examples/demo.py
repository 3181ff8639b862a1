"""`make demo`: imports 3,376 airports, kills the engine half-way, starts it again, and counts.

The engine is a process of its own, `perdure serve examples.contacts_import:app`, and this one speaks HTTP with it like
any other service: it uploads the file, approves the review, and kills the engine with SIGKILL when half of the rows are
stored. What happened is counted in the SQLite file that the steps write, not by the engine: every attempt of an insert
leaves a row in `attempts`, with the process that made it, so that a row stored twice or work done twice would show.

Exit code 0 means: the import completed, every row is stored exactly once and as it was in the file, and at least one
step was in flight at the kill and ran again.
"""

import csv
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

HERE = Path(__file__).resolve().parent
AIRPORTS = HERE / "data" / "airports.csv"
COLUMNS = ("iata", "name", "city", "state", "country", "latitude", "longitude")
PATIENCE = 60.0


class EngineProcess:
    """An engine that can be killed and started again on the same log."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.database = folder / "contacts.db"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when it takes requests."""
        log = f"embedded://{self.folder}/log"
        with (self.folder / "engine.log").open("ab") as output:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "perdure", "serve", "examples.contacts_import:app"),
                    *("--log", log, "--port", str(self.port)),
                ],
                cwd=HERE.parent,
                env=os.environ | {"CONTACTS_DB": str(self.database)},
                stdout=output,
                stderr=output,
            )
        wait_until(self.ready, "the engine to be ready")

    def kill(self) -> None:
        """SIGKILL: it has no chance to clean up."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def ready(self) -> bool:
        """Whether it takes requests. An engine that has ended by itself never will."""
        if self.process is None or self.process.poll() is not None:
            raise SystemExit(f"the engine has ended:\n{(self.folder / 'engine.log').read_text()}")
        try:
            self.ask("/readyz")
        except OSError:
            return False
        return True

    def ask(self, path: str, body: object = None) -> Any:
        """GET, or POST if there is a body."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data)
        request.add_header("content-type", "application/json")
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return json.loads(answer.read() or b"null")

    def send(self, name: str, **data: object) -> str:
        """Sends an event of Ada's; its id."""
        answer = self.ask("/e/demo", {"name": name, "data": data, "user": {"id": "ada"}})
        return str(answer["ids"][0])

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Asks the database that the steps write to; nothing before there is one."""
        if not self.database.exists():
            return []
        db = sqlite3.connect(self.database)
        try:
            return db.execute(sql).fetchall()
        except sqlite3.OperationalError:
            return []
        finally:
            db.close()

    def count(self, sql: str) -> int:
        """A number, or 0 before there is a database."""
        return int(next(iter(self.query(sql)), (0,))[0])

    def stored(self) -> int:
        """Rows in the table."""
        return self.count("SELECT count(*) FROM airports")

    def ran_again(self) -> int:
        """Steps that more than one process has begun: they were in flight at a kill."""
        return self.count(
            "SELECT count(*) FROM (SELECT key FROM attempts GROUP BY key HAVING count(DISTINCT process) > 1)"
        )


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Looks every few milliseconds, up to a minute."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"waited {PATIENCE:.0f} seconds for {what}, in vain")
        time.sleep(0.005)


def run_import(engine: EngineProcess, console: Console, upload: Path, rows: int) -> tuple[dict[str, Any], int]:
    """Uploads, approves, kills half-way (again if nothing was in flight) and waits for the end: the run, the kills."""
    console.print(f"[bold]Perdure[/]: importing {rows:,} airports, a step each, fifty at a time")
    engine.start()
    event_id = engine.send("api/contact_list.uploaded", upload_id="demo", path=str(upload))
    engine.send("api/contact_list.reviewed", upload_id="demo", approved=True)

    kills, kill_at = 0, rows // 2
    columns = (TextColumn("{task.description:22}"), BarColumn(60), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("rows stored", total=rows)

        def stored() -> int:
            now = engine.stored()
            progress.update(bar, completed=now)
            return now

        def time_to_kill() -> bool:
            return stored() >= kill_at

        def goes_on() -> bool:
            return engine.ran_again() > 0 or time_to_kill()

        while engine.ran_again() == 0 and kill_at < rows - 50:
            wait_until(time_to_kill, f"{kill_at} rows")
            engine.kill()
            kills += 1
            progress.console.print(f"[red]SIGKILL[/] at {stored():,} rows")
            progress.update(bar, description="[red]dead[/]")
            time.sleep(0.5)
            engine.start()
            progress.console.print("[green]started again[/] on the same log")
            progress.update(bar, description="rows stored")
            kill_at += (rows - kill_at) // 2
            wait_until(goes_on, "the import to go on")
        wait_until(lambda: stored() == rows, "all rows")

    (run,) = engine.ask(f"/v1/events/{event_id}/runs")["data"]
    engine.ask(f"/v1/runs/{run['id']}/result?timeout=20s")
    return engine.ask(f"/v1/runs/{run['id']}"), kills


def verdict(engine: EngineProcess, console: Console, detail: dict[str, Any], kills: int) -> bool:
    """The table, and whether all of it is as promised."""
    with AIRPORTS.open(encoding="utf-8", newline="") as file:
        expected = sorted((*row[:5], float(row[5]), float(row[6])) for row in list(csv.reader(file))[1:])
    stored = sorted(engine.query(f"SELECT {', '.join(COLUMNS)} FROM airports"))
    attempts = engine.count("SELECT count(*) FROM attempts")
    again = engine.ran_again()
    steps = [op for op in detail["ops"] if op["type"] == "step" and op["status"] == "completed"]

    checks = [
        ("rows in the file", len(expected), True),
        ("steps run: one a row, and validate, enrich, load, mail", len(steps), len(steps) == len(expected) + 4),
        ("times killed with SIGKILL", kills, kills > 0),
        ("steps in flight at a kill, run again", again, again > 0),
        ("rows stored, each once and as in the file", len(stored), stored == expected),
        ("attempts to insert: the rows, and what ran again", attempts, attempts == len(expected) + again),
        (f"run {detail['run']['id']}", detail["run"]["status"], detail["run"]["status"] == "completed"),
    ]
    table = Table("", "", "", show_header=False)
    for what, value, good in checks:
        shown = f"{value:,}" if isinstance(value, int) else value
        table.add_row(what, f"[bold]{shown}[/]", "[green]✓[/]" if good else "[red]✗[/]")
    console.print(table)
    return all(good for _, _, good in checks)


def main() -> int:
    """Exit code."""
    console = Console()
    with tempfile.TemporaryDirectory(prefix="perdure-demo-") as name:
        folder = Path(name)
        engine = EngineProcess(folder)
        try:
            upload = Path(shutil.copy(AIRPORTS, folder))
            rows = len(AIRPORTS.read_text(encoding="utf-8").splitlines()) - 1
            detail, kills = run_import(engine, console, upload, rows)
            good = verdict(engine, console, detail, kills)
        finally:
            engine.kill()
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
