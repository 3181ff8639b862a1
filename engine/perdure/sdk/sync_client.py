"""`SyncClient`: the same as `Client` without await, for Django, gunicorn workers and scripts."""

import os
from collections.abc import Iterable, Mapping
from typing import Any, Generic, ParamSpec, Self, TypeVar, overload

from perdure.duration import parse_ms
from perdure.errors import Duration
from perdure.sdk.app import App
from perdure.sdk.client import DEFAULT_URL, enqueue_request, result_from
from perdure.sdk.event_input import new_event_id
from perdure.sdk.events import Event
from perdure.sdk.function import Function
from perdure.sdk.keys import api_key
from perdure.sdk.port import RunStatus
from perdure.sdk.sender import event_body

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class SyncRunHandle(Generic[R_co]):
    """A run, from synchronous code."""

    id: str

    def __init__(self, client: "SyncClient", function: Function[..., R_co], run_id: str) -> None:
        self.id = run_id
        self._client = client
        self._function = function

    def result(self, *, timeout: Duration | None = None) -> R_co:
        """Waits for the run's end. Raises `RunFailed` (or what it ended with), `TimeoutError`, `UnknownRun`."""
        timeout_ms = None if timeout is None else parse_ms(timeout, what="timeout")
        return result_from(self._function, self._client.port.result(self.id, timeout_ms))

    def status(self) -> RunStatus:
        return self._client.port.status(self.id)

    def cancel(self, *, reason: str = "") -> None:
        self._client.port.cancel(self.id, reason)

    def rerun(self) -> "SyncRunHandle[R_co]":
        return SyncRunHandle(self._client, self._function, self._client.port.rerun(self.id))


class SyncClient:
    """Speaks to a running engine's gateway by HTTP. Safe to share between threads. `log` and `key` as for `Client`."""

    def __init__(self, app: App, *more: App, log: str = "", key: str = "") -> None:
        from perdure.sdk.http_port import SyncHttpPort

        self.apps = (app, *more)
        self.port = SyncHttpPort(log or os.environ.get("PERDURE_URL", "") or DEFAULT_URL, key=api_key(key))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        self.port.close()

    @overload
    def send(self, event: Event[Any], /) -> str: ...
    @overload
    def send(self, name: str, data: Mapping[str, Any], /, *, id: str = ..., user: dict[str, Any] = ...) -> str: ...
    def send(
        self,
        event: Event[Any] | str,
        data: Mapping[str, Any] | None = None,
        /,
        *,
        id: str = "",
        user: dict[str, Any] | None = None,
    ) -> str:
        """Sends one event and gives its id, once it is durable."""
        if isinstance(event, str):
            event = Event(event, dict(data or {}), id, user or {})
        return self.send_many([event])[0]

    def send_many(self, events: Iterable[Event[Any]], /) -> list[str]:
        return self.port.send([event_body(event, new_event_id()) for event in events])

    def call(self, function: Function[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Starts a run and waits for its result."""
        return self.enqueue(function, *args, **kwargs).result()

    def enqueue(self, function: Function[P, R], /, *args: P.args, **kwargs: P.kwargs) -> SyncRunHandle[R]:
        """Starts a run: `client.enqueue(flow.options(delay="1h"), 42)`."""
        run = self.port.enqueue(enqueue_request(function, args, kwargs, function.call_options))
        return SyncRunHandle(self, function, run)

    def handle(self, function: Function[..., R], run_id: str, /) -> SyncRunHandle[R]:
        return SyncRunHandle(self, function, run_id)

    def runs(
        self, of: Function[..., R], /, *, status: RunStatus | None = None, event_id: str = ""
    ) -> list[SyncRunHandle[R]]:
        """Runs of a function, newest first."""
        found: list[SyncRunHandle[R]] = []
        cursor = ""
        while True:
            page, cursor = self.port.runs(
                function=of.id, status=status or "", event_id=event_id, limit=500, cursor=cursor
            )
            found.extend(SyncRunHandle(self, of, run.id) for run in page)
            if not cursor:
                return found
