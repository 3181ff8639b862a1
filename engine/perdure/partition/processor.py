"""The loop that owns one partition.

    1 read a batch from the stored offset
    2 fold each record into an overlay of the store; collect effects
    3 start, resume, cancel user code
    4 append effects; wait for their acknowledgement
    5 at the latest every 100 ms or N records: write overlay + next offset + hash of the last record, in one write

Pipelined: 2 of the next batch goes on while 4 of this one is in flight. On start the tail is folded *keeping every
append-effect, and all are appended again* (receivers ignore what they have); only starting, resuming and cancelling
user code is dropped, and derived from the final state instead.
"""

import asyncio
import logging
import secrets
from collections.abc import Callable

import msgspec

from perdure.errors import LogCorrupt, LogError, PartitionHalted
from perdure.flow import FOLD_VERSION, UnreadableRecord, decode, fold_batch
from perdure.flow.effects import Act, Deliver, OwnerKnown, Retry, Schedule, Start
from perdure.flow.states import RunState
from perdure.flow.view import View
from perdure.log.protocol import Batch, Log, Reader
from perdure.partition.checkpoint import Checkpointer, anchor_of, load_position
from perdure.partition.host import Host
from perdure.partition.timers import TimerDriver
from perdure_schemas.payload import Payload, Ref
from perdure_schemas.records import (
    AnyRecord,
    EventKeyed,
    EventReceived,
    MatchOffered,
    OpOpened,
    Owner,
    OwnerReleased,
    OwnerStarted,
    Record,
    RunFinished,
    RunRequested,
    StepCompleted,
    V,
)

log = logging.getLogger("perdure.partition")
CHECKPOINT_RECORDS = 20_000
"""A write holds the interpreter lock: beyond this many records a checkpoint does not wait for its time."""
_ENCODE = msgspec.json.Encoder().encode


