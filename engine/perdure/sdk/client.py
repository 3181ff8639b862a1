"""Clients: send, call, enqueue, look, cancel, from anywhere.

In the engine's own process a client asks the engine; elsewhere it asks a running one by HTTP. An embedded log
belongs to one process: the web workers beside it use `Client(app, log="http://127.0.0.1:8288")`.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self, TypeVar, cast

from msgspec import UNSET

from perdure.duration import parse_ms
from perdure.errors import DefinitionError, Duration, OutsideRun
from perdure.sdk import binding
from perdure.sdk.app import App
from perdure.sdk.event_input import new_event_id
from perdure.sdk.events import Event
from perdure.sdk.function import Function
from perdure.sdk.handle import RunHandle
from perdure.sdk.http_port import HttpPort
from perdure.sdk.keys import api_key
from perdure.sdk.port import Enqueue, Port, RunOutcome, RunStatus
from perdure.sdk.sender import Sender, event_body
from perdure.worker.arguments import CallOptions, arguments_json
from perdure.worker.asking import read
from perdure.worker.errors import rebuild_run_failed
from perdure.worker.tracing import current_traceparent
from perdure_schemas.event import EventBody

R = TypeVar("R")
DEFAULT_URL = "http://127.0.0.1:8288"


class Client(Sender):
    """An async context manager that serves its apps' `.call`, `.enqueue` and handles in this process.

    `log`: the address of an engine's gateway, `http://host:8288`; `PERDURE_URL`, else the engine in this process, else
    the one on this machine. `key`: the API key, for an engine that wants one; `PERDURE_API_KEY`, else the file that
    `PERDURE_API_KEY_FILE` names.
    """

    stands_in = False
    """Whether an `Engine` opened for its app is this one: that of tests."""

    def __init__(self, app: App, *more: App, log: str = "", key: str = "") -> None:
        self.apps = (app, *more)
        for one in cast("tuple[object, ...]", self.apps):
            if not isinstance(one, App):
                raise DefinitionError(f"{one!r} is no App: {type(self).__name__}(app, log='…') takes apps first")
        self._log_url = log
        self._key = key
        self._port: Port | None = None
        self._own: HttpPort | None = None
        """The connection that this client opened itself, and closes."""

    @property
    def port(self) -> Port:
        """What this client speaks to. Raises `OutsideRun` while it is not open."""
        if self._port is None:
            raise OutsideRun(f"this {type(self).__name__} is not open: use it in `async with`")
        return self._port

    def port_of(self, app: str) -> Port:
        """The port that serves `app`."""
        return self.port

    async def __aenter__(self) -> Self:
        self._port = await self._open()
        for app in self.apps:
            binding.bind(app.name, self)
        return self

    async def __aexit__(self, *exc: object) -> None:
        for app in self.apps:
            binding.unbind(app.name, self)
        await self._close()
        self._port = None

    async def _open(self) -> Port:
        url = self._log_url or os.environ.get("PERDURE_URL", "")
        if not url:
            try:
                known = binding.client_for(self.apps[0].name)
            except OutsideRun:
                url = DEFAULT_URL
            else:
                return cast("Client", known).port_of(self.apps[0].name)
        if not url.startswith(("http://", "https://")):
            raise DefinitionError(
                f"Client(log={url!r}): an embedded log belongs to the process of its Engine; from another one say "
                f"log={DEFAULT_URL!r}, the address of its gateway (perdure dev, perdure serve, Engine.asgi())"
            )
        self._own = HttpPort(url, key=api_key(self._key))
        return self._own

    async def _close(self) -> None:
        if self._own is not None:
            await self._own.close()
            self._own = None

    async def send_many(self, events: Iterable[Event[Any]], /) -> list[str]:
        """Sends events together; their ids in order, once all are durable."""
        return await self._send([event_body(event, new_event_id()) for event in events])

    async def _send(self, bodies: list[EventBody]) -> list[str]:
        return await self.port.send(bodies)

    async def call(
        self, function: Function[..., R], args: Sequence[Any], kwargs: Mapping[str, Any], options: CallOptions, /
    ) -> R:
        """Starts a run and waits for its result."""
        handle = await self.enqueue(function, args, kwargs, options)
        return await self.result_of(function, handle.id, None)

    async def enqueue(
        self, function: Function[..., R], args: Sequence[Any], kwargs: Mapping[str, Any], options: CallOptions, /
    ) -> RunHandle[R]:
        """Starts a run. Returns once it is durable."""
        run = await self.port_of(function.app).enqueue(enqueue_request(function, args, kwargs, options))
        return RunHandle(function, run)

    async def result_of(self, function: Function[..., R], run: str, timeout: Duration | None) -> R:
        """Waits for a run's end. Raises `RunFailed` (or what it ended with), `TimeoutError`, `UnknownRun`."""
        timeout_ms = None if timeout is None else parse_ms(timeout, what="timeout")
        outcome = await self.port_of(function.app).result(run, timeout_ms)
        return result_from(function, outcome)

    async def runs(
        self, of: Function[..., R], /, *, status: RunStatus | None = None, event_id: str = ""
    ) -> list[RunHandle[R]]:
        """Runs of a function, newest first."""
        found: list[RunHandle[R]] = []
        cursor = ""
        while True:
            page, cursor = await self.port_of(of.app).runs(
                function=of.id, status=status or "", event_id=event_id, limit=500, cursor=cursor
            )
            found.extend(RunHandle(of, run.id) for run in page)
            if not cursor:
                return found


def enqueue_request(
    function: Function[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], options: CallOptions
) -> Enqueue:
    """Arguments checked and as JSON. Raises `PayloadError`."""
    return Enqueue(
        function.id,
        arguments_json(function.spec, args, kwargs),
        options.idempotency_key,
        options.delay_ms,
        options.discard_after_ms,
        options.metadata,
        traceparent=current_traceparent(),
    )


def result_from(function: Function[..., R], outcome: RunOutcome) -> R:
    """The value of a completed run; raises for one that failed or was cancelled."""
    if outcome.status == "completed" and outcome.result is not UNSET:
        return cast("R", read(outcome.result, function.spec.returns, outcome.run_id))
    raise rebuild_run_failed(outcome.error, outcome.run_id)
