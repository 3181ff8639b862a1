"""What goes over HTTP between `HttpPort`, `SyncHttpPort` and the gateway, without a socket."""

import re
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar
from urllib.parse import quote, urlencode, urlsplit

import msgspec
from msgspec import Raw, Struct

from perdure import errors
from perdure.errors import DefinitionError, LogError, PayloadError, PayloadTooLarge, PerdureError, UnknownRun
from perdure.sdk.json_guard import EVENT_LIMIT_BYTES, REQUEST_LIMIT_BYTES
from perdure.sdk.port import (
    Enqueue,
    EventDetail,
    ForkAsk,
    FunctionView,
    Job,
    LinePage,
    RunDetail,
    RunFilter,
    RunOutcome,
    RunStatus,
    RunSummary,
)
from perdure_schemas.event import EventBody
from perdure_schemas.records import LogLevel

PROBLEM_TYPE = "urn:perdure:error:"
"""What the `type` of a problem+json begins with; the rest is the name of the error's class."""

POLL_MS = 20_000
"""Length of one long poll. Waiting longer is asking again."""

REACH_S = 10.0
"""How long a connection that is refused is tried again. `perdure dev` is away for a second or two when code changes."""

ANSWER_S = 30.0
"""How long an answer may take, beyond what a long poll asks for."""

R = TypeVar("R")


class EngineUnreachable(LogError):
    """Nobody answers at the address, or what answers is no engine."""


class Answer(Struct, frozen=True):
    """What came back."""

    status: int
    body: bytes


class Call(Struct, Generic[R], frozen=True):
    """One request, and how to read its answer."""

    method: str
    path: str
    read: Callable[[Answer], R]
    body: bytes | None = None
    again: bool = True
    """Whether it may be sent again after the connection broke half-way: it changes nothing, or only once."""
    reads: tuple[int, ...] = ()
    """Statuses from 400 up that are an answer and not an error."""
    traceparent: str = ""


class _Page(Struct):
    data: list[RunSummary]
    cursor: str = ""


class _Functions(Struct):
    data: list[FunctionView]


class _Ids(Struct):
    ids: list[str]
    error: str = ""


class _RunId(Struct):
    run_id: str


class _Count(Struct):
    count: int


class _Problem(Struct):
    detail: str = ""
    type: str = ""


_RUN_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.:~-]*")
_encode = msgspec.json.Encoder().encode
_REBUILT: dict[str, type[PerdureError]] = {
    kind.__name__: kind
    for kind in (
        *(errors.DefinitionError, errors.OutsideRun, errors.NonDeterminism, errors.PayloadError),
        *(errors.UnknownRun, errors.NotParked, errors.UnknownFunction, errors.LogError, errors.LogFull),
        *(errors.LogCorrupt, errors.LogInUse, errors.LogMismatch, errors.NotOwned, errors.PartitionHalted),
        *(errors.KeepsNothing, PayloadTooLarge, errors.PayloadUnavailable, errors.KeyRefused, errors.ScopeMissing),
        *(errors.UnknownEvent, errors.UnknownJob, errors.UnknownOp, errors.PastGone, errors.EngineClosed),
    )
}