class Processor:
    """Owns partition `partition` of `log`; `host` runs the user code of its runs."""

    def __init__(self, log: Log, partition: int, host: Host, code: str) -> None:
        self.log = log
        self.partition = partition
        self.code = code
        self._host = host
        self.halted = ""
        self.owner = Owner(0, "")
        """Us, as the log is told: the highest number read + 1, and a random token."""
        self.current = False
        """Our owner.started was read back and won."""
        self._reader: Reader | None = None
        self._last_ticket = 0
        self._own: dict[bytes, AnyRecord] = {}
        """What we appended and have not read back yet."""
        self._last_raw = b""
        self._since_checkpoint = 0
        self.records = {"read": 0, "folded": 0, "ignored": 0}
        self.on_timer: Callable[[], None] | None = None
        """Called when a batch had a fire, or set a timer that is due soon: the next one may be another."""
        position = load_position(log, partition)
        self.view = View(partition, log.partitions, log.store(partition))
        self.view.at, self.view.stamp = position.at, position.stamp
        self.offset = position.offset
        self._anchor = position.anchor
        self._checkpointer = Checkpointer(log, log.store(partition), self.view, position)
        self.timers = TimerDriver(self.view, self.append, log.now_ms)
        self._touched: dict[str, None] = {}

    def recover(self) -> None:
        """Fold the tail to the end as it stands now, and append its effects again. Raises `PartitionHalted`."""
        self._checkpointer.load_active()
        end = self.log.end(self.partition)
        while self.offset < end:
            for batch in self.log.read(self.partition, self.offset):
                try:
                    self._fold(batch)
                except Exception as error:
                    raise PartitionHalted(self._why(error)) from error
        effects = self.view.effects
        for act in effects.acts:
            if isinstance(act, Start | Deliver | Retry):
                self._touched[act.run] = None
        effects.acts.clear()
        self._append_sends()

    def begin(self) -> None:
        """All partitions have recovered: own this one, start what has work, follow the log."""
        meta = self.view.meta
        unclean = not meta.released
        self.owner = Owner((meta.owner.number if meta.owner else 0) + 1, secrets.token_hex(8))
        self.append(OwnerStarted(self.owner, self.code, FOLD_VERSION, v=V))
        self._reader = self.log.follow(self.partition, self.offset, self.on_batch, failed=self.halt)
        runs: list[RunState] = []
        for run in sorted({*self._checkpointer.active, *self._touched}):
            state = self.view.live(run)
            if state is None or state.status != "running":
                self._checkpointer.active.discard(run)
            else:
                self._checkpointer.active.add(run)
                runs.append(state)
        self._touched.clear()
        self._host.recover(self.partition, runs, unclean)
        self.timers.schedule_missing()

    def on_batch(self, batch: Batch) -> None:
        """Steps 1 to 4 for a batch that was just read."""
        if self.halted:
            return
        effects, near = self.view.effects, self.view.timers.near
        try:
            fired = self._fold(batch)
        except Exception as error:
            # A fold that fails leaves half a record in the overlay and in the effects: nothing of it may reach the
            # store or another partition. What the batch had before it is not stored either, and is folded again.
            effects.acts, effects.sends = [], []
            self.halt(error)
            return
        acts, effects.acts = effects.acts, []
        if acts:
            self._perform(acts)
        self._append_sends()
        if self._since_checkpoint >= CHECKPOINT_RECORDS:
            self.checkpoint()
        if self.on_timer is not None and (fired or self.view.timers.near != near):
            self.on_timer()

    def _fold(self, batch: Batch) -> bool:
        """Whether there was a fire in it."""
        read = len(batch.values)
        try:
            folded = fold_batch(self.view, batch.values, batch.offset, batch.timestamp_ms, self._own)
        except BaseException:
            self.offset = self.view.offset
            raise
        self.offset = batch.offset + read
        self._last_raw = batch.values[-1]
        self._since_checkpoint += read
        self.records["read"] += read
        self.records["folded"] += folded
        self.records["ignored"] += read - folded
        return self.timers.read_back()

    def _perform(self, acts: list[Act]) -> None:
        for act in acts:
            if type(act) is Deliver:
                continue
            if isinstance(act, Schedule):
                self.timers.schedule(act.function)
            elif isinstance(act, OwnerKnown):
                self.current = Owner(act.number, act.token) == self.owner
        self._host.perform(self.partition, acts)

    def _append_sends(self) -> None:
        effects = self.view.effects
        if effects.sends:
            append = self.log.append
            for partition, raw in effects.sends:
                self._last_ticket = append(partition, raw)
            effects.sends = []

    def halt(self, error: Exception) -> None:
        """What must not be skipped was met: this partition stops, loudly, and the others go on."""
        self.halted = self._why(error)
        if self._reader is not None:
            self._reader.close()
        self._host.halted(self.partition, self.halted)

    def _why(self, error: Exception) -> str:
        """Why this partition halts, and what to do."""
        reason = str(error)
        if isinstance(error, UnreadableRecord):
            reason += ". Nothing is skipped: install the version of perdure that wrote this record, or a newer one"
        elif not isinstance(error, LogError):
            log.error("partition %d, offset %d", self.partition, self.offset, exc_info=error)
            reason = f"the fold failed: {type(error).__name__}: {error}"
        return f"partition {self.partition} halted at offset {self.offset}: {reason}"

    @property
    def last_ticket(self) -> int:
        """Ticket of the last effect: once it is acknowledged, who gets the effects has folded them."""
        return self._last_ticket

    def append(self, record: Record) -> int:
        """Append to this partition's own journal. Returns the ticket."""
        if self.halted:
            raise PartitionHalted(self.halted)
        return self.log.append(self.partition, _ENCODE(record))

    def append_outcome(self, record: StepCompleted | RunFinished) -> None:
        """`append` for the commonest records. Nothing in them ever changes: read back, they need no decoding."""
        if self.halted:
            raise PartitionHalted(self.halted)
        raw = _ENCODE(record)
        self._own[raw] = record
        self.log.append(self.partition, raw)

    def side(self, topic: str, record: msgspec.Struct) -> None:
        """Best effort, to a side topic that no fold reads."""
        self.log.side(topic, self.partition, _ENCODE(record))

    def checkpoint(self) -> bool:
        """Step 5, as far as it can go now. True when the store stands where the fold does."""
        checkpointer = self._checkpointer
        if not checkpointer.sealed:
            if checkpointer.stored.offset == self.offset and not checkpointer.hint_changed:
                return True
            anchor = anchor_of(self._last_raw) if self._last_raw else self._anchor
            checkpointer.seal(self.offset, anchor, self._last_ticket)
            self._since_checkpoint = 0
        rested = checkpointer.try_write()
        if rested is None:
            return False
        for run in rested:
            self._forget(run)
        return not self._since_checkpoint

    def wake(self, run: str) -> None:
        """The run has work: a restart must touch it."""
        self._checkpointer.active.add(run)

    def rest(self, run: str) -> None:
        """The run only waits, for what the log will bring: a restart need not touch it."""
        self._checkpointer.active.discard(run)

    def release_run(self, run: str) -> None:
        """The run's user code left memory; its state may leave too."""
        self._forget(run)

    def _forget(self, run: str) -> None:
        if not self._host.resident(run) and self.view.runs.forget(run):
            self.view.lines.release(run)

    def payload(self, payload: Payload, *, field: str = "result") -> bytes:
        """A payload's bytes, wherever they are stored."""
        if payload.ref is None:
            assert isinstance(payload.inline, msgspec.Raw), "a payload is inline or a ref"
            return bytes(payload.inline)
        return self._resolve(payload.ref, field)

    def _resolve(self, ref: Ref, field: str) -> bytes:
        inner = _payload_of(self.record_at(ref.offset, ref.partition), field)
        return inner if isinstance(inner, bytes) else self.payload(inner, field=field)

    def record_at(self, offset: int, partition: int | None = None) -> AnyRecord:
        """A record of the journal, read again."""
        where = self.partition if partition is None else partition
        return decode(self.log.read(where, offset, limit_bytes=1)[0].values[0])

    async def close(self, *, clean: bool) -> None:
        """Stop reading. A clean stop says so in the log, so that no step counts an attempt by crash."""
        if clean and not self.halted and self.current:
            ticket = self.append(OwnerReleased(self.owner, v=V))
            await self.log.acknowledge(ticket)
            await asyncio.sleep(0)
            for _ in range(3):
                if self.checkpoint():
                    break
                await asyncio.sleep(0.01)
        if self._reader is not None:
            self._reader.close()


def _payload_of(record: AnyRecord, field: str) -> bytes | Payload:
    found: Payload | None = None
    match record:
        case StepCompleted() | RunFinished() if record.result is not None:
            found = record.result
        case EventReceived() | EventKeyed():
            return _ENCODE(record.event)
        case MatchOffered():
            found = record.event
        case RunRequested():
            found = record.event if field == "event" else record.arguments
        case OpOpened():
            found = getattr(record.opening, "arguments", None)
        case _:
            pass
    if found is None:
        raise LogCorrupt(f"a reference points to a record without {field}: {type(record).__name__}")
    return found
