"""A tape: records of chosen runs at their places in the log, beside what decided about them.

    partition  | 0 1 2 3 4 5 6 7 8 9 …
    tape       | d . . r . d r . r .        d: definitions, owners, pauses   r: the run's own

Folds keep apart what they know of each run, so that a fold of these records alone gives the run as the fold of them all
does. What the folds need besides is kept with each record: its place and its time, as folds see them. Numbers
(`from: [source, n]`) are without gaps in the whole log alone: which records count is known from the reading of it all,
and what does not count is not on a tape.

Where the owner has trimmed the log, a tape has the state that stands for what is gone.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec
from msgspec import Struct

from perdure.errors import LogCorrupt, PastGone, UnknownRun
from perdure.flow import UnreadableRecord, decode, fold
from perdure.flow.effects import Act, Effects
from perdure.flow.imported import NoRecord
from perdure.flow.routing import partition_of_run
from perdure.flow.states import RunState
from perdure.flow.view import View
from perdure.partition.checkpoint import Position
from perdure.partition.transfer import Rows
from perdure_schemas.records import AppActivated, FunctionPaused, Orig

COMMON = frozenset(
    {
        *("app.defined", "app.paths", "app.ready", "app.activated", "owner.started", "owner.released"),
        *("function.pause_requested", "function.paused"),
    }
)
"""Kinds of records that decide about all runs of a partition."""


class Head(Struct):
    """What a record says of itself, of any kind."""

    kind: str
    run: str = ""
    entity: str = ""
    from_: tuple[int, int] | None = msgspec.field(default=None, name="from")
    orig: Orig | None = None


_decode_head = msgspec.json.Decoder(Head).decode


def head_of(raw: bytes) -> Head:
    """Raises `NoRecord`."""
    try:
        return _decode_head(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise NoRecord(f"{error}: {raw[:200]!r}") from error


def entity_of(head: Head) -> str:
    """The run that the record is about, or what else a timer is of. What a matcher is told is about a join key."""
    return "" if head.kind == "match.subscribed" else head.run or head.entity


class Entry(NamedTuple):
    """A record that counts. `offset` and `at` are those that folds see: `at` is the largest time so far."""

    partition: int
    offset: int
    at: int
    stamp: int
    """The record's own time."""
    raw: bytes
    kind: str
    entity: str
    """The run that it is about, or what else a timer is of; empty for others."""


class State(NamedTuple):
    """What stands for the trimmed part of a partition: rows of its store, of the definitions and of chosen runs."""

    position: Position
    offset: int
    """One past the last record that it has folded, as folds see it."""
    rows: Mapping[bytes, bytes]


class Part(NamedTuple):
    """A partition's share of a tape. `start`: below it the log was trimmed."""

    partition: int
    entries: Sequence[Entry]
    start: int = 0
    state: State | None = None


class Tape(NamedTuple):
    """Of an app whose journal has so many `partitions`; `parts` are those that were read."""

    app: str
    partitions: int
    parts: Mapping[int, Part]
    redacted: tuple[str, ...] = ()
    """Rules by which values were replaced."""

    def runs(self) -> list[str]:
        """Every run whose request is on it, in the order of their requests."""
        asked = [one for part in self.parts.values() for one in part.entries if one.kind == "run.requested"]
        states = [part.state.rows for part in self.parts.values() if part.state is not None]
        trimmed = [key[2:].decode() for rows in states for key in rows if key[:2] == b"r/"]
        return list(dict.fromkeys([*trimmed, *(one.entity for one in sorted(asked, key=lambda one: one.at))]))

    def entries_of(self, run: str) -> list[Entry]:
        """The run's own records."""
        return [one for one in self.part_of(run).entries if one.entity == run]

    def raw_at(self, partition: int, offset: int) -> bytes | None:
        """The record there; None if it is not on the tape."""
        part = self.parts.get(partition)
        return next((one.raw for one in part.entries if one.offset == offset), None) if part else None

    def part_of(self, run: str) -> Part:
        """Where the run lives. Raises `UnknownRun`."""
        try:
            return self.parts[partition_of_run(run, self.partitions)]
        except (ValueError, KeyError):
            raise unknown(run) from None


def view_of(tape: Tape, run: str, until: int | None = None) -> View:
    """What the folds knew of the run after the record at offset `until`, or after the last one of the tape.

    A view of this run alone, with the definitions of its partition. Of a run that had been forgotten by then (ended
    runs are, after the window) it is what they knew last. Raises `UnknownRun`, `PastGone`.
    """
    part = tape.part_of(run)
    view, known = _folded(tape, part, run, until)
    if view.runs.get(run) is not None:
        return view
    if known is None:
        raise _missing(part, run, until)
    return _folded(tape, part, run, known)[0]


def _folded(tape: Tape, part: Part, run: str, until: int | None) -> tuple[View, int | None]:
    """With the offset of the last record after which the run was known."""
    view, begin = _base_of(tape, part, run, until)
    known = None if view.runs.get(run) is None else begin - 1
    for entry in _concerning(part, run, begin):
        if until is not None and entry.offset > until:
            break
        fold_entry(view, entry)
        known = known if view.runs.get(run) is None else entry.offset
    return view, known


