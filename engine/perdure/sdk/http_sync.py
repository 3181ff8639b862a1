"""An engine in another process, over HTTP, for threads: Django views, gunicorn workers, scripts, the command line."""

import http.client
import os
import time
from collections.abc import Mapping, Sequence
from threading import Lock
from typing import TypeVar
from urllib.parse import urlsplit

from perdure.sdk import http_wire as wire
from perdure.sdk.http_wire import ANSWER_S, REACH_S, Answer, Call
from perdure.sdk.port import (
    Counts,
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

_KEPT = 8
"""Idle connections that are kept open."""

R = TypeVar("R")


class SyncHttpPort:
    """The synchronous twin of `HttpPort`: the same methods without await, from any thread. Needs no package.

    What it sends again, and what not, is as for `HttpPort`. `reach` is for how many seconds a refused connection is
    tried again, `key` the API key, where the engine wants one.
    """

    def __init__(self, base_url: str, *, reach: float = REACH_S, key: str = "") -> None:
        self.base = wire.base_of(base_url)
        self._reach = reach
        self._key = key
        self._idle: list[http.client.HTTPConnection] = []
        self._lock = Lock()
        self._process = os.getpid()

    def close(self) -> None:
        """Lets the idle connections go; one in use is let go by the thread that uses it."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def send(self, events: Sequence[EventBody]) -> list[str]:
        """In parts where one request would be too large; parts that were taken stay taken if a later one fails."""
        return [taken for call in wire.send(events) for taken in self._ask(call)]

    def enqueue(self, request: Enqueue) -> str:
        """Run id, once durable."""
        return self._ask(wire.enqueue(request))

    def result(self, run_id: str, timeout_ms: int | None = None) -> RunOutcome:
        """Waits for the end. Raises `TimeoutError`, `UnknownRun`."""
        deadline = None if timeout_ms is None else time.monotonic() + timeout_ms / 1000
        while True:
            outcome = self._ask(wire.result(run_id, wire.poll_ms(deadline)))
            if outcome is not None:
                return outcome
            wire.check_deadline(deadline, run_id)

    def status(self, run_id: str) -> RunStatus:
        return self._ask(wire.status(run_id))

    def cancel(self, run_id: str, reason: str = "") -> None:
        """Accepted once durable."""
        self._ask(wire.cancel(run_id, reason))

    def cancel_all(self, *, function: str = "", event_id: str = "", status: str = "", reason: str = "") -> int:
        """Cancels the runs that fit all of the filters; how many."""
        return self._ask(wire.cancel_all(function, event_id, status, reason))

    def make_job(
        self, action: str, wanted: RunFilter, *, reason: str = "", job: str = "", rate: float = 0, dry_run: bool = False
    ) -> Job:
        """Cancels the runs that fit, runs them again, or starts those of past events, in the background.

        With `dry_run` it only counts them.
        """
        return self._ask(wire.make_job(action, wanted, reason=reason, job=job, rate=rate, dry_run=dry_run))

    def job(self, job_id: str) -> Job:
        """How far it is. Raises `UnknownJob`."""
        return self._ask(wire.job(job_id))

    def rerun(self, run_id: str) -> str:
        """Id of the new run."""
        return self._ask(wire.rerun(run_id))

    def fork(self, ask: ForkAsk) -> str:
        """Id of the new run, which starts with the last part. Raises `UnknownFunction`, `PayloadError`."""
        return self._ask(wire.fork(ask))

    def unpark(self, run_id: str) -> None:
        """Accepted once durable. Raises `UnknownRun`, `NotParked`."""
        self._ask(wire.unpark(run_id))

    def pause(self, function: str) -> None:
        """Accepted once durable. Raises `UnknownFunction`."""
        self._ask(wire.pause(function))

    def resume(self, function: str) -> None:
        """Accepted once durable. Raises `UnknownFunction`."""
        self._ask(wire.resume(function))

    def runs(
        self, *, function: str = "", status: str = "", event_id: str = "", limit: int = 50, cursor: str = ""
    ) -> tuple[list[RunSummary], str]:
        """Newest first, and the cursor of the next page (empty at the end)."""
        return self._ask(wire.runs(RunFilter(function, status, event_id), limit, cursor))

    def search(self, wanted: RunFilter, *, limit: int = 50, cursor: str = "") -> tuple[list[RunSummary], str]:
        """As `runs`, of an engine that keeps a history. A page may be short, and not the last."""
        return self._ask(wire.runs(wanted, limit, cursor))

    def run(self, run_id: str) -> RunDetail:
        return self._ask(wire.run(run_id))

    def lines(self, run_id: str, *, level: LogLevel = "debug", limit: int = 200, cursor: str = "") -> LinePage:
        """What the run logged; see `Port.lines`."""
        return self._ask(wire.lines(run_id, level, limit, cursor))

    def tape(self, run_id: str) -> bytes:
        """The run's records; see `Port.tape`."""
        return self._ask(wire.tape(run_id))

    def knows_event(self, event_id: str) -> bool:
        return self._ask(wire.knows_event(event_id))

    def event(self, event_id: str) -> EventDetail:
        """What it started, matched, cancelled, and why not more. Raises `UnknownEvent`."""
        return self._ask(wire.event(event_id))

    def functions(self) -> list[FunctionView]:
        return self._ask(wire.functions())

    def lag(self) -> Mapping[str, int]:
        """Empty, as for `HttpPort`."""
        return {}

    def counts(self) -> Counts:
        """Empty, as `ready`."""
        return Counts()

    def ready(self) -> Mapping[str, str]:
        """Empty, as for `HttpPort`."""
        return {}

    def _ask(self, call: Call[R]) -> R:
        give_up = time.monotonic() + self._reach
        while True:
            # One that was idle may be closed on the other side: for a call that must not be sent again, a new one.
            connection = self._take() if call.again else self._new()
            may = True
            try:
                if connection.sock is None:
                    connection.connect()
                may = call.again
                return wire.receive(call, self._once(connection, call), self.base)
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                if not may or time.monotonic() > give_up:
                    raise wire.unreachable(self.base, error) from error
            time.sleep(0.1)

    def _once(self, connection: http.client.HTTPConnection, call: Call[R]) -> Answer:
        path = urlsplit(self.base).path + call.path
        connection.request(call.method, path, call.body, wire.headers(call, self._key))
        response = connection.getresponse()
        answer = Answer(response.status, response.read())
        self._give_back(connection)
        return answer

    def _take(self) -> http.client.HTTPConnection:
        with self._lock:
            if self._process != os.getpid():
                # A forked worker must not speak on the connections of its parent.
                self._process, self._idle = os.getpid(), []
            if self._idle:
                return self._idle.pop()
        return self._new()

    def _new(self) -> http.client.HTTPConnection:
        parts = urlsplit(self.base)
        secure = parts.scheme == "https"
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        return kind(parts.hostname or "", parts.port, timeout=ANSWER_S + wire.POLL_MS / 1000)

    def _give_back(self, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            if len(self._idle) < _KEPT:
                self._idle.append(connection)
                return
        connection.close()
