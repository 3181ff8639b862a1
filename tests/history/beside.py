"""An engine with its history and its gateway, as `perdure serve` has them, in this loop."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import httpx

from perdure import App, Engine
from perdure.history.projector import Projector
from perdure.history.sqlite import SqliteHistory
from perdure.sdk.hindsight import Hindsight
from perdure.sdk.hindsight.jobs import Jobs
from perdure.sdk.hindsight.shelf import FileShelf
from perdure.sdk.local_port import LocalPort
from tests.http.serving import client_of


class Beside(NamedTuple):
    """`api`: its gateway; every answer must fit the OpenAPI."""

    engine: Engine
    port: LocalPort
    store: SqliteHistory
    projector: Projector
    hindsight: Hindsight
    jobs: Jobs
    api: httpx.AsyncClient


@asynccontextmanager
async def beside(app: App, folder: Path, log: str = "memory://") -> AsyncGenerator[Beside]:
    """`app`, running."""
    async with Engine(app, log=log) as engine:
        store = SqliteHistory(folder / "history.db")
        projector = Projector(engine.nodes[0].log, store)
        await projector.open()
        running = asyncio.create_task(projector.run())
        port = engine.port_of(app.name)
        assert isinstance(port, LocalPort)
        hindsight = Hindsight(port, store, projector)
        jobs = Jobs(hindsight, port, FileShelf(folder / "jobs"))
        jobs.open()
        try:
            async with client_of(port, hindsight=hindsight, bulk=jobs) as api:
                yield Beside(engine, port, store, projector, hindsight, jobs, api)
        finally:
            await jobs.close()
            projector.stop()
            await running
            await projector.close()
