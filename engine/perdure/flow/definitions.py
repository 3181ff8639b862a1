"""Definitions: code becomes current in all partitions in two phases, through partition 0.

    app.defined ─► partition 0 numbers a digest ─► app.paths to all ─► each copies for these paths, app.ready
    after the last app.ready: app.activated to all ─► triggers, schedules and parked runs go by the new code

In one phase an event could pass a partition that did not copy it yet, and a wait of the new code would miss it
(model/control.py: 28 to 49 of 60 seeds).

The owner of a partition says which code it runs. What newer code has taken further, older code holds and does not touch
(`View.advanced_by`); what one code has parked, other code tries again.
"""

from perdure.flow.effects import Activated, OwnerKnown, Schedule, Start
from perdure.flow.states import CronState, RunState
from perdure.flow.view import View
from perdure_schemas.definition import Definition
from perdure_schemas.records import (
    AppActivated,
    AppDefined,
    AppPaths,
    AppReady,
    CronScheduled,
    OwnerReleased,
    OwnerStarted,
    V,
)

CRON = "cron:"
CODES_KEPT = 1_000
"""Changes of the owner's code that are remembered: what is older, any code may take further."""


def app_defined(view: View, record: AppDefined, at: int) -> None:
    """Partition 0 numbers code that it has not seen, or that is asked for again while other code is current."""
    meta = view.meta
    digest = record.definition.digest
    known = meta.numbers.get(digest)
    if known is not None and (known == meta.last_number or not record.activate):
        return
    number = meta.last_number = meta.last_number + 1
    meta.numbers[digest] = number
    meta.ready[number] = 0
    for partition in range(view.partitions):
        view.send(partition, AppPaths(v=V, number=number, definition=record.definition))


def app_paths(view: View, record: AppPaths, at: int) -> None:
    """From here on this partition copies events for these paths too. Paths are only ever added."""
    view.definitions.put(str(record.number), record.definition)
    know_paths(view, record.definition)
    view.meta.known[record.definition.digest] = record.number
    if view.partition == 0 and record.number > view.meta.last_number:
        # Of an imported past, which does not have what was numbered: its numbers are taken.
        view.meta.last_number = record.number
    _number_code(view)
    view.send(0, AppReady(v=V, number=record.number))


def know_paths(view: View, definition: Definition) -> None:
    """Events are copied for these from here on."""
    paths = view.meta.paths
    for function in definition.functions:
        for event, path in function.paths:
            known = paths.setdefault(event, {})
            known[path] = max(known.get(path, 0), function.lookback_ms)


def app_ready(view: View, record: AppReady, at: int) -> None:
    """Partition 0 counts; the last one activates."""
    ready = view.meta.ready
    if record.number not in ready:
        return
    ready[record.number] += 1
    if ready[record.number] == view.partitions:
        del ready[record.number]
        for partition in range(view.partitions):
            view.send(partition, AppActivated(v=V, number=record.number))


def app_activated(view: View, record: AppActivated, at: int) -> None:
    """The higher number wins, so that all partitions agree whatever the order."""
    meta = view.meta
    if record.number <= meta.current:
        return
    meta.current = record.number
    view.effects.oblige(Activated(record.number))
    _schedule(view)
    _try_parked(view)


def _schedule(view: View) -> None:
    routes = view.routes()
    assert routes is not None, "I13: activated before its paths were known here"
    for function, state in list(view.crons.items()):
        defined = routes.functions.get(function)
        if defined is None or defined.cron is None or (defined.cron.line, defined.cron.tz) != (state.line, state.tz):
            # Dropped, not kept until the new fire is known: an owner that dies before it says so finds it missing.
            drop_cron(view, function, state)
    for defined in routes.functions.values():
        mine = view.partition_of(CRON + defined.id) == view.partition
        if defined.cron is not None and mine and view.crons.get(defined.id) is None:
            view.effects.oblige(Schedule(defined.id))


def _number_code(view: View) -> None:
    """Write down from which offset on the owner's code has which number."""
    meta = view.meta
    number, codes = meta.known.get(meta.code, 0), meta.codes
    if codes and codes[-1][1] == 0:
        # It owned the partition before its number came here.
        codes[-1] = (codes[-1][0], number)
    elif not codes or codes[-1][1] != number:
        codes.append((view.offset, number))
        del codes[:-CODES_KEPT]


def _try_parked(view: View) -> None:
    """What other code has parked goes on under the owner's, or is parked again."""
    for run, code in list(view.parked.items()):
        state = view.runs.get(run)
        if state is not None and code != view.meta.code:
            unpark(view, state)


def unpark(view: View, run: RunState) -> None:
    """The code that parked it did not write what it could not go on with, even if it owned the partition by then."""
    run.parked = None
    run.status = "running"
    run.tried_from = view.offset
    view.runs.touch(run.id)
    view.parked.delete(run.id)
    view.effects.acts.append(Start(run.id))


def cron_scheduled(view: View, record: CronScheduled, at: int) -> None:
    """The owner computed a fire. It counts only for the schedule that the active definition has."""
    routes = view.routes()
    defined = routes.functions.get(record.function) if routes else None
    if defined is None or defined.cron is None or (defined.cron.line, defined.cron.tz) != (record.line, record.tz):
        return
    set_cron(view, record.function, CronState(record.line, record.tz, record.due, view.offset))


def set_cron(view: View, function: str, state: CronState) -> None:
    old = view.crons.get(function)
    if old is not None:
        view.timers.remove(old.due, timer_key(CRON + function, "", old.setter))
    view.crons.put(function, state)
    view.timers.add(state.due, timer_key(CRON + function, "", state.setter))


def drop_cron(view: View, function: str, state: CronState) -> None:
    view.timers.remove(state.due, timer_key(CRON + function, "", state.setter))
    view.crons.delete(function)


def timer_key(entity: str, timer: str, setter: int) -> bytes:
    """Identity of a timer in the due index: a record sets at most one timer of an entity."""
    return b"%b\0%b\0%d" % (entity.encode(), timer.encode(), setter)


def parse_timer_key(key: bytes) -> tuple[str, str, int]:
    """(entity, timer, setter) of a due index's key. Only the timer, with a step's name in it, may hold a NUL."""
    entity, _, rest = key.partition(b"\0")
    timer, _, setter = rest.rpartition(b"\0")
    return entity.decode(), timer.decode(), int(setter)


def owner_started(view: View, record: OwnerStarted, at: int) -> None:
    """The first of a number wins: a zombie or a late copy of an old one changes nothing."""
    meta = view.meta
    current = meta.owner.number if meta.owner else 0
    if record.owner.number > current:
        meta.owner = record.owner
        meta.released = record.owner in meta.left
        meta.left = [one for one in meta.left if one.number > record.owner.number]
        meta.code = record.code
        _number_code(view)
        view.effects.oblige(OwnerKnown(record.owner.number, record.owner.token))
        if record.code in meta.known:
            # Else once it is activated: until then its paths are not copied.
            _try_parked(view)


def owner_released(view: View, record: OwnerReleased, at: int) -> None:
    meta = view.meta
    if record.owner == meta.owner:
        meta.released = True
    elif record.owner.number > (meta.owner.number if meta.owner else 0) and record.owner not in meta.left:
        meta.left.append(record.owner)
