"""Reads a tape off an open log: a folder that no engine has open, topics, or the log of a running engine."""

import asyncio
from collections.abc import AsyncGenerator, Collection, Iterable, Sequence
from typing import NamedTuple

import msgspec

from perdure.errors import LogCorrupt, LogError
from perdure.flow.imported import NoRecord, without_orig
from perdure.flow.routing import RUN_ID_LENGTH, is_run_id, partition_of_run
from perdure.flow.states import Meta, RunState
from perdure.log.protocol import Batch, Log
from perdure.partition.snapshots import state_of
from perdure.past.tape import COMMON, Entry, Part, State, Tape, entity_of, head_of, unknown
from perdure_schemas.definition import Definition
from perdure_schemas.records import AppPaths, Orig

_META = b"#meta"
_RUN_ROWS = (b"r/", b"p/", b"h/", b"q/", b"o/")
_KEY_ROWS = (b"m/", b"k/", b"x/")
"""What is known of join keys, and when it is forgotten."""
_decode_run = msgspec.json.Decoder(RunState).decode
_decode_meta = msgspec.json.Decoder(Meta).decode
_decode_definition = msgspec.json.Decoder(Definition).decode
_decode_paths = msgspec.json.Decoder(AppPaths).decode


class Wanted(NamedTuple):
    """Which records are asked for, beside those that decide about all runs: of these runs, or all from a time on.

    Neither: everything. `since`: with all that earlier records say of the runs that go on from there.
    """

    runs: frozenset[str] = frozenset()
    since: int | None = None

    def takes(self, entry: Entry) -> bool:
        if entry.kind in COMMON or not (self.runs or self.since is not None):
            return True
        return entry.entity in self.runs or (self.since is not None and entry.at >= self.since)


async def read_tape(log: Log, wanted: Wanted = Wanted(), app: str = "") -> Tape:  # noqa: B008 - it is immutable
    """Raises `UnknownRun` for what is no run's id, `LogError` where the log cannot be read, or is trimmed meanwhile."""
    parts: dict[int, Part] = {}
    for partition in partitions_for(log, wanted):
        reader = await PartReader.at(log, partition)
        chosen = await reader.all_wanted(wanted)
        entries = [one async for one in reader.entries() if chosen.takes(one)]
        parts[partition] = Part(partition, entries, reader.first, reader.state_for(chosen))
    return Tape(app or app_of(parts.values()), log.partitions, parts)


async def read_run(log: Log, run: str, app: str = "") -> Tape:
    """All that there is of a run. Raises `UnknownRun`, `LogError`."""
    tape = await read_tape(log, Wanted(frozenset([run])), app)
    part = tape.part_of(run)
    if part.state is None and not tape.entries_of(run):
        raise unknown(run)
    return tape


def partitions_for(log: Log, wanted: Wanted) -> Collection[int]:
    """Those that may have what is wanted. Raises `UnknownRun` for what is no run's id."""
    strange = next((run for run in wanted.runs if not is_run_id(run)), None)
    if strange is not None:
        raise unknown(strange)
    if wanted.runs and wanted.since is None:
        return sorted({partition_of_run(run, log.partitions) for run in wanted.runs})
    return range(log.partitions)


