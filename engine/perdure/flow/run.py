"""Run: requested, started, cancelled, parked, finished. What its ops do is in `ops.py`, its end in `ending.py`.

run.requested ─► queued ─(due)─► running ─► completed | failed | continued      by run.finished
                                  │   ▲
                                  ▼   │ other code, or a command
                                 parked
any of these ─► cancelled   by run.cancel_requested or a cancel rule;   queued ─► discarded   when too late
"""

from perdure.flow.definitions import timer_key, unpark
from perdure.flow.effects import Parked, Start
from perdure.flow.ending import answer, end, error_of, forget_later, heir_of, send_parked, watch_heir
from perdure.flow.ops import close_op, shorten, successor_of
from perdure.flow.states import COMMANDS_KEPT, TERMINAL, ParkedState, PausedRun, RunState, RunTimer, Watcher, count
from perdure.flow.view import View
from perdure_schemas.payload import INLINE_LIMIT_BYTES
from perdure_schemas.records import (
    CancelRule,
    KeyCursor,
    ListedWait,
    MatchSubscribed,
    RunAnswered,
    RunCancelRequested,
    RunErrored,
    RunFinished,
    RunParked,
    RunRequested,
    RunRerunRequested,
    RunUnparked,
    RunWatched,
    V,
)

RECALL_MS = 600_000
"""From the request of a fork until the last line of its history has come: it is written in one go."""


def run_requested(view: View, record: RunRequested, at: int) -> None:
    """The first request of a run counts; it registers its cancel rules and starts, now or when due."""
    known = view.runs.get(record.run)
    if known is not None:
        if known.status in TERMINAL and record.parent is not None:
            # Cancelled before it was requested: whoever calls it must not wait for ever.
            answer(view, known, record.parent.run, record.parent.op)
        return
    run = _new_run(view, record, at)
    view.runs.put(run.id, run)
    view.lines.begin(run.id)
    count(view.meta.live, run.function, 1)
    if run.rules:
        for index, rule in enumerate(run.rules):
            _subscribe_rule(view, run, index, rule)
    if run.fork is not None and run.fork.lines:
        set_run_timer(view, run, "recall", at + RECALL_MS)
        return
    due = at + record.delay_ms if record.delay_ms is not None else record.due
    if due is not None and due > at:
        set_run_timer(view, run, "start", due)
    else:
        start(view, run, at)


def _new_run(view: View, record: RunRequested, at: int) -> RunState:
    event = None if record.event is None else shorten(view, record.event)
    arguments = None if record.arguments is None else shorten(view, record.arguments)
    # By position, in the order of the fields: so many by name cost three times as much.
    run = RunState(
        record.run,
        record.function,
        "queued",
        record.cause,
        max(record.number, view.meta.current),
        event,
        arguments,
        record.event_id,
        record.source,
        record.since if record.since is not None else view.stamp,
        record.came,
        record.copies,
        record.rules,
        record.parent,
        record.discard_after_ms,
        record.metadata,
        record.rerun_of,
        record.scheduled,
        record.ending,
        record.traceparent,
        at,
        requested_offset=view.offset,
        fork=record.fork,
    )
    heritage = record.heritage
    if heritage is not None:
        run.keys = {key: _heir(cursor) for key, cursor in heritage.keys.items()}
        run.taken = {event_id: int(taken) for event_id, (taken,) in heritage.taken.items()}
    if record.ending is not None and len(view.raw) > INLINE_LIMIT_BYTES:
        view.wholes.add(view.offset, view.raw)
        run.ending, run.ending_at = None, view.offset
    if event is not record.event or arguments is not record.arguments or run.ending_at >= 0:
        run.wholes = (view.offset,)
    return run


def _heir(cursor: KeyCursor) -> KeyCursor:
    """A successor's subscriptions are its own: they are numbered anew, what was consumed stays so."""
    return KeyCursor(0, cursor.upto, cursor.also, cursor.but, cursor.elsewhere)


def _subscribe_rule(view: View, run: RunState, index: int, rule: CancelRule) -> None:
    view.send(
        view.partition_of(rule.key),
        MatchSubscribed(
            run.id,
            rule.key,
            1,
            waits=(ListedWait(f"!{index}", rule.where),),
            rule=index,
            event_id=run.event_id,
            since=run.since,
            came=run.came,
            own=run.copies.get(rule.key),
            source=run.source,
            until=None if rule.timeout_ms is None else run.since + rule.timeout_ms,
            lookback_ms=view.lookback_ms(run),
            v=V,
        ),
    )


def start(view: View, run: RunState, at: int) -> None:
    """User code may run from here on, unless its function is paused; the run's own timeout begins."""
    if run.function in view.meta.paused:
        run.paused = True
        view.paused.put(run.id, PausedRun(run.function, view.offset, at))
        count(view.meta.waiting, run.function, 1)
        view.runs.touch(run.id)
        return
    run.status = "running"
    run.started_at = at
    view.runs.touch(run.id)
    defined = view.defined(run)
    if defined is not None and defined.timeout_ms is not None:
        set_run_timer(view, run, "timeout", at + defined.timeout_ms)
    view.effects.acts.append(Start(run.id))


