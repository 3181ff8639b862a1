"""The past folded twice, side by side: as it was, and as it would have been with other definitions.

    the log ──► View as it was         by its own records alone, and by what it sends we know what led to what
       │
       └──────► View as it would be    fed with what came from outside and from user code; what folds send each other
                                       goes by `Mail`, and what comes by itself (timers, schedules) comes when it is due

Nothing runs. What a run's code wrote counts for the same run in both: the run of one function and one event has one id.
A run that the other definitions alone start has no records, so it goes on for ever; one that they do not start leaves
its records without effect, and what it sent, called and cancelled does not happen.

With the definitions of the past both are the same: all that was sent stands in the log and arrives where it stands, and
timers that are the same in both fire where the log has them, however late an owner fired them.
"""

from collections import defaultdict
from collections.abc import Callable
from typing import Protocol

import msgspec
from msgspec.structs import replace

from perdure.flow import decode, fold
from perdure.flow.definitions import CRON, know_paths, parse_timer_key
from perdure.flow.effects import Schedule
from perdure.flow.routes import Routes
from perdure.flow.timer import timer_of
from perdure.flow.view import View
from perdure.partition.timers import TimerDriver
from perdure.past.mail import Letter, Mail, Places, meaning_of
from perdure.past.order import Stood
from perdure.past.tape import Tape, beginning_of
from perdure_schemas.definition import Definition
from perdure_schemas.records import (
    AnyRecord,
    AppActivated,
    AppDefined,
    AppPaths,
    CronScheduled,
    EventReceived,
    Record,
    TimerFired,
    V,
)

ROOM = 1 << 20
"""Offsets between two of the log's: what arrives only now stands there."""
TIMERS_AT_ONCE = 1_000
_ENCODE = msgspec.json.Encoder().encode
_NONE: Places = set()


