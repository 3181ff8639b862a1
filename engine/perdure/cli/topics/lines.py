"""Records of the journal as lines for people."""

import heapq
from collections.abc import AsyncGenerator, Callable
from datetime import datetime
from typing import Any, NamedTuple, cast

import msgspec
from msgspec import Raw
from rich.text import Text

from perdure.cli.output import console, cut, inert, print_json
from perdure.log.protocol import Log

FIRST = ("function", "run", "op", "status", "cause")
"""What a reader looks for, before all the rest."""
VALUE = 80
_decode = msgspec.json.Decoder(dict[str, Any]).decode
_encode = msgspec.json.Encoder().encode


class Line(NamedTuple):
    """One record and where it stands."""

    at: int
    partition: int
    offset: int
    raw: bytes


def line_of(stamp_ms: int, partition: int, offset: int, raw: bytes) -> Line:
    """By the time that it had in the log that it was copied from, if it was."""
    orig = fields_of(raw).get("orig") if b'"orig"' in raw else None
    if isinstance(orig, dict):
        stamp_ms = int(cast("dict[str, Any]", orig).get("at", stamp_ms))
    return Line(stamp_ms, partition, offset, raw)


class Wanted:
    """Which lines are asked for: those of a run, those of an event and of the runs that it started, or all."""

    def __init__(self, run: str, event: str) -> None:
        self._event = event.encode()
        self._runs = {run.encode()} if run else set[bytes]()

    def __bool__(self) -> bool:
        return bool(self._event or self._runs)

    def takes(self, line: Line) -> bool:
        """To be asked of all lines in turn: a run that the event started is known from its request on."""
        if not self or any(run in line.raw for run in self._runs):
            return True
        if not self._event or self._event not in line.raw:
            return False
        record = fields_of(line.raw)
        body = record.get("event")
        if record.get("event_id") == self._event.decode():
            self._runs.add(str(record.get("run", "")).encode())
            return True
        return isinstance(body, dict) and cast("dict[str, Any]", body).get("id") == self._event.decode()


def fields_of(raw: bytes) -> dict[str, Any]:
    """A record's fields; what cannot be read is shown as it is."""
    try:
        return _decode(raw)
    except msgspec.DecodeError:
        return {"kind": "unreadable", "raw": raw.decode("utf-8", "replace")}


async def stored(log: Log, ends: list[int], last: int | None) -> AsyncGenerator[Line]:
    """What stands below `ends`, by time; of each partition the `last` records at least, or all."""
    sources = [_partition(log, partition, end, last) for partition, end in enumerate(ends)]
    heads: list[tuple[Line, int]] = []
    for number, source in enumerate(sources):
        async for line in source:
            heads.append((line, number))
            break
    heapq.heapify(heads)
    while heads:
        line, number = heads[0]
        yield line
        following = await anext(sources[number], None)
        if following is None:
            heapq.heappop(heads)
        else:
            heapq.heapreplace(heads, (following, number))


async def _partition(log: Log, partition: int, end: int, last: int | None) -> AsyncGenerator[Line]:
    start = log.start(partition)
    offset = start if last is None else max(start, end - last)
    while offset < end:
        batches = await log.fetch(partition, offset)
        if not batches:
            return
        for batch in batches:
            for index, raw in enumerate(batch.values):
                if batch.offset + index >= end:
                    return
                yield line_of(batch.timestamp_ms, partition, batch.offset + index, bytes(raw))
            offset = batch.offset + len(batch.values)


def printed(*, whole: bool, as_json: bool) -> Callable[[Line], None]:
    """Prints a line at a time; as JSON one object a line."""
    if as_json:
        return lambda line: print_json(
            {"at": line.at, "partition": line.partition, "offset": line.offset, "record": _raw(line.raw)}
        )
    screen = console()
    return lambda line: screen.print(text_of(line, whole=whole), soft_wrap=True)


def _raw(raw: bytes) -> Raw | str:
    return Raw(raw) if "raw" not in fields_of(raw) else raw.decode("utf-8", "replace")


def text_of(line: Line, *, whole: bool) -> Text:
    """`12:03:04.125  2/1045  step.completed  order  run=… op=… result="ok"`."""
    record = fields_of(line.raw)
    kind = str(record.pop("kind", "?"))
    record.pop("v", None)
    time = datetime.fromtimestamp(line.at / 1000).astimezone().strftime("%m-%d %H:%M:%S.%f")[:-3]
    names = [name for name in FIRST if name in record]
    names += [name for name in record if name not in FIRST]
    values = [f"{name}={_value(record[name], None if whole else VALUE)}" for name in names]
    return Text.assemble(
        (f"{time}  {line.partition}/{line.offset}  ", "dim"), (inert(kind), "bold"), "  ", inert(" ".join(values))
    )


def _value(value: Any, limit: int | None) -> str:
    if isinstance(value, dict) and "inline" in value:
        value = cast("dict[str, Any]", value)["inline"]
    text = value if isinstance(value, str) and value.isprintable() else _encode(value).decode()
    return text if limit is None else cut(text, limit)