def drop_run_timer(view: View, run: RunState, name: str) -> None:
    old = run.timers.pop(name, None)
    if old is not None:
        view.timers.remove(old.due, timer_key(run.id, name, old.setter))


def set_run_timer(view: View, run: RunState, name: str, due: int) -> None:
    drop_run_timer(view, run, name)
    run.timers[name] = RunTimer(due, view.offset)
    view.timers.add(due, timer_key(run.id, name, view.offset))
    view.runs.touch(run.id)


def run_cancel_requested(view: View, record: RunCancelRequested, at: int) -> None:
    """A cancel for a run that is not known yet is kept as an ended run: it must not start later."""
    run = view.runs.get(record.run)
    if run is None:
        run = RunState(record.run, "", "cancelled", requested_at=at, ended_at=at, ended_offset=view.offset)
        run.error = error_of("cancelled", record.reason, run)
        view.runs.put(run.id, run)
        forget_later(view, run, at)
    elif run.status == "continued":
        heir = heir_of(run.id)
        view.send_to_run(heir, RunCancelRequested(heir, record.command, record.reason, v=V))
    elif run.status not in TERMINAL:
        end(view, run, "cancelled", at, reason=record.reason)


def run_rerun_requested(view: View, record: RunRerunRequested, at: int) -> None:
    """A new run on the same trigger or arguments. For its waits, what comes after the command counts."""
    if record.via:
        first, *via = record.via
        view.send_to_run(first, RunRerunRequested(record.run, record.new_run, record.command, tuple(via), v=V))
        return
    run = view.runs.get(record.run)
    if run is None or not run.function:
        return
    view.send_to_run(
        record.new_run,
        RunRequested(
            record.new_run,
            run.function,
            "rerun",
            number=view.meta.current,
            event=view.inline(run.event, "event"),
            arguments=view.inline(run.arguments, "arguments"),
            event_id=run.event_id,
            since=view.stamp,
            rules=run.rules,
            metadata=run.metadata,
            command=record.command,
            rerun_of=run.id,
            ending=view.ending_of(run),
            scheduled=run.scheduled,
            traceparent=run.traceparent,
            v=V,
        ),
    )


def run_parked(view: View, record: RunParked, at: int) -> None:
    """An opinion of the owner: a zombie's does not count."""
    run = view.live(record.run)
    if run is None or record.owner != view.meta.owner or run.status != "running":
        return
    run.status = "parked"
    run.parked = ParkedState(record.code, record.message)
    view.runs.touch(run.id)
    view.parked.put(run.id, record.code)
    view.effects.oblige(Parked(run.id))
    send_parked(view, run, record.message)


def run_unparked(view: View, record: RunUnparked, at: int) -> None:
    """A copy may come when it is parked anew: that is another parking, which nobody has looked at yet."""
    run = view.live(record.run)
    if run is None or record.command in run.unparked:
        return
    run.unparked = (*run.unparked, record.command)[-COMMANDS_KEPT:]
    view.runs.touch(run.id)
    if run.status == "parked":
        unpark(view, run)


def run_errored(view: View, record: RunErrored, at: int) -> None:
    """The function itself raised: it runs again, on what it has recorded, after a backoff."""
    run = view.live(record.run)
    if run is None or run.status != "running" or record.attempt != run.attempt:
        return
    run.attempt += 1
    set_run_timer(view, run, "retry", at + record.retry_in_ms)


def run_finished(view: View, record: RunFinished, at: int) -> None:
    """User code came to its end. A cancelled run never completes: an ended one takes no other end."""
    run = view.live(record.run)
    if run is None:
        return
    for op in record.closes:
        close_op(view, run, op)
    if record.successor is not None:
        successor_of(view, run, record.successor)
    result = None if record.result is None else shorten(view, record.result)
    if result is not record.result:
        run.wholes = (*run.wholes, view.offset)
    end(view, run, record.status, at, result=result, error=record.error)


def run_watched(view: View, record: RunWatched, at: int) -> None:
    """Answered at once if the run has ended or only its status is asked for; else when it ends."""
    if record.via:
        first, *via = record.via
        view.send_to_run(first, RunWatched(record.run, record.watcher, record.want, tuple(via), v=V))
        return
    run = view.runs.get(record.run)
    if run is None:
        asker = record.watcher
        view.send_to_run(asker.run, RunAnswered(asker.run, asker.op, record.run, "unknown", v=V))
    elif run.status == "continued" and record.want == "result":
        watch_heir(view, run, record.watcher.run, record.watcher.op)
    elif record.want == "status" or run.status in TERMINAL:
        answer(view, run, record.watcher.run, record.watcher.op)
    else:
        watcher = Watcher(record.watcher.run, record.watcher.op)
        if watcher not in run.watchers:
            # A pod that asks from outside may ask again.
            run.watchers.append(watcher)
            view.runs.touch(run.id)
