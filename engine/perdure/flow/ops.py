"""Ops of a run: opened, settled, closed. One op has one outcome, the first in log order (I4)."""

from collections.abc import Callable

import msgspec
from msgspec.structs import replace

from perdure.flow import queues
from perdure.flow.definitions import timer_key
from perdure.flow.effects import Attempted, Closed, Deliver, Faltered, Opened, Outcome
from perdure.flow.ending import end, heir_of
from perdure.flow.lines import NewLine, is_immediate
from perdure.flow.routing import is_run_id
from perdure.flow.states import Crashes, OpenOp, RunState, Taken
from perdure.flow.view import View
from perdure_schemas.event import EventBody
from perdure_schemas.payload import INLINE_LIMIT_BYTES, Payload, Ref
from perdure_schemas.records import (
    Call,
    CancelRun,
    EventReceived,
    Heritage,
    KeyCursor,
    ListedWait,
    MatchOffered,
    MatchSubscribed,
    OpClosed,
    Opening,
    OpOpened,
    Parent,
    Queued,
    RerunRun,
    RunAnswered,
    RunCancelRequested,
    RunRequested,
    RunRerunRequested,
    RunWatched,
    Send,
    Sleep,
    StepAttempted,
    StepCompleted,
    StepFailed,
    V,
    Wait,
    Watch,
)

_ENCODE = msgspec.json.Encoder().encode
SKEW_MS = 3_600_000
"""Partitions' clocks may differ by this much: what one has forgotten no other brings again."""


def shorten(view: View, payload: Payload) -> Payload:
    """A large payload of the record that is folded is kept once, as that record, and referred to by its entity."""
    if payload.ref is not None or len(view.raw) <= INLINE_LIMIT_BYTES:
        return payload
    inline = payload.inline
    if isinstance(inline, msgspec.Raw) and len(memoryview(inline)) > INLINE_LIMIT_BYTES:
        view.wholes.add(view.offset, view.raw)
        return Payload(ref=Ref(view.partition, view.offset), encoded=payload.encoded)
    return payload


def settle(view: View, run: RunState, op: str, outcome: Outcome, at: int) -> None:
    """The op has its outcome: its line is written, and the run may go on. A wait leaves its key's list."""
    opened = _unopen(view, run, op) if run.open or run.crashes else None
    line = Deliver(run.id, op, outcome, at, view.offset, view.raw)
    view.lines.settle(line)
    view.effects.acts.append(line)
    if opened is not None and opened.key:
        subscribe(view, run, opened.key, again=isinstance(outcome, MatchOffered))


def _unopen(view: View, run: RunState, op: str, why: str = "") -> OpenOp | None:
    """The op is no longer open, nor a wait on its key. Returns what it was, if it was. `why`, if by no outcome."""
    if run.crashes.pop(op, None) is not None:
        view.runs.touch(run.id)
    opened = run.open.pop(op, None)
    if opened is None:
        return None
    view.runs.touch(run.id)
    if opened.due is not None:
        view.timers.remove(opened.due, timer_key(run.id, op, opened.setter))
    if opened.type == queues.QUEUED:
        queues.drop(view, run, op, why)
    if opened.key:
        waits = run.waits[opened.key]
        del waits[op]
        if not waits:
            del run.waits[opened.key]
    return opened


def step_completed(view: View, record: StepCompleted, at: int) -> None:
    run = view.runs.cache.get(record.run)
    if run is None or run.status != "running":
        run = view.live(record.run)
        if run is None:
            return
    if run.open or run.crashes:
        if record.op not in view.lines.done(run.id):
            settle(view, run, record.op, record, at)
        return
    line = Deliver(run.id, record.op, record, at, view.offset, view.raw)
    if view.lines.settle(line):
        view.effects.acts.append(line)