class _Spread(View):
    """Its offsets are the log's, spread. An event about a place in the log is named by the place there."""

    def send(self, partition: int, record: Record) -> int:
        if isinstance(record, EventReceived) and record.event.id.endswith(f":parked-{self.offset}"):
            event_id = record.event.id.removesuffix(str(self.offset)) + str(self.offset // ROOM - 1)
            record = replace(record, event=replace(record.event, id=event_id))
            partition = self.partition_of(event_id)
        return super().send(partition, record)


class Teller(Protocol):
    """Is told of each record that one of the two has folded; its acts stand in `view.effects`."""

    def __call__(self, view: View, record: AnyRecord, /) -> None: ...


class Beside:
    """`definition` is what the app would have been; None: what it was."""

    def __init__(self, tape: Tape, definition: Definition | None, was: Teller, would: Teller) -> None:
        self.trimmed = any(part.state is not None for part in tape.parts.values())
        self.now = 0
        self._definition = definition
        self._tell_was, self._tell_would = was, would
        self._mail = Mail(trimmed=self.trimmed)
        self._held: dict[tuple[int, str], list[tuple[str, int]]] = defaultdict(list)
        """(partition, entity) → its timers (name, setter) that are due, and which the log has yet to fire."""
        self._unscheduled: set[tuple[int, str]] = set()
        """Schedules (partition, function) that wait for their first fire."""
        self.was = [beginning_of(tape, tape.parts[partition]) for partition in range(tape.partitions)]
        self.would = [self._beginning(view) for view in self.was]
        self._drivers = [TimerDriver(view, self._appender(view.partition), lambda: self.now) for view in self.would]

    def _beginning(self, was: View) -> View:
        """As `was`, where that does not begin with nothing: with the definitions that are asked about."""
        would = _Spread(was.partition, was.partitions)
        for number, definition in was.definitions.items():
            would.definitions.put(number, self._defined(definition))
            know_paths(would, definition)
            know_paths(would, self._defined(definition))
        meta, then = would.meta, was.meta
        meta.current, meta.known, meta.numbers = then.current, dict(then.known), dict(then.numbers)
        meta.last_number, meta.code, meta.owner = then.last_number, then.code, then.owner
        meta.paused = dict(then.paused)
        return would

    def _defined(self, then: Definition) -> Definition:
        """It is known by the digest that was in force: so all of one deploy goes as it went."""
        if self._definition is None:
            return then
        return replace(self._definition, digest=then.digest)

    def waits_for(self, stood: Stood) -> int | None:
        """The partition whose records lead to this one and were not taken so far; None if it may be taken."""
        from_ = stood.record.from_
        if from_ is None or self.trimmed:
            return None
        source, n = from_
        return source if self.was[source].meta.outseq.get(stood.entry.partition, 0) < n else None

    def take(self, stood: Stood) -> None:
        """The log goes on by this record."""
        entry, record = stood
        self.until(entry.at)
        was = self.was[entry.partition]
        if record.from_ is not None:
            # Which records count is known, also where those before them are gone.
            was.meta.inseq[record.from_[0]] = record.from_[1] - 1
        for view in (was, self.would[entry.partition]):
            view.advance(entry.at)
        fold(was, record, entry.raw, entry.offset, entry.stamp)
        places = self._mail.sent_then(was.partition, was.effects.sends)
        was.effects.sends.clear()
        self._tell_was(was, record)
        _forget(was)
        self._happens(was, record, places)
        self._look_again(entry.partition, record)

    def end(self) -> None:
        """The log has ended."""
        for to, letter in self._mail.at_last():
            self._arrive(to, letter)

    def _happens(self, was: View, record: AnyRecord, places: Places) -> None:
        """The same as it would be. `places`: what it led to."""
        partition, place = was.partition, (was.offset + 1) * ROOM
        if record.from_ is None:
            told = self._retold(record)
            self._fold(partition, told, was.raw if told is record else _ENCODE(told), place, was.stamp, places)
            return
        source, meaning = record.from_[0], meaning_of(record)
        for letter in self._mail.up_to(source, partition, meaning):
            if letter.place == meaning:
                self._fold(partition, letter.record, letter.raw, place, was.stamp, places)
            else:
                self._arrive(partition, letter)
        self._deliver(source, partition)

    def _retold(self, record: AnyRecord) -> AnyRecord:
        """A record of the past, as it stands in what would be."""
        if isinstance(record, AppDefined):
            return replace(record, definition=self._defined(record.definition))
        if isinstance(record, TimerFired):
            return replace(record, setter=(record.setter + 1) * ROOM)
        return record

    def _fold(
        self, partition: int, record: AnyRecord, raw: bytes, offset: int, stamp_ms: int, places: Places = _NONE
    ) -> None:
        view = self.would[partition]
        if record.from_ is not None:
            view.meta.inseq[record.from_[0]] = record.from_[1] - 1
        fold(view, record, raw, offset, stamp_ms)
        if isinstance(record, AppPaths):
            # What code of the past waited for is still copied: paths are only ever added.
            know_paths(view, self._paths_then(partition, record.number))
        self._tell_would(view, record)
        self._unscheduled.update((partition, act.function) for act in view.effects.acts if isinstance(act, Schedule))
        sends, view.effects.sends = view.effects.sends, []
        _forget(view)
        self._mail.send(partition, sends, places)
        for to in dict.fromkeys(to for to, _ in sends):
            self._deliver(partition, to)

    def _paths_then(self, partition: int, number: int) -> Definition:
        then = self.was[partition].definitions.get(str(number))
        assert then is not None, "paths arrive where they stood in the log"
        return then

    def _deliver(self, source: int, to: int) -> None:
        for letter in self._mail.due(source, to):
            self._arrive(to, letter)

    def _arrive(self, to: int, letter: Letter) -> None:
        self._come(to, letter.record, letter.raw)

    def _come(self, partition: int, record: AnyRecord, raw: bytes) -> None:
        """Something that the log does not have comes now."""
        view = self.would[partition]
        self._fold(partition, record, raw, view.offset + 1, max(self.now, view.at))

    def _appender(self, partition: int) -> Callable[[Record], int]:
        def append(record: Record) -> int:
            raw = _ENCODE(record)
            self._come(partition, decode(raw), raw)
            return 0

        return append

    def until(self, at: int) -> None:
        """Log time comes to `at`: what is due by then fires, but what the log has yet to fire."""
        while True:
            dues = ((view.timers.next(at), view.partition) for view in self.would)
            due, partition = min(((due, one) for due, one in dues if due is not None and due <= at), default=(at, -1))
            self.now = max(self.now, due)
            if partition < 0:
                return
            for key in self.would[partition].timers.take(due, TIMERS_AT_ONCE):
                entity, timer, setter = parse_timer_key(key)
                if self._is_held(partition, entity, timer, setter):
                    self._held[partition, entity].append((timer, setter))
                else:
                    self._fire(partition, entity, timer, setter)

    def _is_held(self, partition: int, entity: str, timer: str, setter: int) -> bool:
        """Whether it was the same in the past, and has not fired there yet."""
        then = _timer(self.was[partition], entity, timer)
        now = _timer(self.would[partition], entity, timer)
        return then is not None and now == (then[0], setter) and (then[1] + 1) * ROOM == setter

    def _fire(self, partition: int, entity: str, timer: str, setter: int) -> None:
        if entity.startswith(CRON):
            fired = self._drivers[partition].cron_fired(entity, setter, self.now)
        elif timer == "timeout" and self.was[partition].live(entity) is None:
            return  # Nobody knows how long it would have run.
        else:
            fired = TimerFired(entity, timer, setter, v=V)
        raw = _ENCODE(fired)
        self._come(partition, fired, raw)

    def _look_again(self, partition: int, record: AnyRecord) -> None:
        """At what waits for the log, after a record that may be all that it was waiting for."""
        entity = record.entity if isinstance(record, TimerFired) else getattr(record, "run", "")
        if entity and not entity.startswith(CRON):
            self._release(partition, entity)
        elif isinstance(record, TimerFired | CronScheduled | AppActivated):
            for _, cron in [key for key in self._held if key[0] == partition and key[1].startswith(CRON)]:
                self._release(partition, cron)
        for place in sorted(self._unscheduled):
            self._schedule(*place)

    def _release(self, partition: int, entity: str) -> None:
        for timer, setter in self._held.pop((partition, entity), ()):
            present = _timer(self.would[partition], entity, timer)
            if present is None or present[1] != setter:
                continue
            if self._is_held(partition, entity, timer, setter):
                self._held[partition, entity].append((timer, setter))
            else:
                self._fire(partition, entity, timer, setter)

    def _schedule(self, partition: int, function: str) -> None:
        """A schedule begins: by the log if it was the same then, else by its line."""
        routes, was = self.would[partition].routes(), self.was[partition].routes()
        defined = routes.functions.get(function) if routes else None
        if defined is None or self.would[partition].crons.get(function) is not None:
            self._unscheduled.discard((partition, function))
        elif was is not None and _cron(was, function) != _cron(routes, function):
            self._unscheduled.discard((partition, function))
            self._drivers[partition].schedule(function)


def _timer(view: View, entity: str, timer: str) -> tuple[int, int] | None:
    """(due, setter) of a timer that is set."""
    if entity.startswith(CRON):
        cron = view.crons.get(entity.removeprefix(CRON))
        return None if cron is None else (cron.due, cron.setter)
    run = view.live(entity)
    found = timer_of(view, run, timer) if run is not None else None
    return None if found is None or found.due is None else (found.due, found.setter)


def _cron(routes: Routes | None, function: str) -> tuple[str, str] | None:
    defined = routes.functions.get(function) if routes else None
    return None if defined is None or defined.cron is None else (defined.cron.line, defined.cron.tz)


def _forget(view: View) -> None:
    effects = view.effects
    effects.acts.clear()
    effects.commands.clear()
    effects.fired.clear()
    effects.duties = False
