"""A run's lines: what its replay needs, in log order. One row of the store for each run and checkpoint, or each line.

line    <at> <offset> <the record as it stands in the log>
        <at> <offset> ><kind> "<op>"           where the record is large: it stands in a row of its own

Who asks which ops are done need not read what they brought.
"""

from typing import NamedTuple

import msgspec
from msgspec import Struct

from perdure.flow.effects import Deliver, Line
from perdure.flow.tables import Backing
from perdure_schemas.payload import INLINE_LIMIT_BYTES
from perdure_schemas.records import Call, CancelRun, Opening, OpOpened, Queued, RerunRun, Send, TimerFired

_PREFIX = b"o/"
_LARGE = b"\xff"
"""In the row of a large record, before the offset: it sorts after the chunks, whose offsets begin with a zero."""
_LONGEST = INLINE_LIMIT_BYTES + 512
_OPENING = "opening"
_DECODER: msgspec.json.Decoder[Line] = msgspec.json.Decoder(Line)
_ENCODE = msgspec.json.Encoder().encode
_DECODE_OP = msgspec.json.Decoder(str).decode


class StoredLine(NamedTuple):
    """`record` is None where it stands in a row of its own: see `Lines.whole`."""

    at: int
    offset: int
    op: str
    raw: bytes
    record: Line | None
    kind: str


def op_name(op: str) -> str:
    """`insert` of the op `0.2/insert#7`."""
    return op.partition("/")[2].rpartition("#")[0]


def is_immediate(opened: OpOpened) -> bool:
    """Whether the opening is its own outcome: nothing is waited for."""
    opening = opened.opening
    if isinstance(opening, Call):
        return not opening.awaited
    return isinstance(opening, Send | CancelRun | RerunRun)


def kind_of(opening: Opening) -> str:
    """The op's type as people know it."""
    if isinstance(opening, Queued):
        return "step"
    if isinstance(opening, Call):
        return "call" if opening.awaited else "enqueue"
    return str(opening.__struct_config__.tag)


def _kind(record: Line) -> str:
    """The record's kind; `opening` for an op.opened that waits for another record to be its outcome."""
    if isinstance(record, OpOpened) and not is_immediate(record):
        return _OPENING
    return str(record.__struct_config__.tag)


class NewLine(NamedTuple):
    """A line that is no outcome."""

    run: str
    op: str
    at: int
    offset: int
    raw: bytes


_New = tuple[str, int, int, bytes]
"""(op, at, offset, the record as it stands in the log). The decoded one may leave memory: most runs end before anybody
asks for it again, and what a run does not hold need not be fetched from far memory to be freed (a twentieth of a step).
"""


class _Known(Struct, eq=False):
    """What is in memory of one run's lines: the ops that have an outcome or are closed; lines that no seal took."""

    done: set[str] | None
    new: list[_New] = []


