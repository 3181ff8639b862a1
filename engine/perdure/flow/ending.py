"""The end of a run: everything that it holds elsewhere is given back, and who waits for it is told."""

from typing import Any

import msgspec

from perdure.flow import queues
from perdure.flow.definitions import timer_key
from perdure.flow.effects import Ended
from perdure.flow.lines import op_name
from perdure.flow.patterns import is_own
from perdure.flow.routing import is_run_id, run_id
from perdure.flow.states import OpenOp, RunState, count
from perdure.flow.view import View
from perdure.flow.wholes import row_of
from perdure_schemas.event import EventBody
from perdure_schemas.payload import INLINE_LIMIT_BYTES, RESULTS_LIMIT_BYTES, ErrorInfo, Payload
from perdure_schemas.records import (
    Ending,
    EventReceived,
    ListedWait,
    MatchSubscribed,
    OpOpened,
    Parent,
    RunAnswered,
    RunCancelRequested,
    RunRequested,
    RunWatched,
    StepCompleted,
    V,
)

FAILED_EVENT = "perdure/function.failed"
PARKED_EVENT = "perdure/run.parked"
_ENCODE = msgspec.json.Encoder().encode
_NO_WAITS: tuple[ListedWait, ...] = ()


def end(
    view: View,
    run: RunState,
    status: str,
    at: int,
    *,
    result: Payload | None = None,
    error: ErrorInfo | None = None,
    reason: str = "",
) -> None:
    """The run's one terminal (I5). What stays is a stub: id, status, trigger and result, for the window."""
    run.status = status
    count(view.meta.live, run.function, -1)
    run.ended_at, run.ended_offset = at, view.offset
    run.result = result
    if status != "completed":
        run.error = error or error_of(status, reason, run)
    if run.open or run.timers or run.waits or run.rules:
        _let_go(view, run)
    if status != "completed":
        _start_handler(view, run)
    if status == "failed":
        _send_failed(view, run)
    if run.parent is not None or run.watchers:
        _tell(view, run)
    if run.paused:
        leave(view, run)
    if run.parked is not None:
        view.parked.delete(run.id)
        run.parked = None
    if run.unparked:
        run.unparked = ()
    if run.waits or run.keys or run.taken or run.got or run.crashes or run.copies:
        run.waits, run.keys, run.taken, run.got, run.crashes, run.copies = {}, {}, {}, {}, {}, {}
    view.lines.clear(run.id)
    view.runs.touch(run.id)
    forget_later(view, run, at)
    view.effects.acts.append(Ended(run.id, status))


def leave(view: View, run: RunState) -> None:
    """It waits no more for its function to go on."""
    run.paused = False
    view.paused.delete(run.id)
    count(view.meta.waiting, run.function, -1)


def _tell(view: View, run: RunState) -> None:
    """Who called the run, and who watches it."""
    if run.status == "continued":
        # Whoever called it is the successor's parent already.
        for watcher in run.watchers:
            watch_heir(view, run, watcher.run, watcher.op)
    else:
        if run.parent is not None:
            answer(view, run, run.parent.run, run.parent.op)
        for watcher in run.watchers:
            answer(view, run, watcher.run, watcher.op)
    if run.watchers:
        run.watchers = []


def heir_of(run: str) -> str:
    """The run that a run continues as. Its result is the one's that it continues, and its cancel, too."""
    return run_id(run, "continue")


def watch_heir(view: View, run: RunState, watcher: str, op: str) -> None:
    """Who awaits a continued run awaits its successor."""
    heir = heir_of(run.id)
    view.send_to_run(heir, RunWatched(heir, Parent(watcher, op), "result", v=V))


def error_of(status: str, reason: str, run: RunState) -> ErrorInfo | None:
    if status == "cancelled":
        return ErrorInfo("perdure.errors.RunCancelled", reason or "the run was cancelled", run=run.id)
    if status == "discarded":
        return ErrorInfo("perdure.errors.RunCancelled", "discarded: it could not start in time", run=run.id)
    return None


def forget_later(view: View, run: RunState, at: int) -> None:
    view.expiries.add(at + view.window_ms(), b"r/" + run.id.encode())
    for offset in run.wholes:
        view.expiries.add(at + view.window_ms(), row_of(offset))


