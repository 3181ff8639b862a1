"""The folds: `(view, record, at) → effects`. Pure and synchronous: no clock, no I/O, no event loop.

    order  fold         entity                  records
    -----  -----------  ----------------------  ---------------------------------------------------------------------
    0      definitions  app, owner, schedule    app.defined app.paths app.ready app.activated
                                                owner.started owner.released cron.scheduled
    0      pausing      function                function.pause_requested function.paused
    1      intake       event id                event.received
    3      run          run id                  run.requested run.cancel_requested run.rerun_requested run.unparked
                                                run.parked run.errored run.finished run.watched run.recalled
                                                run.answered step.completed step.failed step.attempted
                                                op.opened op.closed match.offered
    5      matcher      event name, path, value event.keyed match.subscribed
    6      timer        timer of an entity      timer.fired
    7      queues       step in a queue         step.claimed step.released step.answered

Admission (2) and slots (4) come with flow control; their place in the order is kept. A test compares this table
with `FOLDS`.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from perdure.flow import definitions, forking, intake, matcher, ops, pausing, queues, run, timer
from perdure.flow.imported import without_orig
from perdure.flow.view import View
from perdure_schemas import records as r

FOLD_VERSION = 2
"""Changes when the same log would fold to another state: a store of another version is folded again."""

FOLDS: dict[type[r.Record], Callable[[View, Any, int], None]] = {
    r.AppDefined: definitions.app_defined,
    r.AppPaths: definitions.app_paths,
    r.AppReady: definitions.app_ready,
    r.AppActivated: definitions.app_activated,
    r.OwnerStarted: definitions.owner_started,
    r.OwnerReleased: definitions.owner_released,
    r.CronScheduled: definitions.cron_scheduled,
    r.PauseRequested: pausing.pause_requested,
    r.FunctionPaused: pausing.function_paused,
    r.EventReceived: intake.event_received,
    r.RunRequested: run.run_requested,
    r.RunRecalled: forking.run_recalled,
    r.RunCancelRequested: run.run_cancel_requested,
    r.RunRerunRequested: run.run_rerun_requested,
    r.RunUnparked: run.run_unparked,
    r.RunParked: run.run_parked,
    r.RunErrored: run.run_errored,
    r.RunFinished: run.run_finished,
    r.RunWatched: run.run_watched,
    r.RunAnswered: ops.run_answered,
    r.StepCompleted: ops.step_completed,
    r.StepFailed: ops.step_failed,
    r.StepAttempted: ops.step_attempted,
    r.OpOpened: ops.op_opened,
    r.OpClosed: ops.op_closed,
    r.MatchOffered: ops.match_offered,
    r.EventKeyed: matcher.event_keyed,
    r.MatchSubscribed: matcher.match_subscribed,
    r.TimerFired: timer.timer_fired,
    r.StepClaimed: queues.step_claimed,
    r.StepReleased: queues.step_released,
    r.StepAnswered: queues.step_answered,
}

_DECODER: msgspec.json.Decoder[r.AnyRecord] = msgspec.json.Decoder(r.AnyRecord)
_UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


Own = deque[tuple[bytes, r.AnyRecord]]
"""Records beside their bytes, as they were appended."""


class UnreadableRecord(Exception):
    """A record of an unknown kind or version: its partition halts, it is never skipped."""


def decode(raw: bytes) -> r.AnyRecord:
    """Raises `UnreadableRecord` for a kind or a version that this code does not know."""
    try:
        record = _DECODER.decode(raw)
    except _UNDECODABLE as error:
        raise _unreadable(error, raw) from error
    if record.v > r.V:
        raise _unreadable(f"version {record.v}, this code knows up to {r.V}", raw)
    return record


def _unreadable(why: object, raw: bytes) -> UnreadableRecord:
    return UnreadableRecord(f"{why}: {raw[:200]!r}")


def fold(
    view: View,
    record: r.AnyRecord,
    raw: bytes,
    offset: int,
    stamp_ms: int,
    folds: Mapping[type[r.Record], Callable[[View, Any, int], None]] = FOLDS,
) -> bool:
    """Fold one record of the view's partition; effects collect in `view.effects`. False if it was a repetition.

    `offset` and `stamp_ms` are the record's own in this log. Folds see the largest time so far, and of what was copied
    from another log the place and time there; what came after that goes on counting from them (see `imported.py`).
    `folds`: history looks on with fewer.
    """
    meta, orig = view.meta, record.orig
    if orig is not None:
        if orig.offset <= meta.imported:
            meta.moved -= 1  # it takes no place: the next one's is what it would be without it
            return False
        meta.imported, meta.moved = orig.offset, orig.offset - offset
        stamp_ms, raw, record = orig.at, without_orig(raw, orig), replace(record, orig=None)
    view.offset = offset + meta.moved
    view.raw = raw
    at = view.advance(stamp_ms)
    numbered = record.from_
    if numbered is not None:
        inseq = meta.inseq
        if numbered[1] != inseq.get(numbered[0], 0) + 1:
            return False
        inseq[numbered[0]] = numbered[1]
    if orig is not None and orig.past:
        _fold_past(view, record, at, folds[type(record)])
    else:
        folds[type(record)](view, record, at)
    return True


def _fold_past(view: View, record: r.Record, at: int, one: Callable[[View, Any, int], None]) -> None:
    """What it sends and puts in queues is dropped, numbers and all."""
    effects, outseq = view.effects, dict(view.meta.outseq)
    sends, commands = len(effects.sends), len(effects.commands)
    one(view, record, at)
    view.meta.outseq = outseq
    del effects.sends[sends:], effects.commands[commands:]


def fold_batch(view: View, values: Sequence[bytes], offset: int, stamp_ms: int, own: "Own | None" = None) -> int:
    """`decode` and `fold` for consecutive records of one timestamp. How many were no repetitions.

    The same as one by one; most records of a busy partition are neither numbered nor imported, and skip those
    questions. `view.offset` names the record that an exception is about. `own`: what the reader itself appended and
    has not read back yet, in order: it needs no decoding, and has neither number nor other age.
    """
    waiting: Own = deque() if own is None else own
    decode_one, folds, current = _DECODER.decode, FOLDS, r.V
    repeated = 0
    place = offset + view.meta.moved
    due = True
    for raw in values:
        view.offset = place
        if waiting and waiting[0][0] == raw:
            record: r.AnyRecord = waiting.popleft()[1]
        else:
            try:
                record = decode_one(raw)
            except _UNDECODABLE as error:
                raise _unreadable(error, raw) from error
            if record.v > current:
                raise _unreadable(f"version {record.v}, this code knows up to {current}", raw)
            if record.from_ is not None or record.orig is not None:
                before = view.meta.moved
                repeated += not fold(view, record, raw, place - before, stamp_ms)
                place += 1 + view.meta.moved - before
                due = True
                continue
        view.raw = raw
        if due:
            # Time stands still within a batch: once all that it lets expire has gone, there is nothing to ask.
            view.advance(stamp_ms)
            due = view.more_expires
        folds[type(record)](view, record, view.at)
        place += 1
    return len(values) - repeated