def step_failed(view: View, record: StepFailed, at: int) -> None:
    """Counts only for the current attempt. With a retry the op stays open until its timer fires."""
    run = view.live(record.run)
    if run is None or record.op in view.lines.done(run.id):
        return
    opened = run.open.get(record.op)
    if opened is not None and opened.type == queues.QUEUED:
        if queues.failed(view, run, record, at):
            settle(view, run, record.op, record, at)
        return
    if record.attempt != (opened.attempt if opened else 1):
        return
    if record.retry_in_ms is None:
        settle(view, run, record.op, record, at)
        return
    if opened is not None and opened.due is not None:
        view.timers.remove(opened.due, timer_key(run.id, record.op, opened.setter))
    due = at + record.retry_in_ms
    run.open[record.op] = OpenOp("step", record.digest, record.attempt + 1, due, view.offset)
    view.timers.add(due, timer_key(run.id, record.op, view.offset))
    view.runs.touch(run.id)
    view.effects.acts.append(Faltered(run.id, record, at))


def step_attempted(view: View, record: StepAttempted, at: int) -> None:
    """A step that may have been running when its process died. The owner's opinion: a zombie's does not count."""
    run = view.live(record.run)
    if run is None or record.owner != view.meta.owner or record.op in view.lines.done(run.id):
        return
    crashes = run.crashes.setdefault(record.op, Crashes())
    crashes.alone += crashes.last_alone
    crashes.count += 1
    crashes.last_alone = record.alone
    view.runs.touch(run.id)
    view.effects.oblige(Attempted(run.id, record.op))


def op_opened(view: View, record: OpOpened, at: int) -> None:
    run = view.live(record.run)
    if run is None or record.op in run.open or record.op in view.lines.done(run.id):
        return
    view.runs.touch(run.id)
    view.effects.acts.append(Opened(run.id, record.op, record.digest))
    if is_immediate(record):
        _OPENERS[type(record.opening)](view, run, record, at)
        settle(view, run, record.op, record, at)
        return
    if not isinstance(record.opening, Queued):
        # Of a step nothing but its outcome is replayed, wherever it ran.
        view.lines.add(NewLine(run.id, record.op, at, view.offset, view.raw))
    _OPENERS[type(record.opening)](view, run, record, at)


def _open_sleep(view: View, run: RunState, record: OpOpened, at: int) -> None:
    opening = record.opening
    assert isinstance(opening, Sleep)
    due = max(at, opening.until if opening.until is not None else at + (opening.for_ms or 0))
    op = OpenOp("sleep", record.digest, due=due, setter=view.offset, purpose=opening.purpose)
    run.open[record.op] = op
    view.timers.add(due, timer_key(run.id, record.op, view.offset))


def _open_wait(view: View, run: RunState, record: OpOpened, at: int) -> None:
    opening = record.opening
    assert isinstance(opening, Wait)
    due = None if opening.timeout_ms is None else at + opening.timeout_ms
    run.open[record.op] = OpenOp("wait", record.digest, due=due, setter=view.offset, key=opening.key)
    run.waits.setdefault(opening.key, {})[record.op] = opening.where
    if due is not None:
        view.timers.add(due, timer_key(run.id, record.op, view.offset))
    run.keys.setdefault(opening.key, KeyCursor())
    subscribe(view, run, opening.key)


def _open_call(view: View, run: RunState, record: OpOpened, at: int) -> None:
    opening = record.opening
    assert isinstance(opening, Call)
    if opening.awaited:
        run.open[record.op] = OpenOp("call", record.digest, child=opening.run)
    view.send_to_run(
        opening.run,
        RunRequested(
            opening.run,
            opening.function,
            "call" if opening.awaited else "enqueue",
            number=view.meta.current,
            arguments=opening.arguments,
            parent=Parent(run.id, record.op) if opening.awaited else None,
            rules=opening.rules,
            delay_ms=opening.delay_ms,
            discard_after_ms=opening.discard_after_ms,
            metadata=opening.metadata,
            traceparent=opening.traceparent,
            v=V,
        ),
    )


