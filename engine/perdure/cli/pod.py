"""One of many processes on a shared log: `perdure worker` and `perdure gateway`."""

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from typing import Any

from perdure.cli import exits
from perdure.cli.running import Stopping, close_gateway, server_of, turn
from perdure.cli.sharing import partitions_there
from perdure.errors import LogMismatch
from perdure.log import open_log
from perdure.sdk.app import App
from perdure.sdk.engine import Engine
from perdure.sdk.node import Node
from perdure.sdk.port import FunctionView

log = logging.getLogger("perdure.engine")
PARTITIONS = 4
"""Of a log that is made now, if nobody says how many."""


@dataclass(frozen=True)
class Role:
    """What a process is there for. `queues` as for `Node`; `grace_s`: how long it may take to stop."""

    log: str
    partitions: int | None = None
    owns: bool = True
    queues: Mapping[str, int] | None = None
    activate: bool | None = None
    name: str = ""
    grace_s: float = 30.0


@dataclass(frozen=True)
class Http:
    """What to answer on a socket that listens already."""

    listener: socket.socket
    asgi: Callable[[Engine], Any]


class Pod(Engine):
    """An engine in its role."""

    def __init__(self, app: App, role: Role, partitions: int) -> None:
        super().__init__(app, log=role.log, partitions=partitions)
        self._role = role

    def _node(self, app: App) -> Node:
        role = self._role
        opened = open_log(role.log, app=app.name, partitions=self._partitions, stores=role.owns)
        return Node(
            app,
            opened,
            queues=role.queues,
            activate=role.activate,
            name=role.name,
            owns=role.owns,
            place=self._place,
            lines_from=self._lines_from,
            traced=self._traced,
        )


Beside = Callable[[Engine], AbstractAsyncContextManager[object]]


def run(
    app: App,
    role: Role,
    http: Http | None,
    beside: Beside,
    ready: Callable[[list[FunctionView]], None],
    on_stop: Callable[[], None],
) -> None:
    """Returns after a signal, when all has drained. `ready` is called once, when it does its work.

    `beside`: what goes on for as long as the engine is open.
    """
    turn(_run(app, role, http, beside, ready, Stopping(on_stop)))


async def _run(
    app: App,
    role: Role,
    http: Http | None,
    beside: Beside,
    ready: Callable[[list[FunctionView]], None],
    stopping: Stopping,
) -> None:
    stopping.listen()
    pod = Pod(app, role, role.partitions or await _partitions(app, role))
    asgi = None if http is None else http.asgi(pod)
    server = None if asgi is None else server_of(asgi)
    # It answers while the pod still opens: that it lives, and is not ready.
    serving = asyncio.create_task(server.serve(sockets=[http.listener])) if server and http else None
    try:
        if await _unless(stopping, pod.__aenter__()):
            try:
                async with beside(pod):
                    ready(await pod.port.functions())
                    await stopping.asked.wait()
                    close_gateway(asgi)
            finally:
                await _drained(pod, role.grace_s)
    finally:
        if server is not None and serving is not None:
            close_gateway(asgi)
            server.should_exit = True
            await serving


async def _partitions(app: App, role: Role) -> int:
    """As many as the log has. Raises `LogMismatch` where there is none, and it is not for this role to make one."""
    there = await partitions_there(role.log, app.name)
    if there is None and not role.owns:
        raise LogMismatch(
            f"there are no topics of app {app.name!r} yet: start a worker, which makes them, or say "
            "`perdure topics create`"
        )
    return there or PARTITIONS


async def _unless(stopping: Stopping, opening: Coroutine[Any, Any, object]) -> bool:
    """Whether it came to its end before somebody asked to stop: brokers and workers may be waited for."""
    task = asyncio.ensure_future(opening)
    asked = asyncio.ensure_future(stopping.asked.wait())
    await asyncio.wait([task, asked], return_when=asyncio.FIRST_COMPLETED)
    asked.cancel()
    if not task.done():
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        return False
    task.result()
    return True


async def _drained(pod: Pod, grace_s: float) -> None:
    """Or else ended at once: what counts is in the log, and others go on with it."""
    try:
        async with asyncio.timeout(grace_s):
            for node in pod.nodes:
                await node.drain()
            await pod.__aexit__(None, None, None)
    except TimeoutError:
        log.warning("not everything came to an end within %gs: what was left runs again elsewhere", grace_s)
        os._exit(exits.KILLED)
