"""A partition's log folded again, to stand where it stood."""

from collections.abc import Container, Iterable, Iterator

from perdure.flow import decode, fold
from perdure.flow.effects import Ended
from perdure.flow.states import TERMINAL
from perdure.flow.view import View
from perdure.past.replay import RecordedEnd
from perdure.past.tape import Tape, state_of_run, view_of
from perdure_schemas.records import AnyRecord, RunFinished

Records = Iterable[tuple[int, int, bytes]]
"""(offset, timestamp, record) of a partition, in the order of the log."""


def ends_of(view: View, records: Records) -> dict[str, RecordedEnd]:
    """Folds all; every run that ended by it, and how."""
    ends: dict[str, RecordedEnd] = {}
    for offset, stamp_ms, raw in records:
        record = decode(raw)
        fold(view, record, raw, offset, stamp_ms)
        for act in view.effects.acts:
            if isinstance(act, Ended):
                ends[act.run] = _end(view, act, record, offset)
        forget_effects(view)
    return ends


def _end(view: View, ended: Ended, record: AnyRecord, offset: int) -> RecordedEnd:
    state = view.runs.get(ended.run)
    finished = record if isinstance(record, RunFinished) and record.run == ended.run else None
    return RecordedEnd(ended.status, view.at, offset, finished, state.error if state is not None else None)


def stand_before(view: View, records: Records, offsets: Container[int]) -> Iterator[int]:
    """Folds all, and stops before each record at one of `offsets`: the view is as it was then."""
    for offset, stamp_ms, raw in records:
        if offset in offsets:
            yield offset
        fold(view, decode(raw), raw, offset, stamp_ms)
        forget_effects(view)


def forget_effects(view: View) -> None:
    """Nothing is asked of anybody: it happened."""
    effects = view.effects
    effects.acts.clear()
    effects.sends.clear()
    effects.commands.clear()
    effects.fired.clear()


def before_end(tape: Tape, run: str) -> tuple[View, RecordedEnd | None]:
    """The run as it was before the record that ended it, and its end; all that there is of one that goes on.

    Raises `UnknownRun`, `PastGone`.
    """
    view = view_of(tape, run)
    state = state_of_run(view, run)
    if state.status not in TERMINAL:
        return view, None
    raw = tape.raw_at(view.partition, state.ended_offset)
    record = None if raw is None else decode(raw)
    finished = record if isinstance(record, RunFinished) and record.run == run else None
    end = RecordedEnd(state.status, state.ended_at or 0, state.ended_offset, finished, state.error)
    return view_of(tape, run, state.ended_offset - 1), end
