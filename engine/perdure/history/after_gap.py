"""Reading on where records are gone: trimmed before history read them, or before it was made.

    read         | gone      | read
    0 1 2 3 4 5  | 6 … 99    | 100 101 …        the journal starts at 100

What the folds refuse without the records before it is taken on trust here: the numbers that other partitions count by,
who owns the partition, the run's own timeout, which stands in a definition. Nothing that is gone is made up.
"""

from collections.abc import Mapping

from perdure.flow.states import RunTimer
from perdure.flow.view import View
from perdure.history.onlooker import ONLOOKING, Fold
from perdure_schemas.records import AppActivated, MatchOffered, Record, RunParked, StepAttempted, TimerFired


def lose_sight(view: View) -> None:
    """Between the last record and the next others are gone."""
    view.meta.inseq.clear()
    view.meta.owner = None


def bridged(view: View, record: Record) -> Mapping[type[Record], Fold]:
    """The folds for the next record, with the view made ready for it."""
    if record.from_ is not None:
        source, n = record.from_
        view.meta.inseq.setdefault(source, n - 1)
    match record:
        case StepAttempted() | RunParked() if view.meta.owner is None:
            view.meta.owner = record.owner
        case TimerFired(timer="timeout"):
            _trust_timeout(view, record)
        case MatchOffered() if record.rule < 0 and not _is_open(view, record):
            return _without(MatchOffered)
        case AppActivated() if view.definitions.get(str(record.number)) is None:
            return _without(AppActivated)
        case _:
            pass
    return ONLOOKING


def _trust_timeout(view: View, record: TimerFired) -> None:
    run = view.live(record.entity)
    if run is not None and run.status != "queued" and "timeout" not in run.timers:
        run.timers["timeout"] = RunTimer(0, record.setter)


def _is_open(view: View, record: MatchOffered) -> bool:
    run = view.live(record.run)
    return run is not None and record.op in run.open


def _without(kind: type[Record]) -> Mapping[type[Record], Fold]:
    return {**ONLOOKING, kind: lambda view, record, at: None}
