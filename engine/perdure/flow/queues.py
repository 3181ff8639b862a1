"""Queues: steps that run on members of worker pools. Who may run one is decided here, by the order of the log.

    op.opened ─► waiting ──(step.claimed: granted)──► held ──(step.completed, step.failed)──► its outcome
                 ▲     │                               │
                 │     └─(nobody claimed it: timer)    ├─(no sign of life within the lease: timer)─ counts a death
                 └────────── a new command ────────────┴─(step.released)
    step.failed with a retry ─► resting ─(timer)─► waiting

Commands come at least once and late, and members die: so a member asks before it begins, and is told what its claim's
place in the log made of it. A claim is granted if the op is open, its run alive, the attempt the present one, and
nobody else has it. What a member that lost its claim still writes is an outcome like any (the first counts) or a
failure that counts for nothing.
"""

from perdure.flow.definitions import timer_key
from perdure.flow.effects import Answer, Faltered
from perdure.flow.states import QueuedState, RunState
from perdure.flow.view import View
from perdure_schemas.records import Queued, StepAnswered, StepClaimed, StepFailed, StepReleased

QUEUED = "queued"
"""Type of such an op."""
DEATHS_BESIDE = 2
"""A step that this often died with its member runs alone from then on, so that the one that kills is found."""
LONGEST_WAIT_MS = 3_600_000
"""A command that nobody takes is put again after a lease, then after twice as long, up to this: it may be lost."""


def key_of(run: str, op: str) -> str:
    """The same for each attempt and dispatch of a step: what `current_step().key` gives."""
    return f"{run}/{op}"


def begin(view: View, run: RunState, op: str, opening: Queued, digest: str, at: int) -> None:
    """A step was opened: it waits in its queue. `opening` has its arguments shortened."""
    queued = QueuedState(opening, digest)
    view.queued.put(key_of(run.id, op), queued)
    _wait(view, run, op, queued, at)


def _wait(view: View, run: RunState, op: str, queued: QueuedState, at: int) -> None:
    """Nobody has it: a command is put, and put again if nobody comes."""
    queued.claim = queued.member = ""
    queued.beat = 0
    queued.alone = queued.resting = False
    queued.dispatches += 1
    longer = queued.opening.lease_ms << min(queued.unclaimed, 20)
    _set_timer(view, run, op, queued, at + min(longer, max(LONGEST_WAIT_MS, queued.opening.lease_ms)))
    view.effects.commands.append((run.id, op))


def _set_timer(view: View, run: RunState, op: str, queued: QueuedState, due: int) -> None:
    _drop_timer(view, run, op, queued)
    queued.due, queued.setter = due, view.offset
    view.timers.add(due, timer_key(run.id, op, view.offset))
    view.queued.touch(key_of(run.id, op))


def _drop_timer(view: View, run: RunState, op: str, queued: QueuedState) -> None:
    if queued.setter >= 0:
        view.timers.remove(queued.due, timer_key(run.id, op, queued.setter))


def step_claimed(view: View, record: StepClaimed, at: int) -> None:
    """A member asks for a step, or says that it still has it. Each who asks is answered, however often (I3)."""
    run = view.live(record.run)
    queued = view.queued.get(key_of(record.run, record.op)) if run is not None else None
    if run is None or queued is None:
        _answer(view, record, "it is not open any more")
    elif queued.claim == record.claim:
        if record.beat > queued.beat:
            queued.beat = record.beat
            _set_timer(view, run, record.op, queued, at + queued.opening.lease_ms)
        elif record.beat == 0:
            _grant(view, record, queued)
    elif record.beat:
        _answer(view, record, "its lease ended")
    elif queued.claim:
        _answer(view, record, f"{queued.member or 'another member'} has it")
    elif queued.resting or record.attempt != queued.attempt:
        _answer(view, record, f"its attempt is {queued.attempt} now")
    elif is_suspect(queued) and not record.alone:
        _answer(view, record, "it is to run alone: its latest command says so")
    else:
        queued.claim, queued.member, queued.alone = record.claim, record.member, record.alone
        queued.unclaimed = 0
        _set_timer(view, run, record.op, queued, at + queued.opening.lease_ms)
        _grant(view, record, queued)


def is_suspect(queued: QueuedState) -> bool:
    return queued.deaths >= DEATHS_BESIDE


def waits(queued: QueuedState) -> bool:
    """Nobody has it, and its attempt is due: a command asks for a member."""
    return not queued.claim and not queued.resting


def step_answered(view: View, record: StepAnswered, at: int) -> None:
    """What the owner told a member: the claim that it answers has said it all."""


def _grant(view: View, record: StepClaimed, queued: QueuedState) -> None:
    deaths, alone = queued.deaths, queued.alone_deaths
    view.effects.oblige(Answer(record.run, record.op, record.claim, True, "", deaths, alone))


def _answer(view: View, record: StepClaimed, why: str) -> None:
    view.effects.oblige(Answer(record.run, record.op, record.claim, False, why))


def step_released(view: View, record: StepReleased, at: int) -> None:
    """Its member gives it back, which counts for nothing; or others know that the member died with it."""
    run = view.live(record.run)
    queued = view.queued.get(key_of(record.run, record.op)) if run is not None else None
    if run is not None and queued is not None and queued.claim == record.claim:
        if record.died:
            _count_death(queued)
        _wait(view, run, record.op, queued, at)


def failed(view: View, run: RunState, record: StepFailed, at: int) -> bool:
    """An attempt raised. True if that is the step's outcome; False if it is tried again, or another one has it now."""
    queued = view.queued.get(key_of(run.id, record.op))
    assert queued is not None, "an open op of a queue has its state"
    if record.attempt != queued.attempt or record.claim != queued.claim:
        return False
    if record.retry_in_ms is None:
        return True
    queued.attempt += 1
    queued.claim = queued.member = ""
    queued.resting = True
    run.open[record.op].attempt = queued.attempt
    view.runs.touch(run.id)
    _set_timer(view, run, record.op, queued, at + record.retry_in_ms)
    view.effects.acts.append(Faltered(run.id, record, at))
    return False


def fired(view: View, run: RunState, op: str, queued: QueuedState, at: int) -> None:
    """The next attempt is due; or nobody came for the step; or no sign of life of who has it."""
    if queued.claim:
        _count_death(queued)
        view.effects.oblige(Answer(run.id, op, queued.claim, False, "its lease ended"))
    elif not queued.resting:
        queued.unclaimed += 1
    _wait(view, run, op, queued, at)


def _count_death(queued: QueuedState) -> None:
    queued.deaths += 1
    queued.alone_deaths += queued.alone


def drop(view: View, run: RunState, op: str, why: str) -> None:
    """The op is open no more. Who may still be running it is told."""
    key = key_of(run.id, op)
    queued = view.queued.get(key)
    assert queued is not None, "an open op of a queue has its state"
    _drop_timer(view, run, op, queued)
    if queued.claim and (why or queued.dispatches > 1):
        view.effects.oblige(Answer(run.id, op, queued.claim, False, why or "it has its outcome"))
    if queued.opening.arguments.ref is not None:
        view.wholes.delete(queued.opening.arguments.ref.offset)
    view.queued.delete(key)
