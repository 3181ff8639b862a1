"""Lines: what a run's replay needs, in log order, wherever it stands on its way to the store."""

from random import Random

import msgspec
import pytest

from perdure.flow.effects import Line
from perdure.flow.lines import Lines, NewLine, is_immediate, kind_of, op_name
from perdure.flow.routing import run_id
from perdure.flow.tables import EmptyBacking
from perdure_schemas.records import (
    Call,
    CancelRun,
    OpClosed,
    Opening,
    OpOpened,
    Queued,
    RerunRun,
    RetryRule,
    Send,
    Sleep,
    StepFailed,
    TimerFired,
    V,
    Watch,
)
from tests.flow.storm import seeds
from tests.flow.world import ERROR, DictStore, called, completed, payload, slept, waited

RUN = run_id("r")
_ENCODE = msgspec.json.Encoder().encode


class Stored:
    def __init__(self, *, apart: bool = False) -> None:
        self.store = DictStore()
        self.lines = Lines(self.store, apart=apart)
        self._puts: list[tuple[bytes, bytes]] = []
        self._deletes: list[bytes] = []
        self._clears: list[bytes] = []
        self.offset = 0

    def add(self, record: Line, run: str = RUN, *, raw: bytes = b"") -> int:
        self.offset += 1
        op = record.timer if isinstance(record, TimerFired) else record.op
        self.lines.add(NewLine(run, op, 1_000 + self.offset, self.offset, raw or _ENCODE(record)))
        return self.offset

    def seal(self) -> None:
        self._puts, self._deletes, self._clears = [], [], []
        self.lines.seal(self._puts, self._deletes, self._clears)

    def changes(self) -> tuple[list[tuple[bytes, bytes]], list[bytes], list[bytes]]:
        return self._puts, self._deletes, self._clears

    def write(self) -> None:
        self.store.write(self._puts, self._deletes, self._clears)
        self.lines.written()

    def checkpoint(self) -> None:
        self.seal()
        self.write()

    def offsets(self, run: str = RUN) -> list[int]:
        return [line.offset for line in self.lines.load(run)]


def test_lines_come_in_log_order_from_store_checkpoint_and_memory() -> None:
    stored = Stored()
    for n in range(6):
        stored.add(completed(RUN, f"0/a#{n}"))
        if n == 2:
            stored.checkpoint()
        if n == 4:
            stored.seal()
    assert stored.offsets() == [1, 2, 3, 4, 5, 6]
    assert stored.lines.runs() == [RUN]
    line = stored.lines.load(RUN)[3]
    assert (line.at, line.op, line.kind) == (1_004, "0/a#3", "step.completed")
    assert line.record == msgspec.json.decode(line.raw, type=type(completed(RUN, "")))


def test_a_fire_is_the_line_of_its_op() -> None:
    stored = Stored()
    stored.add(TimerFired(RUN, "0/sleep#0", 7, v=V))
    assert stored.lines.load(RUN)[0].op == "0/sleep#0"


@pytest.mark.parametrize("op", ["0/a#0", '0/"b c"\n#1', "0/größe #0"])
@pytest.mark.parametrize("until", ["new", "sealed", "stored"])
def test_a_large_record_stands_in_a_row_of_its_own(op: str, until: str) -> None:
    stored = Stored()
    record = completed(RUN, op, "x" * 5_000)
    offset = stored.add(record)
    if until != "new":
        stored.seal()
    if until == "stored":
        stored.write()
    (line,) = stored.lines.load(RUN)
    assert (line.op, line.kind) == (op, "step.completed")
    assert stored.lines.whole(RUN, line) == record
    assert stored.lines.runs() == [RUN]
    if until == "stored":
        assert line.record is None
        chunk, large = stored.store.scan(b"")
        assert len(chunk[1]) < 100
        assert large == (b"o/%b\xff%b" % (RUN.encode(), offset.to_bytes(8, "big")), _ENCODE(record))