def _open_send(view: View, run: RunState, record: OpOpened, at: int) -> None:
    assert isinstance(record.opening, Send)
    for event in record.opening.events:
        view.send(view.partition_of(event.id), EventReceived(event, v=V))


def _open_watch(view: View, run: RunState, record: OpOpened, at: int) -> None:
    opening = record.opening
    assert isinstance(opening, Watch)
    run.open[record.op] = OpenOp("watch", record.digest)
    if is_run_id(opening.run):
        first, *via = (*opening.via, opening.run)
        watched = RunWatched(opening.run, Parent(run.id, record.op), opening.want, tuple(via), v=V)
        view.send_to_run(first, watched)
    else:
        view.send_to_run(run.id, RunAnswered(run.id, record.op, opening.run, "unknown", v=V))


def _open_cancel(view: View, run: RunState, record: OpOpened, at: int) -> None:
    opening = record.opening
    assert isinstance(opening, CancelRun)
    if is_run_id(opening.run):
        view.send_to_run(opening.run, RunCancelRequested(opening.run, reason=opening.reason, v=V))


def _open_rerun(view: View, run: RunState, record: OpOpened, at: int) -> None:
    opening = record.opening
    assert isinstance(opening, RerunRun)
    if is_run_id(opening.run):
        first, *via = (*opening.via, opening.run)
        view.send_to_run(first, RunRerunRequested(opening.run, opening.new_run, via=tuple(via), v=V))


def _open_queued(view: View, run: RunState, record: OpOpened, at: int) -> None:
    opening = record.opening
    assert isinstance(opening, Queued)
    run.open[record.op] = OpenOp(queues.QUEUED, record.digest, setter=view.offset)
    opening = replace(opening, arguments=shorten(view, opening.arguments))
    queues.begin(view, run, record.op, opening, record.digest, at)


_OPENERS: dict[type[Opening], Callable[[View, RunState, OpOpened, int], None]] = {
    Sleep: _open_sleep,
    Wait: _open_wait,
    Call: _open_call,
    Send: _open_send,
    Watch: _open_watch,
    CancelRun: _open_cancel,
    RerunRun: _open_rerun,
    Queued: _open_queued,
}


def run_answered(view: View, record: RunAnswered, at: int) -> None:
    """A call's or watch's answer. The first counts, and only while the op is open."""
    run = view.live(record.run)
    opened = run.open.get(record.op) if run is not None else None
    if run is not None and opened is not None and opened.type in ("call", "watch"):
        settle(view, run, record.op, record, at)


def op_closed(view: View, record: OpClosed, at: int) -> None:
    run = view.live(record.run)
    if run is None:
        return
    taken = record.op in run.got
    if close_op(view, run, record.op):
        view.effects.acts.append(Closed(run.id, record.op, taken))
        view.lines.done(run.id).add(record.op)
        view.lines.add(NewLine(run.id, record.op, at, view.offset, view.raw))


def close_op(view: View, run: RunState, op: str) -> bool:
    """User code does not want the op any more. A wait gives its event back. Whether that changed anything."""
    opened = _unopen(view, run, op, "its run does not want it any more")
    if opened is None:
        return _give_back(view, run, op) or op not in view.lines.done(run.id)
    if opened.key:
        subscribe(view, run, opened.key)
    if opened.child:
        view.send_to_run(opened.child, RunCancelRequested(opened.child, reason=f"closed by {run.id}", v=V))
    return True


def subscribe(view: View, run: RunState, key: str, *, again: bool = False) -> None:
    """Send this run's list of open waits on a key, with the next number and what was consumed.

    `again`: after an event was taken or given back; then an empty list needs no word.
    """
    listed = run.waits.get(key)
    if again and not listed:
        return
    waits = tuple(ListedWait(op, where) for op, where in listed.items()) if listed else ()
    cursor = run.keys[key]
    cursor.g += 1
    view.runs.touch(run.id)
    view.send(
        view.partition_of(key),
        MatchSubscribed(
            run.id,
            key,
            cursor.g,
            waits,
            upto=cursor.upto,
            also=tuple(cursor.also),
            but=tuple(cursor.but),
            event_id=run.event_id,
            since=run.since,
            came=run.came,
            own=run.copies.get(key),
            source=run.source,
            lookback_ms=view.lookback_ms(run),
            v=V,
        ),
    )


