"""From the journal's records to changes of rows. Pure: no clock, no I/O but the reading half of the state's store.

    record ──► fold (onlooker.py) ──► what the folds made of it ──► changes, collected until `taken`

One projection for each partition. A record below its offset was read before and changes nothing.
"""

from typing import Any

import msgspec
from msgspec import UNSET, Raw, UnsetType
from msgspec.structs import replace

from perdure.flow import decode, fold
from perdure.flow.effects import Attempted, Closed, Deliver, Ended, Opened, Outcome, Parked, Recalled, Retry, Start
from perdure.flow.lines import is_immediate, kind_of
from perdure.flow.queues import QUEUED, key_of
from perdure.flow.states import RunState
from perdure.flow.tables import Backing
from perdure.history.after_gap import bridged, lose_sight
from perdure.history.onlooker import ONLOOKING, Onlooker
from perdure.history.rows import OWN, Changes, EventRow, Mark, OpPatch, OpRow, RunData, RunRow, Standing, Use
from perdure.history.tallies import tally_end, tally_start
from perdure.log.protocol import Batch
from perdure_schemas.payload import ErrorInfo, Payload, Ref
from perdure_schemas.records import (
    AnyRecord,
    Call,
    EventReceived,
    FunctionPaused,
    MatchOffered,
    OpClosed,
    Opening,
    OpOpened,
    Queued,
    RunAnswered,
    RunCancelRequested,
    RunErrored,
    RunFinished,
    RunParked,
    RunRecalled,
    RunRequested,
    Send,
    StepAttempted,
    StepClaimed,
    StepCompleted,
    StepFailed,
    StepReleased,
    TimerFired,
)

KEPT_BYTES = 64 << 10
"""A larger payload stays in the journal, for as long as that is kept; rows say where it stands."""
ERROR_LENGTH = 16_000
"""So much of a message, and of the end of a traceback, is kept."""
LIVE_IN_MEMORY = 20_000
"""Runs; with more of them, all leave memory, and those that something happens to come back."""
_ENCODE = msgspec.json.Encoder().encode

Writes = tuple[list[tuple[bytes, bytes]], list[bytes], list[bytes]]
"""What the state's store is to take: puts, deletes, and prefixes that go first."""


