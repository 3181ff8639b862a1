"""The engine: one app (or several) embedded in this process."""

import os
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, TypeVar, cast
from urllib.parse import urlsplit

from perdure.errors import DefinitionError, NotOwned, UnknownRun
from perdure.log import open_log
from perdure.sdk import binding
from perdure.sdk.app import App
from perdure.sdk.client import Client, result_from
from perdure.sdk.environment import from_environment
from perdure.sdk.events import Event
from perdure.sdk.function import Function
from perdure.sdk.handle import RunHandle
from perdure.sdk.keys import Keyring
from perdure.sdk.local_port import LocalPort
from perdure.sdk.node import SLOTS, Node
from perdure.sdk.options import check_queue
from perdure.sdk.port import (
    Counts,
    Enqueue,
    ForkAsk,
    FunctionView,
    LinePage,
    Port,
    RunDetail,
    RunOutcome,
    RunStatus,
    RunSummary,
)
from perdure.sdk.telemetry import is_on
from perdure.worker.arguments import CallOptions, arguments_json
from perdure.worker.asking import read
from perdure.worker.places import open_place
from perdure.worker.run_logs import LEVELS, OFF
from perdure_schemas.event import EventBody
from perdure_schemas.records import LogLevel

if TYPE_CHECKING:
    from perdure_connectors.webhook import Source

R = TypeVar("R")
DEFAULT_LOG = "embedded://.perdure"


