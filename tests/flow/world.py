"""Partitions without an event loop: journals, stores, and owners whose effects are routed by hand.

A `World` is calm: `settle` folds all and routes every send at once. `storm.py` has the faults.
"""

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import msgspec

from perdure.flow import decode, fold
from perdure.flow.definitions import CRON, parse_timer_key, timer_key
from perdure.flow.effects import Act
from perdure.flow.expressions import join_key, join_value
from perdure.flow.queues import QUEUED
from perdure.flow.routing import partition_of, partition_of_run, run_id
from perdure.flow.states import TERMINAL, RunState
from perdure.flow.view import View
from perdure.flow.wholes import row_of
from perdure_schemas.definition import Definition, FunctionDefined, TriggerDefined
from perdure_schemas.event import EventBody
from perdure_schemas.payload import ErrorInfo, Payload
from perdure_schemas.records import (
    AppDefined,
    Call,
    Came,
    EventReceived,
    OpOpened,
    Owner,
    OwnerStarted,
    Queued,
    Record,
    RetryRule,
    RunRequested,
    Sleep,
    StepCompleted,
    TimerFired,
    V,
    Wait,
)

APP = "shop"
ERROR = ErrorInfo("shop.Broken", "it broke")
R = TypeVar("R", bound=Record)
A = TypeVar("A")
_ENCODE = msgspec.json.Encoder().encode


class DictStore:
    """A partition's store: sorted keys beside a dict, and the place it stands at."""

    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}
        self._keys: list[bytes] = []
        self.offset = 0
        self.at = 0

    def copy(self) -> "DictStore":
        other = DictStore()
        other.values, other._keys = dict(self.values), list(self._keys)
        other.offset, other.at = self.offset, self.at
        return other

    def get(self, key: bytes, /) -> bytes | None:
        return self.values.get(key)

    def scan(self, prefix: bytes, /, start: bytes = b"", limit: int = 0) -> list[tuple[bytes, bytes]]:
        found: list[tuple[bytes, bytes]] = []
        for index in range(bisect_left(self._keys, max(prefix, start)), len(self._keys)):
            key = self._keys[index]
            if not key.startswith(prefix) or (limit and len(found) == limit):
                break
            found.append((key, self.values[key]))
        return found

    def write(self, puts: Sequence[tuple[bytes, bytes]], deletes: Sequence[bytes], clears: Sequence[bytes]) -> None:
        for prefix in clears:
            for key, _ in self.scan(prefix):
                self._delete(key)
        for key in deletes:
            self._delete(key)
        for key, value in puts:
            if key not in self.values:
                insort(self._keys, key)
            self.values[key] = value

    def _delete(self, key: bytes) -> None:
        if self.values.pop(key, None) is not None:
            del self._keys[bisect_left(self._keys, key)]


class Journal:
    """Records of one partition with their log timestamps."""

    def __init__(self) -> None:
        self.records: list[tuple[int, bytes]] = []

    def __len__(self) -> int:
        return len(self.records)


class Sending(NamedTuple):
    """What a fold asked to append, numbered in the order of asking."""

    number: int
    partition: int
    raw: bytes


Changes = tuple[list[tuple[bytes, bytes]], list[bytes], list[bytes]]


