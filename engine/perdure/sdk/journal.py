"""A run as its journal has it: read from the log between its first and its last record."""

from collections.abc import Iterable, Iterator

import msgspec
from msgspec import UNSET, Raw, UnsetType

from perdure.duration import human
from perdure.flow import decode
from perdure.flow.lines import kind_of, op_name
from perdure.flow.states import RunState
from perdure.log.protocol import Batch, Log
from perdure.partition import Processor
from perdure.sdk.port import Attempt, OpDetail
from perdure.worker import Worker
from perdure_schemas.payload import ErrorInfo, Payload
from perdure_schemas.records import (
    AnyRecord,
    Call,
    CancelRun,
    MatchOffered,
    OpClosed,
    Opening,
    OpOpened,
    Orig,
    Queued,
    RerunRun,
    RunAnswered,
    RunParked,
    RunRecalled,
    Send,
    Sleep,
    StepAnswered,
    StepClaimed,
    StepCompleted,
    StepFailed,
    StepReleased,
    TimerFired,
    Wait,
    Watch,
)


class _Op:
    """An op while its records are read."""

    def __init__(self, op: str, kind: str, at: int) -> None:
        self.op, self.type, self.opened_at = op, kind, at
        self.status, self.about = "open", ""
        self.ended_at: int | None = None
        self.attempts: list[Attempt] = []
        self.input: Raw | UnsetType = UNSET
        self.result: Raw | UnsetType = UNSET
        self.error: ErrorInfo | None = None
        self.queue = self.member = ""
        self.dispatches = 0
        self.members: dict[str, str] = {}
        self.timers: set[int] = set()

    def detail(self) -> OpDetail:
        return OpDetail(
            self.op, op_name(self.op), self.type, self.status, self.opened_at, self.ended_at, tuple(self.attempts),
            self.input, self.result, self.error, self.about, self.queue, self.dispatches, self.member,
        )  # fmt: skip


