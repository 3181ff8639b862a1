"""Copies an app's log into another one, on which the engine goes on: journal, state, steps in queues, side topics.

    source    |..trimmed..| S | … | X | … | end            X: where its state stands
    target    |. 0 .|  1  | … | X'| … | end'               the same records with `orig`, and the state as of X'

- Every record says by `orig` where and when it stood in the source, and folds go by that (`flow/imported.py`). The
  target's own offsets and times are others.
- Where the source was trimmed, the target begins at offset 1, as if it had been, too: what was trimmed is in the state
  alone.
- The state goes with the journal, so that a target is opened as fast as its source: only the tail beyond X is folded.
  Its effects are appended again then, as after any stop, and receivers ignore what they have.
- What is copied ends in each partition at one instant: no record is there without the one that caused it. A shared log
  that is written to all the time has no such instant to be seen, and is refused.
- A target is whole or says that it is not: that is for who makes it.
"""

import asyncio
from bisect import bisect_left
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import NamedTuple

import msgspec
from msgspec import Struct
from xxhash import xxh3_64

from perdure.errors import LogCorrupt, LogError
from perdure.flow.imported import NoRecord, Origins, with_orig
from perdure.flow.queues import waits
from perdure.flow.view import View
from perdure.log.protocol import SIDES, Log
from perdure.partition.checkpoint import POSITION_KEY, anchor_of
from perdure.partition.dispatch import put_command
from perdure.partition.snapshots import State, hand_over, state_of
from perdure_schemas.records import Orig

LOOKS = 20
"""So often a shared log is asked for an instant at which nobody writes."""
_IN_FLIGHT_BYTES = 4 << 20
_SIDE_BYTES = 256 << 10
_SIDE_SECONDS = 30.0
_SIDE_LOOK_SECONDS = 0.02
_TOLD_RECORDS = 10_000
_TRIMMED = b'{"kind":"owner.released","v":1,"owner":{"number":0,"token":"trimmed"}}'
"""Stands for what was trimmed in the source, and is trimmed at once."""

Told = Callable[["Progress"], None]


class Progress(NamedTuple):
    """`what` is under way (`copying`, `comparing`): records done, of how many."""

    what: str
    done: int
    of: int


class Sum(Struct, frozen=True):
    """What a partition of the journal, or of a side topic, holds: records, and a hash of them in their order."""

    records: int
    digest: str


class Copied(Struct, frozen=True):
    """By partition, or `topic/partition`. `state`: rows of it; `commands`: put for steps that wait in queues."""

    journal: dict[int, Sum]
    sides: dict[str, Sum]
    state: dict[int, int]
    commands: int


class Part(NamedTuple):
    """One partition of the source, as it is copied."""

    partition: int
    state: State | None
    start: int
    end: int
    moved: int
    """How far folds count ahead of the source's offsets."""

    @property
    def base(self) -> int:
        """The target's offset of its first record: 1 if what came before was trimmed."""
        return min(self.start, 1)

    @property
    def records(self) -> int:
        return self.end - self.start


async def copy(source: Log, target: Log, told: Told = lambda _: None) -> Copied:
    """Both are open, the target is empty, and no engine works on either.

    What was written is read again at the end, and compared. Raises `LogError`s, which say what to do.
    """
    parts = await _parts(source)
    states = {part.partition: await _rows(source, part) for part in parts if part.state is not None}
    for part in parts:
        await _begin(target, part, states.get(part.partition))
    records = sum(part.records for part in parts)
    copying = _Steps(told, "copying", records)
    for part in parts:
        await _journal(source, target, part, copying)
    sides = {f"{topic}/{one.partition}": await _side(source, target, topic, one) for topic in SIDES for one in parts}
    commands = sum([await _commands(target, part) for part in parts])
    comparing = _Steps(told, "comparing", 2 * records)
    journal = {part.partition: await _compared(source, target, part, comparing) for part in parts}
    for partition, rows in states.items():
        found = await state_of(target, partition)
        _insist(found is not None and found.rows == rows, f"the state of partition {partition}")
    return Copied(
        journal,
        {name: found for name, found in sides.items() if found.records},
        {partition: len(rows) for partition, rows in states.items()},
        commands,
    )