@pytest.mark.parametrize("rested", [False, True])
def test_the_large_records_of_an_ended_run_go(rested: bool) -> None:
    stored = Stored()
    stored.lines.begin(RUN)
    stored.add(completed(RUN, "0/a#0", "x" * 5_000))
    stored.checkpoint()
    if rested:
        stored.lines.release(RUN)
    stored.lines.clear(RUN)
    stored.checkpoint()
    assert stored.store.values == {}


def test_a_record_of_several_lines_stands_in_a_row_of_its_own() -> None:
    """Whoever else writes to the journal may write JSON as people like it."""
    stored = Stored()
    record = completed(RUN, "0/a#0")
    stored.add(record, raw=msgspec.json.format(_ENCODE(record), indent=2))
    stored.add(completed(RUN, "0/b#0"))
    stored.checkpoint()
    assert [(line.op, line.record is None) for line in stored.lines.load(RUN)] == [("0/a#0", True), ("0/b#0", False)]


@pytest.mark.parametrize("long", ["", "x" * 5_000])
def test_which_ops_are_done_is_known_after_a_restart_too(long: str) -> None:
    """Also of records too large to stand in a line."""
    stored = Stored()
    where = f'async.data.x == "{long}"'
    for record in (
        waited(RUN, "0/open#0", "k", where),
        completed(RUN, "0/step#0", long),
        StepFailed(RUN, "0/failed#0", 1, "d", ERROR, v=V),
        slept(RUN, "0/sleep#0", 5),
        TimerFired(RUN, "0/sleep#0", 4, v=V),
        waited(RUN, "0/closed#0", "k", where),
        OpClosed(RUN, "0/closed#0", v=V),
        called(RUN, "0/enqueued#0", run_id("child"), awaited=False),
        called(RUN, "0/called#0", run_id("child")),
    ):
        stored.add(record)
    done = {"0/step#0", "0/failed#0", "0/sleep#0", "0/closed#0", "0/enqueued#0"}
    assert stored.lines.done(RUN) == done
    stored.checkpoint()
    stored.lines.release(RUN)
    assert stored.lines.done(RUN) == done


def test_nothing_is_looked_up_of_a_run_that_just_began() -> None:
    class Unread(EmptyBacking):
        def scan(self, prefix: bytes, /, start: bytes = b"", limit: int = 0) -> tuple[()]:
            raise AssertionError("a lookup")

    lines = Lines(Unread())
    lines.begin(RUN)
    assert lines.done(RUN) == set()
    assert lines.load(RUN) == []


@pytest.mark.parametrize("until", ["new", "sealed", "stored"])
def test_the_lines_of_an_ended_run_go(until: str) -> None:
    stored = Stored()
    stored.lines.begin(RUN)
    stored.add(completed(RUN, "0/a#0"))
    if until != "new":
        stored.seal()
    if until == "stored":
        stored.write()
    stored.lines.clear(RUN)
    assert (stored.offsets(), stored.lines.runs()) == ([], [])
    if until == "sealed":
        stored.write()
        assert (stored.offsets(), stored.lines.runs()) == ([], [])
    stored.seal()
    assert (stored.offsets(), stored.lines.runs()) == ([], [])
    stored.write()
    assert stored.store.values == {}
    assert stored.offsets() == []


def test_a_run_that_began_and_ended_between_checkpoints_leaves_no_trace() -> None:
    stored = Stored()
    stored.lines.begin(RUN)
    stored.add(completed(RUN, "0/a#0"))
    stored.lines.clear(RUN)
    stored.seal()
    assert stored.changes() == ([], [], [])


def test_the_rows_of_a_run_that_began_here_are_deleted_by_their_keys() -> None:
    stored = Stored()
    stored.lines.begin(RUN)
    stored.add(completed(RUN, "0/a#0"))
    stored.checkpoint()
    stored.add(completed(RUN, "0/a#1"))
    stored.checkpoint()
    assert len(stored.store.scan(b"")) == 2
    stored.lines.clear(RUN)
    stored.seal()
    puts, deletes, clears = stored.changes()
    assert (puts, len(deletes), clears) == ([], 2, [])
    stored.write()
    assert stored.store.scan(b"") == []


