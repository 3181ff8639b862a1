"""What the folds knew at a moment: of a run, and of a join key."""

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Raw, Struct

from perdure.errors import PastGone
from perdure.flow.expressions import canonical_path, join_key, join_value
from perdure.flow.lines import op_name
from perdure.flow.queues import key_of
from perdure.flow.states import KeptEvent, QueuedState, RunState, Subscription
from perdure.flow.view import View
from perdure.partition.transfer import Rows
from perdure.past.tape import Part, Tape, fold_entry, unknown, view_of

_encode = msgspec.json.Encoder().encode


class Recorded(Struct, frozen=True):
    """A record that is kept for the run's replay."""

    offset: int
    at: int
    op: str
    name: str
    kind: str
    record: Raw


class RunAt(Struct, frozen=True):
    """A run after the record at `offset`, the `nth` of `of` that the tape has of it."""

    partition: int
    offset: int
    at: int
    nth: int
    of: int
    kind: str
    """Of that record; empty if it was trimmed."""
    run: RunState
    lines: tuple[Recorded, ...]
    queued: Mapping[str, QueuedState]


class KeyAt(Struct, frozen=True):
    """A join key after the record at `offset`: who waits for an event, and which events are kept for who comes."""

    partition: int
    offset: int
    at: int
    key: str
    subscriptions: tuple[Subscription, ...]
    events: tuple[KeptEvent, ...]


def offset_at(part: Part, at_ms: int) -> int:
    """Of the last record by log time `at_ms`. Raises `PastGone` if there is none."""
    until = max((one.offset for one in part.entries if one.at <= at_ms), default=None)
    if until is None:
        raise PastGone("that was before the first record that is known of it")
    return until


def run_at(tape: Tape, run: str, until: int | None = None, at_ms: int | None = None) -> RunAt:
    """After the record at offset `until`, by log time `at_ms`, or at the end. Raises `UnknownRun`, `PastGone`."""
    part = tape.part_of(run)
    if at_ms is not None:
        until = offset_at(part, at_ms)
    view = view_of(tape, run, until)
    state = view.runs.get(run)
    if state is None:
        raise unknown(run)
    own = tape.entries_of(run)
    past = [one for one in own if until is None or one.offset <= until]
    last = past[-1] if past else None
    lines = tuple(
        Recorded(one.offset, one.at, one.op, op_name(one.op), one.kind, Raw(_encode(view.lines.whole(run, one))))
        for one in view.lines.load(run)
    )
    queued = {op: found for op in state.open if (found := view.queued.get(key_of(run, op))) is not None}
    offset, at, kind = (last.offset, last.at, last.kind) if last is not None else (view.offset, view.at, "")
    return RunAt(part.partition, offset, at, len(past), len(own), kind, state, lines, queued)


def key_of_event(name: str, path: str, value: Any) -> str:
    """The join key of events of this name with this value at this path. Raises `DefinitionError`, `ValueError`."""
    joined = join_value(value)
    if joined is None:
        raise ValueError(f"{value!r} matches nothing: a text, a number, true or false does")
    return join_key(name, canonical_path(path), joined)


def key_at(tape: Tape, partition: int, key: str, until: int | None = None, at_ms: int | None = None) -> KeyAt:
    """Of a tape that has all of the key's partition. Raises `PastGone`."""
    part = tape.parts[partition]
    if at_ms is not None:
        until = offset_at(part, at_ms)
    view = _whole_view(tape, part, until)
    state = view.matches.get(key)
    subscriptions = () if state is None else tuple(state.subs.values())
    events = tuple(view.kept.since(key, 0, 0, view.offset + 1))
    return KeyAt(partition, view.offset, view.at, key, subscriptions, events)


def _whole_view(tape: Tape, part: Part, until: int | None) -> View:
    state = part.state
    if state is None:
        view, begin = View(part.partition, tape.partitions), 0
    elif until is not None and until < state.offset - 1:
        raise PastGone(f"what it was is known from offset {state.offset - 1} on: what came before was trimmed")
    else:
        view, begin = View(part.partition, tape.partitions, Rows(state.rows)), state.offset
        view.at, view.stamp = state.position.at, state.position.stamp
    for entry in part.entries:
        if until is not None and entry.offset > until:
            break
        if entry.offset >= begin:
            fold_entry(view, entry)
    return view
