"""A fork of a run: its history up to an op, something changed there, and live from then on.

lines of the run     a  b  c  d  e        c: the op that is named, where its outcome stands
the fork             a  b                 c runs again
  with a change      a  b  c'             the run gets c' in its place
  and recorded       a  b  c' d  e        what follows is as it was, as long as the code asks for the same

Ops that were open at that moment are opened again by the fork itself. What is recalled goes by op alone: arguments are
not compared, or a changed event would be in the way of all that came before.
"""

from collections.abc import Iterator, Sequence

import msgspec
from msgspec import Raw, Struct

from perdure.errors import PayloadError, UnknownOp
from perdure.flow.intake import payload_of
from perdure.flow.lines import StoredLine, op_name
from perdure.flow.states import RunState
from perdure.flow.view import View
from perdure.past.tape import Tape, state_of_run, view_of
from perdure.sdk.json_guard import REQUEST_LIMIT_BYTES
from perdure.sdk.port import ForkAsk, ForkLine
from perdure_schemas.event import EventBody
from perdure_schemas.payload import ErrorInfo, Payload
from perdure_schemas.records import (
    Call,
    MatchOffered,
    OpOpened,
    Record,
    RunAnswered,
    Sleep,
    StepCompleted,
    StepFailed,
    TimerFired,
    V,
    Wait,
    Watch,
)

PART_BYTES = REQUEST_LIMIT_BYTES // 4
"""Of lines in one request, where they are text within JSON, and longer."""
_ENCODE = msgspec.json.Encoder().encode
_DECODE_EVENT = msgspec.json.Decoder(EventBody).decode


class Change(Struct, frozen=True):
    """What the op brings instead: one of the four. A wait takes an event or times out, all else has a result."""

    result: Raw | None = None
    error: str = ""
    """`Type: message`, or the message alone."""
    event: Raw | None = None
    """The data of one that is as the wait asks for."""
    timeout: bool = False


class Trigger(Struct, frozen=True):
    """What the fork starts with, where that is not what the run started with."""

    event: Raw | None = None
    """Data, of the same event."""
    arguments: Raw | None = None
    """JSON `[[positional…], {keyword: …}]`."""


_AS_IT_WAS = Trigger()


def parts_of(
    view: View,
    run: RunState,
    at: str,
    key: str,
    *,
    change: Change | None = None,
    trigger: Trigger = _AS_IT_WAS,
    recorded: bool = False,
    same_log: bool = False,
) -> list[ForkAsk]:
    """What to ask an engine for, in order. `view` has the run as it was before its end, with all that it recorded.

    `at`: an op such as `0/charge#2`, or its name where there is one of it. `same_log`: the engine's log is the one that
    the run stands in. Raises `UnknownOp`, `PayloadError` for what is no change of this op.
    """
    lines = view.lines.load(run.id)
    op = op_of([*(line.op for line in lines), *run.open], at)
    history = _history(view, run, op, lines, change, recorded=recorded)
    code = view.begun_by(run, lines) if same_log else 0
    ask = ForkAsk(
        run.function,
        key,
        run.id,
        run.seed,
        run.began,
        len(history),
        (),
        code=code,
        event=_event_of(view, run, trigger),
        event_id=run.event_id,
        arguments=_arguments_of(view, run, trigger),
        ending=view.ending_of(run),
        scheduled=run.scheduled,
        metadata=run.metadata,
    )
    return list(_parts(ask, history))


def before_its_end(tape: Tape, run: str) -> View:
    """The run's last moment, if it has ended, or the last that the tape has. Raises `UnknownRun`, `PastGone`."""
    view = view_of(tape, run)
    state = state_of_run(view, run)
    return view if state.ended_at is None else view_of(tape, run, until=state.ended_offset - 1)


def op_of(ops: Sequence[str], at: str) -> str:
    """The one of these ops that is meant. Raises `UnknownOp`."""
    known = list(dict.fromkeys(ops))
    if at in known:
        return at
    found = [op for op in known if op_name(op) == at]
    if len(found) == 1:
        return found[0]
    if found:
        raise UnknownOp(f"there are {len(found)} ops {at!r}: say which, {_listed(found)}")
    raise UnknownOp(f"the run has no op {at!r}; it has {_listed(known) if known else 'none'}")


def _listed(ops: Sequence[str], most: int = 20) -> str:
    more = f" and {len(ops) - most} more" if len(ops) > most else ""
    return ", ".join(ops[:most]) + more