def test_the_rows_of_a_run_that_rested_are_found_by_its_id() -> None:
    stored = Stored()
    stored.lines.begin(RUN)
    stored.add(completed(RUN, "0/a#0"))
    stored.checkpoint()
    stored.lines.release(RUN)
    stored.lines.clear(RUN)
    stored.seal()
    puts, deletes, clears = stored.changes()
    assert (puts, deletes, len(clears)) == ([], [], 1)


@pytest.mark.parametrize("seed", seeds(30))
def test_lives_of_a_run_and_checkpoints_in_any_order(seed: int) -> None:
    """A run may even be forgotten after its end and begin anew: no line of its former life comes back."""
    random = Random(seed)
    stored = Stored()
    expected: dict[str, list[int] | None] = {run_id(name): None for name in "ab"}
    sealed = False
    for _ in range(200):
        run = random.choice(list(expected))
        draw = random.random()
        alive = expected[run]
        if draw < 0.5:
            if alive is None:
                stored.lines.begin(run)
                expected[run] = []
            else:
                op = f"0/a#{stored.offset}"
                stored.lines.done(run).add(op)
                alive.append(stored.add(completed(run, op), run))
        elif draw < 0.65:
            if alive is not None:
                stored.lines.clear(run)
                expected[run] = None
        elif draw < 0.7:
            stored.lines.release(run)
        elif sealed:
            stored.write()
            sealed = False
        else:
            stored.seal()
            sealed = True
        for name, offsets in expected.items():
            assert stored.offsets(name) == (offsets or [])
            if offsets is not None:
                assert len(stored.lines.done(name)) == len(offsets)
        assert stored.lines.runs() == sorted(name for name, offsets in expected.items() if offsets)


@pytest.mark.parametrize(
    ("opened", "immediate"),
    [
        (slept(RUN, "0/a#0", 5), False),
        (waited(RUN, "0/a#0", "k"), False),
        (called(RUN, "0/a#0", RUN), False),
        (called(RUN, "0/a#0", RUN, awaited=False), True),
        (OpOpened(RUN, "0/a#0", "d", Watch(RUN, "result"), v=V), False),
        (OpOpened(RUN, "0/a#0", "d", Send(()), v=V), True),
        (OpOpened(RUN, "0/a#0", "d", CancelRun(RUN), v=V), True),
        (OpOpened(RUN, "0/a#0", "d", RerunRun(RUN, RUN), v=V), True),
    ],
)
def test_some_openings_are_their_own_outcome(opened: OpOpened, immediate: bool) -> None:
    assert is_immediate(opened) is immediate


@pytest.mark.parametrize(("op", "name"), [("0.2/insert#7", "insert"), ("0/a/b#c#0", "a/b#c"), ("0/#0", "")])
def test_an_op_says_its_name(op: str, name: str) -> None:
    assert op_name(op) == name


def test_where_owners_change_each_line_has_a_row_of_its_own() -> None:
    """Rows do not depend on when checkpoints were: one snapshot is as good as another."""
    at_once, one_by_one = Stored(apart=True), Stored(apart=True)
    for op in ("0/a#1", "0/b#1", "0/c#1"):
        at_once.add(completed(RUN, op))
        one_by_one.add(completed(RUN, op))
        one_by_one.seal()
        one_by_one.write()
    at_once.seal()
    at_once.write()
    assert at_once.store.values == one_by_one.store.values
    assert len(at_once.store.values) == 3
    assert [line.op for line in Lines(at_once.store, apart=True).load(RUN)] == ["0/a#1", "0/b#1", "0/c#1"]


@pytest.mark.parametrize(
    ("opening", "kind"),
    [
        (Queued("gpu", "render", payload([[], {}]), RetryRule(4, 1_000, 2.0, 60_000), 1_000), "step"),
        (Call("child", "r1", payload([[], {}]), awaited=True), "call"),
        (Call("child", "r1", payload([[], {}]), awaited=False), "enqueue"),
        (Sleep(5), "sleep"),
    ],
)
def test_what_people_call_an_op(opening: Opening, kind: str) -> None:
    assert kind_of(opening) == kind