def base_of(url: str) -> str:
    """The address without what does not belong there. Raises `DefinitionError`."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise DefinitionError(f"{url!r} is not the address of an engine: say for example http://127.0.0.1:8288")
    try:
        _ = parts.port
    except ValueError:
        raise DefinitionError(f"{url!r}: the port is a number up to 65535") from None
    return url.rstrip("/")


def headers(call: Call[R], key: str) -> dict[str, str]:
    """What goes with a request. `key`: the API key, or nothing."""
    given = {"content-type": "application/json"} if call.body else {}
    if call.traceparent:
        given["traceparent"] = call.traceparent
    return given | {"authorization": f"Bearer {key}"} if key else given


def send(events: Sequence[EventBody]) -> Iterator[Call[list[str]]]:
    """One call, or several where one request would be too large: each takes its events whole."""
    part: list[bytes] = []
    size = 0
    for event in events:
        item = _encode(event)
        if len(item) > EVENT_LIMIT_BYTES:
            raise PayloadTooLarge(
                f"event {event.name!r} has {len(item):,} bytes and may have {EVENT_LIMIT_BYTES:,}: "
                "keep large data elsewhere and send its key"
            )
        if part and size + len(item) > REQUEST_LIMIT_BYTES // 2:
            yield _send_part(part)
            part, size = [], 0
        part.append(item)
        size += len(item)
    if part:
        yield _send_part(part)


def _send_part(items: list[bytes]) -> Call[list[str]]:
    return Call("POST", "/e/perdure", _ids, b"[" + b",".join(items) + b"]")


def _ids(answer: Answer) -> list[str]:
    taken = _decode(answer, _Ids)
    if taken.error:
        kept = f"; taken all the same: {', '.join(taken.ids)}" if taken.ids else ""
        raise PayloadError(taken.error + kept)
    return taken.ids


def enqueue(request: Enqueue) -> Call[str]:
    """A request without an idempotency key gets one of chance, so that sending it again starts no second run."""
    args, kwargs = msgspec.json.decode(request.arguments, type=tuple[Raw, Raw])
    body: dict[str, Any] = {
        "args": args,
        "kwargs": kwargs,
        "idempotency_key": request.idempotency_key or secrets.token_hex(16),
        "metadata": request.metadata,
    }
    if request.delay_ms is not None:
        body["delay"] = f"{request.delay_ms}ms"
    if request.discard_after_ms is not None:
        body["discard_after"] = f"{request.discard_after_ms}ms"
    if request.rerun_of:
        body["rerun_of"] = request.rerun_of
    path = f"{_function(request.function)}/runs"
    return Call("POST", path, _run_id, _encode(body), traceparent=request.traceparent)


def result(run_id: str, timeout_ms: int) -> Call[RunOutcome | None]:
    """One poll; None: not yet."""

    def read(answer: Answer) -> RunOutcome | None:
        return None if answer.status == 202 else _decode(answer, RunOutcome)

    return Call("GET", f"{_run(run_id)}/result?timeout={timeout_ms}ms", read)


def status(run_id: str) -> Call[RunStatus]:
    """A poll that does not wait."""
    return Call("GET", f"{_run(run_id)}/result?timeout=0s", lambda answer: _decode(answer, RunOutcome).status)


def tape(run_id: str) -> Call[bytes]:
    return Call("GET", f"{_run(run_id)}/tape", lambda answer: answer.body)


def cancel(run_id: str, reason: str) -> Call[None]:
    query = "?" + urlencode({"reason": reason}) if reason else ""
    return Call("DELETE", _run(run_id) + query, lambda answer: None)


def rerun(run_id: str) -> Call[str]:
    """Not sent again by itself: each is one more run."""
    return Call("POST", f"{_run(run_id)}/rerun", _run_id, b"", again=False)


def fork(ask: ForkAsk) -> Call[str]:
    return Call("POST", "/v1/forks", _run_id, _encode(ask))


def unpark(run_id: str) -> Call[None]:
    """Not sent again by itself: by then the run may go on, and the answer would be that it is not parked."""
    return Call("POST", f"{_run(run_id)}/unpark", lambda answer: None, b"", again=False)


def pause(function: str) -> Call[None]:
    return Call("POST", f"{_function(function)}/pause", lambda answer: None, b"")


def resume(function: str) -> Call[None]:
    return Call("POST", f"{_function(function)}/resume", lambda answer: None, b"")


def runs(wanted: RunFilter, limit: int, cursor: str) -> Call[tuple[list[RunSummary], str]]:
    query = urlencode([*params_of(wanted), ("limit", str(limit)), *([("cursor", cursor)] if cursor else [])])

    def read(answer: Answer) -> tuple[list[RunSummary], str]:
        page = _decode(answer, _Page)
        return page.data, page.cursor

    return Call("GET", f"/v1/runs?{query}", read)


def params_of(wanted: RunFilter) -> list[tuple[str, str]]:
    """What is given of a filter, as parameters."""
    given: dict[str, Any] = msgspec.to_builtins(wanted)
    pairs = [("metadata", f"{key}={value}") for key, value in given.pop("metadata", {}).items()]
    return [(name, str(value)) for name, value in given.items() if value not in ("", None)] + pairs


def run(run_id: str) -> Call[RunDetail]:
    return Call("GET", _run(run_id), lambda answer: _decode(answer, RunDetail))


def lines(run_id: str, level: LogLevel, limit: int, cursor: str) -> Call[LinePage]:
    query = urlencode({"level": level, "limit": str(limit), "cursor": cursor})
    return Call("GET", f"{_run(run_id)}/logs?{query}", lambda answer: _decode(answer, LinePage))


def knows_event(event_id: str) -> Call[bool]:
    path = f"/v1/events/{quote(event_id, safe='')}/runs?limit=1"
    return Call("GET", path, lambda answer: answer.status != 404, reads=(404,))


def event(event_id: str) -> Call[EventDetail]:
    return Call("GET", f"/v1/events/{quote(event_id, safe='')}", lambda answer: _decode(answer, EventDetail))


def functions() -> Call[list[FunctionView]]:
    return Call("GET", "/v1/functions", lambda answer: _decode(answer, _Functions).data)


def cancel_all(function: str, event_id: str, status: str, reason: str) -> Call[int]:
    """Beyond the Port: the gateway's cancel by filter, for the command line."""
    given = {"function": function, "event_id": event_id, "status": status, "reason": reason}
    body = _encode({name: value for name, value in given.items() if value})
    return Call("POST", "/v1/cancellations", lambda answer: _decode(answer, _Count).count, body)


