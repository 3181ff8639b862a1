"""A tape as a file, and as what a running engine answers: a JSON object a line.

{"tape":"begin","version":1,"app":"shop","partitions":4,"folds":2}
{"tape":"part","partition":0,"start":0}                         with the state, where the log was trimmed
{"tape":"record","partition":0,"offset":17,"at":1700000000000,"record":{…}}
{"tape":"end","records":1}                                      without it the file was cut off
"""

from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import IO, Any, Protocol, cast

import msgspec
from msgspec import Raw, Struct

from perdure.errors import LogCorrupt, LogError, LogMismatch
from perdure.flow import FOLD_VERSION
from perdure.flow.imported import NoRecord
from perdure.partition.checkpoint import Position
from perdure.past.tape import Entry, Part, State, Tape, entity_of, head_of

VERSION = 1
ZSTD = b"\x28\xb5\x2f\xfd"
_WHAT = "what `perdure export` writes"


class Begin(Struct, tag_field="tape", tag="begin", omit_defaults=True):
    version: int
    app: str
    partitions: int
    folds: int
    """The version of the folds that made the states in it."""
    redacted: tuple[str, ...] = ()


class _State(Struct):
    position: Position
    offset: int
    rows: list[tuple[bytes, bytes]]


class _Part(Struct, tag_field="tape", tag="part", omit_defaults=True):
    partition: int
    start: int = 0
    state: _State | None = None


class _Record(Struct, tag_field="tape", tag="record", omit_defaults=True):
    partition: int
    offset: int
    at: int
    record: Raw
    stamp: int | None = None
    """The record's own time, where it is not the largest so far."""


class _End(Struct, tag_field="tape", tag="end"):
    records: int


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Begin | _Part | _Record | _End).decode


def lines_of(tape: Tape) -> Iterator[bytes]:
    """With their newlines."""
    yield _encode(Begin(VERSION, tape.app, tape.partitions, FOLD_VERSION, tape.redacted)) + b"\n"
    records = 0
    for part in tape.parts.values():
        state = part.state and _State(part.state.position, part.state.offset, list(part.state.rows.items()))
        yield _encode(_Part(part.partition, part.start, state)) + b"\n"
        for one in part.entries:
            # Newlines in JSON stand between values alone, and mean nothing there.
            raw = one.raw.replace(b"\n", b" ").replace(b"\r", b" ")
            stamp = None if one.stamp == one.at else one.stamp
            yield _encode(_Record(one.partition, one.offset, one.at, Raw(raw), stamp)) + b"\n"
            records += 1
    yield _encode(_End(records)) + b"\n"


def tape_of(lines: Iterable[bytes], name: str) -> Tape:
    """Raises `LogCorrupt` for what is no tape or not all of one, `LogMismatch` for a newer one. `name`: for them."""
    numbered = enumerate(lines, 1)
    begin = _begin(next(numbered, (1, b""))[1], name)
    entries: dict[int, list[Entry]] = {}
    parts: dict[int, _Part] = {}
    records = 0
    for number, line in numbered:
        found = _read(line, name, number)
        match found:
            case _Part(partition=partition):
                parts[partition], entries[partition] = found, []
            case _Record(partition=partition) if partition in entries:
                entries[partition].append(_entry(found, name, number))
                records += 1
            case _End() if found.records == records:
                return Tape(begin.app, begin.partitions, _parts(begin, parts, entries, name), begin.redacted)
            case _:
                raise LogCorrupt(f"{name}, line {number}: it is out of place: this is not {_WHAT}")
    raise LogCorrupt(f"{name} ends after {records:,} records, before its own end: it was cut off; export it again")


def _begin(line: bytes, name: str) -> Begin:
    try:
        version = msgspec.json.decode(line, type=dict[str, Any]).get("version", 0)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        version = 0
    if isinstance(version, int) and version > VERSION:
        raise LogMismatch(
            f"{name} was written in version {version} of its format, and this version of perdure reads up to "
            f"{VERSION}: install a newer one"
        )
    found = _read(line, name, 1)
    if not isinstance(found, Begin):
        raise LogCorrupt(f"{name}, line 1: this is not {_WHAT}")
    return found


def _read(line: bytes, name: str, number: int) -> Begin | _Part | _Record | _End:
    try:
        found: Begin | _Part | _Record | _End = _decode(line)
        return found
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        if not line.endswith(b"\n") and number > 1:
            raise LogCorrupt(f"{name} ends within line {number}: it was cut off; export it again") from error
        raise LogCorrupt(f"{name}, line {number}: this is not {_WHAT}: {error}") from error


def _entry(found: _Record, name: str, number: int) -> Entry:
    raw = bytes(found.record)
    try:
        head = head_of(raw)
    except NoRecord as error:
        raise LogCorrupt(f"{name}, line {number}: {error}") from error
    stamp = found.at if found.stamp is None else found.stamp
    return Entry(found.partition, found.offset, found.at, stamp, raw, head.kind, entity_of(head))


def _parts(begin: Begin, parts: Mapping[int, _Part], entries: Mapping[int, list[Entry]], name: str) -> dict[int, Part]:
    if begin.folds != FOLD_VERSION and any(part.state is not None for part in parts.values()):
        raise LogMismatch(
            f"{name} was exported from a trimmed log by a version of perdure whose state this one does not read: "
            "export it again with this version"
        )
    return {number: Part(number, entries[number], one.start, _state(one.state)) for number, one in parts.items()}


def _state(found: _State | None) -> State | None:
    return None if found is None else State(found.position, found.offset, dict(found.rows))


def read_file(path: Path) -> Tape:
    """Packed or not. Raises as `tape_of`, and `LogError` where the file cannot be read."""
    try:
        with path.open("rb") as file:
            packed = file.read(len(ZSTD)) == ZSTD
            file.seek(0)
            with _zstd().open(file, "rb") if packed else file as plain:
                return tape_of(plain, str(path))
    except EOFError:
        raise LogCorrupt(f"{path} was cut off: export it again") from None
    except OSError as error:
        raise LogError(f"{path} cannot be read: {error.strerror or error}") from error


@contextmanager
def written(path: Path) -> Generator[IO[bytes]]:
    """A file that has its name once all of it is there. Packed, if it is called `.zst`. Raises `LogError`."""
    part = path.with_name(path.name + ".part")
    packing = _zstd() if path.suffix == ".zst" else None
    try:
        with part.open("wb") as file:
            if packing is None:
                yield file
            else:
                with packing.open(file, "wb") as packed:
                    yield packed
        part.rename(path)
    except OSError as error:
        raise LogError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)


class _Packing(Protocol):
    def open(self, file: IO[bytes], mode: str) -> IO[bytes]: ...


def _zstd() -> _Packing:
    """Raises `LogError` where the library is missing."""
    for name in ("compression.zstd", "backports.zstd"):
        with suppress(ImportError):
            return cast("_Packing", import_module(name))
    raise LogError("a packed file needs zstd: pip install 'perdure[zstd]', or name a file that does not end in .zst")