class OwnerOf:
    """Folds one partition over its store, as a processor does: `out` is what it has not sent yet."""

    def __init__(self, partition: int, partitions: int, journal: Journal, store: DictStore) -> None:
        self.partition = partition
        self.journal = journal
        self.store = store
        self.view = View(partition, partitions, store)
        self.view.at, self.offset = store.at, store.offset
        self.out: list[Sending] = []
        self.commands: list[tuple[str, str]] = []
        """Steps that a command was asked for, in order."""
        self._sends = 0
        self._sealed: tuple[int, int, int, Changes] | None = None

    def behind(self) -> int:
        return len(self.journal) - self.offset

    def fold_one(self) -> list[Act]:
        """Fold the next record. Returns what it asks of the owner; what it sends waits in `out`."""
        stamp, raw = self.journal.records[self.offset]
        fold(self.view, decode(raw), raw, self.offset, stamp)
        self.offset += 1
        effects = self.view.effects
        for partition, sent in effects.sends:
            self._sends += 1
            self.out.append(Sending(self._sends, partition, sent))
        acts = effects.acts
        self.commands += effects.commands
        effects.sends, effects.acts, effects.commands = [], [], []
        return acts

    def recover(self) -> None:
        """Fold the tail: its appends are kept, to be made again; the rest is left."""
        for _ in range(self.behind()):
            self.fold_one()

    @property
    def sealed(self) -> bool:
        return self._sealed is not None

    def seal(self) -> None:
        changes: Changes = ([], [], [])
        self.view.seal(*changes)
        self._sealed = self.offset, self.view.at, self._sends, changes

    def try_write(self, resident: frozenset[str] = frozenset()) -> None:
        """What was sealed reaches the store, if all asked for before it is sent. All but `resident` runs leave."""
        assert self._sealed is not None
        offset, at, sends, changes = self._sealed
        if any(sending.number <= sends for sending in self.out):
            return
        self._sealed = None
        self.store.offset, self.store.at = offset, at
        self.store.write(*changes)
        for run in self.view.written():
            if run not in resident and self.view.runs.forget(run):
                self.view.lines.release(run)


class World:
    """All partitions of an app, with one clock and no faults."""

    def __init__(self, partitions: int = 3) -> None:
        self.partitions = partitions
        self.now = 1_000_000
        self.journals = [Journal() for _ in range(partitions)]
        self.stores = [DictStore() for _ in range(partitions)]
        self.owners = [self._own(partition) for partition in range(partitions)]
        self.acts: list[Act] = []
        self._definitions = 0

    def _own(self, partition: int) -> OwnerOf:
        return OwnerOf(partition, self.partitions, self.journals[partition], self.stores[partition])

    # Writing

    def append(self, partition: int, record: Record) -> int:
        return self.append_raw(partition, _ENCODE(record))

    def append_raw(self, partition: int, raw: bytes) -> int:
        """Returns the record's offset."""
        self.journals[partition].records.append((self.now, raw))
        return len(self.journals[partition]) - 1

    def settle(self) -> list[Act]:
        """Fold and route until nothing is left. Returns what the folds asked of their owners meanwhile."""
        acts: list[Act] = []
        busy = True
        while busy:
            busy = False
            for owner in self.owners:
                while owner.behind():
                    busy = True
                    acts += owner.fold_one()
                    self._route(owner)
        self.acts += acts
        return acts

    def _route(self, owner: OwnerOf) -> None:
        out, owner.out = owner.out, []
        for sending in out:
            self.append_raw(sending.partition, sending.raw)

    def put(self, partition: int, *records: Record) -> list[Act]:
        """Append to a partition, then settle."""
        for record in records:
            self.append(partition, record)
        return self.settle()

    def to_run(self, run: str, *records: Record) -> list[Act]:
        return self.put(self.of_run(run), *records)

    def define(self, *functions: FunctionDefined, window_ms: int = 1_000_000, activate: bool = False) -> Definition:
        """Activate an app with these functions in all partitions."""
        definition = definition_of(*functions, window_ms=window_ms)
        self.put(0, AppDefined(definition, activate, v=V))
        return definition

    def send(self, event: EventBody, came: Came | None = None) -> list[Act]:
        return self.put(partition_of(event.id, self.partitions), EventReceived(event, came, v=V))

    def request(self, name: str = "run", function: str = "work", **fields: Any) -> str:
        """A run of a background function. Returns its id."""
        run = run_id(name)
        self.to_run(run, RunRequested(run, function, "enqueue", **fields, v=V))
        return run

    def start_owner(self, partition: int, number: int = 1, token: str = "t", code: str = "code") -> Owner:
        owner = Owner(number, token)
        self.put(partition, OwnerStarted(owner, code, 1, v=V))
        return owner

    def advance(self, ms: int) -> list[Act]:
        """Time passes; what becomes due is fired when it is due."""
        end = self.now + ms
        acts: list[Act] = []
        while True:
            due = [first for owner in self.owners if (first := owner.view.timers.first()) is not None]
            if not due or min(due) > end:
                break
            self.now = max(self.now, min(due))
            acts += self._fire()
        self.now = end
        return acts + self._fire()

    def _fire(self) -> list[Act]:
        for owner in self.owners:
            for _, key in owner.view.timers.due(self.now, 1_000):
                entity, timer, setter = parse_timer_key(key)
                self.append(owner.partition, TimerFired(entity, timer, setter, v=V))
        return self.settle()

    def touch(self) -> None:
        """Every partition learns the time, from a record that says nothing else."""
        for partition in range(self.partitions):
            self.append(partition, TimerFired("cron:none", "", 0, v=V))
        self.settle()

    # Checkpoints

    def checkpoint(self, resident: frozenset[str] = frozenset()) -> None:
        for owner in self.owners:
            owner.seal()
            owner.try_write(resident)

    def restart(self) -> None:
        """Every owner dies; what its successor folds again it also sends again."""
        self.owners = [self._own(partition) for partition in range(self.partitions)]
        for owner in self.owners:
            owner.recover()
            self._route(owner)
        self.settle()

    # Reading

    def view_of(self, run: str) -> View:
        return self.owners[self.of_run(run)].view

    def of_run(self, run: str) -> int:
        return partition_of_run(run, self.partitions)

    def run(self, run: str) -> RunState:
        state = self.view_of(run).runs.get(run)
        assert state is not None, f"run {run} is not known"
        return state

    def records(self, kind: type[R]) -> list[R]:
        """Every record of a kind, partition by partition."""
        return [record for journal in self.journals for record in records_in(journal, kind)]

    def subscriptions(self) -> dict[str, list[str]]:
        return subscriptions([owner.view for owner in self.owners])

    def check(self) -> None:
        """What holds after every story: see `check_all`."""
        check_all(self.journals, [owner.view for owner in self.owners])


