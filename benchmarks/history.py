"""How long each question to a history of a million runs takes: `python -m benchmarks.history [RUNS] [PLACE]`.

A week of runs: each with an event, a step and a tenant. Filled through the store, as the projector fills it, then asked
over and over, each time for something else. PLACE is a folder, or postgresql://…: there it is kept, and asked again
without filling. Without PLACE it is made in a temporary folder.
"""

import sys
import tempfile
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from random import Random
from time import perf_counter, process_time

import msgspec

from perdure.flow.expressions import compile_where
from perdure.flow.routing import run_id
from perdure.history.rows import Changes, EventRow, OpRow, RunData, RunRow, Standing
from perdure.history.sqlite import FILE, SqliteHistory
from perdure.history.store import History, RunQuery
from perdure.history.tallies import size_of, tally_end, tally_start
from perdure.sdk.hindsight.numbers import numbers_of
from perdure_schemas.event import EventBody
from perdure_schemas.payload import Payload

RUNS = 1_000_000
AT_ONCE = 5_000
ASKED = 200
"""Times that each question is asked."""
FUNCTIONS, TENANTS = 20, 1_000
HOUR_MS = 3_600_000
WEEK_MS = 168 * HOUR_MS
NOW_MS = 1_800_000_000_000
STATUSES = ("completed",) * 94 + ("failed",) * 4 + ("cancelled", "running")
_ENCODE = msgspec.json.Encoder().encode


def fill(history: History, runs: int) -> None:
    began, cpu = perf_counter(), process_time()
    rows, rng, place = iter(range(runs)), Random(1), 0
    while some := list(islice(rows, AT_ONCE)):
        changes = Changes()
        for number in some:
            _add(changes, number, runs, rng)
        place += len(some)
        history.write(0, changes, ([], [], []), Standing(place))
        if place % 100_000 == 0:
            print(f"  {place:,} after {perf_counter() - began:.0f} s", flush=True)
    took = (process_time() - cpu) / runs * 1e6
    print(f"filled with {runs:,} runs in {perf_counter() - began:.0f} s, {took:.0f} µs of CPU each")


def _add(changes: Changes, number: int, runs: int, rng: Random) -> None:
    run, at = _id(number), NOW_MS - WEEK_MS + number * WEEK_MS // runs
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
        run, "0/charge#1", 2, "step", at, "completed", ended, took_us=900_000, input=b"[[1],{}]", result=b'{"inline":1}'
    )
    tally_start(changes.tallies, changes.runs[run].function, at)
    if ended is not None:
        tally_end(changes.tallies, changes.runs[run].function, status, ended, ended - at)
    changes.events.append(EventRow(f"e{number}", 0, "order/placed", at, body))


def _id(number: int) -> str:
    return run_id("bench", str(number))


def questions(history: History, runs: int, rng: Random) -> Iterator[tuple[str, Callable[[], object]]]:
    """Each with something else to ask for every time."""

    def filtered() -> object:
        since = NOW_MS - rng.randrange(1, 168) * HOUR_MS
        return history.runs(RunQuery(f"function{rng.randrange(FUNCTIONS)}", "failed", since, since + 24 * HOUR_MS))

    def deep() -> object:
        query = RunQuery(f"function{rng.randrange(FUNCTIONS)}")
        for _ in range(10):
            _, cursor = history.runs(query)
            query = msgspec.structs.replace(query, cursor=cursor)
        return None

    def expressed() -> object:
        where = compile_where(f"event.data.total > {rng.randrange(9_000, 9_999)}")
        return history.runs(RunQuery(since=NOW_MS - HOUR_MS, where=where))

    def nowhere() -> object:
        where = compile_where(f"event.data.total < {-1 - rng.randrange(10_000)}")
        return history.runs(RunQuery(since=NOW_MS - HOUR_MS, where=where))

    yield "first page", lambda: history.runs(RunQuery())
    yield "by function, status and a day", filtered
    yield "ten pages, one after another", deep
    yield "by event", lambda: history.runs(RunQuery(event_id=f"e{rng.randrange(runs)}"))
    yield "by metadata", lambda: history.runs(RunQuery(metadata=("tenant", f"t{rng.randrange(TENANTS)}")))
    yield (
        "by metadata and status",
        lambda: history.runs(RunQuery(status="failed", metadata=("tenant", f"t{rng.randrange(TENANTS)}"))),
    )
    yield "by an expression over the last hour", expressed
    yield "by one that nothing matches there", nowhere
    yield "a run's page", lambda: history.run(_id(rng.randrange(runs)))
    yield "six hours' overview", lambda: overview(history, NOW_MS - 6 * HOUR_MS)
    yield "a day's overview", lambda: overview(history, NOW_MS - 24 * HOUR_MS)
    yield "a week's overview", lambda: overview(history, NOW_MS - WEEK_MS)
    yield "the last that failed", lambda: history.last_failed(f"function{rng.randrange(FUNCTIONS)}", NOW_MS - WEEK_MS)
    yield "how many run", lambda: history.live("running", 100_000)
    yield "an event's page", lambda: history.event(f"e{rng.randrange(runs)}")


def overview(history: History, since: int) -> object:
    """All that `GET /v1/overview` asks."""
    functions = numbers_of(history.tallies(size_of(NOW_MS - since), since))
    failing = [history.last_failed(one.function, since) for one in functions[:5]]
    return functions, failing, [history.live(status, 100_000) for status in ("queued", "running", "parked")]


def ask(history: History, runs: int) -> None:
    print(f"{'':40}{'p50':>10}{'p95':>10}{'longest':>10}  ms of {ASKED}")
    for name, question in questions(history, runs, Random(2)):
        took: list[float] = []
        for _ in range(ASKED):
            began = perf_counter()
            question()
            took.append((perf_counter() - began) * 1_000)
        took.sort()
        print(f"{name:40}{took[ASKED // 2]:10.1f}{took[ASKED * 95 // 100]:10.1f}{took[-1]:10.1f}", flush=True)


def main(runs: int, place: str) -> None:
    history = _at(place)
    history.open()
    try:
        if history.standing(0).offset == 0:
            fill(history, runs)
        ask(history, history.standing(0).offset)
    finally:
        history.close()


def _at(place: str) -> History:
    if place.startswith("postgresql://"):
        from perdure.history.postgres import PostgresHistory

        return PostgresHistory(place, "perdure_bench")
    return SqliteHistory(Path(place) / FILE)


if __name__ == "__main__":
    wanted = int(sys.argv[1]) if len(sys.argv) > 1 else RUNS
    if len(sys.argv) > 2:
        main(wanted, sys.argv[2])
    else:
        with tempfile.TemporaryDirectory() as made:
            main(wanted, made)
