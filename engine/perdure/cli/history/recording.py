"""History beside an engine: kept up for as long as it runs."""

import asyncio
import logging
import sqlite3
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from perdure.cli.history.places import place_of, retention_ms
from perdure.cli.orders import Served
from perdure.history.projector import Projector
from perdure.history.sqlite import SqliteHistory
from perdure.history.store import NoHistory
from perdure.sdk.engine import Engine
from perdure.sdk.hindsight import Hindsight
from perdure.sdk.local_port import LocalPort

log = logging.getLogger("perdure.history")


@asynccontextmanager
async def recorded(engine: Engine, served: Served) -> AsyncGenerator[Hindsight | None]:
    """Within it, `engine`, which is open, has a history. Without one it works all the same."""
    projector = await _projector(engine, served) if served.history else None
    if projector is None:
        yield None
        return
    port = engine.port_of(engine.apps[0].name)
    assert isinstance(port, LocalPort), "its node is here, whose log is read"
    running = asyncio.create_task(projector.run())
    try:
        yield Hindsight(port, projector.store, projector)
    finally:
        projector.stop()
        await running
        await projector.close()


async def _projector(engine: Engine, served: Served) -> Projector | None:
    path = place_of(served.log, engine.apps[0].name)
    if path is None:
        return None
    store = SqliteHistory(path)
    projector = Projector(engine.nodes[0].log, store, retention_ms=retention_ms(served.history_retention))
    try:
        await projector.open()
    except (NoHistory, sqlite3.Error) as error:
        log.warning("this engine has no history: %s", error)
        await projector.close()
        return None
    return projector
