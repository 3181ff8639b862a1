"""Rows of history as the API shows them. Pure, but for `Readable`, which knows the app's codec."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType
from msgspec.structs import replace

from perdure.flow.lines import op_name
from perdure.history.rows import OWN, EventRow, Mark, OpRow, RunRow
from perdure.history.store import RunPage, decode_body
from perdure.sdk.journal import about
from perdure.sdk.port import Attempt, EventSummary, Moment, OpDetail, RunDetail, RunStatus, RunSummary
from perdure_schemas.payload import ErrorInfo, Payload
from perdure_schemas.records import Opening

SHOWN_BYTES = 2_048
"""Of an event in a list."""

Readable = Callable[[Payload], Raw | UnsetType]

_PAYLOAD = msgspec.json.Decoder(Payload).decode
_ERROR = msgspec.json.Decoder(ErrorInfo).decode
_OPENING = msgspec.json.Decoder(Opening).decode


class _Failed(Struct):
    attempt: int
    took_us: int
    error: ErrorInfo
    due: int | None = None


class _Parked(Struct):
    message: str = ""


class _Claimed(Struct):
    member: str = ""


class _Sent(Struct, tag_field="type", tag="send"):
    events: list[Mapping[str, str]]


_FAILED = msgspec.json.Decoder(_Failed).decode
_PARKED = msgspec.json.Decoder(_Parked).decode
_CLAIMED = msgspec.json.Decoder(_Claimed).decode
_SENT = msgspec.json.Decoder(_Sent).decode


def error_of(raw: bytes | None) -> ErrorInfo | None:
    """As rows have it."""
    return None if raw is None else _ERROR(raw)


def summary_of(row: RunRow) -> RunSummary:
    """A line of a list."""
    return RunSummary(
        row.id, row.function, cast("RunStatus", row.status), row.cause, row.event_id, row.requested_at, row.ended_at,
        row.parent, row.rerun_of, row.metadata, row.started_at, row.due,
    )  # fmt: skip


def event_line(row: EventRow) -> EventSummary:
    """A line of a list."""
    data = decode_body(row.body).data if len(row.body) <= SHOWN_BYTES else UNSET
    return EventSummary(row.id, row.name, row.received_at, len(row.body), data)


def detail_of(page: RunPage, readable: Readable) -> RunDetail:
    """A run's page, as far as history goes."""
    marks: dict[str, list[Mark]] = {}
    for mark in page.marks:
        marks.setdefault(mark.op, []).append(mark)
    data = page.data

    def value(raw: bytes | None) -> Raw | UnsetType:
        return UNSET if raw is None else readable(_PAYLOAD(raw))

    parked = page.run.status == "parked" and data.parked is not None
    return RunDetail(
        summary_of(page.run),
        value(data.event),
        value(data.arguments),
        value(data.result),
        error_of(data.error),
        tuple(_op(op, marks.get(op.op, ()), value) for op in page.ops),
        parked=_PARKED(data.parked).message if parked and data.parked is not None else "",
        trimmed=page.blind,
        moments=tuple(_moment(mark) for mark in marks.get(OWN, ())),
        children=tuple(map(summary_of, page.children)),
        reruns=tuple(map(summary_of, page.reruns)),
    )


def _op(row: OpRow, marks: Sequence[Mark], value: Callable[[bytes | None], Raw | UnsetType]) -> OpDetail:
    told = OpDetail(
        row.op,
        op_name(row.op),
        row.type,
        row.status,
        row.opened_at,
        row.ended_at,
        _attempts(row, marks),
        value(row.input),
        value(row.result),
        error_of(row.error),
        due=row.due if row.status == "open" else None,
        moments=tuple(_moment(mark) for mark in marks),
    )
    return told if row.about is None else _told(told, row.about, marks)


def _told(op: OpDetail, raw: bytes, marks: Sequence[Mark]) -> OpDetail:
    """With what its opening says of it."""
    if op.type == "send":
        return replace(op, about=", ".join(event.get("name", "") for event in _SENT(raw).events))
    opening: Any = _OPENING(raw)
    queue = getattr(opening, "queue", "")
    if queue:
        members = [_CLAIMED(mark.detail).member for mark in marks if mark.kind == "claimed"]
        dispatches = 1 + sum(mark.kind in ("queued", "died", "released") for mark in marks)
        return replace(op, queue=queue, dispatches=dispatches, member=members[-1] if members else "")
    run = getattr(opening, "new_run", "") or getattr(opening, "run", "")
    return replace(op, about=about(opening), run=run)


def _attempts(row: OpRow, marks: Sequence[Mark]) -> tuple[Attempt, ...]:
    """Those that failed, and the one that did not."""
    found: list[Attempt] = []
    for mark in marks:
        if mark.kind == "failed":
            one = _FAILED(mark.detail)
            again = None if one.due is None else max(0, one.due - mark.at)
            found.append(Attempt(one.attempt, mark.at, one.took_us, one.error, again))
    if row.type == "step" and row.status == "completed" and row.ended_at is not None:
        found.append(Attempt(row.attempt or 1, row.ended_at, row.took_us or 0))
    return tuple(found)


def _moment(mark: Mark) -> Moment:
    return Moment(mark.at, mark.kind, UNSET if mark.detail == b"{}" else Raw(mark.detail))