def _let_go(view: View, run: RunState) -> None:
    if run.open:
        for name, op in run.open.items():
            if op.due is not None:
                view.timers.remove(op.due, timer_key(run.id, name, op.setter))
            if op.type == queues.QUEUED:
                queues.drop(view, run, name, f"its run ended: {run.status}")
            if op.child:
                _cancel_child(view, run, op)
        run.open = {}
    if run.timers:
        for name, timer in run.timers.items():
            view.timers.remove(timer.due, timer_key(run.id, name, timer.setter))
        run.timers = {}
    for key in run.waits:
        cursor = run.keys[key]
        cursor.g += 1
        view.send(view.partition_of(key), MatchSubscribed(run.id, key, cursor.g, _NO_WAITS, v=V))
    for index, rule in enumerate(run.rules):
        view.send(view.partition_of(rule.key), MatchSubscribed(run.id, rule.key, 2, _NO_WAITS, rule=index, v=V))


def _cancel_child(view: View, run: RunState, op: OpenOp) -> None:
    view.send_to_run(op.child, RunCancelRequested(op.child, reason=f"its parent {run.id} ended ({run.status})", v=V))


def answer(view: View, run: RunState, watcher: str, op: str) -> None:
    """Tell another run what this one's state or end is."""
    ended = run.ended_at is not None
    view.send_to_run(
        watcher,
        RunAnswered(
            watcher,
            op,
            run.id,
            run.status,
            result=view.inline(run.result) if ended else None,
            error=run.error if ended else None,
            v=V,
        ),
    )


def _start_handler(view: View, run: RunState) -> None:
    """`on_failure` and `on_cancel` are runs of their own. They get the last result of each step by name."""
    defined = view.defined(run) if run.status in ("failed", "cancelled") else None
    if defined is None:
        return
    handler = defined.on_failure if run.status == "failed" else defined.on_cancel
    if not handler:
        return
    run_of_handler = run_id(run.id, handler)
    event = view.inline(run.event, "event")
    ending = Ending(run.id, run.function, run.status, run.error, event, _results(view, run))
    view.send_to_run(
        run_of_handler,
        RunRequested(
            run_of_handler,
            handler,
            "handler",
            number=max(view.meta.current, run.number),
            event_id=run.event_id,
            since=view.stamp,
            metadata=run.metadata,
            ending=ending,
            traceparent=run.traceparent,
            v=V,
        ),
    )


def _results(view: View, run: RunState) -> dict[str, Payload]:
    results: dict[str, Payload] = {}
    functions: dict[str, str] = {}
    for line in view.lines.load(run.id):
        record = view.lines.whole(run.id, line)
        name = op_name(line.op)
        if isinstance(record, OpOpened):
            functions[line.op] = getattr(record.opening, "function", "")
        elif isinstance(record, StepCompleted):
            results[name] = record.result
        elif isinstance(record, RunAnswered) and record.status == "completed" and record.result is not None:
            results[functions.get(line.op) or name] = record.result
    return _that_fit(results)


def _that_fit(results: dict[str, Payload]) -> dict[str, Payload]:
    """All of them by name, but those without content that one record has no room for: the largest."""
    sizes = {name: len(memoryview(one.inline)) for name, one in results.items() if isinstance(one.inline, msgspec.Raw)}
    whole = sum(sizes.values())
    for name in sorted(sizes, key=sizes.__getitem__, reverse=True):
        if whole <= RESULTS_LIMIT_BYTES:
            break
        whole -= sizes[name]
        results[name] = Payload()
    return results


def _send_failed(view: View, run: RunState) -> None:
    """`perdure/function.failed`, but not for what began with such an event: that would never end."""
    if _began_with_one(run):
        return
    error = run.error or ErrorInfo("", "")
    told = {"type": error.type, "message": error.message[:INLINE_LIMIT_BYTES], "attempts": error.attempts}
    _send_about(view, run, "failed", FAILED_EVENT, {"error": told})


def send_parked(view: View, run: RunState, reason: str) -> None:
    """`perdure/run.parked`, each time that it is; only where somebody listens: a bad deploy may park thousands."""
    routes = view.routes()
    listeners = view.meta.paths.get(PARKED_EVENT) or (routes and routes.triggered_by(PARKED_EVENT))
    if listeners and not _began_with_one(run):
        _send_about(view, run, f"parked-{view.offset}", PARKED_EVENT, {"reason": reason[:INLINE_LIMIT_BYTES]})


def _began_with_one(run: RunState) -> bool:
    """Whether such an event started it, or it is a function of the engine itself, which tells people of them."""
    before, _, about = run.event_id.rpartition(":")
    return is_own(run.function) or ((about == "failed" or about.startswith("parked-")) and is_run_id(before))


def _send_about(view: View, run: RunState, what: str, name: str, more: dict[str, Any]) -> None:
    data = {"run_id": run.id, "function_id": run.function, **more, "event_id": run.event_id}
    event = EventBody(f"{run.id}:{what}", name, msgspec.Raw(_ENCODE(data)), traceparent=run.traceparent)
    view.send(view.partition_of(event.id), EventReceived(event, v=V))