class _Steps:
    """Tells how far it is, each time that records were awaited."""

    def __init__(self, told: Told, what: str, of: int) -> None:
        self._told, self._what, self._of = told, what, of
        self._done = 0
        self.add(0)

    def add(self, records: int) -> None:
        self._done += records
        self._told(Progress(self._what, self._done, self._of))


async def _parts(source: Log) -> list[Part]:
    # The states first: what they sent elsewhere was acknowledged before, and stands below ends that are asked later.
    states = [await state_of(source, partition) for partition in range(source.partitions)]
    ends = await _instant(source)
    parts: list[Part] = []
    for partition, (state, end) in enumerate(zip(states, ends, strict=True)):
        start = source.start(partition)
        if start > (0 if state is None else state.position.offset):
            raise _trimmed(partition)
        moved = 0 if state is None else _view(source, partition, state.rows).meta.moved
        parts.append(Part(partition, state, start, end, moved))
    return parts


async def _instant(source: Log) -> list[int]:
    """Where all partitions ended at one time: none of them changed between two rounds of asking."""
    before = await _ends(source)
    for _ in range(LOOKS):
        again = await _ends(source)
        if again == before:
            return again
        before = again
    raise LogError(
        "the log that is to be copied is written to all the time: stop its workers, or try again when less goes on"
    )


async def _ends(source: Log) -> list[int]:
    return [await source.latest(partition) for partition in range(source.partitions)]


def _trimmed(partition: int) -> LogError:
    return LogError(f"partition {partition} was trimmed by its owner while it was copied: try again")


def _view(log: Log, partition: int, rows: Mapping[bytes, bytes]) -> View:
    return View(partition, log.partitions, Rows(rows))


class Rows:
    """A state at hand, as a `Backing`."""

    def __init__(self, rows: Mapping[bytes, bytes]) -> None:
        self._rows = rows
        self._keys = sorted(rows)

    def get(self, key: bytes, /) -> bytes | None:
        return self._rows.get(key)

    def scan(self, prefix: bytes, /, start: bytes = b"", limit: int = 0) -> list[tuple[bytes, bytes]]:
        found: list[tuple[bytes, bytes]] = []
        for index in range(bisect_left(self._keys, max(prefix, start)), len(self._keys)):
            key = self._keys[index]
            if not key.startswith(prefix) or len(found) == limit > 0:
                break
            found.append((key, self._rows[key]))
        return found


async def _rows(source: Log, part: Part) -> dict[bytes, bytes]:
    """The state as the target has it: all but its place is the same, since folds go on counting as they did."""
    assert part.state is not None, "the caller has looked"
    position, rows = part.state
    view = _view(source, part.partition, rows)
    meta = view.meta
    meta.imported = position.offset + part.moved - 1
    meta.moved = part.start + part.moved - part.base
    puts: list[tuple[bytes, bytes]] = []
    view.seal(puts, [], [])
    offset = part.base + position.offset - part.start
    there = msgspec.structs.replace(position, offset=offset, anchor=await _anchor(source, part, position.offset))
    return {**rows, **dict(puts), POSITION_KEY: msgspec.json.encode(there)}


async def _anchor(source: Log, part: Part, below: int) -> str:
    """Of the last record that the state has folded, as the target has it."""
    async for record in _records(source, part.partition, max(part.start, below - 1), below):
        return anchor_of(_copy_of(Origins(part.moved), part.partition, record))
    return ""


class _Record(NamedTuple):
    offset: int
    stamp_ms: int
    raw: bytes


async def _records(log: Log, partition: int, start: int, end: int) -> AsyncGenerator[_Record]:
    offset = start
    while offset < end:
        try:
            batches = await log.fetch(partition, offset)
        except IndexError as error:
            raise _trimmed(partition) from error
        if not batches:
            raise LogCorrupt(f"partition {partition} has no records from offset {offset} on, and ends at {end}")
        for batch in batches:
            for index, raw in enumerate(batch.values[: end - batch.offset]):
                yield _Record(batch.offset + index, batch.timestamp_ms, bytes(raw))
            offset = batch.offset + len(batch.values)


def _origin(origins: Origins, partition: int, record: _Record) -> tuple[Orig, bytes]:
    try:
        return origins.of(record.raw, record.offset, record.stamp_ms)
    except NoRecord as error:
        raise LogCorrupt(
            f"partition {partition}, offset {record.offset}: this is no record, and has halted the partition: {error}"
        ) from error