class PartReader:
    """Reads one partition of a log as the folds see it, up to where it ended when this was made."""

    def __init__(self, log: Log, partition: int, start: int, end: int, state: State | None) -> None:
        self._log = log
        self._partition = partition
        self._start, self._end = start, end
        self._state = state
        self.first = 0
        """Where the first record that is kept stands, as folds see it; known once it was read."""

    @classmethod
    async def at(cls, log: Log, partition: int) -> "PartReader":
        """Raises `LogError` if the log was trimmed, and no state stands for what is gone."""
        start = log.start(partition)
        # The state first: what it has folded is below an end that is asked later.
        found = await state_of(log, partition) if start else None
        state = None
        if found is not None:
            moved = _decode_meta(found.rows[_META]).moved
            state = State(found.position, found.position.offset + moved, found.rows)
        return cls(log, partition, start, await log.latest(partition), state)

    @property
    def whole(self) -> State | None:
        """All that stands for what was trimmed."""
        return self._state

    async def all_wanted(self, wanted: Wanted) -> Wanted:
        """With the runs that go on after a time, if that is asked for."""
        if wanted.since is None:
            return wanted
        late = {one.entity async for one in self.entries() if one.at >= wanted.since and one.entity}
        return wanted._replace(runs=wanted.runs | late)

    async def entries(self) -> AsyncGenerator[Entry]:
        """Every record that counts: no repetitions, and none that came before its number's turn."""
        count = _Count(self._state)
        offset = self._start
        while offset < self._end:
            await asyncio.sleep(0)  # the log may be that of an engine that has more to do
            for batch in await self._fetch(offset):
                for index, value in enumerate(batch.values[: self._end - batch.offset]):
                    found = self._entry(count, batch.offset + index, batch.timestamp_ms, bytes(value))
                    if found is not None:
                        yield found
                offset = batch.offset + len(batch.values)

    async def _fetch(self, offset: int) -> Sequence[Batch]:
        try:
            batches = await self._log.fetch(self._partition, offset)
        except IndexError as error:
            raise LogError(
                f"partition {self._partition} was trimmed by its owner while it was read: try again"
            ) from error
        if not batches:
            raise LogCorrupt(f"partition {self._partition} has no records from {offset} on, and ends at {self._end}")
        return batches

    def _entry(self, count: "_Count", offset: int, stamp_ms: int, raw: bytes) -> Entry | None:
        try:
            head = head_of(raw)
        except NoRecord as error:
            raise LogCorrupt(
                f"partition {self._partition}, offset {offset}: no record, and what halted the partition: {error}"
            ) from error
        place = count.place_of(offset, head.orig)
        if place is None:
            return None
        if offset == self._start:
            self.first = place if self._start else 0
        if head.orig is not None:
            stamp_ms, raw = head.orig.at, without_orig(raw, head.orig)
        at = count.at = max(count.at, stamp_ms)
        if head.from_ is not None and not count.takes(*head.from_, place):
            return None
        return Entry(self._partition, place, at, stamp_ms, raw, head.kind, entity_of(head))

    def state_for(self, wanted: Wanted) -> State | None:
        """Of the state, what is needed beside the records: definitions, and runs whose first records are gone."""
        if self._state is None:
            return None
        rows = self._state.rows
        everything = not wanted.runs and wanted.since is None
        gone: set[bytes] = set()
        wholes: set[bytes] = set()
        for key, row in rows.items():
            if key[:2] == b"r/" and (everything or key[2:].decode() in wanted.runs):
                run = _decode_run(row)
                if run.requested_offset < self.first:
                    gone.add(key[2:])
                    wholes.update(offset.to_bytes(8, "big") for offset in run.wholes)
        return self._state._replace(
            rows={
                key: row
                for key, row in rows.items()
                if (everything and key[:2] in _KEY_ROWS) or _is_needed(key, gone, wholes)
            }
        )


def _is_needed(key: bytes, runs: Collection[bytes], wholes: Collection[bytes]) -> bool:
    if key[:2] == b"w/":
        return key[2:] in wholes
    return key == _META or key[:2] == b"d/" or (key[:2] in _RUN_ROWS and key[2 : 2 + RUN_ID_LENGTH] in runs)


class _Count:
    """What folds count, by their rules: places of copied records, numbers of other partitions' records, and time.

    Of a trimmed log the first number of a source is taken on trust, up to the place where its state tells.
    """

    def __init__(self, state: State | None) -> None:
        meta = Meta() if state is None else _decode_meta(state.rows[_META])
        self.at = 0
        self._moved = meta.moved
        self._imported = -1
        self._trusted_below = -1 if state is None else state.offset
        self._later = meta.inseq
        self._inseq: dict[int, int] = {}

    def place_of(self, offset: int, orig: Orig | None) -> int | None:
        """None for the repetition of a copy."""
        if orig is None:
            return offset + self._moved
        if orig.offset <= self._imported:
            self._moved -= 1
            return None
        self._imported, self._moved = orig.offset, orig.offset - offset
        return orig.offset

    def takes(self, source: int, n: int, place: int) -> bool:
        if place >= self._trusted_below >= 0:
            self._trusted_below, self._inseq = -1, dict(self._later)
        last = self._inseq.get(source, n - 1 if self._trusted_below >= 0 else 0)
        if n != last + 1:
            return False
        self._inseq[source] = n
        return True


def app_of(parts: Iterable[Part]) -> str:
    """Whose log it is, by the definitions in it; empty if there are none."""
    for part in parts:
        for key, row in part.state.rows.items() if part.state is not None else ():
            if key[:2] == b"d/":
                return _decode_definition(row).app
        for one in part.entries:
            if one.kind == "app.paths":
                return _decode_paths(one.raw).definition.app
    return ""
