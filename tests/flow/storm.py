"""The models' harness on the real folds: crashes that leave zombies, acknowledgements lost, copies that come late.

Everything that happens is drawn from one seeded `random`, so a seed that fails fails again.
"""

import os
from random import Random

import msgspec
import pytest

from perdure.flow import due, kept, ops, view
from perdure.flow.effects import Act, Refused
from perdure_schemas.definition import Definition
from perdure_schemas.records import AppDefined, Record, TimerFired, V
from tests.flow.world import DictStore, Journal, OwnerOf, check_all

UNIT_MS = 1_000
"""Log time of one unit of the models, so that timers reach over the due index's window."""
BEGIN_MS = 1_000_000
_ENCODE = msgspec.json.Encoder().encode


def seeds(normally: int) -> range:
    """How many seeds a run tries: `PERDURE_SEEDS` asks for more."""
    return range(int(os.environ.get("PERDURE_SEEDS", normally)))


def small_constants(patch: pytest.MonkeyPatch) -> None:
    """Bounds that a story of some hundred records reaches."""
    patch.setattr(view, "EXPIRIES_A_RECORD", 2)
    patch.setattr(kept, "_CHUNK", 2)
    patch.setattr(due, "_SCAN", 3)
    patch.setattr(due, "WINDOW_MS", 5 * UNIT_MS)
    patch.setattr(ops, "SKEW_MS", 5 * UNIT_MS)


class StormOwner(OwnerOf):
    """An owner that may be a zombie: it lives on for `ttl` turns after its successor has started."""

    def __init__(self, partition: int, partitions: int, journal: Journal, store: DictStore) -> None:
        super().__init__(partition, partitions, journal, store)
        self.ttl: int | None = None
        self.appended: set[bytes] = set()
        """What this owner's user code and timers wrote: once is enough while it lives."""


class Storm:
    """Subclasses say what user code, timers and owners append (`users`) and follow what is asked of them (`acted`)."""

    def __init__(self, seed: int, partitions: int = 4, *, skewed: bool = False) -> None:
        self.random = Random(seed)
        self.partitions = partitions
        self.journals = [Journal() for _ in range(partitions)]
        self.stores = [DictStore() for _ in range(partitions)]
        self.turns = 0
        self.time = 0
        self.faults = True
        self.late: list[tuple[int, bytes]] = []
        self.zombies: list[StormOwner] = []
        self._stalled: dict[int, int] = {}
        self._skew = [self.random.choice([0, 0, 3, -3]) if skewed else 0 for _ in range(partitions)]
        self.owners = [self._own(partition) for partition in range(partitions)]

    def users(self, owner: StormOwner) -> list[Record]:
        return []

    def acted(self, owner: StormOwner, act: Act) -> None:
        """An act of a living owner."""

    def resident(self, owner: StormOwner) -> frozenset[str]:
        """Runs that a checkpoint leaves in memory."""
        return frozenset(run for run in owner.view.runs.cache if self.random.random() < 0.5)

    def now(self) -> int:
        return BEGIN_MS + self.time // 4 * UNIT_MS

    def append(self, partition: int, raw: bytes) -> None:
        self.time += 1
        self.journals[partition].records.append((self.now() + self._skew[partition] * UNIT_MS, raw))

    def write(self, partition: int, record: Record, *, copied: float = 0.0) -> None:
        """From outside; a client that heard nothing sends it again."""
        raw = _ENCODE(record)
        self.append(partition, raw)
        if self.random.random() < copied:
            self.late.append((partition, raw))

    def define(self, definition: Definition) -> None:
        """Activate it in all partitions before the storm begins."""
        self.faults = False
        self.write(0, AppDefined(definition, v=V))
        while not all(owner.view.meta.current for owner in self.owners):
            self.turn()
        self.faults = True

    def _own(self, partition: int) -> StormOwner:
        owner = StormOwner(partition, self.partitions, self.journals[partition], self.stores[partition])
        owner.recover()
        return owner

    def turn(self) -> None:
        random = self.random
        self.turns += 1
        if self.faults and random.random() < 0.003:
            self._stalled[random.randrange(self.partitions)] = self.turns + random.randrange(50, 600)
        if self.late and random.random() < 0.03:
            self.append(*self.late.pop(random.randrange(len(self.late))))
        if self.faults and random.random() < 0.012:
            self._crash(random.randrange(self.partitions))
        for zombie in self.zombies:
            assert zombie.ttl is not None
            zombie.ttl -= 1
        self.zombies = [zombie for zombie in self.zombies if zombie.ttl]
        self._act(random.choice(self.owners + self.zombies))

    def _crash(self, partition: int) -> None:
        old = self.owners[partition]
        # A zombie has a disk of its own.
        self.stores[partition] = old.store.copy()
        self.owners[partition] = self._own(partition)
        if self.random.random() < 0.5:
            old.ttl = self.random.randrange(20, 200)
            self.zombies.append(old)

    def _act(self, owner: StormOwner) -> None:
        draw = self.random.random()
        if draw < 0.5 and owner.behind():
            for _ in range(min(owner.behind(), self.random.randrange(1, 4))):
                self._fold(owner)
        elif draw < 0.75 and owner.out:
            self._send(owner)
        elif draw < 0.92:
            self._write_own(owner)
        elif owner.ttl is None:
            if owner.sealed:
                owner.try_write(self.resident(owner))
            else:
                owner.seal()

    def _fold(self, owner: StormOwner) -> None:
        for act in owner.fold_one():
            if isinstance(act, Refused):
                owner.appended.discard(_ENCODE(TimerFired(act.entity, act.timer, act.setter, v=V)))
            self.acted(owner, act)

    def _send(self, owner: StormOwner) -> None:
        """Mostly the first of a destination; its acknowledgement may be lost, or a later one land before it."""
        destination = self.random.choice(owner.out).partition
        queue = [sending for sending in owner.out if sending.partition == destination]
        draw = self.random.random() if self.faults else 0.0
        if self.faults and self._stalled.get(destination, 0) > self.turns:
            return
        if draw < 0.85:
            self.append(destination, queue[0].raw)
            owner.out.remove(queue[0])
        elif draw < 0.92:
            self.append(destination, queue[0].raw)
        elif draw < 0.97:
            self.late.append((destination, queue[0].raw))
        elif len(queue) > 1:
            self.append(destination, queue[1].raw)

    def _write_own(self, owner: StormOwner) -> None:
        todo = self.todo(owner)
        if not todo:
            return
        draw = self.random.random() if self.faults else 0.0
        if draw > 0.97 and len(todo) > 1:
            self.append(owner.partition, todo[1])
            return
        if draw > 0.9:
            self.late.append((owner.partition, todo[0]))
        if draw < 0.95:
            self.append(owner.partition, todo[0])
            owner.appended.add(todo[0])

    def todo(self, owner: StormOwner) -> list[bytes]:
        return [raw for record in self.users(owner) if (raw := _ENCODE(record)) not in owner.appended]

    def quiet(self) -> bool:
        """Nothing more happens by itself."""
        return (
            not self.late
            and not self.zombies
            and not any(owner.behind() or owner.out or self.todo(owner) for owner in self.owners)
        )

    def check(self) -> None:
        check_all(self.journals, [owner.view for owner in self.owners])