class Lines:
    """Lines of all runs of a partition.

    `apart`: a row for each line, so that rows do not depend on when checkpoints were. Where owners change, one snapshot
    is made of the checkpoints of several.
    """

    def __init__(self, backing: Backing, *, apart: bool = False) -> None:
        self._backing = backing
        self._apart = apart
        self._known: dict[str, _Known] = {}
        self._new: dict[str, _Known] = {}
        self._sealed: dict[str, list[bytes]] = {}
        self._sealed_large: dict[bytes, bytes] = {}
        self._rows: dict[str, list[bytes]] = {}
        self._cleared: dict[str, list[bytes] | None] = {}
        self._sealed_clears: dict[str, list[bytes] | None] = {}

    def add(self, line: Deliver | NewLine) -> None:
        """It is put into words by `seal`: most runs end before."""
        known = self._known.get(line.run) or self._recall(line.run)
        if not known.new:
            self._new[line.run] = known
        known.new.append((line.op, line.at, line.offset, line.raw))

    def settle(self, line: Deliver) -> bool:
        """`add` an op's outcome and say so in `done`, unless it has one already."""
        known = self._known.get(line.run) or self._recall(line.run)
        done, op = known.done or self.done(line.run), line.op
        if op in done:
            return False
        done.add(op)
        new = known.new
        if not new:
            self._new[line.run] = known
        new.append((op, line.at, line.offset, line.raw))
        return True

    def begin(self, run: str) -> None:
        """A run that was just requested: nothing is stored of it, so nothing needs looking up."""
        self._known[run] = _Known(set())
        self._rows[run] = []

    def done(self, run: str) -> set[str]:
        """Ops that have an outcome or are closed. Kept in memory until `release`."""
        known = self._known.get(run) or self._recall(run)
        if known.done is None:
            known.done = {line.op for line in self.load(run) if line.kind != _OPENING}
        return known.done

    def _recall(self, run: str) -> _Known:
        known = self._known[run] = _Known(None)
        return known

    def load(self, run: str) -> list[StoredLine]:
        """All lines of a run, in log order."""
        known, rows = self._known.get(run), self._rows.get(run)
        if rows == [] and (known is None or not known.new):
            return []
        found: list[StoredLine] = []
        if run not in self._cleared and rows != []:
            if run not in self._sealed_clears:
                prefix = _PREFIX + run.encode() + b"\0"
                for _, chunk in self._backing.scan(prefix, prefix):
                    found.extend(_parse(line) for line in chunk.split(b"\n"))
            found.extend(_parse(line) for line in self._sealed.get(run, ()))
        if known is not None:
            found.extend(map(_unwritten, known.new))
        return found

    def whole(self, run: str, line: StoredLine) -> Line:
        """A line's record, wherever it stands."""
        if line.record is not None:
            return line.record
        row = _large_row(run, line.offset)
        raw = self._sealed_large.get(row) or self._backing.get(row)
        assert raw is not None, "I2: a large line without its record"
        return _DECODER.decode(raw)

    def clear(self, run: str) -> None:
        """The run has ended: its lines are in the journal, nobody replays them from here."""
        self._known.pop(run, None)
        self._new.pop(run, None)
        rows = self._rows.pop(run, None)
        if rows != []:
            self._cleared[run] = rows

    def release(self, run: str) -> None:
        """The run rests: what can be read again leaves memory."""
        known = self._known.get(run)
        if known is not None:
            known.done = None
            if not known.new:
                del self._known[run]
        self._rows.pop(run, None)

    def runs(self) -> list[str]:
        """Every run with lines."""
        rows = (row for row, _ in self._backing.scan(_PREFIX, _PREFIX) if row[-9:-8] != _LARGE)
        stored = {row[len(_PREFIX) : -8].decode() for row in rows}
        stored.difference_update(self._sealed_clears)
        stored.update(self._sealed)
        stored.difference_update(self._cleared)
        stored.update(self._new)
        return sorted(stored)

    def seal(self, puts: list[tuple[bytes, bytes]], deletes: list[bytes], clears: list[bytes]) -> None:
        """Hand over what is new since the last seal, for one write. Rows that are not known go by their prefix."""
        sealed: dict[str, list[bytes]] = {}
        for run, known in self._new.items():
            lines, known.new = known.new, []
            if known.done is None:
                del self._known[run]
            rows = self._rows.get(run)
            written = sealed[run] = list[bytes]()
            first = len(puts)
            for op, at, offset, raw in lines:
                body = _body(op, raw)
                written.append(b"%d %d %b" % (at, offset, body))
                if body is not raw:
                    row = _large_row(run, offset)
                    self._sealed_large[row] = raw
                    puts.append((row, raw))
            prefix = _PREFIX + run.encode()
            if self._apart:
                stored = zip(lines, written, strict=True)
                puts.extend((prefix + offset.to_bytes(8, "big"), text) for (_, _, offset, _), text in stored)
            else:
                puts.append((prefix + lines[0][2].to_bytes(8, "big"), b"\n".join(written)))
            if rows is not None:
                rows.extend(row for row, _ in puts[first:])
        for run, rows in self._cleared.items():
            if rows is None:
                clears.append(_PREFIX + run.encode())
            else:
                deletes.extend(rows)
        self._sealed, self._new = sealed, {}
        self._sealed_clears, self._cleared = self._cleared, {}

    def written(self) -> None:
        self._sealed, self._sealed_large, self._sealed_clears = {}, {}, {}


def _large_row(run: str, offset: int) -> bytes:
    return _PREFIX + run.encode() + _LARGE + offset.to_bytes(8, "big")


def _body(op: str, raw: bytes) -> bytes:
    """A record written by others may have more than one line."""
    if len(raw) > _LONGEST or b"\n" in raw:
        return b">%b %b" % (_kind(_DECODER.decode(raw)).encode(), _ENCODE(op))
    return raw


def _unwritten(line: _New) -> StoredLine:
    op, at, offset, raw = line
    record = _DECODER.decode(raw)
    return StoredLine(at, offset, op, _body(op, raw), record, _kind(record))


def _parse(line: bytes) -> StoredLine:
    at, offset, body = line.split(b" ", 2)
    if body[:1] == b">":
        kind, _, name = body[1:].partition(b" ")
        return StoredLine(int(at), int(offset), _DECODE_OP(name), body, None, kind.decode())
    record = _DECODER.decode(body)
    op = record.timer if isinstance(record, TimerFired) else record.op
    return StoredLine(int(at), int(offset), op, body, record, _kind(record))
