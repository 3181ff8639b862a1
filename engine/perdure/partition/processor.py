"""The loop that owns one partition.

    1 read a batch from the stored offset
    2 fold each record into an overlay of the store; collect effects
    3 start, resume, cancel user code
    4 append effects; wait for their acknowledgement
    5 at the latest every second or N records: write overlay + next offset + hash of the last record, in one write

Pipelined: 2 of the next batch goes on while 4 of this one is in flight. On start the tail is folded *keeping every
append-effect, and all are appended again* (receivers ignore what they have); only starting, resuming and cancelling
user code is dropped, and derived from the final state instead.

    catch_up ──(all is folded that the log held when it was asked)──► own ──► performing
        ▲                                                                        │
        └──────────(it comes back)────────── paused, with its runs warm ◄──(pause)──┘

While it does not perform, a processor goes on folding: nothing is appended, performed or checkpointed. What its runs
write meanwhile is set aside. `ownership.py` decides what happens when.
"""

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import Callable, Sequence

import msgspec

from perdure.errors import LogError, PartitionHalted
from perdure.flow import FOLD_VERSION, Own, UnreadableRecord, fold_batch
from perdure.flow.effects import Act, Activated, Answer, Attempted, Deliver, OwnerKnown, Parked, Retry, Schedule, Start
from perdure.flow.lines import StoredLine
from perdure.flow.queues import key_of, waits
from perdure.flow.states import RunState
from perdure.flow.view import View
from perdure.log.protocol import Batch, Log, Reader
from perdure.partition.checkpoint import Checkpointer, Position, anchor_of
from perdure.partition.dispatch import put_command, whole_payload
from perdure.partition.host import Host
from perdure.partition.snapshots import Keeper
from perdure.partition.timers import TimerDriver
from perdure_schemas.payload import Payload
from perdure_schemas.records import (
    Owner,
    OwnerReleased,
    OwnerStarted,
    Record,
    RunFinished,
    RunParked,
    RunRequested,
    StepAnswered,
    StepAttempted,
    StepCompleted,
    V,
)

log = logging.getLogger("perdure.partition")
CHECKPOINT_RECORDS = 20_000
"""A write holds the interpreter lock: beyond this many records a checkpoint does not wait for its time."""
OWN_RECORDS = 100_000
"""So many of our own records on their way are known without decoding."""
_ENCODE = msgspec.json.Encoder().encode


