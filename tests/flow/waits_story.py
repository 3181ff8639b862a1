"""Stories of waits: runs that gather, race, time out and continue_as, on keys of their own and another event's name.

At last each run waits for an end mark on each key, so that what it was to consume and did not is known.
"""

import random
from typing import Any, NamedTuple

from perdure.flow.definitions import parse_timer_key
from perdure.flow.effects import Act, Deliver
from perdure.flow.routing import partition_of, partition_of_run, run_id
from perdure.flow.states import RunState
from perdure_schemas.definition import FunctionDefined, TriggerDefined
from perdure_schemas.records import (
    Came,
    EventReceived,
    MatchOffered,
    OpClosed,
    OpOpened,
    Record,
    RunCancelRequested,
    RunFinished,
    TimerFired,
    V,
    Wait,
)
from tests.flow.storm import UNIT_MS, Storm, StormOwner
from tests.flow.world import definition_of, event, key_of, run_of

PATHS = tuple((name, f"data.{path}") for name in "AB" for path in ("cart", "user"))
LONGEST_STORY = 40_000
TURNS_WITH_FAULTS = 2_500
Outcome = tuple[str, str | None]
"""An op and the event that it got; None if it timed out."""


class Waited(NamedTuple):
    op: str
    key: str
    xs: tuple[int, ...] | None
    timeout: int | None


class Script(NamedTuple):
    """What user code did with these outcomes, in order: waits opened and (by name) closed; and how it ended."""

    asked: list[Waited | str]
    end: str = ""

    def closed(self) -> list[str]:
        return [one for one in self.asked if isinstance(one, str)]


class Trigger(NamedTuple):
    event_id: str
    cart: str
    user: str

    def keys(self) -> list[str]:
        """Keys of the run's own and of the other name; the last has the trigger's name and path, and another value."""
        other = {"c0": "c1", "c1": "c0"}[self.cart]
        own = [key_of(name, path, self.cart if path == "data.cart" else self.user) for name, path in PATHS]
        return [*own, key_of("A", "data.cart", other)]


def script(run: str, trigger: Trigger, heir: int, outcomes: list[Outcome]) -> Script:
    """Rounds of gather and race, then perhaps continue_as, then every event of every key up to its end mark."""
    rng = random.Random(run)
    keys = trigger.keys()
    rng.shuffle(keys)
    left = iter(outcomes)
    asked: list[Waited | str] = []
    for turn in range(rng.randrange(1, 5)):
        race = rng.random() < 0.5
        waits = [
            Waited(
                f"0/s{turn}.{n}#0",
                rng.choice(keys[: rng.choice([1, 2, 5])]),
                rng.choice([(0, 1, 2), (0, 1, 2), (0,), (1, 2)]),
                rng.choice([3, 15, 40, 80]),
            )
            for n in range(rng.randrange(1, 4))
        ]
        asked += waits
        pending = {wait.op for wait in waits}
        while pending:
            op = next((op for op, _ in left if op in pending), None)
            if op is None:
                return Script(asked)
            pending.discard(op)
            if race:
                break
        asked += sorted(pending)
    if heir < 2 and rng.random() < 0.5:
        return Script(asked, "continued")
    for key in keys:
        got = ""
        count = 0
        while not got.startswith("end"):
            wait = Waited(f"0/d{keys.index(key)}.{count}#0", key, None, None)
            asked.append(wait)
            count += 1
            found = next((event_id for op, event_id in left if op == wait.op), None)
            if found is None:
                return Script(asked)
            got = found
    return Script(asked, "completed")