class RunReader:
    """Reads one run's records into its ops. First outcome of an op counts, as in the fold (I4)."""

    def __init__(self, processor: Processor, worker: Worker) -> None:
        self._processor = processor
        self._worker = worker
        self._ops: dict[str, _Op] = {}
        self.parked: RunParked | None = None
        self.trimmed = False
        """The log has let go of its first records."""

    def read(self, state: RunState, records: Iterable[tuple[int, AnyRecord]]) -> tuple[OpDetail, ...]:
        """`records`: what the log has of the run, with its log time; see `records_of`."""
        processor = self._processor
        start = processor.log.start(processor.partition)
        start += processor.view.meta.moved if start else 0
        self.trimmed = state.requested_offset < start
        if self.trimmed:
            # Of a run that lives the state has what its replay needs.
            for line in processor.view.lines.load(state.id):
                if line.offset < start:
                    self._take(processor.view.lines.whole(state.id, line), line.at)
        for at, record in records:
            self._take(record, at)
        return tuple(op.detail() for op in self._ops.values())

    def _take(self, record: AnyRecord, at: int) -> None:
        match record:
            case RunRecalled():
                self._take(decode(bytes(record.line)), record.at)
            case StepCompleted() | StepFailed():
                self._step(record, at)
            case OpOpened():
                self._opened(record, at)
            case OpClosed():
                op = self._ops.setdefault(record.op, _Op(record.op, "step", at))
                self._end(op, "closed", at)
            case StepClaimed() | StepAnswered() | StepReleased() if record.op in self._ops:
                self._queued(self._ops[record.op], record)
            case TimerFired() if (waits := self._ops.get(record.timer)) is not None and waits.queue:
                # Nobody came, nobody is left, or the next attempt is due: in any case another command.
                waits.dispatches += waits.status == "open" and record.setter not in waits.timers
                waits.timers.add(record.setter)
            case TimerFired() if (fired := self._ops.get(record.timer)) is not None and fired.type != "step":
                self._end(fired, "completed", at)
            case RunAnswered() | MatchOffered() if (answered := self._ops.get(record.op)) is not None:
                self._answered(answered, record, at)
            case RunParked():
                self.parked = record
            case _:
                pass

    def _step(self, record: StepCompleted | StepFailed, at: int) -> None:
        op = self._ops.setdefault(record.op, _Op(record.op, "step", at - record.took_us // 1000))
        if op.status != "open":
            return
        op.input = record.input if record.input is not UNSET else op.input
        error = record.error if isinstance(record, StepFailed) else None
        retry_in_ms = record.retry_in_ms if isinstance(record, StepFailed) else None
        op.attempts.append(Attempt(record.attempt, at, record.took_us, error, retry_in_ms))
        if isinstance(record, StepCompleted):
            op.result = self._raw(record.result)
            self._end(op, "completed", at)
        elif retry_in_ms is None:
            op.error = error
            self._end(op, "failed", at)

    def _opened(self, record: OpOpened, at: int) -> None:
        if record.op in self._ops:
            return
        op = self._ops[record.op] = _Op(record.op, kind_of(record.opening), at)
        op.about = about(record.opening)
        if isinstance(record.opening, Call | Queued):
            op.input = self._raw(record.opening.arguments)
        if isinstance(record.opening, Queued):
            op.queue, op.dispatches = record.opening.queue, 1
        if op.type in ("send", "cancel", "rerun", "enqueue"):
            self._end(op, "completed", at)

    def _queued(self, op: _Op, record: StepClaimed | StepAnswered | StepReleased) -> None:
        """Who has the step: the latest member whose claim was granted."""
        if isinstance(record, StepClaimed):
            op.members[record.claim] = record.member
        elif isinstance(record, StepAnswered):
            op.member = op.members.get(record.claim, "") if record.granted else op.member
        elif op.status == "open":
            op.dispatches += 1

    def _answered(self, op: _Op, record: RunAnswered | MatchOffered, at: int) -> None:
        if op.status != "open":
            return
        if isinstance(record, MatchOffered):
            op.result = self._raw(record.event, "event")
            self._end(op, "completed", at)
            return
        op.result, op.error = (self._raw(record.result) if record.result else UNSET), record.error
        self._end(op, "failed" if record.error else "completed", at)

    def _end(self, op: _Op, status: str, at: int) -> None:
        if op.status == "open":
            op.status, op.ended_at = status, at

    def _raw(self, payload: Payload, field: str = "result") -> Raw:
        """People are shown where it is, if it is too large for the log."""
        if payload.stored is not None:
            return Raw(msgspec.json.encode({"stored": payload.stored}))
        return self._worker.payload_json(self._processor, payload, field)


async def records_of(log: Log, partition: int, state: RunState, moved: int) -> list[tuple[int, AnyRecord]]:
    """(log time, record) of every record that names the run, from its request to its end; of those that are kept.

    `moved`: how far the offsets in the state are ahead of the log's own by now. Those of an imported past were less
    far ahead, since records are left out there: so where the run ended is told by the places that records have.
    """
    end = await log.latest(partition)
    offset = max(state.requested_offset - moved, log.start(partition))
    found: list[tuple[int, AnyRecord]] = []
    while offset < end:
        try:
            batches = await log.fetch(partition, offset)
        except IndexError:
            await log.latest(partition)
            if log.start(partition) <= offset:
                raise
            offset = log.start(partition)  # trimmed since we heard of where it begins
            continue
        for batch in batches:
            for at, record, last in named_in(batch, state, moved):
                found.append((at, record))
                if last:
                    return found
            offset = batch.offset + len(batch.values)
    return found


def named_in(batch: Batch, state: RunState, moved: int) -> Iterator[tuple[int, AnyRecord, bool]]:
    """(log time, record, whether the run ended with it) of those that are about the run."""
    name = state.id.encode()
    for offset, raw in enumerate(batch.values, batch.offset):
        if name in raw:
            record = decode(raw)
            if getattr(record, "run", getattr(record, "entity", "")) == state.id:
                orig = record.orig or Orig(offset + moved, batch.timestamp_ms)
                yield orig.at, record, state.ended_at is not None and orig.offset >= state.ended_offset


def about(opening: Opening) -> str:
    """What the op waits for or does, in words."""
    match opening:
        case Sleep():
            return f"until {opening.until}" if opening.for_ms is None else human(opening.for_ms)
        case Wait():
            late = f", for {human(opening.timeout_ms)}" if opening.timeout_ms is not None else ""
            return f"{opening.key}{' where ' + opening.where if opening.where else ''}{late}"
        case Call():
            return f"{opening.function} {opening.run}"
        case Send():
            return ", ".join(event.name for event in opening.events)
        case Watch() | CancelRun() | RerunRun():
            return opening.run
        case Queued():
            return ""
