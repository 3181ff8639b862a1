"""What became of runs, told from the folds of a log."""

from typing import NamedTuple

import msgspec
from msgspec import Struct

from perdure.flow.effects import Ended
from perdure.flow.view import View
from perdure_schemas.payload import Payload
from perdure_schemas.records import (
    AnyRecord,
    EventReceived,
    MatchOffered,
    RunCancelRequested,
    RunFinished,
    RunRequested,
    TimerFired,
)


class Fate(NamedTuple):
    """What ended a run that its own code did not end. `what`: `cancelled`, `timed_out` or `discarded`."""

    what: str
    event_id: str = ""
    """The event that cancelled it by a rule."""
    event_name: str = ""
    reason: str = ""


class Told(Struct):
    """A run that was requested at log time `at`."""

    run: str
    function: str
    cause: str
    number: int
    at: int
    event_id: str = ""
    event_name: str = ""
    origin: str = ""
    """The run that called it, of which it is a rerun, or whose end it handles."""
    fate: Fate | None = None
    ended_at: int | None = None


class _Named(Struct):
    name: str = ""


_decode_name = msgspec.json.Decoder(_Named).decode


class Tale:
    """Every run of a log."""

    def __init__(self) -> None:
        self.runs: dict[str, Told] = {}
        self.sent: set[str] = set()
        """Ids of events that runs or the folds themselves sent."""

    def __call__(self, view: View, record: AnyRecord, /) -> None:
        if isinstance(record, RunRequested):
            self._requested(view, record)
        elif isinstance(record, EventReceived) and record.from_ is not None:
            self.sent.add(record.event.id)
        for act in view.effects.acts:
            told = self.runs.get(act.run) if isinstance(act, Ended) else None
            if told is not None and isinstance(act, Ended):
                told.ended_at, told.fate = view.at, _fate(act, record)

    def _requested(self, view: View, record: RunRequested) -> None:
        state = view.runs.get(record.run)
        # A run that was cancelled before it was requested has no function.
        if record.run not in self.runs and state is not None and state.function:
            origin = record.parent.run if record.parent is not None else record.rerun_of
            if record.ending is not None:
                origin = record.ending.run
            self.runs[record.run] = Told(
                record.run,
                record.function,
                record.cause,
                record.number,
                view.at,
                record.event_id,
                _name_of(record.event),
                origin,
            )


def _name_of(event: Payload | None) -> str:
    raw = event.inline if event is not None else None
    return _decode_name(raw).name if isinstance(raw, msgspec.Raw) else ""


def _fate(ended: Ended, record: AnyRecord) -> Fate | None:
    if isinstance(record, MatchOffered):
        return Fate("cancelled", record.event_id, _name_of(record.event))
    if isinstance(record, RunCancelRequested):
        return Fate("cancelled", reason=record.reason)
    if isinstance(record, RunFinished):
        return None
    if isinstance(record, TimerFired) and ended.status == "failed":
        return Fate("timed_out")
    return Fate(ended.status)