def _copy_of(origins: Origins, partition: int, record: _Record) -> bytes:
    orig, body = _origin(origins, partition, record)
    return with_orig(body, orig)


async def _begin(target: Log, part: Part, rows: Mapping[bytes, bytes] | None) -> None:
    if part.base:
        await target.acknowledge(target.append(part.partition, _TRIMMED))
        await target.trim(part.partition, part.base)
    if rows is not None:
        await hand_over(target, part.partition, rows)


async def _journal(source: Log, target: Log, part: Part, steps: _Steps) -> None:
    origins = Origins(part.moved)
    ticket = records = size = 0
    async for record in _records(source, part.partition, part.start, part.end):
        value = _copy_of(origins, part.partition, record)
        ticket = target.append(part.partition, value)
        records, size = records + 1, size + len(value)
        if size >= _IN_FLIGHT_BYTES:
            await target.acknowledge(ticket)
            steps.add(records)
            records = size = 0
    await target.acknowledge(ticket)
    steps.add(records)


async def _compared(source: Log, target: Log, part: Part, steps: _Steps) -> Sum:
    """What is in both. Raises `LogCorrupt` if it differs."""
    partition, base = part.partition, part.base
    there = await _sum(source, partition, part.start, part.end, part.moved, steps)
    end = await target.latest(partition)
    here = await _sum(target, partition, base, end, 0, steps)
    _insist((target.start(partition), here) == (base, there), f"partition {partition} of the journal")
    return here


async def _sum(log: Log, partition: int, start: int, end: int, moved: int, steps: _Steps) -> Sum:
    origins, digest, records = Origins(moved), xxh3_64(), 0
    async for record in _records(log, partition, start, end):
        orig, body = _origin(origins, partition, record)
        digest.update(b"%d %d %d " % (orig.offset, orig.at, len(body)))
        digest.update(body)
        records += 1
        if records % _TOLD_RECORDS == 0:
            steps.add(_TOLD_RECORDS)
            await asyncio.sleep(0)
    steps.add(records % _TOLD_RECORDS)
    return Sum(records, digest.hexdigest())


def _insist(same: bool, what: str) -> None:
    if not same:
        raise LogCorrupt(f"{what} is not what was copied: look for who else writes there, and begin anew")


async def _commands(target: Log, part: Part) -> int:
    """Put what the source put before its state stood there. Commands of the tail come with its effects."""
    if part.state is None or target.commands is None:
        return 0
    view = _view(target, part.partition, part.state.rows)
    ticket = count = 0
    for key, queued in view.queued.items():
        if waits(queued):
            run, _, op = key.partition("/")
            ticket = put_command(target.commands, view, run, op, queued)
            count += 1
    await target.acknowledge(ticket)
    return count


async def _side(source: Log, target: Log, topic: str, part: Part) -> Sum:
    """Best effort is not enough here: each slice is read back before the next is written."""
    there, here, records, position = xxh3_64(), xxh3_64(), 0, 0
    offset = 0
    while batches := await source.read_side(topic, part.partition, offset, limit_bytes=_SIDE_BYTES):
        values = [bytes(value) for batch in batches for value in batch.values]
        offset = batches[-1].offset + len(batches[-1].values)
        for value in values:
            there.update(b"%d " % len(value) + value)
            target.side(topic, part.partition, value)
        records += len(values)
        try:
            async with asyncio.timeout(_SIDE_SECONDS):
                while position < records:
                    for batch in await target.read_side(topic, part.partition, position):
                        position = batch.offset + len(batch.values)
                        for value in batch.values:
                            here.update(b"%d " % len(value) + value)
                    await asyncio.sleep(_SIDE_LOOK_SECONDS)
        except TimeoutError:
            raise LogError(f"the topic {topic} cannot be written: {target.failure or 'see the log'}") from None
    _insist(position == records and there.digest() == here.digest(), f"{topic}, partition {part.partition},")
    return Sum(records, here.hexdigest())


async def app_of(log: Log) -> str:
    """Whose log it is, as far as its state says."""
    state = await state_of(log, 0)
    if state is None:
        return ""
    return next((one.app for one in _view(log, 0, state.rows).definitions.values()), "")