def make_job(
    action: str, wanted: RunFilter, *, reason: str = "", job: str = "", rate: float = 0, dry_run: bool = False
) -> Call[Job]:
    """Beyond the Port. A job of this id that was made before is answered again."""
    more = {"action": action, "reason": reason, "id": job, "rate": rate, "dry_run": dry_run}
    body = {**msgspec.to_builtins(wanted), **more}
    return Call("POST", "/v1/jobs", lambda answer: _decode(answer, Job), _encode(body), again=bool(job or dry_run))


def job(job_id: str) -> Call[Job]:
    return Call("GET", f"/v1/jobs/{quote(job_id, safe='')}", lambda answer: _decode(answer, Job))


def receive(call: Call[R], answer: Answer, base: str) -> R:
    """The result, or the error that the engine raised, as the same class."""
    if answer.status < 400 or answer.status in call.reads:
        return call.read(answer)
    raise _error(answer, base)


def unreachable(base: str, error: Exception) -> EngineUnreachable:
    """For a connection that did not come about, or broke when the request must not be sent again."""
    reason = str(error) or type(error).__name__
    return EngineUnreachable(
        f"no engine answers at {base} ({reason}): start one with `perdure dev module:app`, or name its address"
    )


def poll_ms(deadline: float | None) -> int:
    """How long the next poll may wait, for a deadline of the monotonic clock."""
    return POLL_MS if deadline is None else max(0, min(POLL_MS, int((deadline - time.monotonic()) * 1000)))


def check_deadline(deadline: float | None, run_id: str) -> None:
    """Raises `TimeoutError` once it has passed."""
    if deadline is not None and time.monotonic() >= deadline:
        raise TimeoutError(f"run {run_id} has not ended in time: it goes on, ask again later")


def _error(answer: Answer, base: str) -> PerdureError:
    try:
        found = msgspec.json.decode(answer.body, type=_Problem)
    except (msgspec.DecodeError, UnicodeError):
        return EngineUnreachable(f"what answers at {base} is no engine (HTTP {answer.status}): check the address")
    kind = _REBUILT.get(found.type.removeprefix(PROBLEM_TYPE))
    if kind is None:
        kind = LogError if answer.status in (502, 503, 504) else PerdureError
    return kind(found.detail or f"HTTP {answer.status}")


def _decode(answer: Answer, kind: type[R]) -> R:
    try:
        return msgspec.json.decode(answer.body, type=kind)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise EngineUnreachable(
            f"the answer is not what an engine of this version sends ({error}): check the address, or upgrade"
        ) from None


def _run_id(answer: Answer) -> str:
    return _decode(answer, _RunId).run_id


def _function(function: str) -> str:
    return f"/v1/functions/{quote(function, safe='')}"


def _run(run_id: str) -> str:
    if not _RUN_ID.fullmatch(run_id):
        # `..` or a slash would ask for another path.
        raise UnknownRun(f"no run {run_id[:80]!r} is known: an id has letters, digits, '-' and '_'")
    return f"/v1/runs/{quote(run_id, safe='')}"
