"""Would the runs that are under way go on with this code? Each is replayed on it; what would park is told by cause.

A partition is folded once, of the records of runs alone; what has ended leaves memory, so that it holds what is under
way and nothing else. Of what has ended lately a sample is read again, and replayed too.
"""

import re
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from itertools import chain, islice, zip_longest

from msgspec import Struct

from perdure.errors import PayloadUnavailable
from perdure.flow.lines import op_name
from perdure.flow.routing import is_run_id
from perdure.flow.states import TERMINAL, RunState
from perdure.flow.view import View
from perdure.log.protocol import Log
from perdure.partition.transfer import Rows
from perdure.past.moments import before_end
from perdure.past.reading import PartReader, Wanted, read_tape
from perdure.past.replay import RecordedEnd, Replayed, Replayer
from perdure.past.tape import COMMON, Entry, State, Tape, fold_entry, view_of, whole_view_of
from perdure_schemas.records import AskedOp

MOVED_AFTER = 5_000
"""Runs that have ended, or as many as are under way."""
_EXPIRIES = b"x/"
"""Rows that say when to forget what has ended: it was forgotten at once."""
PATIENCE_SECONDS = 1.5
"""A run whose code waits on something of its own is given so long."""
STUCK = 20
HURRIED_SECONDS = 0.05
"""After so many of one function: the others will be so, too."""
EXAMPLES = 5
"""Runs that are named of each group."""

Told = Callable[[str, int, int], None]
"""Called with what is going on, how much of it is done, and of how much."""


class Group(Struct, kw_only=True):
    """Runs of one function that differ in the same way."""

    function: str
    verdict: str
    """That of the replays, or `parked` of runs that were parked before and still would be, or `unreadable`."""
    cause: str
    recorded: AskedOp | None = None
    """Of the first one, as `requested` and `message`: what the log has, and what this code asks for."""
    requested: AskedOp | None = None
    message: str = ""
    count: int = 0
    finished: int = 0
    """So many of them have ended, and stand for those that will come this way."""
    examples: list[str] = []

    @property
    def breaks(self) -> bool:
        """These runs, or others of this code, would not go on."""
        return self.verdict in ("parks", "held", "retries")


class Report(Struct, kw_only=True):
    """What a check has found. `well`: by verdict, runs that go on, and ended ones that end as they did."""

    in_flight: int = 0
    finished: int = 0
    well: dict[str, int] = {}
    groups: list[Group] = []

    @property
    def breaks(self) -> int:
        """So many runs would not go on."""
        return sum(group.count for group in self.groups if group.breaks)


class Check:
    """Gathers what replays come to."""

    def __init__(self, replayer: Replayer, told: Told = lambda what, done, of: None) -> None:
        self._replayer = replayer
        self._told = told
        self._well: Counter[str] = Counter()
        self._groups: dict[tuple[str, ...], Group] = {}
        self._stuck: Counter[str] = Counter()
        self._in_flight = 0
        self._finished = 0

    async def log(self, log: Log, finished: int = 0) -> Report:
        """All that is under way on an open log, and so many of the runs that ended last. Raises `LogError`."""
        ended: dict[str, deque[str]] = {}
        for partition in range(log.partitions):
            reader = await PartReader.at(log, partition)
            self._told(f"reading partition {partition}", partition, log.partitions)
            under_way = _UnderWay(partition, log.partitions, reader.whole)
            async for entry in reader.entries():
                state = under_way.fold(entry)
                if state is not None and finished and state.started_at:
                    ended.setdefault(state.function, deque(maxlen=finished)).append(state.id)
            await self.view(under_way.view)
        chosen = frozenset(_sample(ended, finished))
        if chosen:
            await self.ended(await read_tape(log, Wanted(chosen)), chosen)
        return self.report()

    async def tape(self, tape: Tape, finished: int = 0) -> Report:
        """The same of a tape."""
        ended: list[tuple[int, str]] = []
        for partition, part in tape.parts.items():
            view = whole_view_of(tape, partition)
            await self.view(view)
            ended += [(one.ended_at or 0, one.id) for one in view.runs.values() if one.status in TERMINAL]
            trimmed = [] if part.state is None else [key[2:].decode() for key in part.state.rows if key[:2] == b"r/"]
            for run in trimmed:
                # Its first records are gone: it is not in the view of the records.
                alone = view_of(tape, run)
                if alone.live(run) is not None:
                    await self.view(alone)
        await self.ended(tape, [run for _, run in sorted(ended, reverse=True)[:finished]])
        return self.report()

    async def view(self, view: View) -> None:
        """All that is under way in a view."""
        runs = [one for one in view.runs.values() if one.status not in TERMINAL]
        for done, state in enumerate(runs):
            self._told(f"replaying partition {view.partition}", done, len(runs))
            self._in_flight += 1
            await self._one(view, state)

    async def ended(self, tape: Tape, runs: Iterable[str]) -> None:
        """Runs that have ended, up to their ends."""
        for run in runs:
            view, end = before_end(tape, run)
            state = view.live(run)
            if end is not None and state is not None:
                self._finished += 1
                replayed = await self._replay(view, state, end)
                self._take(replayed, replayed.verdict)

    def report(self) -> Report:
        """The largest groups first, those that break before all."""
        groups = sorted(self._groups.values(), key=lambda one: (not one.breaks, -one.count, one.function))
        return Report(in_flight=self._in_flight, finished=self._finished, well=dict(self._well), groups=groups)

    async def _one(self, view: View, state: RunState) -> None:
        try:
            replayed = await self._replay(view, state)
        except PayloadUnavailable as error:
            replayed = Replayed(run=state.id, function=state.function, verdict="stuck", message=str(error))
        parked = state.status == "parked" and replayed.verdict == "parks"
        self._take(replayed, "parked" if parked else replayed.verdict)

    async def _replay(self, view: View, state: RunState, end: RecordedEnd | None = None) -> Replayed:
        patience = HURRIED_SECONDS if self._stuck[state.function] >= STUCK else PATIENCE_SECONDS
        replayed = await self._replayer.replay(view, state.id, end=end, patience_seconds=patience)
        self._stuck[state.function] += replayed.verdict == "stuck"
        return replayed

    def _take(self, replayed: Replayed, verdict: str) -> None:
        if replayed.goes_well:
            self._well[verdict] += 1
            return
        key = (replayed.function, verdict, *_cause(replayed))
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = Group(
                function=replayed.function, verdict=verdict, cause=" ".join(_cause(replayed)),
                recorded=replayed.recorded, requested=replayed.requested, message=replayed.message, examples=[],
            )  # fmt: skip
        group.count += 1
        group.finished += replayed.end is not None
        if len(group.examples) < EXAMPLES:
            group.examples.append(replayed.run)


