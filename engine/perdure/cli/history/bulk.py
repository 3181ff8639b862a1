"""Bulk jobs beside an engine that keeps a history."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from perdure.sdk.engine import Engine
from perdure.sdk.hindsight import Hindsight
from perdure.sdk.hindsight.jobs import Jobs
from perdure.sdk.hindsight.shelf import FileShelf, Shelf
from perdure.sdk.local_port import LocalPort


@asynccontextmanager
async def bulk_jobs(
    engine: Engine, log: str, hindsight: Hindsight | None, shelf: Shelf | None = None
) -> AsyncGenerator[Jobs | None]:
    """Within it, those that were not finished go on. None without a history: it says which runs are meant.

    `shelf`: where they are kept, if not in the data directory.
    """
    if hindsight is None:
        yield None
        return
    app = engine.apps[0].name
    port = engine.port_of(app)
    assert isinstance(port, LocalPort), "its node is here, whose history this is"
    jobs = Jobs(hindsight, port, shelf or FileShelf(_folder(log, app)))
    jobs.open()
    try:
        yield jobs
    finally:
        await jobs.close()


def _folder(log: str, app: str) -> Path:
    """In the data directory of the log."""
    if log.startswith("kafka://"):
        from perdure.log.kafka import parse

        address = parse(log)
        return Path(address.data) / f"{address.topic(app)}.jobs"
    return Path(log.removeprefix("embedded://").partition("?")[0]) / "jobs"
