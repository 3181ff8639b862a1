"""What a fold sees: the entities of one partition, and the record's own place and time.

The view is an overlay: it reads through to a backing (a partition's store, or nothing) and remembers what changed
until a checkpoint takes it. Folding is the same whatever stands behind it.
"""

from collections.abc import Iterator
from typing import Any

import msgspec
from perdure_schemas.definition import Definition
from perdure_schemas.records import Record

from perdure.flow.due import DueIndex
from perdure.flow.effects import Effects
from perdure.flow.lines import Lines
from perdure.flow.routes import Routes
from perdure.flow.routing import partition_of, partition_of_run
from perdure.flow.states import TERMINAL, CronState, KeptEvent, MatchState, Meta, RunState
from perdure.flow.tables import Backing, EmptyBacking, Table

EXPIRIES_A_RECORD = 1_000
"""Bound on what one record lets expire: the rest goes with the next ones, the same in every fold of the log."""
_ENCODE = msgspec.json.Encoder().encode
_META = "meta"


class View:
    """State of partition `partition` of `partitions`."""

    def __init__(self, partition: int, partitions: int, backing: Backing | None = None) -> None:
        backing = backing or EmptyBacking()
        self.partition = partition
        self.partitions = partitions
        self.runs = Table(b"r/", RunState, backing)
        self.seen = Table(b"e/", int, backing)
        self.matches = Table(b"m/", MatchState, backing)
        self.kept = Table(b"k/", KeptEvent, backing)
        self.definitions = Table(b"d/", Definition, backing)
        self.crons = Table(b"c/", CronState, backing)
        self.parked = Table(b"p/", str, backing)
        self.metas = Table(b"#", Meta, backing)
        self.lines = Lines(backing)
        self.timers = DueIndex(b"t/", backing)
        self.expiries = DueIndex(b"x/", backing)
        self.meta = self.metas.get(_META) or Meta()
        self.metas.put(_META, self.meta)
        self.at = 0
        self.offset = 0
        self.stamp = 0
        self.raw = b""
        self._more_expires = False
        self.effects = Effects()
        self._routes: Routes | None = None

    def tables(self) -> tuple[Table[Any], ...]:
        return (
            self.runs, self.seen, self.matches, self.kept, self.definitions, self.crons, self.parked, self.metas,
        )  # fmt: skip

    def live(self, run: str) -> RunState | None:
        """The run, if it is known and has not ended."""
        state = self.runs.get(run)
        return state if state is not None and state.status not in TERMINAL else None

    def routes(self) -> Routes | None:
        """Triggers of the active definition; None before the first."""
        routes = self._routes
        if routes is None or routes.number != self.meta.current:
            definition = self.definitions.get(str(self.meta.current))
            if definition is None:
                return None
            routes = self._routes = Routes(self.meta.current, definition)
        return routes

    def send(self, partition: int, record: Record) -> int:
        """Append `record` to a partition, with the next dense number for it. Returns that number."""
        outseq = self.meta.outseq
        n = outseq[partition] = outseq.get(partition, 0) + 1
        raw = _ENCODE(record)
        self.effects.sends.append((partition, b'%b,"from":[%d,%d]}' % (raw[:-1], self.partition, n)))
        return n

    def send_to_run(self, run: str, record: Record) -> None:
        self.send(partition_of_run(run, self.partitions), record)

    def partition_of(self, entity: str) -> int:
        return partition_of(entity, self.partitions)

    def advance(self, stamp_ms: int) -> int:
        """Log time reaches `stamp_ms`; what expires by it goes. Returns the partition's `at`."""
        if stamp_ms != self.stamp or self._more_expires:
            self.stamp = stamp_ms
            if stamp_ms > self.at:
                self.at = stamp_ms
            self._expire()
        return self.at

    def _expire(self) -> None:
        expired = self.expiries.due(self.at, EXPIRIES_A_RECORD)
        self._more_expires = len(expired) == EXPIRIES_A_RECORD
        for due, key in expired:
            self.expiries.remove(due, key)
            table, _, name = key.partition(b"/")
            if table == b"e":
                self.seen.delete(name.decode())
            elif table == b"k":
                self.kept.delete(name.decode())
            else:
                self.runs.delete(name.decode())

    def logical(self) -> dict[str, Any]:
        """Everything the folds have built, by key: two folds of one log are equal if and only if these are (I2)."""
        state: dict[str, Any] = {"at": self.at}
        self.metas.touch(_META)
        for table in self.tables():
            for key, value in table.items():
                state[table.prefix.decode() + key] = msgspec.to_builtins(value)
        for run in self.lines.runs():
            state["o/" + run] = [line[:4] for line in self.lines.load(run)]
        for index in (self.timers, self.expiries):
            for row in index.rows():
                state[repr(row)] = True
        return state

    def seal(self, puts: list[tuple[bytes, bytes]], deletes: list[bytes], clears: list[bytes]) -> None:
        """Hand over all that changed since the last seal, for one write."""
        self.metas.touch(_META)
        for table in self.tables():
            table.seal(puts, deletes)
        self.lines.seal(puts, clears)
        self.timers.seal(puts, deletes)
        self.expiries.seal(puts, deletes)

    def written(self) -> Iterator[str]:
        """The sealed changes are stored. Yields runs that may leave memory; everything else leaves by itself."""
        for table in self.tables():
            for key in table.written():
                if table is self.runs:
                    yield key
                elif table is not self.metas:
                    table.forget(key)
        self.lines.written()
        self.timers.written()
        self.expiries.written()