class _UnderWay:
    """Folds a partition's runs. What has ended leaves traces in a view, so now and then what is left is moved."""

    def __init__(self, partition: int, partitions: int, state: State | None) -> None:
        self._rows = {} if state is None else dict(state.rows)
        self._first = 0 if state is None else state.offset
        self._gone = 0
        self.view = View(partition, partitions, Rows(self._rows))
        if state is not None:
            self.view.at, self.view.stamp = state.position.at, state.position.stamp

    def fold(self, entry: Entry) -> RunState | None:
        """The run, if it ended by it."""
        if entry.offset < self._first or not (entry.kind in COMMON or is_run_id(entry.entity)):
            return None
        view = self.view
        fold_entry(view, entry)
        state = view.runs.get(entry.entity) if entry.entity else None
        if state is None or state.status not in TERMINAL:
            return None
        view.runs.delete(state.id)
        self._gone += 1
        if self._gone >= MOVED_AFTER and self._gone >= sum(view.meta.live.values()):
            self._move()
        return state

    def _move(self) -> None:
        """By a checkpoint, which has what is left and nothing of what is gone, into a view that reads it."""
        puts: list[tuple[bytes, bytes]] = []
        deletes: list[bytes] = []
        clears: list[bytes] = []
        old = self.view
        old.seal(puts, deletes, clears)
        self._rows.update((row, raw) for row, raw in puts if row[:2] != _EXPIRIES)
        cleared = tuple(clears)
        for row in [*deletes, *(row for row in self._rows if cleared and row.startswith(cleared))]:
            self._rows.pop(row, None)
        self.view = View(old.partition, old.partitions, Rows(self._rows))
        self.view.at, self.view.stamp, self.view.offset = old.at, old.stamp, old.offset
        self._gone = 0


def _sample(ended: Mapping[str, deque[str]], most: int) -> list[str]:
    """Of each function in turn, the last ones first."""
    turns = zip_longest(*(reversed(runs) for runs in ended.values()))
    return list(islice((run for run in chain.from_iterable(turns) if run is not None), most))


def _cause(replayed: Replayed) -> tuple[str, ...]:
    """What is the same for all runs that differ in one way: names, and no numbers, digests or values."""
    names = [op_name(one.op) for one in (replayed.recorded, replayed.requested) if one is not None]
    if replayed.verdict == "parks":
        why = re.split(r"[:(]", replayed.message.partition(") ")[2].partition(". Deploy")[0])[0].strip()
        return (names[0], why, *names[1:])
    if replayed.error is not None:
        return (f"raises {replayed.error.type}", *names)
    return (re.sub(r"\d+", "…", replayed.message),)
