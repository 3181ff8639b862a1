"""Timer: what a fire does. It takes effect once, if the timer is the entity's present one, and never early (I9)."""

from perdure.flow import queues
from perdure.flow.definitions import CRON, drop_cron, set_cron, timer_key
from perdure.flow.effects import Refused, Retry, Schedule, Start
from perdure.flow.ending import end
from perdure.flow.ops import settle
from perdure.flow.routing import run_id
from perdure.flow.run import start
from perdure.flow.states import CronState, OpenOp, QueuedState, RunState, RunTimer
from perdure.flow.view import View
from perdure_schemas.payload import ErrorInfo
from perdure_schemas.records import RunRequested, TimerFired, V


def timer_fired(view: View, record: TimerFired, at: int) -> None:
    view.effects.fired.append((record.entity, record.timer, record.setter))
    if record.entity.startswith(CRON):
        _cron(view, record, at)
        return
    run = view.live(record.entity)
    if run is None:
        return
    timer = timer_of(view, run, record.timer)
    if timer is None or timer.due is None or timer.setter != record.setter:
        return
    if at < timer.due:
        _refuse(view, record)
    elif isinstance(timer, RunTimer):
        _run_timer(view, run, record, timer, at)
    elif isinstance(timer, QueuedState):
        queues.fired(view, run, record.timer, timer, at)
    else:
        _op_timer(view, run, record, timer, at)


def timer_of(view: View, run: RunState, name: str) -> RunTimer | OpenOp | QueuedState | None:
    """What holds the run's timer of this name, if anything does."""
    timer = run.timers.get(name) or run.open.get(name)
    if isinstance(timer, OpenOp) and timer.type == queues.QUEUED:
        return view.queued.get(queues.key_of(run.id, name))
    return timer


def _refuse(view: View, record: TimerFired) -> None:
    view.effects.acts.append(Refused(record.entity, record.timer, record.setter))


def _run_timer(view: View, run: RunState, record: TimerFired, timer: RunTimer, at: int) -> None:
    view.timers.remove(timer.due, timer_key(run.id, record.timer, record.setter))
    del run.timers[record.timer]
    view.runs.touch(run.id)
    if record.timer == "timeout":
        end(view, run, "failed", at, error=ErrorInfo("TimeoutError", "the run's own timeout", run=run.id))
    elif record.timer == "retry":
        view.effects.acts.append(Start(run.id))
    elif record.timer == "recall":
        lines = f"{run.recalled} of {run.fork.lines if run.fork else 0} lines"
        message = f"of its history {lines} came, and no more: whoever asked for the fork stopped; ask again"
        end(view, run, "discarded", at, error=ErrorInfo("perdure.errors.RunCancelled", message, run=run.id))
    elif run.discard_after_ms is not None and at > timer.due + run.discard_after_ms:
        end(view, run, "discarded", at)
    else:
        start(view, run, at)


def _op_timer(view: View, run: RunState, record: TimerFired, op: OpenOp, at: int) -> None:
    if op.type != "step":
        settle(view, run, record.timer, record, at)
        return
    assert op.due is not None
    view.timers.remove(op.due, timer_key(run.id, record.timer, record.setter))
    op.due = None
    view.runs.touch(run.id)
    view.effects.acts.append(Retry(run.id, record.timer, op.attempt))


def _cron(view: View, record: TimerFired, at: int) -> None:
    function = record.entity.removeprefix(CRON)
    state = view.crons.get(function)
    if state is None or state.setter != record.setter:
        return
    if at < state.due:
        _refuse(view, record)
        return
    routes = view.routes()
    assert routes is not None, "I13: a schedule without a definition"
    run = run_id(routes.definition.app, function, f"cron:{state.due}")
    scheduled = state.due if record.scheduled is None else record.scheduled
    asked = RunRequested(run, function, "cron", routes.number, since=view.stamp, scheduled=scheduled, v=V)
    view.send_to_run(run, asked)
    if record.next is None:
        drop_cron(view, function, state)
        view.effects.oblige(Schedule(function))
        return
    set_cron(view, function, CronState(state.line, state.tz, record.next, view.offset))