def records_in(journal: Journal, kind: type[R]) -> Iterator[R]:
    for _, raw in journal.records:
        record = decode(raw)
        if isinstance(record, kind):
            yield record


def of_kind(acts: list[Act], kind: type[A]) -> list[A]:
    return [act for act in acts if isinstance(act, kind)]


def subscriptions(views: list[View]) -> dict[str, list[str]]:
    """Join key → who stands subscribed there."""
    return {key: list(state.subs) for view in views for key, state in view.matches.items()}


# What holds always


def refold(journal: Journal, partition: int, partitions: int) -> tuple[View, list[tuple[int, bytes]]]:
    """The journal folded from its beginning, and everything that sends."""
    view = View(partition, partitions)
    for offset, (stamp, raw) in enumerate(journal.records):
        fold(view, decode(raw), raw, offset, stamp)
    return view, view.effects.sends


def check_all(journals: list[Journal], views: list[View]) -> None:
    """I2: what lived equals a full fold, sends are the same whenever they are made. No timer is left over."""
    numbered: dict[tuple[int, int, int], bytes] = {}
    for partition, (journal, view) in enumerate(zip(journals, views, strict=True)):
        again, sends = refold(journal, partition, len(journals))
        expected, lived = again.logical(), view.logical()
        differ = [key for key in {*expected, *lived} if expected.get(key) != lived.get(key)]
        assert not differ, f"I2: partition {partition}: {[(k, expected.get(k), lived.get(k)) for k in differ[:3]]}"
        for destination, raw in sends:
            source, n = msgspec.json.decode(raw)["from"]
            numbered[source, destination, n] = raw
        check_timers(view)
        check_paused(view)
        check_counts(view)
        check_wholes(view)
    for destination, journal in enumerate(journals):
        for _, raw in journal.records:
            origin = decode(raw).from_
            if origin is not None:
                assert numbered[origin[0], destination, origin[1]] == raw, "I2: an effect was sent with other content"


