"""Bugs of the processor and of the worker: what is performed, and when."""

import asyncio
from contextvars import Context
from typing import Any

from perdure.flow.effects import Act, Deliver
from perdure.partition import Processor
from perdure.partition.checkpoint import POSITION_KEY, Checkpointer
from perdure.worker import execution, queued, settle, steps, worker
from perdure.worker.execution import Execution
from perdure.worker.lineage import Branch
from perdure_schemas.records import StepCompleted
from tests.simulation.bugs.planting import Patch, bug


@bug("user code resumes only from records that were read")
def resumes_from_a_local_result(patch: Patch) -> None:
    right = Processor.append_outcome

    def append_outcome(self: Processor, record: Any) -> None:
        right(self, record)
        if isinstance(record, StepCompleted) and self.performing:
            acts: list[Act] = [Deliver(record.run, record.op, record, self.view.at, self.offset)]
            host = self._host  # pyright: ignore[reportPrivateUsage]
            loop = asyncio.get_running_loop()
            loop.call_soon(host.perform, self.partition, acts, context=Context())

    patch.setattr(Processor, "append_outcome", append_outcome)


@bug("a checkpoint at n requires that every effect of offsets < n is acknowledged")
def checkpoint_before_acknowledgement(patch: Patch) -> None:
    right = Checkpointer.seal
    patch.setattr(Checkpointer, "seal", lambda self, offset, anchor, ticket: right(self, offset, anchor, 0))


@bug("the tail is folded keeping every append-effect, and all are appended again")
def tail_without_its_effects(patch: Patch) -> None:
    right = Processor._fold_or_halt  # pyright: ignore[reportPrivateUsage]

    def fold(self: Processor, batch: Any) -> bool:
        fired = right(self, batch)
        if not self.performing and not self._warm:  # pyright: ignore[reportPrivateUsage]
            self.view.effects.sends, self.view.effects.commands = [], []
        return fired

    patch.setattr(Processor, "_fold_or_halt", fold)


@bug("state and the offset it stands at are one write")
def the_offset_is_written_first(patch: Patch) -> None:
    right = Checkpointer.try_write

    def try_write(self: Checkpointer) -> list[str] | None:
        sealed = self._sealed  # pyright: ignore[reportPrivateUsage]
        ticket = self._sealed_ticket  # pyright: ignore[reportPrivateUsage]
        if sealed is not None and self._log.acknowledged >= ticket:  # pyright: ignore[reportPrivateUsage]
            position = [put for put in sealed[0] if put[0] == POSITION_KEY]
            self._store.write(position, [])  # pyright: ignore[reportPrivateUsage]
        return right(self)

    patch.setattr(Checkpointer, "try_write", try_write)


@bug("an owner catches up before it performs")
def performs_before_it_has_caught_up(patch: Patch) -> None:
    right = Processor.catch_up

    async def catch_up(self: Processor) -> None:
        log = self.log
        asked = patch_latest(log, self.offset)
        try:
            await right(self)
        finally:
            asked()

    patch.setattr(Processor, "catch_up", catch_up)


def patch_latest(log: Any, offset: int) -> Any:
    """`latest` says `offset`, until what is returned is called."""

    async def latest(partition: int) -> int:
        return offset

    log.latest = latest
    return lambda: log.__dict__.pop("latest", None)


@bug("runs that stayed in memory go on only if nobody else was the owner meanwhile")
def stays_warm_though_another_was_the_owner(patch: Patch) -> None:
    patch.setattr(Processor, "overtaken", property(lambda self: False))


@bug("on revoke a processor pauses")
def goes_on_when_it_is_revoked(patch: Patch) -> None:
    patch.setattr(Processor, "pause", lambda self: None)


@bug("what has work is known, so that a restart begins it")
def the_hint_of_work_is_not_stored(patch: Patch) -> None:
    right = Checkpointer.load_active

    def load_active(self: Checkpointer) -> set[str]:
        right(self)
        self.active = set()
        return self.active

    patch.setattr(Checkpointer, "load_active", load_active)


@bug("a run has settled when nothing of it moved for eight turns of the loop")
def settles_after_one_turn(patch: Patch) -> None:
    patch.setattr(settle, "QUIET_TURNS", 1)


@bug("branches are numbered when a task is created")
def identity_at_first_use(patch: Patch) -> None:
    known: dict[int, Branch] = {}
    right = Branch.identity

    def child(self: Branch) -> Branch:
        made = Branch(self.execution, "")
        made.prefix = ""
        known[id(made)] = self
        _kept.append(made)
        return made

    def identity(self: Branch, name: str) -> str:
        if not self.prefix:
            parent = known[id(self)]
            if not parent.prefix:
                parent.identity("")
            parent.children += 1
            self.path = f"{parent.path}.{parent.children}"
            self.prefix = f"{self.path}/"
        return right(self, name)

    _kept: list[Branch] = []
    patch.setattr(Branch, "child", child)
    patch.setattr(Branch, "identity", identity)


@bug("on replay a run must ask with the recorded arguments")
def arguments_are_not_compared(patch: Patch) -> None:
    right = Execution.ask

    def ask(self: Execution, op: str, asked: str) -> Any:
        if op in self.recorded:
            self.recorded[op] = asked
        return right(self, op, asked)

    opened = Execution.opened

    def opened_alike(self: Execution, op: str, digest: str) -> None:
        opened(self, op, self.recorded.get(op) or self.deferred.get(op) or digest)

    handed_out = steps.value_of

    def value_of(execution: Execution, op: str, spec: Any, asked: str, delivered: Any) -> Any:
        return handed_out(execution, op, spec, getattr(delivered.outcome, "digest", asked), delivered)

    patch.setattr(Execution, "ask", ask)
    patch.setattr(Execution, "opened", opened_alike)
    patch.setattr(steps, "value_of", value_of)
    patch.setattr(queued, "value_of", value_of)


@bug("idle means that every task waits, through gathers, only on ops")
def idle_by_ops_alone(patch: Patch) -> None:
    def idle(one: Execution) -> bool:
        return bool(one.waiting)

    patch.setattr(worker, "tasks_idle", idle)
    patch.setattr(execution, "tasks_idle", idle)


@bug("on replay, an op that the log does not hold waits until all recorded outcomes are handed out")
def new_ops_begin_during_replay(patch: Patch) -> None:
    right = Execution.obtain

    async def obtain(self: Execution, op: str, asked: str) -> Any:
        delivered = self.ask(op, asked)
        return delivered if delivered is not None or op not in self.recorded else await right(self, op, asked)

    patch.setattr(Execution, "obtain", obtain)


@bug("results go to a run one at a time, the next when the run has settled")
def results_are_delivered_at_once(patch: Patch) -> None:
    right = Execution.deliver

    def deliver(self: Execution, delivered: Deliver) -> None:
        future = self.waiting.get(delivered.op)
        if future is not None and not future.done():
            self.now_ms = delivered.at
            future.set_result(delivered)
        else:
            right(self, delivered)

    patch.setattr(Execution, "deliver", deliver)


@bug("a cancelled run's user code is stopped")
def cancelled_code_goes_on(patch: Patch) -> None:
    patch.setattr(Execution, "cancel", lambda self: None)
