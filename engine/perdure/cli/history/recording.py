"""History beside an engine: kept up for as long as it runs, or looked at while others keep it up."""

import asyncio
import logging
import sqlite3
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from perdure.cli.history.places import Place, PostgresPlace, is_remembered, place_of, retention_ms
from perdure.cli.orders import Served
from perdure.history.elsewhere import KeptElsewhere
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
        yield Hindsight(_port(engine), projector.store, projector)


@asynccontextmanager
async def looked_at(engine: Engine, place: Place, retention: str | None) -> AsyncGenerator[Hindsight]:
    """Within it, `engine`, which owns nothing, has the history that its app's workers write to a database.

    In a file it keeps one of its own, of all partitions. Raises `NoHistory` if it cannot.
    """
    port = _port(engine)
    if isinstance(place, PostgresPlace):
        store = place.store(writes=False)
        elsewhere = KeptElsewhere(store, store.news(), port.ends)
        async with _running(elsewhere):
            yield Hindsight(port, store, elsewhere)
        return
    try:
        projector = Projector(engine.nodes[0].log, place.store(), retention_ms=retention_ms(retention))
        await projector.open()
    except (OSError, sqlite3.Error) as error:
        raise NoHistory(f"no history can be kept at {place.shown}: {error}") from None
    async with _running(projector):
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
    async with _running(projector):
        yield projector


def _port(engine: Engine) -> LocalPort:
    port = engine.port_of(engine.apps[0].name)
    assert isinstance(port, LocalPort), "its node is here, whose log is read"
    return port


@asynccontextmanager
async def _running(follower: Projector | KeptElsewhere) -> AsyncGenerator[None]:
    running = asyncio.create_task(follower.run())
    try:
        yield
    finally:
        follower.stop()
        await running
        await follower.close()


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