class Engine(Client):
    """Runs its apps in this process: `async with Engine(app, log="embedded:///var/lib/shop"):`.

    `log`: `embedded://<folder>` (durable, for one machine) or `memory://`; `PERDURE_LOG`, else `.perdure` here. What
    runs need no more stays there for 7 days, for people: `embedded://<folder>?retention=30d`, or `forever`.
    `partitions` is fixed when the log is made. `queues`: the worker pools that this process is a member of, as names,
    or with the number of steps that it runs at a time: `{"gpu": 1}`; all of the apps' queues if it is left out.
    `payloads`: where results lie that are too large for the log: `file:///folder` that every pod reaches, or what
    fsspec knows (`s3://bucket/folder`); `PERDURE_PAYLOADS`. Without it they are refused.
    `tracing`: spans of runs and steps for OpenTelemetry; `PERDURE_TRACING=on`. Needs `pip install perdure[otel]`.
    """

    def __init__(
        self,
        app: App,
        *more: App,
        log: str = "",
        partitions: int = 4,
        queues: Mapping[str, int] | Iterable[str] | None = None,
        payloads: str = "",
        run_logs: str = "",
        tracing: bool | None = None,
    ) -> None:
        super().__init__(app, *more, log=log or os.environ.get("PERDURE_LOG", DEFAULT_LOG))
        self._partitions = partitions
        self._queues = None if queues is None else checked_queues(queues)
        self._place = open_place(payloads or os.environ.get("PERDURE_PAYLOADS", ""))
        self._lines_from = checked_level(run_logs or os.environ.get("PERDURE_RUN_LOGS", "info"))
        self._traced = is_on(tracing, os.environ.get("PERDURE_TRACING") or "off")
        self._stack = AsyncExitStack()
        self._ports: dict[str, Port] = {}
        self._stand_ins: dict[str, Client] = {}
        self.nodes: list[Node] = []

    async def _open(self) -> Port:
        self._stack = AsyncExitStack()
        try:
            for app in self.apps:
                self._ports[app.name] = self._stand_in(app) or await self._embed(app)
        except BaseException:
            await self._close()
            raise
        if len(self.apps) == 1:
            return next(iter(self._ports.values()))
        # One URL for all: either each of them has such a topic or none.
        return ManyPorts(self._ports, shared_events=any(node.log.events is not None for node in self.nodes))

    def _stand_in(self, app: App) -> Port | None:
        """The port of the test engine that serves the app in this process, if there is one."""
        known = binding.bound(app.name)
        if not isinstance(known, Client) or not known.stands_in:
            return None
        self._stand_ins[app.name] = known
        return known.port

    async def _embed(self, app: App) -> LocalPort:
        if app.lifespan is not None:
            await self._stack.enter_async_context(app.lifespan())
        node = self._node(app)
        await node.open()
        self._stack.push_async_callback(node.close)
        self.nodes.append(node)
        return LocalPort(node)

    def _node(self, app: App) -> Node:
        log = open_log(_log_of(self._log_url, app, len(self.apps)), app=app.name, partitions=self._partitions)
        return Node(app, log, queues=self._queues, place=self._place, lines_from=self._lines_from, traced=self._traced)

    async def _close(self) -> None:
        try:
            await self._stack.aclose()
        finally:
            self.nodes.clear()
            self._ports.clear()
            self._stand_ins.clear()

    def port_of(self, app: str) -> Port:
        return self._ports.get(app, self.port)

    async def call(
        self, function: Function[..., R], args: Sequence[Any], kwargs: Mapping[str, Any], options: CallOptions, /
    ) -> R:
        """Starts a run and waits for its result. The start needs no acknowledgement of its own: the end implies it."""
        port = self._ports[function.app]
        if not isinstance(port, LocalPort):
            return await self._stand_ins[function.app].call(function, args, kwargs, options)
        run, ticket = port.call(function.id, arguments_json(function.spec, args, kwargs), options)
        node = port.node
        if options.idempotency_key or not node.performs(run):
            return await self._result_later(function, node, run, ticket)
        try:
            state = await node.waiter(run)
        except NotOwned:
            return await self._result_later(function, node, run, ticket)
        if state.status == "completed" and state.result is not None:
            return cast("R", read(port.json_of(state, state.result), function.spec.returns, run))
        if state.status == "continued":
            return await self.result_of(function, run, None)
        return result_from(function, port.outcome_of(state))

    async def _result_later(self, function: Function[..., R], node: Node, run: str, ticket: int) -> R:
        """Of a run that may have ended long ago, or is another pod's."""
        await node.log.acknowledge(ticket)
        return await self.result_of(function, run, None)

    async def enqueue(
        self, function: Function[..., R], args: Sequence[Any], kwargs: Mapping[str, Any], options: CallOptions, /
    ) -> RunHandle[R]:
        """Starts a run; returns when the log has it."""
        stand_in = self._stand_ins.get(function.app)
        return await (stand_in.enqueue if stand_in else super().enqueue)(function, args, kwargs, options)

    async def send_many(self, events: Iterable[Event[Any]], /) -> list[str]:
        """Sends events to all apps of this engine; their ids in order, once all are durable."""
        alone = next(iter(self._stand_ins.values()), None) if len(self.apps) == 1 else None
        return await (alone.send_many if alone else super().send_many)(events)

    def asgi(self, *, keys: str = "", webhooks: "Iterable[Source]" = ()) -> Callable[..., Awaitable[None]]:
        """The gateway as an ASGI app, to mount under any path. Needs `pip install perdure[server]`.

        `keys`: lines of API keys as `perdure keys new` prints them, or `@FILE`; `PERDURE_KEYS`, else the file that
        `PERDURE_KEYS_FILE` names. Without keys it answers programs on this machine alone.
        `webhooks`: whose deliveries `POST /w/{source}` takes.
        """
        from perdure_connectors.http import gateway

        keyring = Keyring.parse(keys or from_environment("PERDURE_KEYS"))
        return gateway(self.late, self.apps[0].name, keys=keyring, webhooks=webhooks)

    @property
    def late(self) -> Port:
        """What this engine can be asked once it is open; `OutsideRun` until then."""
        return cast("Port", _Late(self))


