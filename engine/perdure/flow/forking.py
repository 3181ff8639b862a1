"""A fork: a run that begins with a part of another run's history, with something changed in it.

run.requested {fork} ─► queued ─ run.recalled 0, 1, … ─► running, when the last line has come
                          └────── too late ─────────────► discarded

The lines come one a record, since a history may be larger than a record, and who asks for the fork may die between two
of them. Asked for again by the same command it goes on where it was; if nobody does, it ends without having begun.
"""

import msgspec

from perdure.flow.effects import Deliver, Line, Recalled
from perdure.flow.lines import NewLine, is_immediate
from perdure.flow.run import drop_run_timer, start
from perdure.flow.states import RunState
from perdure.flow.view import View
from perdure_schemas.records import OpClosed, OpOpened, RunRecalled, TimerFired

_DECODE: msgspec.json.Decoder[Line] = msgspec.json.Decoder(Line)


def run_recalled(view: View, record: RunRecalled, at: int) -> None:
    """The next line of the fork's history. What the other run did is not done again, and nothing waits for it."""
    run = view.live(record.run)
    if run is None or run.fork is None or record.n != run.recalled or run.status != "queued":
        return
    run.recalled += 1
    view.runs.touch(run.id)
    _add(view, run, record)
    if run.recalled == run.fork.lines:
        drop_run_timer(view, run, "recall")
        start(view, run, at)


def _add(view: View, run: RunState, record: RunRecalled) -> None:
    raw = bytes(record.line)
    line = _DECODE.decode(raw)
    op = line.timer if isinstance(line, TimerFired) else line.op
    if op in run.open:
        return
    if isinstance(line, OpClosed) or (isinstance(line, OpOpened) and not is_immediate(line)):
        if isinstance(line, OpClosed):
            view.lines.done(run.id).add(op)
        view.lines.add(NewLine(run.id, op, record.at, view.offset, raw))
    elif not view.lines.settle(Deliver(run.id, op, line, record.at, view.offset, raw)):
        return
    view.effects.acts.append(Recalled(run.id, op, line, record.at))