class Processor:
    """Owns partition `partition` of `log`, from `position` on; `host` runs the user code of its runs.

    `overtaken` is called when somebody else is read to be the owner, `outrun` when what is to be folded next is gone
    from the journal.

    It has 29 attributes at most: more than that CPython keeps in a dict for each instance, and then what it learnt of
    one does not help with another. Every step comes through here.
    """

    def __init__(
        self,
        log: Log,
        partition: int,
        host: Host,
        code: str,
        position: Position,
        keeper: Keeper,
        overtaken: "Callable[[Processor], None]",
        outrun: "Callable[[Processor], None]",
    ) -> None:
        self.log = log
        self.partition = partition
        self.code = code
        self._host = host
        self._overtaken = overtaken
        self._outrun = outrun
        self.halted = ""
        self.performing = False
        """User code runs, and what we have to say is appended."""
        self.assigned = True
        self._warm = False
        """Runs are in memory: what was folded while paused is for them."""
        self.owner = Owner(0, "")
        """Us, as the log is told: the highest number read + 1, and a random token."""
        self.current = False
        """Our owner.started was read back and won."""
        self.behind = False
        """Newer code has owned this partition: what it took further is not for us."""
        self._opinions: dict[tuple[str, str], int] = {}
        """Opinions (run, op) that were not read back yet, with the number of the owner they are of."""
        self._aside: list[bytes] = []
        self._reader: Reader | None = None
        self._caught_up: tuple[int, asyncio.Future[None]] | None = None
        """Who waits for the tail to be folded, and up to where."""
        self._awaited: list[tuple[int, asyncio.Future[None]]] = []
        self._last_ticket = 0
        self._own: Own = deque()
        """What we appended and have not read back yet, as far as it never changes on the way."""
        self._last_raw = b""
        self.records = {"read": 0, "folded": 0, "ignored": 0}
        self.on_timer: Callable[[], None] | None = None
        """Called when a batch had a fire, or set a timer that is due soon: the next one may be another."""
        self.on_dispatch: Callable[[str], None] | None = None
        """Called with the name of a queue that a command was put into."""
        self.view = View(partition, log.partitions, log.store(partition), shared=log.snapshots is not None)
        self.view.at, self.view.stamp = position.at, position.stamp
        self.offset = position.offset
        self._checkpointer = Checkpointer(log, log.store(partition), self.view, position)
        self.keeper = keeper
        self.timers = TimerDriver(self.view, self.append, log.now_ms, shared=log.shared)

    @property
    def following(self) -> bool:
        """It has begun to read."""
        return self._reader is not None

    async def catch_up(self) -> None:
        """Fold what the log holds by now. Raises `PartitionHalted`, and `LogError` if it cannot be asked."""
        target = await self.log.latest(self.partition)
        if self._reader is None:
            self._checkpointer.load_active()
            try:
                self._reader = self.log.follow(self.partition, self.offset, self.on_batch, failed=self._unread)
            except IndexError as error:
                raise LogError(f"partition {self.partition} was trimmed meanwhile: {error}") from error
        if self.offset < target and not self.halted:
            reached = asyncio.get_running_loop().create_future()
            self._caught_up = target, reached
            try:
                await reached
            finally:
                self._caught_up = None
        if self.halted:
            raise PartitionHalted(self.halted)

    def own(self) -> None:
        """Caught up: own the partition, perform, and start what has work."""
        unclean, warm = not self.view.meta.released, self._warm
        self._compare_code()
        self.performing = self._warm = True
        self.announce()
        if warm:
            self._go_on()
            return
        runs: list[RunState] = []
        for run in sorted(self._checkpointer.active):
            state = self.view.live(run)
            if state is None or state.status != "running":
                self.rest(run)
            else:
                runs.append(state)
        self._append_sends()
        self._host.recover(self.partition, runs, unclean)
        self.timers.schedule_missing()

    def announce(self) -> None:
        """Say that we are the owner: the highest number read + 1. What was our opinion before counts no more."""
        owner = self.view.meta.owner
        self.owner = Owner((owner.number if owner else 0) + 1, secrets.token_hex(8))
        self.current = False
        self.append(OwnerStarted(self.owner, self.code, FOLD_VERSION, v=V))

    def _go_on(self) -> None:
        """The partition came back, and nobody else had it: its runs learn what was folded meanwhile."""
        aside, self._aside = self._aside, []
        for raw in aside:
            self.log.append(self.partition, raw)
        effects = self.view.effects
        acts, effects.acts = effects.acts, []
        self._perform(acts)
        self._append_sends()
        self._host.go_on(self.partition)

    def pause(self) -> None:
        """The partition is being given away, or somebody else has it: keep silent, and all that is in memory."""
        if self.performing and not self.halted:
            # The next owner need not think that our steps died: they end, or are stopped when it is the owner.
            self.append(OwnerReleased(self.owner, v=V))
        self.performing = self.current = False
        self._host.pause(self.partition)
        self._tell()

    def drop(self) -> None:
        """It went elsewhere: nothing of this object is used again."""
        self.performing = self.assigned = self.current = False
        self._tell()
        self.keeper.close()
        if self._reader is not None:
            self._reader.close()

    @property
    def overtaken(self) -> bool:
        """Somebody else was the owner after us."""
        owner = self.view.meta.owner
        return self._warm and owner is not None and owner.number >= self.owner.number and owner != self.owner

    def on_batch(self, batch: Batch) -> None:
        """Steps 1 to 4 for a batch that was just read."""
        if not self.performing:
            self._fold_aside(batch)
            return
        effects, near = self.view.effects, self.view.timers.near
        fired = self._fold_or_halt(batch)
        if self.halted:
            return
        acts, effects.acts = effects.acts, []
        if acts:
            self._perform(acts)
        if not self.performing:
            return
        self._append_sends()
        if self.offset - self._checkpointer.reached >= CHECKPOINT_RECORDS:
            self.checkpoint()
        if self.on_timer is not None and (fired or self.view.timers.near != near):
            self.on_timer()

    def _fold_aside(self, batch: Batch) -> None:
        """The tail, or what comes while the partition is not ours to act upon: effects are kept."""
        if self.halted:
            return
        self._fold_or_halt(batch)
        if not self._warm:
            effects = self.view.effects
            for act in effects.acts:
                if isinstance(act, Start | Deliver | Retry):
                    self.wake(act.run)
            self._host.folded_before(self.partition, effects.acts)
            effects.acts.clear()
            if self.assigned:
                self._append_sends()
        self._tell_caught_up()
        if self.overtaken:
            self._overtaken(self)

    def _tell_caught_up(self) -> None:
        if self._caught_up is not None:
            target, reached = self._caught_up
            if not reached.done() and (self.halted or self.offset >= target):
                reached.set_result(None)

    async def folded(self, upto: int) -> None:
        """Returns when all below `upto` was folded, or when we stop performing: look again."""
        if self.performing and self.offset < upto:
            reached = asyncio.get_running_loop().create_future()
            self._awaited.append((upto, reached))
            await reached

    def _tell(self) -> None:
        awaited, self._awaited = self._awaited, []
        for upto, reached in awaited:
            if self.performing and self.offset < upto:
                self._awaited.append((upto, reached))
            elif not reached.done():
                reached.set_result(None)

    def _fold_or_halt(self, batch: Batch) -> bool:
        try:
            fired = self._fold(batch)
            if self._awaited:
                self._tell()
            return fired
        except Exception as error:
            # A fold that fails leaves half a record in the overlay and in the effects: nothing of it may reach the
            # store or another partition. What the batch had before it is not stored either, and is folded again.
            effects = self.view.effects
            effects.acts, effects.sends, effects.commands = [], [], []
            self.halt(error)
            return False

    def _fold(self, batch: Batch) -> bool:
        """Whether there was a fire in it."""
        read = len(batch.values)
        try:
            folded = fold_batch(self.view, batch.values, batch.offset, batch.timestamp_ms, self._own)
        except BaseException:
            self.offset = self.view.offset - self.view.meta.moved
            raise
        if len(self._own) > OWN_RECORDS:
            # One that never came back holds up all behind it: they are decoded like everybody's.
            self._own.clear()
        self.offset = batch.offset + read
        self._last_raw = batch.values[-1]
        self.records["read"] += read
        self.records["folded"] += folded
        self.records["ignored"] += read - folded
        return self.timers.read_back()

    def _perform(self, acts: list[Act]) -> None:
        known = self._see_to(acts) if self.view.effects.duties else None
        self._host.perform(self.partition, acts)
        if known is not None:
            # The last one is the owner now. Runs that begin again read the state after the whole batch: so, after it.
            self._owner_known(Owner(known.number, known.token))

    def _see_to(self, acts: list[Act]) -> OwnerKnown | None:
        self.view.effects.duties = False
        known: OwnerKnown | None = None
        for act in acts:
            if isinstance(act, Schedule):
                self.timers.schedule(act.function)
            elif isinstance(act, Answer):
                self.append(StepAnswered(act.run, act.op, act.claim, act.granted, act.why, act.deaths, act.alone, v=V))
            elif isinstance(act, OwnerKnown):
                known = act
                self._compare_code()
            elif isinstance(act, Activated):
                self._compare_code()
            elif isinstance(act, Parked):
                self._opinions.pop((act.run, ""), None)
        # Another owner's step.attempted lets none of our steps begin.
        acts[:] = [act for act in acts if not isinstance(act, Attempted) or self._is_ours(act)]
        return known

    def _is_ours(self, act: Attempted) -> bool:
        return self._opinions.pop((act.run, act.op), None) is not None

    def _owner_known(self, owner: Owner) -> None:
        if owner == self.owner:
            self.current = True
            lost = [key for key, number in self._opinions.items() if number < owner.number]
            for key in lost:
                del self._opinions[key]
            self._host.opine_again(self.partition, lost)
        elif owner.number >= self.owner.number:
            self.current = False
            self._overtaken(self)

    def _compare_code(self) -> None:
        meta = self.view.meta
        ours = meta.known.get(self.code)
        # Code without a number is new.
        self.behind = ours is not None and any(number > ours for _, number in meta.codes)

    def ahead(self, run: RunState, lines: Sequence[StoredLine] | None = None) -> bool:
        """Whether newer code than ours has taken the run further: it goes on under that, or once ours is activated."""
        if not self.behind:
            return False
        known = self.view.lines.load(run.id) if lines is None else lines
        return self.view.advanced_by(run, known) > self.view.meta.known[self.code]

    def _append_sends(self) -> None:
        effects = self.view.effects
        if effects.sends:
            append = self.log.append
            for partition, raw in effects.sends:
                self._last_ticket = append(partition, raw)
            effects.sends = []
        if effects.commands:
            self._dispatch(effects.commands)
            effects.commands = []

    def _dispatch(self, steps: list[tuple[str, str]]) -> None:
        """Put a command for each step that waits in a queue: what has moved on since needs none."""
        commands = self.log.commands
        assert commands is not None, "this log has no queues"
        for run, op in dict.fromkeys(steps):
            queued = self.view.queued.get(key_of(run, op))
            if queued is not None and waits(queued):
                self._last_ticket = put_command(commands, self.view, run, op, queued)
                if self.on_dispatch is not None:
                    self.on_dispatch(queued.opening.queue)

    def _unread(self, error: Exception) -> None:
        """The reader stopped."""
        if self.log.start(self.partition) > self.offset:
            # Its owner trimmed what we had not read: a snapshot has it.
            self._outrun(self)
        else:
            self.halt(error)

    def halt(self, error: Exception) -> None:
        """What must not be skipped was met: this partition stops, loudly, and the others go on."""
        self.halted = self._why(error)
        self.performing = False
        if self._reader is not None:
            self._reader.close()
        self._tell_caught_up()
        self._host.halted(self.partition, self.halted)
        self._tell()

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
        """Append to this partition's own journal; once it is ours again, if it is paused. Returns the ticket, or 0."""
        raw = _ENCODE(record)
        if self.performing:
            return self.log.append(self.partition, raw)
        self._set_aside(raw)
        return 0

    def append_known(self, record: RunRequested) -> int:
        """`append` for a run that is asked for here, while performing. Read back, the record needs no decoding."""
        raw = _ENCODE(record)
        self._own.append((raw, record))
        return self.log.append(self.partition, raw)

    def append_outcome(self, record: StepCompleted | RunFinished) -> None:
        """`append` for the commonest records. Nothing in them ever changes: read back, they need no decoding."""
        raw = _ENCODE(record)
        if self.performing:
            self._own.append((raw, record))
            self.log.append(self.partition, raw)
        else:
            self._set_aside(raw)

    def _set_aside(self, raw: bytes) -> None:
        if self.halted:
            raise PartitionHalted(self.halted)
        self._aside.append(raw)

    def opine(self, record: RunParked | StepAttempted) -> None:
        """Append an opinion of the owner's. If we are not the owner any more when it is read, it is given again."""
        self._opinions[record.run, record.op if isinstance(record, StepAttempted) else ""] = self.owner.number
        if self.performing:
            self.append(record)

    def side(self, topic: str, record: msgspec.Struct) -> None:
        """Best effort, to a side topic that no fold reads."""
        self.log.side(topic, self.partition, _ENCODE(record))

    @property
    def sealed(self) -> bool:
        """A checkpoint waits to be written."""
        return self._checkpointer.sealed

    def checkpoint(self) -> bool:
        """Step 5, as far as it can go now. True when the store stands where the fold does."""
        checkpointer = self._checkpointer
        if not checkpointer.sealed:
            if checkpointer.stored.offset == self.offset and not checkpointer.hint_changed:
                self.keeper.tend(checkpointer.stored)
                return True
            anchor = anchor_of(self._last_raw) if self._last_raw else checkpointer.stored.anchor
            checkpointer.seal(self.offset, anchor, self._last_ticket)
        rested = checkpointer.try_write()
        if rested is None:
            return False
        self.keeper.tend(checkpointer.stored)
        resident, forget, release = self._host.resident, self.view.runs.forget, self.view.lines.release
        for run in rested:
            if not resident(run) and forget(run):
                release(run)
        return checkpointer.stored.offset == self.offset

    def wake(self, run: str) -> None:
        """The run has work: a restart must touch it."""
        self._checkpointer.active.add(run)

    def rest(self, run: str) -> None:
        """The run only waits, for what the log will bring: a restart need not touch it."""
        self._checkpointer.active.discard(run)

    def release_run(self, run: str) -> None:
        """The run's user code left memory; its state may leave too."""
        if not self._host.resident(run) and self.view.runs.forget(run):
            self.view.lines.release(run)

    def payload(self, payload: Payload, *, field: str = "result") -> Payload:
        """A payload that is no reference to another record."""
        return whole_payload(self.view, payload, field)

    async def close(self) -> None:
        """Say in the log that this end is a clean one, so that no step counts an attempt by crash, and checkpoint."""
        if not (self.performing and self.current):
            return
        await self.log.acknowledge(self.append(OwnerReleased(self.owner, v=V)))
        await asyncio.sleep(0)
        for _ in range(3):
            # Paused meanwhile: what was folded since has effects that nobody appended, and no checkpoint may pass them.
            if not self.performing or self.checkpoint():
                break
            await asyncio.sleep(0.01)