class Topic:
    """Two partitions of a topic of events, which several pods read side by side."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(f"topic {seed}")
        self._ends = [0, 0]
        self.waiting: list[EventReceived] = []

    def put(self, record: EventReceived, at: int) -> None:
        partition = self._random.randrange(len(self._ends))
        came = Came(partition, self._ends[partition], at)
        self._ends[partition] += 1
        self.waiting.append(EventReceived(record.event, came, v=V))

    def taken_in(self) -> EventReceived | None:
        """Any of them, now and then."""
        if not self.waiting or self._random.random() < 0.97:
            return None
        return self.waiting.pop(self._random.randrange(len(self.waiting)))


class Waits(Storm):
    """Three triggers, eleven other events, in any order; one story in five cancels a run from outside.

    By a `topic` of events they come in one order, and are taken in, a while later, in another.
    """

    def __init__(self, seed: int, lookback: int = 0, *, topic: bool = False) -> None:
        super().__init__(seed)
        self._topic = Topic(seed) if topic else None
        function = FunctionDefined(
            "work",
            "event",
            (TriggerDefined("A", "event.data.trig"),),
            paths=PATHS,
            lookback_ms=(lookback or 10_000) * UNIT_MS,
        )
        self.outcomes: dict[tuple[StormOwner, str], list[Outcome]] = {}
        self.scripts: dict[tuple[str, int], Script] = {}
        self.heirs: dict[str, tuple[Trigger, int]] = {}
        self.lookback = lookback
        events = [self._event(seed, n) for n in range(14)]
        if self.random.random() < 0.5:
            self.random.shuffle(events)
        self.coming = events
        self.killed = run_of(f"{seed}.1") if self.random.random() < 0.2 else ""
        self.define(definition_of(function, window_ms=100_000 * UNIT_MS))

    def _event(self, seed: int, n: int) -> EventReceived:
        rng = self.random
        trig = n < 3
        data: dict[str, Any] = {"trig": trig, "x": rng.randrange(3)}
        cart = f"c{n % 2}" if trig else rng.choice(["c0", "c1", None])
        user = f"u{rng.randrange(2)}" if trig else rng.choice(["u0", "u1", None])
        data |= {name: value for name, value in (("cart", cart), ("user", user)) if value is not None}
        if trig:
            heir = run = ""
            for number in range(3):
                run = run_id(run, "continue") if heir else run_of(f"{seed}.{n}")
                heir = "next"
                self.heirs[run] = Trigger(f"{seed}.{n}", data["cart"], data["user"]), number
        return EventReceived(event(f"{seed}.{n}", "A" if trig else rng.choice("AB"), **data), v=V)

    def _end_marks(self, n: int) -> list[EventReceived]:
        return [
            EventReceived(event(f"end{n}.{name}{value}", name, None, x=9, **{path: value}), v=V)
            for name in "AB"
            for path, value in (("cart", "c0"), ("cart", "c1"), ("user", "u0"), ("user", "u1"))
        ]

    # User code

    def acted(self, owner: StormOwner, act: Act) -> None:
        if isinstance(act, Deliver) and (owner, act.run) in self.outcomes:
            self.outcomes[owner, act.run].append(outcome_of(act.op, act.outcome))

    def users(self, owner: StormOwner) -> list[Record]:
        view = owner.view
        fires = [parse_timer_key(key) for _, key in view.timers.due(self.now(), 100)]
        asked: list[Record] = [TimerFired(*fire, v=V) for fire in fires]
        for run in self.heirs:
            if partition_of_run(run, self.partitions) == owner.partition and (state := view.live(run)) is not None:
                asked += self._user_code(owner, state)
        return asked

    def _user_code(self, owner: StormOwner, run: RunState) -> list[Record]:
        outcomes = self.outcomes.get((owner, run.id))
        if outcomes is None:
            lines = owner.view.lines.load(run.id)
            outcomes = self.outcomes[owner, run.id] = [
                outcome_of(line.op, line.record) for line in lines if isinstance(line.record, MatchOffered | TimerFired)
            ]
        asked = self.scripts.get((run.id, len(outcomes)))
        if asked is None:
            asked = self.scripts[run.id, len(outcomes)] = script(run.id, *self.heirs[run.id], outcomes)
        done = owner.view.lines.done(run.id)
        records: list[Record] = []
        for one in asked.asked:
            if isinstance(one, str):
                if one in run.open or one in run.got:
                    records.append(OpClosed(run.id, one, v=V))
            elif one.op not in run.open and one.op not in done:
                records.append(OpOpened(run.id, one.op, "d", Wait(one.key, "", _where(one), _ms(one.timeout)), v=V))
        if asked.end:
            successor = event(f"{run.id}:next", "A") if asked.end == "continued" else None
            records.append(RunFinished(run.id, asked.end, closes=tuple(asked.closed()), successor=successor, v=V))
        return records

    # The story

    def play(self) -> None:
        marks = 0
        for turn in range(LONGEST_STORY):
            self.time += self.random.random() < 0.5
            if self.coming and self.random.random() < 0.04:
                self._come(self.coming.pop(0))
            if self._topic is not None and (record := self._topic.taken_in()) is not None:
                self._take_in(record)
            if self.killed and self.random.random() < 0.002:
                partition = partition_of_run(self.killed, self.partitions)
                self.write(partition, RunCancelRequested(self.killed, v=V))
            self.faults = turn <= TURNS_WITH_FAULTS
            self.turn()
            if turn % 40 == 0 and not self.coming and not (self._topic and self._topic.waiting) and self.quiet():
                if marks and not self.living():
                    return
                # With a short look-back a mark is forgotten before a run asks for it: there are more.
                if not marks or self.lookback:
                    self.coming = self._end_marks(marks)
                    marks += 1

    def _come(self, record: EventReceived) -> None:
        if self._topic is None or self.random.random() < 0.1:  # some are sent by runs, and come by no topic
            self._take_in(record)
        else:
            self._topic.put(record, self.now())

    def _take_in(self, record: EventReceived) -> None:
        self.write(partition_of(record.event.id, self.partitions), record, copied=0.15)

    def living(self) -> list[str]:
        return [run for run in self.heirs if self.owners[partition_of_run(run, self.partitions)].view.live(run)]


def outcome_of(op: str, record: object) -> Outcome:
    return op, record.event_id if isinstance(record, MatchOffered) else None


def _where(wait: Waited) -> str:
    return "" if wait.xs is None else f"async.data.x in [{', '.join(map(str, wait.xs))}]"


def _ms(timeout: int | None) -> int | None:
    return None if timeout is None else timeout * UNIT_MS
