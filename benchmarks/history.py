"""How long each page of a million runs takes at the API: `python -m benchmarks.history --store sqlite|postgresql`.

A week of runs: each with an event, a step and a tenant. Filled through the store, as the projector fills it; then
`perdure serve` is started beside it, and each page is asked over and over, each time for something else.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from itertools import islice
from pathlib import Path
from random import Random
from time import perf_counter, process_time
from urllib.parse import urlencode

import msgspec

from perdure.flow.routing import run_id
from perdure.history.postgres import PostgresHistory, schema_named
from perdure.history.rows import Changes, EventRow, OpRow, RunData, RunRow, Standing
from perdure.history.sqlite import FILE, SqliteHistory
from perdure.history.store import History, RunQuery
from perdure.history.tallies import tally_end, tally_start
from perdure_schemas.event import EventBody
from perdure_schemas.payload import Payload
from tests.history.server import Server

RUNS = 1_000_000
AT_ONCE = 5_000
ASKED = 200
"""Times that each question is asked."""
FUNCTIONS, TENANTS = 20, 1_000
HOUR_MS = 3_600_000
WEEK_MS = 168 * HOUR_MS
STATUSES = ("completed",) * 94 + ("failed",) * 4 + ("cancelled", "running")
_ENCODE = msgspec.json.Encoder().encode


FILLED = 1 << 20
"""A partition that the log has not: the projector leaves alone what stands there."""
APP = """
from typing import Any

from perdure import App, Context, Event

app = App("bench")


async def shipped(ctx: Context, event: Event[Any]) -> str:
    return "shipped"


for number in range({functions}):
    app.function(on="order/placed", id=f"function{{number}}")(shipped)
