"""Errors as problem+json (RFC 9457), so that clients rebuild the same `PerdureError` from `type`."""

import logging
import re

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from perdure.errors import (
    DefinitionError,
    EngineClosed,
    KeepsNothing,
    KeyRefused,
    LogError,
    LogFull,
    NotParked,
    OutsideRun,
    PastGone,
    PayloadError,
    PayloadTooLarge,
    PayloadUnavailable,
    PerdureError,
    ScopeMissing,
    UnknownEvent,
    UnknownFunction,
    UnknownJob,
    UnknownOp,
    UnknownRun,
)
from perdure.history.store import NoHistory
from perdure.sdk.http_wire import PROBLEM_TYPE
from perdure.sdk.keys import PREFIX
from perdure_connectors.http.answers import json_answer

_log = logging.getLogger("perdure.http")

_STATUS: tuple[tuple[type[PerdureError], int], ...] = (
    (PayloadTooLarge, 413),
    (PayloadError, 400),
    (DefinitionError, 400),
    (ScopeMissing, 403),
    (KeyRefused, 401),
    (UnknownEvent, 404),
    (UnknownOp, 404),
    (PastGone, 410),
    (UnknownRun, 404),
    (UnknownFunction, 404),
    (UnknownJob, 404),
    (NotParked, 409),
    (KeepsNothing, 501),
    (LogFull, 507),
    (LogError, 503),
    (NoHistory, 503),
    (PayloadUnavailable, 503),
    (OutsideRun, 503),
    (EngineClosed, 503),
)
"""First match counts, so subclasses stand before their bases."""

_PATH_KEY = re.compile(rf"(?<=/e/).+|{PREFIX}[\w-]+", re.DOTALL)
"""Also in a path that was meant to be another one."""

_HINTS = {
    404: "there is nothing at this path: GET /v1 lists the routes",
    405: "this path does not take this method: see the Allow header (changes need POST or DELETE)",
}


def problem(status: int, name: str, detail: str, **more: object) -> Response:
    """`name` is the class of the error. `error` repeats the detail where Inngest's clients look for it."""
    title = "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in name).strip()
    content = {"type": PROBLEM_TYPE + name, "title": title, "status": status, "detail": detail, "error": detail}
    answer = json_answer(content | more, status)
    answer.headers["content-type"] = "application/problem+json"
    if status in (503, 507):
        answer.headers["retry-after"] = "1"
    if status == 401:
        answer.headers["www-authenticate"] = 'Bearer realm="perdure"'
    return answer


def problem_of(error: PerdureError) -> Response:
    """The answer to a request that ended in this error."""
    return problem(status_of(type(error)), type(error).__name__, str(error))


def status_of(kind: type[PerdureError]) -> int:
    """What an error of this class is answered with."""
    return next((status for base, status in _STATUS if issubclass(kind, base)), 500)


def shown_path(request: Request) -> str:
    """The path without the key that it may hold: what is shown is logged, and passed on."""
    return _PATH_KEY.sub("…", request.url.path)


async def on_error(request: Request, error: Exception) -> Response:
    """Errors that say what to do."""
    assert isinstance(error, PerdureError)
    answer = problem_of(error)
    if answer.status_code == 500:
        _log.error("%s %s: %s", request.method, shown_path(request), error)
    return answer


async def on_http_error(request: Request, error: Exception) -> Response:
    """No such path, no such method, and what handlers raise as plain HTTP errors."""
    assert isinstance(error, HTTPException)
    detail = _HINTS.get(error.status_code, error.detail)
    answer = problem(error.status_code, "HttpError", f"{request.method} {shown_path(request)}: {detail}")
    answer.headers.update(error.headers or {})
    if "allow" in answer.headers:
        answer.headers["allow"] = ", ".join(sorted(answer.headers["allow"].split(", ")))
    return answer


async def on_unexpected(request: Request, error: Exception) -> Response:
    """A fault of ours: the reader gets no internals, the log gets all (Starlette raises it on after this)."""
    return problem(500, "PerdureError", "the engine met an unexpected error: its log has the traceback")