def match_offered(view: View, record: MatchOffered, at: int) -> None:
    """An event for a wait, or for a cancel rule. Only the answer to the latest subscription counts."""
    run = view.live(record.run)
    if run is None:
        return
    if record.rule >= 0:
        end(view, run, "cancelled", at, reason=f"event {record.event_id} matched its cancel_on")
        return
    cursor = run.keys.get(record.key)
    if cursor is None or record.g != cursor.g:
        return
    _mark(cursor, record.position, record.hole)
    view.runs.touch(run.id)
    if record.event_id in run.taken:
        # Consumed through another key of this run: once is enough (I12).
        cursor.elsewhere[record.event_id] = record.position
        subscribe(view, run, record.key)
        return
    assert record.op in run.open, "I12: the latest subscription lists a wait that is not open"
    _forget_taken(run, at - view.lookback_ms(run) - SKEW_MS)
    run.got[record.op] = Taken(record.event_id, record.key, record.position, at)
    run.taken[record.event_id] = at
    settle(view, run, record.op, record, at)


def _mark(cursor: KeyCursor, position: int, hole: int | None) -> None:
    """Consumed, or as good as: all below the earliest event that was passed over, and this one."""
    if position in cursor.but:
        cursor.but.remove(position)
        return
    cursor.upto = max(cursor.upto, position if hole is None else hole - 1)
    cursor.also = [other for other in cursor.also if other > cursor.upto]
    if position > cursor.upto:
        cursor.also.append(position)


def _unmark(cursor: KeyCursor, position: int) -> None:
    if position in cursor.also:
        cursor.also.remove(position)
    else:
        cursor.but.append(position)


def _forget_taken(run: RunState, before: int) -> None:
    """What was consumed so long ago that no matcher keeps it: a run's state is as large as its look-back."""
    while run.got:
        op, taken = next(iter(run.got.items()))
        if taken.at >= before:
            break
        del run.got[op]
    while run.taken:
        event_id, at = next(iter(run.taken.items()))
        if at >= before:
            break
        del run.taken[event_id]
        for cursor in run.keys.values():
            cursor.elsewhere.pop(event_id, None)


def _give_back(view: View, run: RunState, op: str) -> bool:
    """A wait that took an event was closed before its result was delivered: the event is free again."""
    taken = run.got.pop(op, None)
    if taken is None:
        return False
    view.runs.touch(run.id)
    run.taken.pop(taken.event_id, None)
    _unmark(run.keys[taken.key], taken.position)
    for key, cursor in run.keys.items():
        position = cursor.elsewhere.pop(taken.event_id, None)
        if position is not None:
            _unmark(cursor, position)
        if key == taken.key or position is not None:
            subscribe(view, run, key, again=True)
    return True


def successor_of(view: View, run: RunState, event: EventBody) -> None:
    """`continue_as`: the successor inherits the trigger's place and what was consumed."""
    new = heir_of(run.id)
    view.send_to_run(
        new,
        RunRequested(
            new,
            run.function,
            "continue",
            number=view.meta.current,
            event=Payload(msgspec.Raw(_ENCODE(event))),
            event_id=run.event_id,
            source=run.source,
            since=run.since,
            came=run.came,
            copies=run.copies,
            rules=run.rules,
            parent=run.parent,
            metadata=run.metadata,
            rerun_of=run.rerun_of,
            scheduled=run.scheduled,
            heritage=Heritage(run.keys, {event_id: [str(at)] for event_id, at in run.taken.items()}),
            v=V,
        ),
    )