"""


def fill(history: History, runs: int, until: int) -> None:
    """So that the last of them was requested just before `until`."""
    began, cpu = perf_counter(), process_time()
    rows, rng, place = iter(range(runs)), Random(1), 0
    while some := list(islice(rows, AT_ONCE)):
        changes = Changes()
        for number in some:
            _add(changes, number, until - (runs - number) * WEEK_MS // runs, rng)
        place += len(some)
        history.write(FILLED, changes, ([], [], []), Standing(place))
        if place % 100_000 == 0:
            print(f"  {place:,} after {perf_counter() - began:.0f} s", flush=True)
    took = (process_time() - cpu) / runs * 1e6
    print(f"filled with {runs:,} runs in {perf_counter() - began:.0f} s, {took:.0f} µs of CPU each")


def _add(changes: Changes, number: int, at: int, rng: Random) -> None:
    run = _id(number)
    status = rng.choice(STATUSES)
    ended = None if status == "running" else at + rng.randrange(1, 60_000)
    total = rng.randrange(10_000)
    data = _ENCODE({"order": f"o{number}", "total": total, "items": [{"sku": "a-1", "count": 2}], "note": "x" * 100})
    body = _ENCODE(EventBody(f"e{number}", "order/placed", msgspec.Raw(data)))
    changes.new[run] = None
    changes.runs[run] = RunRow(
        run, 0, f"function{rng.randrange(FUNCTIONS)}", status, "event", at, at, ended, None, 1, f"e{number}",
        "", "", "", None, {"tenant": f"t{rng.randrange(TENANTS)}"},
    )  # fmt: skip
    changes.data[run] = RunData(event=_ENCODE(Payload(msgspec.Raw(body))), result=b'{"inline":"shipped"}')
    changes.ops[run, "0/charge#1"] = OpRow(
        run,
        "0/charge#1",
        2,
        "step",
        at,
        "completed",
        ended,
        took_us=900_000,
        input=b'{"inline":[[1],{}]}',
        result=b'{"inline":1}',
    )
    tally_start(changes.tallies, changes.runs[run].function, at)
    if ended is not None:
        tally_end(changes.tallies, changes.runs[run].function, status, ended, ended - at)
    changes.events.append(EventRow(f"e{number}", 0, "order/placed", at, body))


def _id(number: int) -> str:
    return run_id("bench", str(number))


class Api:
    """One connection to it."""

    def __init__(self, url: str) -> None:
        self._connection = HTTPConnection(url.removeprefix("http://"), timeout=60)

    def ask(self, path: str, **query: str | int) -> bytes:
        """The answer, read to its end."""
        self._connection.request("GET", f"/v1/{path}?{urlencode(query)}" if query else f"/v1/{path}")
        response = self._connection.getresponse()
        body = response.read()
        if response.status != 200:
            raise RuntimeError(f"{path} {query}: {response.status} {body.decode()[:300]}")
        return body


def pages(api: Api, runs: int, until: int, rng: Random) -> Iterator[tuple[str, Callable[[], object]]]:
    """Each with something else to ask for every time."""

    def function() -> str:
        return f"function{rng.randrange(FUNCTIONS)}"

    def filtered() -> object:
        since = until - rng.randrange(24, 168) * HOUR_MS
        return api.ask("runs", function=function(), status="failed", since=since, until=since + 24 * HOUR_MS)

    cursors: dict[str, str] = {}

    def further() -> object:
        """The next page of one of twenty lists."""
        of = function()
        found = json.loads(api.ask("runs", function=of, cursor=cursors.get(of, "")))
        cursors[of] = found["cursor"]
        return found

    def expressed() -> object:
        where = f"event.data.total > {rng.randrange(9_000, 9_999)}"
        return api.ask("runs", since=until - HOUR_MS, where=where)

    def nowhere() -> object:
        return api.ask("runs", since=until - HOUR_MS, where=f"event.data.total < {-1 - rng.randrange(10_000)}")

    def tenant() -> str:
        return f"tenant=t{rng.randrange(TENANTS)}"

    yield "first page", lambda: api.ask("runs")
    yield "by function, status and a day", filtered
    yield "of a function, page after page", further
    yield "by event", lambda: api.ask("runs", event_id=f"e{rng.randrange(runs)}")
    yield "by metadata", lambda: api.ask("runs", metadata=tenant())
    yield "by metadata and status", lambda: api.ask("runs", metadata=tenant(), status="failed")
    yield "by an expression over the last hour", expressed
    yield "by one that nothing matches there", nowhere
    yield "a run's page", lambda: api.ask(f"runs/{_id(rng.randrange(runs))}")
    yield "an event's page", lambda: api.ask(f"events/e{rng.randrange(runs)}")
    yield "events", lambda: api.ask("events")
    yield "functions", lambda: api.ask("functions")
    yield "six hours' overview", lambda: api.ask("overview", since="6h")
    yield "a day's overview", lambda: api.ask("overview", since="24h")
    yield "a week's overview", lambda: api.ask("overview", since="7d")


def ask(url: str, runs: int, until: int, times: int) -> None:
    api, load = Api(url), os.getloadavg()[0]
    print(f"{'':40}{'p50':>10}{'p95':>10}{'longest':>10}  ms of {times}; load {load:.1f}")
    for name, page in pages(api, runs, until, Random(2)):
        took: list[float] = []
        for _ in range(times):
            began = perf_counter()
            page()
            took.append((perf_counter() - began) * 1_000)
        took.sort()
        print(f"{name:40}{took[times // 2]:10.1f}{took[times * 95 // 100]:10.1f}{took[-1]:10.1f}", flush=True)


@contextmanager
def serving(folder: Path, history: str) -> Iterator[str]:
    """The URL of `perdure serve`, with its data in `folder` and its history there, or in a database."""
    folder.joinpath("bench.py").write_text(APP.format(functions=FUNCTIONS))
    command = [sys.executable, "-m", "perdure", "serve", "bench:app", "--port", "0", "--log", "log", "--json"]
    if history:
        command += ["--history", history]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE) as engine:
        try:
            assert engine.stdout is not None
            yield json.loads(engine.stdout.readline())["ready"]["url"]
        finally:
            engine.terminate()


@contextmanager
def database(store: str, folder: Path) -> Iterator[str]:
    """Its URL: `store`, if it is one, else that of a server made for this. Nothing for SQLite."""
    if store != "postgresql":
        yield "" if store == "sqlite" else store
        return
    folder.chmod(0o711)  # its user is another one
    server = Server(folder)
    try:
        server.start()
        yield server.url
    finally:
        server.close()


def measure(folder: Path, history: str, runs: int, times: int) -> None:
    folder.joinpath("log").mkdir(parents=True, exist_ok=True)
    store = PostgresHistory(history, schema_named("bench")) if history else SqliteHistory(folder / "log" / FILE)
    store.open()
    try:
        if not store.standing(FILLED).offset:
            fill(store, runs, int(time.time() * 1_000))
        runs = store.standing(FILLED).offset
        until = store.runs(RunQuery(limit=1)).runs[0].requested_at
    finally:
        store.close()
    with serving(folder, history) as url:
        ask(url, runs, until, times)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.history", description=__doc__)
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--store", default="sqlite", help="sqlite, postgresql (made for this), postgresql://…")
    parser.add_argument("--times", type=int, default=ASKED, help=f"that each page is asked ({ASKED})")
    parser.add_argument("--folder", help="where it is kept, and asked again without filling")
    given = parser.parse_args()
    if given.folder and given.store != "postgresql":
        measure(Path(given.folder), "" if given.store == "sqlite" else given.store, given.runs, given.times)
        return
    with tempfile.TemporaryDirectory() as made, database(given.store, Path(made)) as history:
        measure(Path(made), history, given.runs, given.times)


if __name__ == "__main__":
    main()
