"""An engine with its gateway in this process, until it is told to stop."""

import asyncio
import contextlib
import gc
import os
import signal
import socket
from collections.abc import Callable, Coroutine, Generator
from typing import Any

import uvicorn

from perdure.cli import exits
from perdure.cli.bounded import BoundedHead
from perdure.cli.history.bulk import bulk_jobs
from perdure.cli.history.recording import recorded
from perdure.cli.listening import url_of
from perdure.cli.orders import Ready, Served
from perdure.cli.stderr_log import log_to_stderr
from perdure.cli.tables import app_that_notifies, webhook_sources
from perdure.sdk.app import App
from perdure.sdk.engine import Engine
from perdure.sdk.keys import Keyring
from perdure.worker.collector import GC_THRESHOLDS
from perdure_connectors.http import gateway as http_gateway
from perdure_connectors.webhook import Source

GRACE_S = 3
"""How long requests that are being answered may take once the server stops."""


class GatewayServer(uvicorn.Server):
    """uvicorn without its signal handlers: the engine drains after the server, and both belong to one Ctrl-C."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leaves signals to `run`."""
        yield


class Stopping:
    """From a signal to the end: long polls are answered, the server closes, the engine drains."""

    def __init__(self, on_stop: Callable[[], None]) -> None:
        self.asked = asyncio.Event()
        self._on_stop = on_stop

    def signalled(self) -> None:
        """The first signal begins the stop, the second ends the process."""
        if self.asked.is_set():
            # Nothing is lost by it: what counts is in the log, and what was running goes on at the next start.
            os._exit(exits.KILLED)
        self.asked.set()
        self._on_stop()

    def listen(self) -> None:
        """To SIGINT and SIGTERM, unless whoever started this process keeps them to itself."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is not signal.SIG_IGN:
                loop.add_signal_handler(number, self.signalled)


def run(
    served: Served,
    listener: socket.socket,
    ready: Callable[[Ready], None],
    on_stop: Callable[[], None],
    keys: Keyring | None = None,
) -> None:
    """Returns after a signal, when all has drained. `ready` is called once, when requests are taken."""
    app = app_that_notifies(served.app, url_of(listener))
    turn(_run(app, served, listener, ready, Stopping(on_stop), keys, webhook_sources()))


def turn(main: Coroutine[Any, Any, None]) -> None:
    """A process that does nothing but this, on the fastest loop there is."""
    gc.set_threshold(*GC_THRESHOLDS)
    log_to_stderr()
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(main)


async def _run(
    app: App,
    served: Served,
    listener: socket.socket,
    ready: Callable[[Ready], None],
    stopping: Stopping,
    keys: Keyring | None,
    webhooks: list[Source],
) -> None:
    stopping.listen()
    async with (
        Engine(app, log=served.log, partitions=served.partitions) as engine,
        recorded(engine, served) as hindsight,
        bulk_jobs(engine, served.log, hindsight) as bulk,
    ):
        gateway = http_gateway(engine.late, app.name, keys=keys, webhooks=webhooks, hindsight=hindsight, bulk=bulk)
        server = server_of(gateway)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        functions = await engine.port.functions()
        ready(Ready(app.name, url_of(listener), served.log, functions))
        asked = asyncio.create_task(stopping.asked.wait())
        await asyncio.wait([serving, asked], return_when=asyncio.FIRST_COMPLETED)
        close_gateway(gateway)
        server.should_exit = True
        await serving


def close_gateway(gateway: object) -> None:
    """Long polls would hold the server for as long as they may wait."""
    state = getattr(gateway, "state", None)
    closing = getattr(state, "closing", None)
    if isinstance(closing, asyncio.Event):
        closing.set()


def server_of(asgi: Callable[..., Coroutine[Any, Any, None]] | Any) -> GatewayServer:
    """To be served on a socket that listens already."""
    config = uvicorn.Config(
        asgi,
        http=BoundedHead,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE_S,
    )
    return GatewayServer(config)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