class Projection:
    """Reads one partition from `standing` on; `state` is what was written of it there."""

    def __init__(self, partition: int, partitions: int, standing: Standing, state: Backing) -> None:
        self.partition = partition
        self.standing = standing
        self.view = Onlooker(partition, partitions, state)
        self.view.at, self.view.stamp = standing.at, standing.stamp
        self._changes = Changes()
        self._touched: dict[str, RunState] = {}
        self._offset = standing.offset
        """Of the record that is read, in this log: the view's may be that of the log it was copied from."""

    def skip_to(self, offset: int) -> None:
        """What lies between is gone."""
        lose_sight(self.view)
        self.standing = replace(self.standing, offset=offset, gap=True)

    def read(self, batch: Batch) -> None:
        """Raises `UnreadableRecord` for what newer code wrote; what came before it is read."""
        for offset, raw in enumerate(batch.values, batch.offset):
            if offset >= self.standing.offset:
                self._record(offset, batch.timestamp_ms, raw)

    def _record(self, offset: int, stamp_ms: int, raw: bytes) -> None:
        record, view, standing = decode(raw), self.view, self.standing
        self._offset = offset
        folds = bridged(view, record) if standing.gap else ONLOOKING
        if fold(view, record, raw, offset, stamp_ms, folds):
            self._tell(record)
        view.quiet()
        standing.offset, standing.at, standing.stamp = offset + 1, view.at, view.stamp

    def taken(self) -> tuple[Changes, Writes]:
        """What is to be written, in one transaction with `standing`; `written` is to follow."""
        changes, self._changes = self._changes, Changes()
        for run, state in self._touched.items():
            changes.runs[run] = _run_row(self.partition, state)
        self._touched = {}
        writes: Writes = [], [], []
        self.view.seal(*writes)
        return changes, writes

    def written(self) -> None:
        """What `taken` gave is stored: what has ended leaves memory, all else if that is much."""
        rested = self.view.written()
        runs = self.view.runs
        crowded = len(runs.cache) > LIVE_IN_MEMORY
        for run in list(runs.cache) if crowded else rested:
            state = runs.cache.get(run)
            if state is not None and (crowded or state.ended_at is not None) and runs.forget(run):
                self.view.lines.release(run)

    def _tell(self, record: AnyRecord) -> None:
        view = self.view
        if isinstance(record, RunRequested):
            self._requested(record)
        for act in view.effects.acts:
            match act:
                case Deliver():
                    self._delivered(act.run, act.op, act.outcome)
                case Recalled():
                    self._recalled(act)
                case Opened() if isinstance(record, OpOpened):
                    self._opened(record)
                case Ended():
                    self._ended(act.run, record)
                case Start():
                    self._started(act.run, record)
                case Parked() if isinstance(record, RunParked):
                    self._parked(record)
                case Retry():
                    self._patch(act.run, act.op, OpPatch("open", attempt=act.attempt))
                    self._mark(act.run, act.op, "retried", {"attempt": act.attempt})
                case Attempted() if isinstance(record, StepAttempted):
                    self._upsert(act.run, act.op, view.at, OpPatch("open"))
                    self._mark(act.run, act.op, "crashed", {"alone": record.alone})
                case Closed():
                    self._closed(act)
                case _:
                    pass
        match record:
            case EventReceived() if view.received:
                event = record.event
                self._changes.events.append(EventRow(event.id, self.partition, event.name, view.at, _ENCODE(event)))
            case RunCancelRequested():
                self._cancelled_before(record)
            case RunErrored():
                self._errored(record)
            case StepFailed() if record.retry_in_ms is not None:
                self._tried(record)
            case StepClaimed() if record.beat == 0 and self._moved(record.run, record.op):
                self._mark(record.run, record.op, "claimed", {"member": record.member, "alone": record.alone})
            case StepReleased() if self._moved(record.run, record.op):
                self._mark(record.run, record.op, "died" if record.died else "released", {})
            case TimerFired() if self._moved(record.entity, record.timer):
                self._patch(record.entity, record.timer, OpPatch("open"))
                self._mark(record.entity, record.timer, "queued", {})
            case _:
                pass

    # Runs

    def _requested(self, record: RunRequested) -> None:
        state = self.view.runs.get(record.run)
        if state is None or state.requested_offset != self.view.offset or not state.function:
            return
        self._new(state, RunData(self._json(record.event), self._json(record.arguments)))
        tally_start(self._changes.tallies, state.function, state.requested_at)

    def _new(self, state: RunState, data: RunData) -> None:
        if state.id in self._touched:
            self._forget(state.id)
        self._changes.new[state.id] = None
        self._changes.data[state.id] = data
        self._touched[state.id] = state

    def _forget(self, run: str) -> None:
        """The folds have forgotten it since it ended, and it came again, within what is not written yet."""
        changes = self._changes
        changes.ended.pop(run, None)
        changes.ops = {key: row for key, row in changes.ops.items() if key[0] != run}
        changes.patches = {key: patch for key, patch in changes.patches.items() if key[0] != run}
        changes.marks = [mark for mark in changes.marks if mark.run != run]
        changes.uses = [use for use in changes.uses if use.run != run]

    def _cancelled_before(self, record: RunCancelRequested) -> None:
        """A cancel for a run that is not known is kept as an ended run."""
        state = self.view.runs.get(record.run)
        if state is not None and state.ended_offset == self.view.offset and not state.function:
            self._new(state, RunData(error=_error(state.error)))

    def _touch(self, run: str) -> RunState:
        state = self.view.runs.get(run)
        assert state is not None, "the folds have acted on it"
        self._touched[run] = state
        return state

    def _started(self, run: str, record: AnyRecord) -> None:
        self._touch(run)
        if isinstance(record, TimerFired) and record.timer == "retry":
            self._mark(run, OWN, "retried", {})
        elif not isinstance(record, TimerFired | RunRequested | RunRecalled | FunctionPaused):
            self._mark(run, OWN, "unparked", {})

    def _ended(self, run: str, record: AnyRecord) -> None:
        state, changes = self._touch(run), self._changes
        changes.ended[run] = self.view.at
        began = state.started_at or state.requested_at
        tally_end(changes.tallies, state.function, shown_status(state), self.view.at, self.view.at - began)
        data = changes.data.setdefault(run, RunData())
        data.error = _error(state.error)
        if isinstance(record, RunFinished):
            data.result = self._json(record.result)
            for op in record.closes:
                self._give_back(run, op)
        elif isinstance(record, MatchOffered):
            changes.uses.append(Use(record.event_id, run, OWN, "cancelled", self.view.at))

    def _errored(self, record: RunErrored) -> None:
        state = self.view.live(record.run)
        timer = state.timers.get("retry") if state is not None else None
        if timer is not None and timer.setter == self.view.offset:
            self._touch(record.run)
            detail = {"attempt": record.attempt, "error": _short(record.error), "due": timer.due}
            self._mark(record.run, OWN, "errored", detail)

    def _parked(self, record: RunParked) -> None:
        self._touch(record.run)
        why = {"code": record.code, "message": record.message}
        sides = {"recorded": record.recorded, "requested": record.requested}
        self._changes.data.setdefault(record.run, RunData()).parked = _ENCODE(why | sides)
        self._mark(record.run, OWN, "parked", why)

    # Ops

    def _recalled(self, act: Recalled) -> None:
        """It happened to another run, when it did: no event was used by it here, and nothing was tried."""
        line, at = act.line, act.at
        if isinstance(line, OpOpened):
            row = self._upsert(act.run, act.op, at, OpPatch("open"), kind_of(line.opening))
            row.about = _about(line.opening)
            if not is_immediate(line):
                return
        patch = OpPatch("completed", at)
        if isinstance(line, StepCompleted | StepFailed):
            patch.attempt, patch.took_us, patch.input = line.attempt, line.took_us, self._raw(line.input)
        if isinstance(line, StepCompleted | RunAnswered | MatchOffered):
            patch.result = self._json(line.event if isinstance(line, MatchOffered) else line.result)
        if isinstance(line, StepFailed | RunAnswered) and line.error is not None:
            patch.status, patch.error = "failed", _error(line.error)
        if isinstance(line, OpClosed):
            patch.status = "closed"
        self._upsert(act.run, act.op, at - (patch.took_us or 0) // 1000, patch)

    def _opened(self, record: OpOpened) -> None:
        opening = record.opening
        state = self.view.live(record.run)
        opened = state.open.get(record.op) if state is not None else None
        given = self._json(opening.arguments) if isinstance(opening, Call | Queued) else None
        patch = OpPatch("open", due=None if opened is None else opened.due, input=given)
        row = self._upsert(record.run, record.op, self.view.at, patch, kind_of(opening))
        row.about = _about(opening)

    def _delivered(self, run: str, op: str, outcome: Outcome) -> None:
        at = self.view.at
        match outcome:
            case StepCompleted():
                patch = self._outcome_of(outcome)
                patch.status, patch.result = "completed", self._json(outcome.result)
                self._upsert(run, op, at - outcome.took_us // 1000, patch)
            case StepFailed():
                patch = self._outcome_of(outcome)
                patch.status, patch.error = "failed", _error(outcome.error)
                self._upsert(run, op, at - outcome.took_us // 1000, patch)
                self._failed(outcome, None)
            case RunAnswered():
                status = "completed" if outcome.error is None else "failed"
                patch = OpPatch(status, at, result=self._json(outcome.result), error=_error(outcome.error))
                self._patch(run, op, patch)
            case MatchOffered():
                self._patch(run, op, OpPatch("completed", at, result=self._json(outcome.event)))
                self._changes.uses.append(Use(outcome.event_id, run, op, "matched", at))
            case OpOpened() | TimerFired():
                self._patch(run, op, OpPatch("completed", at))

    def _outcome_of(self, record: StepCompleted | StepFailed) -> OpPatch:
        given = self._raw(record.input)
        return OpPatch("", self.view.at, attempt=record.attempt, took_us=record.took_us, input=given)

    def _tried(self, record: StepFailed) -> None:
        """An attempt that raised, and is followed by another, if it counts."""
        due = self._next_attempt(record)
        if due is not None:
            patch = OpPatch("open", due=due, attempt=record.attempt + 1, input=self._raw(record.input))
            self._upsert(record.run, record.op, self.view.at - record.took_us // 1000, patch)
            self._failed(record, due)

    def _next_attempt(self, record: StepFailed) -> int | None:
        state = self.view.live(record.run)
        opened = state.open.get(record.op) if state is not None else None
        if opened is not None and opened.type == QUEUED:
            queued = self.view.queued.get(key_of(record.run, record.op))
            return queued.due if queued is not None and queued.setter == self.view.offset else None
        return opened.due if opened is not None and opened.setter == self.view.offset else None

    def _failed(self, record: StepFailed, due: int | None) -> None:
        detail = {"attempt": record.attempt, "took_us": record.took_us, "error": _short(record.error), "due": due}
        self._mark(record.run, record.op, "failed", detail)

    def _moved(self, run: str, op: str) -> bool:
        """Whether this record changed who has a step of a queue."""
        queued = self.view.queued.get(key_of(run, op))
        return queued is not None and queued.setter == self.view.offset

    def _closed(self, act: Closed) -> None:
        if act.taken:
            self._give_back(act.run, act.op)
        self._upsert(act.run, act.op, self.view.at, OpPatch("closed", self.view.at))

    def _give_back(self, run: str, op: str) -> None:
        """If it is a wait that took an event, nobody got that."""
        changes, at = self._changes, self.view.at
        changes.given_back[run, op] = at
        kept = [use for use in changes.uses if use.run != run or use.op != op]
        if len(kept) < len(changes.uses):
            changes.uses = kept
            self._patch(run, op, OpPatch("closed", at))

    def _upsert(self, run: str, op: str, opened_at: int, patch: OpPatch, of: str = "step") -> OpRow:
        """A step of the run's own process has no opening: whatever is first heard of it makes its row."""
        key, changes = (run, op), self._changes
        row = changes.ops.get(key)
        if row is None:
            row = changes.ops[key] = OpRow(run, op, self.view.offset, of, opened_at)
            before = changes.patches.pop(key, None)
            if before is not None:
                merge(row, before)
        merge(row, patch)
        return row

    def _patch(self, run: str, op: str, patch: OpPatch) -> None:
        known = self._changes.ops.get((run, op)) or self._changes.patches.setdefault((run, op), patch)
        if known is not patch:
            merge(known, patch)

    def _mark(self, run: str, op: str, kind: str, detail: dict[str, Any]) -> None:
        self._changes.marks.append(Mark(run, op, self.view.offset, self.view.at, kind, _ENCODE(detail)))

    # Payloads

    def _json(self, payload: Payload | None) -> bytes | None:
        if payload is None:
            return None
        inline = payload.inline
        if isinstance(inline, Raw) and len(memoryview(inline)) > KEPT_BYTES:
            payload = Payload(ref=Ref(self.partition, self._offset), encoded=payload.encoded)
        return _ENCODE(payload)

    def _raw(self, value: Raw | UnsetType) -> bytes | None:
        return None if value is UNSET else self._json(Payload(value))


def merge(row: OpRow | OpPatch, patch: OpPatch) -> None:
    """What became of the op later."""
    row.status, row.ended_at, row.due = patch.status, patch.ended_at, patch.due
    for name in ("attempt", "took_us", "input", "result", "error"):
        value = getattr(patch, name)
        if value is not None:
            setattr(row, name, value)


def shown_status(run: RunState) -> str:
    """A run that went on as another one has done its work."""
    return "completed" if run.status == "continued" else run.status


def _run_row(partition: int, run: RunState) -> RunRow:
    parent = run.parent
    timer = run.timers.get("start") or run.timers.get("retry")
    return RunRow(
        run.id,
        partition,
        run.function,
        shown_status(run),
        run.cause,
        run.requested_at,
        run.started_at or None,
        run.ended_at,
        None if timer is None else timer.due,
        run.attempt,
        run.event_id,
        "" if parent is None else parent.run,
        "" if parent is None else parent.op,
        run.rerun_of,
        run.scheduled,
        run.metadata,
    )


def _about(opening: Opening) -> bytes:
    """The opening without what may be large."""
    if isinstance(opening, Call | Queued):
        opening = replace(opening, arguments=Payload())
    if isinstance(opening, Send):
        events = [{"id": event.id, "name": event.name} for event in opening.events]
        return _ENCODE({"type": "send", "events": events})
    return _ENCODE(opening)


def _short(error: ErrorInfo) -> ErrorInfo:
    """As far as a page shows it."""
    long = max(len(error.message), len(error.traceback)) > ERROR_LENGTH or error.args is not UNSET
    if not long:
        return error
    return replace(error, message=error.message[:ERROR_LENGTH], traceback=error.traceback[-ERROR_LENGTH:], args=UNSET)


def _error(error: ErrorInfo | None) -> bytes | None:
    return None if error is None else _ENCODE(_short(error))
