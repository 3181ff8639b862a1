"""A gateway over a fake port: called directly, and on a real socket."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import httpx
import uvicorn

from perdure.sdk.hindsight import Hindsight
from perdure.sdk.hindsight.jobs import Jobs
from perdure.sdk.keys import Keyring
from perdure.sdk.port import Port
from perdure_connectors.http import gateway
from tests.http.contract import check_answer


def client_of(
    port: Port,
    *,
    host: str = "127.0.0.1:8288",
    peer: str = "127.0.0.1",
    keys: Keyring | None = None,
    hindsight: Hindsight | None = None,
    bulk: Jobs | None = None,
) -> httpx.AsyncClient:
    """Calls the app without a socket. Every answer must fit the OpenAPI."""
    app = gateway(port, "shop", keys=keys, hindsight=hindsight, bulk=bulk)
    transport = httpx.ASGITransport(app, client=(peer, 50_000), raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url=f"http://{host}", event_hooks={"response": [_fits]})


@asynccontextmanager
async def served(
    port: Port,
    tcp_port: int = 0,
    keys: Keyring | None = None,
    hindsight: Hindsight | None = None,
    bulk: Jobs | None = None,
) -> AsyncGenerator[str]:
    """The gateway on a free port of 127.0.0.1, by uvicorn in this loop; its URL."""
    app = gateway(port, "shop", keys=keys, hindsight=hindsight, bulk=bulk)
    config = uvicorn.Config(
        app, port=tcp_port, log_config=None, lifespan="off", ws="none", http="httptools", timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    config.load()
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    serving = asyncio.create_task(server.main_loop())
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        app.state.closing.set()
        server.should_exit = True
        await serving
        await server.shutdown()


async def _fits(answer: httpx.Response) -> None:
    await answer.aread()
    check_answer(answer)
