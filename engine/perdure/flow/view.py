"""What a fold sees: the entities of one partition, and the record's own place and time.

The view is an overlay: it reads through to a backing (a partition's store, or nothing) and remembers what changed
until a checkpoint takes it. Folding is the same whatever stands behind it.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from operator import itemgetter
from typing import Any

import msgspec

from perdure.flow.due import DueIndex
from perdure.flow.effects import Effects
from perdure.flow.kept import Kept
from perdure.flow.lines import Lines, StoredLine
from perdure.flow.routes import Routes
from perdure.flow.routing import partition_of, partition_of_run
from perdure.flow.states import TERMINAL, CronState, MatchState, Meta, PausedRun, QueuedState, RunState
from perdure.flow.tables import Backing, EmptyBacking, Table
from perdure.flow.wholes import Wholes, ending_in, payload_in
from perdure_schemas.definition import Definition, FunctionDefined
from perdure_schemas.payload import Payload
from perdure_schemas.records import Ending, Record

EXPIRIES_A_RECORD = 1_000
"""Bound on what one record lets expire: the rest goes with the next ones, the same in every fold of the log."""
DEFAULT_LOOKBACK_MS = 86_400_000
DEFAULT_WINDOW_MS = 172_800_000
_ENCODE = msgspec.json.Encoder().encode
_META = "meta"
_BY_THE_LOG = ("timer.fired", "run.answered", "match.offered")
"""Outcomes that are not the run's own words."""


