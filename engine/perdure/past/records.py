"""A run's records as people read them: what each did, by what the folds made of it."""

from collections.abc import Sequence

from msgspec import Struct

from perdure.flow import decode
from perdure.flow.effects import Act, Closed, Deliver, Ended, Faltered, Line, Opened, Recalled, Retry
from perdure.flow.lines import is_immediate, kind_of, op_name
from perdure.flow.states import RunState
from perdure.past.tape import Entry, Tape, each_of
from perdure_schemas.records import (
    AnyRecord,
    MatchOffered,
    OpClosed,
    OpOpened,
    RunAnswered,
    RunFinished,
    StepClaimed,
    StepFailed,
    TimerFired,
)

_OPS = ("wait:", "call:", "enqueue:", "send:", "watch:", "cancel:", "rerun:")
_WORDS = {
    "run.requested": "the run was asked for",
    "run.cancel_requested": "its cancel was asked for",
    "run.rerun_requested": "a re-run of it was asked for",
    "run.unparked": "it was told to go on",
    "run.parked": "it was parked",
    "run.errored": "its code failed, and is tried again",
    "run.watched": "somebody waits for its end",
    "run.recalled": "{op} was recalled from the run that it is a fork of",
    "run.answered": "{op}: the other run has ended",
    "step.completed": "step {op} completed",
    "step.failed": "step {op} failed",
    "step.attempted": "step {op} may have run when its process died",
    "step.answered": "who asked for step {op} was answered",
    "step.released": "step {op} was given back",
    "op.closed": "{op} was given up",
}
_TIMERS = {
    "start": "its start was due",
    "timeout": "its time was up",
    "retry": "it is tried again",
    "recall": "the rest of its history did not come",
}


class RecordTold(Struct, frozen=True, omit_defaults=True):
    """A record of a run. `status`: of the run after it."""

    offset: int
    at: int
    kind: str
    words: str
    status: str
    op: str = ""
    op_status: str = ""
    """What became of the op by it: `open`, `completed`, `failed` or `closed`; empty if nothing did."""


def records_of(tape: Tape, run: str) -> list[RecordTold]:
    """In log order; where the owner has trimmed the log, what is left. Raises `UnknownRun`, `PastGone`."""
    told: list[RecordTold] = []
    for entry, acts, state in each_of(tape, run):
        before = told[-1].status if told else ""
        told.append(_told(entry, acts, state, before))
    return told


def _told(entry: Entry, acts: Sequence[Act], state: RunState | None, before: str) -> RecordTold:
    record = decode(entry.raw)
    op, op_status = ([("", "")] + [found for act in acts if (found := _op_of(act))])[-1]
    # A run that is forgotten (ended ones are, after the window) stays as it was.
    status = before if state is None else "paused" if state.paused else state.status
    words = _words(entry.kind, record, op or getattr(record, "op", ""), acts)
    return RecordTold(entry.offset, entry.at, entry.kind, words, status, op, op_status)


def _op_of(act: Act) -> tuple[str, str] | None:
    """The op that it is about, and what the op is after it."""
    match act:
        case Opened() | Retry():
            return act.op, "open"
        case Faltered():
            return act.failure.op, "open"
        case Closed():
            return act.op, "closed"
        case Deliver():
            return act.op, _outcome(act.outcome)
        case Recalled():
            return act.op, _outcome(act.line)
        case _:
            return None


def _outcome(record: Line) -> str:
    if isinstance(record, OpOpened) and not is_immediate(record):
        return "open"
    failed = isinstance(record, StepFailed) or (isinstance(record, RunAnswered) and record.error is not None)
    return "failed" if failed else "closed" if isinstance(record, OpClosed) else "completed"


def _words(kind: str, record: AnyRecord, op: str, acts: Sequence[Act]) -> str:
    named = _name(op)
    ended = next((act.status for act in acts if isinstance(act, Ended)), "")
    said = _said(kind, record, named, acts)
    if ended and not isinstance(record, RunFinished):
        return f"{said}: it is {ended}" if ended != "failed" else f"{said}: it failed"
    return said


def _said(kind: str, record: AnyRecord, named: str, acts: Sequence[Act]) -> str:
    match record:
        case RunFinished():
            return "it failed" if record.error is not None else "it completed"
        case OpOpened():
            opened = kind_of(record.opening)
            return f"{named if named.startswith(opened) else f'{opened} {named}'} began"
        case MatchOffered() if record.rule >= 0:
            return f"a cancel rule met event {record.event_id}"
        case MatchOffered():
            return f"{named} took event {record.event_id}" if named else f"event {record.event_id} was offered"
        case StepClaimed():
            return f"{record.member or 'somebody'} has step {named}" if record.beat else f"{record.member} asked for it"
        case TimerFired():
            if any(isinstance(act, Retry) for act in acts):
                return f"step {named} is tried again"
            named = _name(record.timer)
            return _TIMERS.get(record.timer) or f"{named} {'timed out' if named.startswith('wait ') else 'is over'}"
        case _:
            again = any(isinstance(act, Faltered) for act in acts)
            return _WORDS.get(kind, kind).format(op=named) + (", and is tried again" if again else "")


def _name(op: str) -> str:
    """`wait paid` of the op `0/wait:paid#1`."""
    name = op_name(op)
    return name.replace(":", " ", 1) if name.startswith(_OPS) else name