class ManyPorts:
    """Several apps in one process: events go to all, runs are found where they are.

    `shared_events`: what one of them writes to their topic of events, all of them read.
    """

    def __init__(self, ports: Mapping[str, Port], *, shared_events: bool = False) -> None:
        self._ports = ports
        self._shared_events = shared_events

    async def send(self, events: Sequence[EventBody]) -> list[str]:
        for port in list(self._ports.values())[: 1 if self._shared_events else None]:
            await port.send(events)
        return [event.id for event in events]

    async def enqueue(self, request: Enqueue) -> str:
        return await (await self._with(request.function)).enqueue(request)

    async def _with(self, function: str) -> Port:
        for port in self._ports.values():
            if any(view.id == function for view in await port.functions()):
                return port
        return next(iter(self._ports.values()))

    async def _of(self, run_id: str) -> Port:
        for port in self._ports.values():
            try:
                await port.status(run_id)
            except UnknownRun:
                continue
            return port
        return next(iter(self._ports.values()))

    async def result(self, run_id: str, timeout_ms: int | None = None) -> RunOutcome:
        return await (await self._of(run_id)).result(run_id, timeout_ms)

    async def status(self, run_id: str) -> RunStatus:
        return await (await self._of(run_id)).status(run_id)

    async def cancel(self, run_id: str, reason: str = "") -> None:
        await (await self._of(run_id)).cancel(run_id, reason)

    async def rerun(self, run_id: str) -> str:
        return await (await self._of(run_id)).rerun(run_id)

    async def fork(self, ask: ForkAsk) -> str:
        return await (await self._with(ask.function)).fork(ask)

    async def unpark(self, run_id: str) -> None:
        await (await self._of(run_id)).unpark(run_id)

    async def pause(self, function: str) -> None:
        await (await self._with(function)).pause(function)

    async def resume(self, function: str) -> None:
        await (await self._with(function)).resume(function)

    async def runs(
        self, *, function: str = "", status: str = "", event_id: str = "", limit: int = 50, cursor: str = ""
    ) -> tuple[list[RunSummary], str]:
        found: list[tuple[tuple[int, str], RunSummary]] = []
        for port in self._ports.values():
            page, _ = await port.runs(function=function, status=status, event_id=event_id, limit=limit, cursor=cursor)
            found.extend(((run.requested_at, run.id), run) for run in page)
        found.sort(key=lambda pair: pair[0], reverse=True)
        more = f"{found[limit - 1][0][0]:016d}/{found[limit - 1][0][1]}" if len(found) > limit else ""
        return [run for _, run in found[:limit]], more

    async def run(self, run_id: str) -> RunDetail:
        return await (await self._of(run_id)).run(run_id)

    async def lines(self, run_id: str, *, level: LogLevel = "debug", limit: int = 200, cursor: str = "") -> LinePage:
        return await (await self._of(run_id)).lines(run_id, level=level, limit=limit, cursor=cursor)

    async def tape(self, run_id: str) -> bytes:
        return await (await self._of(run_id)).tape(run_id)

    async def knows_event(self, event_id: str) -> bool:
        return any([await port.knows_event(event_id) for port in self._ports.values()])

    async def functions(self) -> list[FunctionView]:
        return [view for port in self._ports.values() for view in await port.functions()]

    async def lag(self) -> Mapping[str, int]:
        return {f"{app} {one}": lag for app, port in self._ports.items() for one, lag in (await port.lag()).items()}

    def counts(self) -> Counts:
        found = {app: port.counts() for app, port in self._ports.items()}

        def all_of(what: Callable[[Counts], Mapping[str, int]]) -> dict[str, int]:
            return {f"{app} {one}": count for app, counts in found.items() for one, count in what(counts).items()}

        return Counts(
            halted=all_of(lambda one: one.halted),
            held=all_of(lambda one: one.held),
            parked=all_of(lambda one: one.parked),
            work={app: work for one in found.values() for app, work in one.work.items()},
            events_gone=all_of(lambda one: one.events_gone),
        )

    def ready(self) -> Mapping[str, str]:
        return {f"{app} {what}": why for app, port in self._ports.items() for what, why in port.ready().items()}


class _Late:
    """An engine's port, looked up when it is used: `asgi()` may be mounted before the engine is open."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine.port, name)


def checked_queues(queues: Mapping[str, int] | Iterable[str]) -> dict[str, int]:
    """Queue → how many steps at a time. Raises `DefinitionError`."""
    if isinstance(queues, str):
        raise DefinitionError(f"queues={queues!r}: a list is needed, such as queues=[{queues!r}]")
    given: Mapping[str, object]
    given = cast("Mapping[str, object]", queues) if isinstance(queues, Mapping) else dict.fromkeys(queues, SLOTS)
    for slots in given.values():
        if isinstance(slots, bool) or not isinstance(slots, int) or slots < 1:
            raise DefinitionError(f'queues={queues!r}: how many steps at a time, such as {{"gpu": 1}}')
    return {check_queue(queue): int(str(slots)) for queue, slots in given.items()}


def checked_level(name: str) -> int:
    """The number of a level's name, or of `off`. Raises `DefinitionError`."""
    known = {**{str(level): number for level, number in LEVELS.items()}, "off": OFF}
    if name.lower() not in known:
        raise DefinitionError(f"run_logs={name[:40]!r}: one of {', '.join(known)} is needed")
    return known[name.lower()]


def _log_of(url: str, app: App, apps: int) -> str:
    """Each app has a journal of its own: several in one folder stand in folders by their names."""
    if apps == 1 or urlsplit(url).scheme != "embedded":
        return url
    folder, mark, query = url.partition("?")
    return f"{folder.rstrip('/')}/{app.name}{mark}{query}"


__all__ = ["DEFAULT_LOG", "Engine"]
