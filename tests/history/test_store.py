"""What a store can be asked: the same of each kind."""

from collections.abc import Generator
from itertools import product
from typing import Any

import msgspec
import pytest

from perdure.flow.expressions import compile_where
from perdure.history import asking
from perdure.history.rows import Changes, EventRow, RunData, RunRow, Standing
from perdure.history.store import Cursor, EventQuery, History, NoHistory, RunQuery, parse_cursor
from perdure_schemas.event import EventBody
from perdure_schemas.payload import Payload
from tests.history.tools import Shelf

_ENCODE = msgspec.json.Encoder().encode
HOSTILE = "x'; DROP TABLE runs; --\0\x1b[31m\u202e\"%_"


def event(number: int) -> bytes:
    data = msgspec.Raw(_ENCODE({"total": number, "plan": "pro" if number % 2 else "free"}))
    return _ENCODE(EventBody(f"e{number}", "order/placed", data))


def run(number: int, **other: Any) -> RunRow:
    """Two of the same time; functions, statuses and tenants go round."""
    row = RunRow(
        id=f"run{number:03}",
        partition=number % 4,
        function=f"f{number % 3}",
        status=("completed", "failed", "running")[number // 3 % 3],
        cause="event",
        requested_at=1_000 + number // 2,
        started_at=None,
        ended_at=2_000,
        due=None,
        attempt=1,
        event_id=f"e{number}",
        parent="",
        parent_op="",
        rerun_of="",
        scheduled=None,
        metadata={"tenant": f"t{number % 2}", "shop": "a"},
    )
    return msgspec.structs.replace(row, **other)


def put(history: History, *rows: RunRow, offset: int = 1) -> None:
    changes = Changes()
    for number, row in enumerate(rows):
        changes.new[row.id] = None
        changes.runs[row.id] = row
        changes.data[row.id] = RunData(event=_ENCODE(Payload(msgspec.Raw(event(number)))))
        changes.events.append(EventRow(row.event_id, 0, "order/placed", row.requested_at, event(number)))
    history.write(0, changes, ([], [], []), Standing(offset))


@pytest.fixture
def history(shelf: Shelf) -> Generator[History]:
    found = shelf.opened()
    yield found
    found.close()


RUNS = [run(number) for number in range(60)]


@pytest.mark.parametrize(
    ("function", "status", "since", "metadata", "where"),
    list(
        product(
        ["", "f1"], ["", "failed"], [None, 1_010], [None, ("tenant", "t1")], ["", 'event.data.plan == "pro"']
        )
    ),
)  # fmt: skip
def test_every_page_of_every_question(
    history: History,
    function: str,
    status: str,
    since: int | None,
    metadata: tuple[str, str] | None,
    where: str,
) -> None:
    """All that is asked for, newest first, each once, whatever the length of a page."""
    put(history, *RUNS)
    wanted = [
        row.id
        for number, row in reversed(list(enumerate(RUNS)))
        if (not function or row.function == function)
        and (not status or row.status == status)
        and (since is None or since <= row.requested_at < 1_025)
        and (metadata is None or row.metadata[metadata[0]] == metadata[1])
        and (not where or number % 2)
    ]
    assert wanted
    until = None if since is None else 1_025
    condition = compile_where(where) if where else None
    for limit in (1, 7, 500):
        found: list[str] = []
        cursor: Cursor | None = None
        while True:
            query = RunQuery(function, status, since, until, "", metadata, condition, limit, cursor)
            runs, cursor = history.runs(query)
            assert len(runs) <= limit
            found += [row.id for row in runs]
            if cursor is None:
                break
        assert found == wanted


def test_by_event(history: History) -> None:
    put(history, *RUNS)
    assert history.runs(RunQuery(event_id="e7")).runs == [RUNS[7]]
    assert history.runs(RunQuery(event_id="e7", function="f9")).runs == []
    page = history.event("e7")
    assert page is not None
    assert (page.event.name, page.runs, page.uses) == ("order/placed", [RUNS[7]], [])


def test_events(history: History) -> None:
    put(history, *RUNS)
    assert [one.id for one in history.events(EventQuery(limit=2)).events] == ["e59", "e58"]
    rich = EventQuery("order/placed", where=compile_where("event.data.total < 3"))
    assert [one.id for one in history.events(rich).events] == ["e2", "e1", "e0"]
    assert history.events(EventQuery("order/paid")).events == []


def test_a_page_looks_at_so_many_rows_only(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes back with a cursor, and the next goes on from there."""
    monkeypatch.setattr(asking, "SCANNED_ROWS", 10)
    put(history, *RUNS)
    cursor: Cursor | None = None
    pages: list[list[str]] = []
    while cursor is not None or not pages:
        found, cursor = history.runs(RunQuery(where=compile_where("event.data.total == 5"), cursor=cursor))
        pages.append([row.id for row in found])
    assert pages == [[], [], [], [], [], ["run005"]]


@pytest.mark.parametrize(
    "payload",
    [
        b'{"inline":"aGk=","encoded":true}',
        b'{"ref":{"partition":1,"offset":2}}',
        b'{"stored":{"digest":"b2-0","bytes":9}}',
        b"{}",
    ],
)
def test_of_a_trigger_that_is_not_in_the_open_nothing_is_true(history: History, payload: bytes) -> None:
    changes = Changes(new={"r": None}, runs={"r": run(1, id="r")}, data={"r": RunData(event=payload)})
    history.write(0, changes, ([], [], []), Standing(1))
    assert history.runs(RunQuery(where=compile_where("true"))).runs == []
    assert len(history.runs(RunQuery()).runs) == 1


@pytest.mark.parametrize("field", ["id", "function", "status", "event_id", "parent", "rerun_of"])
def test_what_users_write_is_data(history: History, field: str) -> None:
    row = run(1, **{field: HOSTILE, "metadata": {HOSTILE: HOSTILE}})
    put(history, row)
    put(history, run(2), offset=2)
    assert history.runs(RunQuery(metadata=(HOSTILE, HOSTILE))).runs == [row]
    asked = RunQuery(row.function, row.status, event_id=row.event_id)
    assert history.runs(asked).runs == [row]
    page = history.run(row.id)
    assert page is not None
    assert page.run == row
    assert history.event(HOSTILE) is None or field == "event_id"
    assert len(history.runs(RunQuery()).runs) == 2


@pytest.mark.parametrize("text", ["x", "1", "1-", "-1", "1-2-3", "1-2; DROP", "9" * 50 + "-1", "١-٢"])
def test_a_cursor_that_no_page_gave(text: str) -> None:
    with pytest.raises(ValueError, match="is not one that a page gave"):
        parse_cursor(text)


def test_a_cursor_is_a_text() -> None:
    assert parse_cursor(str(Cursor(12, 34))) == Cursor(12, 34)
    assert parse_cursor("") is None


def test_it_is_read_while_another_writes(history: History, shelf: Shelf) -> None:
    put(history, *RUNS[:2])
    other = shelf.of(writes=False)
    other.open()
    put(history, *RUNS[2:4], offset=2)
    assert len(other.runs(RunQuery()).runs) == 4
    other.close()


def test_there_is_none(shelf: Shelf) -> None:
    with pytest.raises(NoHistory, match="there is no history at"):
        shelf.of("other", writes=False).open()
