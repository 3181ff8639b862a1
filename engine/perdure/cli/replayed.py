"""What came of replays, for people and for programs."""

from datetime import datetime
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from perdure.cli.output import console, cut, moment, status_text, styled
from perdure.flow.lines import op_name
from perdure.past.replay import AskedFor, Replayed
from perdure.past.watched import Onlooker
from perdure.worker.delivery import Delivered
from perdure.worker.execution import Execution
from perdure_schemas.event import EventBody
from perdure_schemas.records import (
    AskedOp,
    Call,
    MatchOffered,
    OpOpened,
    RunAnswered,
    Send,
    StepCompleted,
    StepFailed,
    TimerFired,
)

VALUE = 100
VERDICTS = {
    "as_recorded": ("as recorded", "green"),
    "otherwise": ("otherwise than recorded", "red"),
    "parks": ("parks", "magenta"),
    "goes_on": ("goes on", "green"),
    "waits": ("waits", "cyan"),
    "ends": ("ends", "green"),
    "retries": ("raises, and is tried again", "yellow"),
    "held": ("held", "magenta"),
    "stuck": ("stuck", "yellow"),
    "stopped": ("stopped", "blue"),
}
"""In words, and their colours."""
_MARKS = {"answered": "✓", "given up": "–", "recorded": "→", "open": "…", "due": "→", "new": "→"}


class Told:
    """An onlooker that puts into words what a run is answered, and tells another one. `say` prints each as it comes."""

    def __init__(self, other: Onlooker, *, trace: bool) -> None:
        self.values: dict[str, str] = {}
        self._other = other
        self._trace = trace

    def asked(self, execution: Execution, op: str, digest: str) -> None:
        """See `Onlooker`."""
        self._say(execution.now_ms, "asks for", op, "")
        self._other.asked(execution, op, digest)

    def answered(self, execution: Execution, outcome: Delivered) -> None:
        """See `Onlooker`."""
        text = self.values[outcome.op] = value_of(execution, outcome)
        self._say(outcome.at, "answered", outcome.op, text)
        self._other.answered(execution, outcome)

    def failed(self, execution: Execution, error: BaseException) -> None:
        """See `Onlooker`."""
        self._say(execution.now_ms, "fails", "", f"{type(error).__name__}: {error}")
        self._other.failed(execution, error)

    def _say(self, at: int, what: str, op: str, text: str) -> None:
        if self._trace:
            line = styled(f"{clock(at)}  {what:8}  {op:24} ", "dim" if what == "asks for" else "")
            console().print(line.append_text(styled(cut(text, VALUE))), soft_wrap=True)


def clock(ms: int) -> str:
    """A log time, to the millisecond."""
    return datetime.fromtimestamp(ms / 1000).astimezone().strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]


def value_of(execution: Execution, outcome: Delivered) -> str:
    """What the log answers, in a line."""
    match outcome.outcome:
        case StepCompleted(result=result):
            return _json(execution.read(result))
        case StepFailed(error=error):
            return f"raises {error.type}: {error.message}"
        case RunAnswered(status=status, result=result, of=of):
            return _json(execution.read(result)) if result is not None else f"{of} {status}"
        case MatchOffered(event=event, event_id=event_id):
            body = msgspec.json.decode(execution.read(event, "event"), type=EventBody)
            return f"{body.name} {event_id} {_json(body.data)}"
        case TimerFired():
            return "its time has come"
        case OpOpened(opening=Send(events=events)):
            return ", ".join(event.id for event in events)
        case OpOpened(opening=Call(run=run)):
            return run
        case _:
            return "done"


def _json(raw: object) -> str:
    return bytes(raw).decode(errors="replace")  # type: ignore[call-overload,no-any-return]


def verdict_text(replayed: Replayed) -> Text:
    """In words."""
    words, style = VERDICTS[replayed.verdict]
    if replayed.verdict == "as_recorded" and replayed.end is not None:
        words += f": {replayed.end.status}"
    elif replayed.verdict in ("goes_on", "waits") and replayed.at:
        words += f" {'at' if replayed.verdict == 'goes_on' else 'for'} {', '.join(one.op for one in replayed.at)}"
    elif replayed.verdict == "ends":
        words += f": {replayed.status}"
    return styled(words, style)


def print_replayed(screen: Console, replayed: Replayed, told: Told) -> None:
    """Header, ops, both sides of what differs."""
    header = Table.grid(padding=(0, 2))
    header.add_column(style="bold", no_wrap=True)
    header.add_column(overflow="fold")
    header.add_row("run", styled(replayed.run))
    header.add_row("function", styled(replayed.function))
    if replayed.end is not None:
        then = Text(f", {moment(replayed.end.at)}")
        header.add_row("in the log", status_text(replayed.end.status).append_text(then))
    header.add_row("now", verdict_text(replayed))
    screen.print(header)
    if replayed.asked:
        screen.print()
        screen.print(_ops(replayed, told))
    for line in explained(replayed):
        screen.print()
        screen.print(line, soft_wrap=True)


def _ops(replayed: Replayed, told: Told) -> Table:
    table = Table("", "op", "kind", box=None, header_style="bold")
    table.add_column("answered", no_wrap=True)
    table.add_column("value", overflow="fold")
    for one in replayed.asked:
        answered = clock(one.outcome.at) if one.outcome is not None else one.standing
        table.add_row(
            _MARKS[one.standing], *map(styled, (one.op, one.kind, answered)),
            styled(cut(told.values.get(one.op, ""), VALUE)),
        )  # fmt: skip
    return table


def explained(replayed: Replayed) -> list[Text]:
    """What differs, in words."""
    lines: list[Text] = []
    if replayed.verdict == "parks":
        lines.append(styled(f"log   {side(replayed.recorded)}\ncode  {side(replayed.requested)}", lines=True))
    if replayed.message:
        lines.append(styled(replayed.message, lines=True))
    if replayed.error is not None:
        lines.append(styled(replayed.error.traceback or f"{replayed.error.type}: {replayed.error.message}", lines=True))
    return lines


def side(op: AskedOp | None) -> str:
    """One of the two that differ."""
    return "nothing" if op is None else f"{op.op}  {op.digest}".rstrip()


def as_json_value(replayed: Replayed, told: Told) -> dict[str, Any]:
    """For programs."""
    end = replayed.end
    return {
        "run": replayed.run,
        "function": replayed.function,
        "verdict": replayed.verdict,
        "message": replayed.message,
        "status": replayed.status,
        "recorded_status": end.status if end is not None else "",
        "recorded": replayed.recorded,
        "requested": replayed.requested,
        "error": replayed.error,
        "at": [one.op for one in replayed.at],
        "ops": [_op_value(one, told) for one in replayed.asked],
    }


def _op_value(one: AskedFor, told: Told) -> dict[str, Any]:
    return {
        "op": one.op,
        "name": op_name(one.op),
        "kind": one.kind,
        "digest": one.digest,
        "standing": one.standing,
        "asked_at": one.at,
        "answered_at": one.outcome.at if one.outcome is not None else None,
        "value": told.values.get(one.op),
    }