def _history(
    view: View, run: RunState, op: str, lines: Sequence[StoredLine], change: Change | None, *, recorded: bool
) -> list[ForkLine]:
    ended = next((line for line in lines if line.op == op and line.kind != "opening"), None)
    chosen = lines if recorded or ended is None else lines[: lines.index(ended)]
    # What was open at that moment has no line in a fork: it asks for it anew.
    settled = {line.op for line in chosen if line.kind != "opening"}
    changed = None if change is None else ForkLine(*_changed(view, run, op, lines, ended, change))
    if changed is not None:
        settled.add(op)
    kept = [line for line in chosen if line.op in settled]
    history = [
        changed if changed is not None and line is ended else ForkLine(line.at, _text(view.lines.whole(run.id, line)))
        for line in kept
    ]
    return history if changed is None or ended in kept else [*history, changed]


def _changed(
    view: View, run: RunState, op: str, lines: Sequence[StoredLine], ended: StoredLine | None, change: Change
) -> tuple[int, str]:
    at = view.at if ended is None else ended.at
    opened = next((view.lines.whole(run.id, line) for line in lines if line.op == op and line.kind == "opening"), None)
    record: Record | None = None
    if opened is None and (ended is None or ended.kind.startswith("step.")):
        record = _of_a_step(run, op, change)
    elif isinstance(opened, OpOpened) and (ended is None or ended.kind != "op.closed"):
        record = _of_an_opening(run, opened, change)
    if record is None:
        raise PayloadError(f"{op!r} cannot have that: {_takes(opened, ended)}")
    return at, _text(record)


def _takes(opened: object, ended: StoredLine | None) -> str:
    if ended is not None and ended.kind in ("op.closed", "op.opened"):
        return "it was given up" if ended.kind == "op.closed" else "it brings nothing that could be another"
    match opened.opening if isinstance(opened, OpOpened) else None:
        case Wait():
            return "a wait takes an event, or a timeout"
        case Sleep():
            return "a sleep brings nothing; its timeout is its end"
        case _:
            return "it takes a result or an error"


def _of_a_step(run: RunState, op: str, change: Change) -> Record | None:
    if change.result is not None:
        return StepCompleted(run.id, op, 1, "", Payload(change.result), v=V)
    return StepFailed(run.id, op, 1, "", _error(run, op, change), v=V) if change.error else None


def _of_an_opening(run: RunState, opened: OpOpened, change: Change) -> Record | None:
    opening, op = opened.opening, opened.op
    match opening:
        case Wait() if change.event is not None:
            event = EventBody(f"{run.id}:{op}", opening.event, change.event)
            return MatchOffered(run.id, opening.key, 0, event.id, 0, payload_of(event), op, v=V)
        case Wait() | Sleep() if change.timeout:
            return TimerFired(run.id, op, 0, v=V)
        case Call() | Watch() if change.result is not None:
            return RunAnswered(run.id, op, opening.run, "completed", Payload(change.result), v=V)
        case Call() | Watch() if change.error:
            return RunAnswered(run.id, op, opening.run, "failed", error=_error(run, op, change), v=V)
        case _:
            return None


def _error(run: RunState, op: str, change: Change) -> ErrorInfo:
    kind, _, message = change.error.partition(": ")
    typed = bool(message) and all(part.isidentifier() for part in kind.split("."))
    return ErrorInfo(kind if typed else "Exception", message if typed else change.error, step=op_name(op), run=run.id)


def _event_of(view: View, run: RunState, trigger: Trigger) -> EventBody | None:
    payload = view.inline(run.event, "event")
    if payload is None or not isinstance(payload.inline, Raw):
        if trigger.event is not None:
            raise PayloadError(f"run {run.id} was not started by an event: change what it was called with")
        return None
    event = _DECODE_EVENT(payload.inline)
    return event if trigger.event is None else msgspec.structs.replace(event, data=trigger.event)


def _arguments_of(view: View, run: RunState, trigger: Trigger) -> Payload | None:
    if trigger.arguments is None:
        return view.inline(run.arguments, "arguments")
    if run.arguments is None:
        raise PayloadError(f"run {run.id} was called with nothing: change its event")
    return Payload(trigger.arguments)


def _text(record: object) -> str:
    return _ENCODE(record).decode()


def _parts(ask: ForkAsk, history: Sequence[ForkLine]) -> Iterator[ForkAsk]:
    """At least one, each with so many lines that a request may have them."""
    part: list[ForkLine] = []
    first = size = 0
    for n, line in enumerate(history):
        if part and size + len(line.line) > PART_BYTES:
            yield msgspec.structs.replace(ask, first=first, lines=tuple(part))
            part, first, size = [], n, 0
        part.append(line)
        size += len(line.line)
    yield msgspec.structs.replace(ask, first=first, lines=tuple(part))