class View:
    """State of partition `partition` of `partitions`. `shared`: its rows are those of every owner (see `Lines`)."""

    def __init__(
        self, partition: int, partitions: int, backing: Backing | None = None, *, shared: bool = False
    ) -> None:
        backing = backing or EmptyBacking()
        self.partition = partition
        self.partitions = partitions
        self.runs = Table(b"r/", RunState, backing)
        self.seen = Table(b"e/", int, backing)
        self.matches = Table(b"m/", MatchState, backing)
        self.definitions = Table(b"d/", Definition, backing)
        self.crons = Table(b"c/", CronState, backing)
        self.parked = Table(b"p/", str, backing)
        self.paused = Table(b"h/", PausedRun, backing)
        self.queued = Table(b"q/", QueuedState, backing)
        self.metas = Table(b"#", Meta, backing)
        self.kept = Kept(backing)
        self.lines = Lines(backing, apart=shared)
        self.wholes = Wholes(backing)
        self.timers = DueIndex(b"t/", backing)
        self.expiries = DueIndex(b"x/", backing)
        self.meta = self.metas.get(_META) or Meta()
        self.metas.put(_META, self.meta)
        if not self.meta.counted:
            self._count()
        self.at = 0
        self.offset = 0
        self.stamp = 0
        self.raw = b""
        self.more_expires = True
        """Also at first: where the last owner stopped, more than one record's share may have been due."""
        self.effects = Effects()
        self._routes: Routes | None = None

    def tables(self) -> tuple[Table[Any], ...]:
        return (
            self.runs, self.seen, self.matches, self.definitions, self.crons, self.parked, self.paused, self.queued,
            self.metas,
        )  # fmt: skip

    def _count(self) -> None:
        meta = self.meta
        meta.live = dict(Counter(run.function for run in self.runs.values() if run.status not in TERMINAL))
        meta.waiting = dict(Counter(one.function for one in self.paused.values()))
        meta.counted = True

    def live(self, run: str) -> RunState | None:
        """The run, if it is known and has not ended."""
        state = self.runs.cache.get(run) or self.runs.get(run)
        return state if state is not None and (state.status == "running" or state.status not in TERMINAL) else None

    def routes(self) -> Routes | None:
        """Triggers of the active definition; None before the first."""
        routes = self._routes
        if routes is None or routes.number != self.meta.current:
            definition = self.definitions.get(str(self.meta.current))
            if definition is None:
                return None
            routes = self._routes = Routes(self.meta.current, definition)
        return routes

    def window_ms(self) -> int:
        """How long ids of events and of ended runs are kept."""
        routes = self.routes()
        return routes.definition.window_ms if routes else DEFAULT_WINDOW_MS

    def defined(self, run: RunState) -> FunctionDefined | None:
        """The run's function as the active definition has it.

        A run may come here from a partition where newer code is active already: then that code's, whose paths came
        here before it was activated anywhere.
        """
        if run.number <= self.meta.current:
            routes = self.routes()
            return routes.functions.get(run.function) if routes else None
        newer = self.definitions.get(str(run.number))
        return next((one for one in newer.functions if one.id == run.function), None) if newer else None

    def code_at(self, offset: int) -> int:
        """Number of the owner's code when it read `offset`; 0 if that is not known."""
        codes = self.meta.codes
        index = bisect_right(codes, offset, key=itemgetter(0)) - 1
        return codes[index][1] if index >= 0 else 0

    def advanced_by(self, run: RunState, lines: Sequence[StoredLine]) -> int:
        """Number of the code that last took the run further; 0 if none has, or it is not known.

        It is read off the place of the last line that its code wrote: so a step costs nothing for it.
        """
        last = next((line.offset for line in reversed(lines) if line.kind not in _BY_THE_LOG), -1)
        last = max([last, *(op.setter for op in run.open.values())])
        return self.code_at(last) if last > run.tried_from else 0

    def begun_by(self, run: RunState, lines: Sequence[StoredLine]) -> int:
        """Number of the code that took the run's first step; 0 if none has, or it is not known."""
        if run.fork is not None and run.fork.code:
            return run.fork.code
        first = [line.offset for line in lines if line.kind not in _BY_THE_LOG][:1]
        return self.code_at(min([*first, *(op.setter for op in run.open.values() if op.setter >= 0)], default=-1))

    def lookback_ms(self, run: RunState) -> int:
        """How far back the run's waits look."""
        defined = self.defined(run)
        return defined.lookback_ms if defined else DEFAULT_LOOKBACK_MS

    def inline(self, payload: Payload | None, field: str = "result") -> Payload | None:
        """As it goes to another partition, which has no place of ours to look at."""
        raw = self.wholes.get(payload.ref.offset) if payload is not None and payload.ref is not None else None
        return payload if raw is None else payload_in(raw, field)

    def ending_of(self, run: RunState) -> Ending | None:
        """What a handler run is told of the run that ended."""
        raw = self.wholes.get(run.ending_at) if run.ending_at >= 0 else None
        return run.ending if raw is None else ending_in(raw)

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
        self.stamp = stamp_ms
        if stamp_ms > self.at:
            self.at = stamp_ms
            self._expire()
        elif self.more_expires:
            self._expire()
        return self.at

    def _expire(self) -> None:
        expired = self.expiries.take(self.at, EXPIRIES_A_RECORD)
        self.more_expires = len(expired) == EXPIRIES_A_RECORD
        for key in expired:
            kind = key[:2]
            if kind == b"e/":
                self.seen.delete(key[2:].decode())
            elif kind == b"k/":
                self.kept.delete(key)
            elif kind == b"w/":
                self.wholes.delete(int.from_bytes(key[2:], "big"))
            else:
                self.runs.delete(key[2:].decode())

    def logical(self) -> dict[str, bytes]:
        """Everything the folds have built, by key: two folds of one log are equal if and only if these are (I2).

        Encoded, so that the order of what a value lists counts too: effects come in that order.
        """
        state = {"at": _ENCODE(self.at)}
        self.metas.touch(_META)
        for table in self.tables():
            for key, value in table.items():
                state[table.prefix.decode() + key] = _ENCODE(value)
        for row, kept in self.kept.items():
            state[repr(row)] = _ENCODE(kept)
        for run in self.lines.runs():
            state["o/" + run] = b"\n".join(
                b"%d %d %b" % (line.at, line.offset, _ENCODE(self.lines.whole(run, line)))
                for line in self.lines.load(run)
            )
        for row, raw in self.wholes.items():
            state[repr(row)] = raw
        for index in (self.timers, self.expiries):
            for row in index.rows():
                state[repr(row)] = b""
        return state

    def seal(self, puts: list[tuple[bytes, bytes]], deletes: list[bytes], clears: list[bytes]) -> None:
        """Hand over all that changed since the last seal, for one write."""
        self.metas.touch(_META)
        for table in self.tables():
            table.seal(puts, deletes)
        self.kept.seal(puts, deletes)
        self.lines.seal(puts, deletes, clears)
        self.wholes.seal(puts, deletes)
        self.timers.seal(puts, deletes)
        self.expiries.seal(puts, deletes)

    def written(self) -> list[str]:
        """The sealed changes are stored. Returns runs that may leave memory; everything else leaves by itself."""
        rested = self.runs.written()
        for table in self.tables():
            if table is not self.runs and table is not self.metas:
                for key in table.written():
                    table.forget(key)
        self.metas.written()
        self.kept.written()
        self.lines.written()
        self.wholes.written()
        self.timers.written()
        self.expiries.written()
        return rested