def each_of(tape: Tape, run: str) -> Iterator[tuple[Entry, Sequence[Act], RunState | None]]:
    """The run's own records, each with what the folds made of it, and the run after it, where it was known then.

    Where the owner has trimmed the log, those from the state on. Raises `UnknownRun`, `PastGone`.
    """
    part = tape.part_of(run)
    view, begin = _base_of(tape, part, run, None)
    known = view.runs.get(run) is not None
    for entry in _concerning(part, run, begin):
        acts, state = fold_entry(view, entry), view.runs.get(run)
        known = known or state is not None
        if entry.entity == run:
            yield entry, acts, state
    if not known:
        raise _missing(part, run, None)


def _concerning(part: Part, run: str, begin: int) -> Iterator[Entry]:
    """What is to be folded for the run, from offset `begin` on."""
    for entry in part.entries:
        if entry.offset >= begin and (entry.kind in COMMON or entry.entity == run):
            yield entry


def _base_of(tape: Tape, part: Part, run: str, until: int | None) -> tuple[View, int]:
    """What is known of the run without its records, and from which offset on those are to be folded."""
    state = part.state
    if state is None or b"r/" + run.encode() not in state.rows:
        return beginning_of(tape, part), 0
    if until is not None and until < state.offset - 1:
        raise PastGone(
            f"the first records of run {run} were trimmed by their owner: what it was is known from offset "
            f"{state.offset - 1} on"
        )
    view = View(part.partition, tape.partitions, Rows(state.rows))
    view.at, view.stamp = state.position.at, state.position.stamp
    return view, state.offset


def whole_view_of(tape: Tape, partition: int, until: int | None = None) -> View:
    """What the folds make of everything that the tape has of a partition. Raises `KeyError` if it has none of it."""
    part = tape.parts[partition]
    view = beginning_of(tape, part)
    for entry in part.entries:
        if until is not None and entry.offset > until:
            break
        fold_entry(view, entry)
    return view


def fold_entry(view: View, entry: Entry) -> Sequence[Act]:
    """By the shipped folds: it counts, at its place and time. What they ask for is told, and nobody does it."""
    try:
        record = decode(entry.raw)
    except UnreadableRecord as error:
        raise LogCorrupt(f"partition {entry.partition}, offset {entry.offset} cannot be folded: {error}") from error
    if record.from_ is not None:
        view.meta.inseq[record.from_[0]] = record.from_[1] - 1
    view.advance(entry.at)
    fold(view, record, entry.raw, entry.offset, entry.stamp)
    acts, view.effects = view.effects.acts, Effects()
    return acts


def beginning_of(tape: Tape, part: Part) -> View:
    """A view before the first record; where the log was trimmed, with the definitions that were in force there."""
    if part.state is None:
        return View(part.partition, tape.partitions)
    later = View(part.partition, tape.partitions, Rows(part.state.rows)).meta
    view = View(
        part.partition, tape.partitions, Rows({key: row for key, row in part.state.rows.items() if key[:2] == b"d/"})
    )
    kept = [decode(one.raw) for one in part.entries if one.kind in COMMON and one.offset < part.state.offset]
    meta = view.meta
    meta.known, meta.paths, meta.code = later.known, later.paths, later.code
    meta.codes = [one for one in later.codes if one[0] < part.start]
    meta.owner, meta.paused = later.owner, dict(later.paused)
    # The numbers of active definitions only rise: below the first one that is kept was the one before it.
    following = [one.number for one in kept if isinstance(one, AppActivated)]
    below = [int(number) for number, _ in view.definitions.items() if not following or int(number) < min(following)]
    meta.current = min(max(below, default=0), later.current)
    for pause in reversed([one for one in kept if isinstance(one, FunctionPaused)]):
        # The first of a function that is kept tells what it was before.
        if pause.paused:
            meta.paused.pop(pause.function, None)
        else:
            meta.paused[pause.function] = 0
    return view


def _missing(part: Part, run: str, until: int | None) -> UnknownRun | PastGone:
    asked = [one.offset for one in part.entries if one.entity == run and one.kind == "run.requested"]
    if asked and until is not None and until < asked[0]:
        return PastGone(f"run {run} was requested at offset {asked[0]}: at {until} there was nothing of it")
    if not asked and part.start:
        return PastGone(f"run {run} began before offset {part.start}, and what stood there was trimmed by its owner")
    return unknown(run)


def unknown(run: str) -> UnknownRun:
    """The error that says so."""
    return UnknownRun(f"no run {run!r} is in what was read: compare its id, or name another source")


def state_of_run(view: View, run: str) -> RunState:
    """Of a view that `view_of` made. Raises `UnknownRun`."""
    state = view.runs.get(run)
    if state is None:
        raise unknown(run)
    return state
