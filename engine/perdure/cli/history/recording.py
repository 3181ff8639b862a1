"""History beside an engine: kept up for as long as it runs."""

import asyncio
import logging
import sqlite3
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from perdure.cli.history.places import is_remembered, place_of, retention_ms
from perdure.cli.orders import Served
from perdure.history.projector import Projector
from perdure.history.store import HistoryDown, NoHistory
from perdure.sdk.engine import Engine
from perdure.sdk.hindsight import Hindsight
from perdure.sdk.local_port import LocalPort

log = logging.getLogger("perdure.history")


@asynccontextmanager
async def recorded(engine: Engine, served: Served) -> AsyncGenerator[Hindsight | None]:
    """Within it, `engine`, which is open, has a history. Without one it works all the same."""
    async with kept_up(engine, served.log, served.history, served.history_retention) as projector:
        if projector is None:
            yield None
            return
        port = engine.port_of(engine.apps[0].name)
        assert isinstance(port, LocalPort), "its node is here, whose log is read"
        yield Hindsight(port, projector.store, projector)


@asynccontextmanager
async def kept_up(
    engine: Engine, app_log: str, history: str | None, retention: str | None
) -> AsyncGenerator[Projector | None]:
    """As `recorded`. `history`: where it lies, None for nowhere."""
    projector = await _projector(engine, app_log, history, retention)
    if projector is None:
        yield None
        return
    running = asyncio.create_task(projector.run())
    try:
        yield projector
    finally:
        projector.stop()
        await running
        await projector.close()


async def _projector(engine: Engine, app_log: str, history: str | None, retention: str | None) -> Projector | None:
    """Of an engine that is not to have one, None."""
    if history is None or not is_remembered(app_log):
        return None
    place = place_of(history, app_log, lambda: engine.apps[0].name)
    opened = engine.nodes[0].log
    projector = Projector(opened, place.store(), retention_ms=retention_ms(retention), owned=opened.confirmed)
    try:
        await projector.open()
    except HistoryDown:
        pass  # `run` says so, and goes on when it answers.
    except (NoHistory, sqlite3.Error) as error:
        log.warning("this engine has no history: %s", error)
        await projector.close()
        return None
    return projector