def check_counts(view: View) -> None:
    """What is counted as it happens is what there is."""
    assert view.meta.live == Counter(run.function for run in view.runs.values() if run.status not in TERMINAL)
    assert view.meta.waiting == Counter(state.function for state in view.paused.values())


def check_paused(view: View) -> None:
    """Whoever waits for a function is queued, and the function is paused."""
    waiting = {run: state.function for run, state in view.paused.items()}
    assert waiting == {run: state.function for run, state in view.runs.items() if state.paused}
    for run, function in waiting.items():
        state = view.live(run)
        assert state is not None
        assert state.status == "queued"
        assert function in view.meta.paused


def check_wholes(view: View) -> None:
    """Of large records those are kept that an entity refers to: what is left over would stay for ever."""
    expected = {row_of(offset) for run in view.runs.values() for offset in run.wholes}
    queued = (one.opening.arguments.ref for one in view.queued.values())
    expected.update(row_of(ref.offset) for ref in queued if ref is not None)
    assert set(dict(view.wholes.items())) == expected


def check_timers(view: View) -> None:
    """The due index holds the timers of live entities, and nothing else: what is left over would fire for ever."""
    expected: set[bytes] = set()

    def add(due: int, entity: str, timer: str, setter: int) -> None:
        expected.add(b"t/" + due.to_bytes(8, "big") + timer_key(entity, timer, setter))

    for run_id_, run in view.runs.items():
        assert run.id == run_id_
        for name, op in run.open.items():
            if op.due is not None:
                add(op.due, run.id, name, op.setter)
        for name, timer in run.timers.items():
            add(timer.due, run.id, name, timer.setter)
    for key, queued in view.queued.items():
        of, _, step = key.partition("/")
        state = view.live(of)
        assert state is not None, f"{key} stands in a queue, and its run does not live"
        assert state.open[step].type == QUEUED
        add(queued.due, of, step, queued.setter)
    for function, cron in view.crons.items():
        add(cron.due, CRON + function, "", cron.setter)
    assert set(view.timers.rows()) == expected


# Things to say


def definition_of(*functions: FunctionDefined, window_ms: int = 1_000_000) -> Definition:
    digest = f"{partition_of(repr(functions), 1 << 32):x}"
    return Definition(APP, digest, functions, window_ms=window_ms)


def on(event: str, function: str = "work", where: str = "", **fields: Any) -> FunctionDefined:
    """A function triggered by an event."""
    return FunctionDefined(function, "event", (TriggerDefined(event, where),), **fields)


def event(event_id: str, name: str = "added", ts: int | None = None, **data: Any) -> EventBody:
    return EventBody(event_id, name, msgspec.Raw(_ENCODE(data)), ts=ts)


def payload(value: Any) -> Payload:
    return Payload(msgspec.Raw(_ENCODE(value)))


def key_of(name: str, path: str, value: Any) -> str:
    text = join_value(value)
    assert text is not None
    return join_key(name, path, text)


def run_of(event_id: str, function: str = "work") -> str:
    return run_id(APP, function, event_id)


def completed(run: str, op: str, result: Any = 1, attempt: int = 1) -> StepCompleted:
    return StepCompleted(run, op, attempt, "d", payload(result), v=V)


def slept(run: str, op: str, ms: int) -> OpOpened:
    return OpOpened(run, op, "d", Sleep(for_ms=ms), v=V)


def waited(run: str, op: str, key: str, where: str = "", timeout_ms: int | None = None) -> OpOpened:
    return OpOpened(run, op, "d", Wait(key, "added", where, timeout_ms), v=V)


RULE = RetryRule(4, 1_000, 2.0, 3_600_000)
LEASE_MS = 60_000


def put_in_queue(run: str, op: str = "0/embed#1", argument: object = 1) -> OpOpened:
    return OpOpened(run, op, "d", Queued("gpu", "embed", payload([[argument], {}]), RULE, LEASE_MS), v=V)


def called(run: str, op: str, child: str, *, function: str = "child", awaited: bool = True, **fields: Any) -> OpOpened:
    return OpOpened(run, op, "d", Call(function, child, payload([[], {}]), awaited, **fields), v=V)
