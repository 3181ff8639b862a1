"""Writes a tape into a log of its own: a past to look at and to fork from, in which nothing goes on.

    tape          | d | r1 | r2 | d | r1 |                  d: definitions, owners, pauses   r: of runs, and events
    new log       | d | r1 | r2 | d | r1 | c2 | end         c2: a run that still lived is cancelled

- Records keep their places and times, and say that they are past: folds make the same runs of them, and send nothing.
- A run that still lived is cancelled. Its original goes on elsewhere, and both would do what is left.
- Schedules, and who waits under which key, stay away. At the end nothing is paused, nobody owns it, and all partitions
  agree on the last definition: what code is started here gets the next number.
- Runs whose first records were trimmed there cannot be folded from records, and are left out. Who owned the partition
  then, and what was in force, is said before the first record.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from itertools import pairwise

import msgspec
from msgspec import Raw, Struct

from perdure.errors import LogCorrupt, LogMismatch
from perdure.flow import FOLD_VERSION, UnreadableRecord, decode, fold
from perdure.flow.effects import Effects
from perdure.flow.imported import with_orig
from perdure.flow.routing import is_run_id, partition_of_run
from perdure.flow.states import TERMINAL
from perdure.flow.view import View
from perdure.log.protocol import Log
from perdure.past.tape import Entry, Part, Tape, beginning_of
from perdure_schemas.definition import Definition
from perdure_schemas.records import (
    AppActivated,
    AppPaths,
    FunctionPaused,
    Orig,
    OwnerReleased,
    OwnerStarted,
    Record,
    RunCancelRequested,
    RunParked,
    StepAttempted,
    V,
)

REASON = "it was imported as it was then, and goes on where it was exported"
PARTITIONS = 1_024
"""More has no log."""
_KINDS = ("app.paths", "app.activated", "owner.started", "owner.released", "function.paused", "event.received")
_AT_ONCE = 4 << 20
_encode = msgspec.json.Encoder().encode
_fields = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_definition = msgspec.json.Decoder(Definition).decode

Told = Callable[[int, int], None]
"""So many records are written, of so many."""


class Imported(Struct, frozen=True):
    """What is there now. `cancelled`: runs that still lived. `left_out`: runs whose first records were trimmed."""

    runs: int
    records: int
    cancelled: tuple[str, ...]
    left_out: tuple[str, ...]


async def write(tape: Tape, target: Log, told: Told = lambda done, of: None) -> Imported:
    """`target` is empty and open, with as many partitions. Raises `LogCorrupt`, `LogMismatch` for what cannot be."""
    definition = last_definition(tape)
    runs = {one.entity for part in tape.parts.values() for one in part.entries if one.kind == "run.requested"}
    parts = {number: _kept(tape, part, runs) for number, part in tape.parts.items()}
    records = sum(map(len, parts.values()))
    done, cancelled = 0, list[str]()
    for number in range(tape.partitions):
        writer = _Writer(target, number, tape.partitions)
        for entry in parts.get(number, ()):
            await writer.copy(entry)
            done += 1
            told(done, records)
        cancelled += await writer.cancel_living()
        await writer.close(definition)
    return Imported(len(runs), records, tuple(cancelled), tuple(run for run in tape.runs() if run not in runs))


def checked(tape: Tape, name: str) -> Tape:
    """Raises `LogCorrupt` if its parts are none of one log. `name`: of the file, for that."""
    strange = [number for number in tape.parts if not 0 <= number < tape.partitions]
    if not 1 <= tape.partitions <= PARTITIONS or strange:
        raise LogCorrupt(f"{name}: there is no log of {tape.partitions} partitions with one numbered {strange}")
    for number, part in tape.parts.items():
        if any(one.offset >= following.offset for one, following in pairwise(part.entries)):
            raise LogCorrupt(f"{name}: records of partition {number} are not in their order")
        for one in part.entries:
            if is_run_id(one.entity) and partition_of_run(one.entity, tape.partitions) != number:
                raise LogCorrupt(f"{name}: run {one.entity} does not live in partition {number}, offset {one.offset}")
    return tape


def last_definition(tape: Tape) -> AppPaths:
    """Raises `LogMismatch` if there is none."""
    known: dict[int, AppPaths] = {}
    for part in tape.parts.values():
        known |= _defined_in_state(part)
        known |= {one.number: one for one in _of_kind(part.entries, "app.paths") if isinstance(one, AppPaths)}
    if not known:
        raise LogMismatch("nothing in it says of which app it is: export it again, with at least one run")
    last = known[max(known)]
    return AppPaths(last.number, last.definition, v=V)


def _defined_in_state(part: Part) -> dict[int, AppPaths]:
    if part.state is None:
        return {}
    found = {int(key[2:]): row for key, row in part.state.rows.items() if key[:2] == b"d/"}
    return {number: AppPaths(number, _decode_definition(row), v=V) for number, row in found.items()}


def _of_kind(entries: Iterable[Entry], *kinds: str) -> Iterator[Record]:
    return (_decoded(one) for one in entries if one.kind in kinds)


def _numbers(entries: Iterable[Entry], kind: str) -> set[int]:
    return {one.number for one in _of_kind(entries, kind) if isinstance(one, AppPaths | AppActivated)}


def _kept(tape: Tape, part: Part, runs: Set[str]) -> list[Entry]:
    kept = [one for one in part.entries if one.kind in _KINDS or one.entity in runs]
    before = _before(tape, part, kept) if part.state is not None and kept else []
    if before and kept[0].offset < len(before):
        raise LogMismatch(f"partition {part.partition} was trimmed to begin at {part.start}: replay the file itself")
    first = kept[0].offset - len(before) if kept else 0
    at = kept[0].at if kept else 0
    return [
        *(Entry(part.partition, first + n, at, at, _encode(one), "", "") for n, one in enumerate(before)),
        *kept,
    ]


def _before(tape: Tape, part: Part, kept: Sequence[Entry]) -> list[Record]:
    """What was in force where a trimmed partition begins."""
    defined = _defined_in_state(part)
    current = beginning_of(tape, part).meta.current
    missing = ({current} | _numbers(kept, "app.activated")) - _numbers(kept, "app.paths")
    found: list[Record] = [defined[number] for number in sorted(missing & defined.keys())]
    if current in defined:
        found.append(AppActivated(current, v=V))
    first = next(_of_kind(kept, "owner.started", "step.attempted", "run.parked"), None)
    if isinstance(first, StepAttempted | RunParked):
        # What an owner says of a run counts for the one who is known.
        found.append(OwnerStarted(first.owner, "", FOLD_VERSION, v=V))
    return found


def _decoded(entry: Entry) -> Record:
    try:
        return decode(entry.raw)
    except UnreadableRecord as error:
        raise LogCorrupt(f"partition {entry.partition}, offset {entry.offset} cannot be folded: {error}") from error


class _Writer:
    """One partition of the new log, and what the folds make of it."""

    def __init__(self, log: Log, partition: int, partitions: int) -> None:
        self._log = log
        self._view = View(partition, partitions)
        self._next = 0
        """The place, as folds see it, of what is written next by ourselves."""
        self._records = self._size = self._ticket = 0

    async def copy(self, entry: Entry) -> None:
        await self._put(_without_number(entry), Orig(entry.offset, entry.at, past=True))

    async def cancel_living(self) -> list[str]:
        living = [id for id, run in self._view.runs.items() if run.status not in TERMINAL]
        for run in living:
            await self._add(RunCancelRequested(run, reason=REASON, v=V))
        return living

    async def close(self, definition: AppPaths) -> None:
        """Nothing is paused, nobody died at his work, and the definition is that of all partitions."""
        meta = self._view.meta
        for function in list(meta.paused):
            await self._add(FunctionPaused(function, False, v=V))
        if meta.owner is not None and not meta.released:
            await self._add(OwnerReleased(meta.owner, v=V))
        await self._add(definition)
        await self._add(AppActivated(definition.number, v=V))
        await self._log.acknowledge(self._ticket)

    async def _add(self, record: Record) -> None:
        await self._put(_encode(record), Orig(self._next, self._view.at, past=True))

    async def _put(self, raw: bytes, orig: Orig) -> None:
        value = with_orig(raw, orig)
        try:
            fold(self._view, decode(value), value, self._records, orig.at)
        except UnreadableRecord as error:
            raise LogCorrupt(
                f"partition {self._view.partition}, offset {orig.offset} cannot be folded: {error}"
            ) from error
        self._view.effects = Effects()
        self._ticket = self._log.append(self._view.partition, value)
        self._next, self._records, self._size = orig.offset + 1, self._records + 1, self._size + len(value)
        if self._size >= _AT_ONCE:
            await self._log.acknowledge(self._ticket)
            self._size = 0


def _without_number(entry: Entry) -> bytes:
    """Those are dense in the whole log, and not in a part of it."""
    if b'"from"' not in entry.raw:
        return entry.raw
    fields = _fields(entry.raw)
    fields.pop("from", None)
    return _encode(fields)
