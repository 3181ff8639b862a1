"""`perdure topics tail`."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable

import click

from perdure.cli.command import json_option
from perdure.cli.exits import UsageProblem
from perdure.cli.sharing import app_name, log_options, opened_any
from perdure.cli.topics.lines import Line, Wanted, line_of, printed, stored
from perdure.errors import LogError
from perdure.log.protocol import Batch, Log

LAST = 50


@click.command()
@log_options
@click.option("--run", default="", help="Only what is about this run.")
@click.option("--event", default="", help="Only this event, and the runs that it started.")
@click.option("--follow", "-f", is_flag=True, help="Go on with what comes.")
@click.option(
    "--lines", "-n", type=click.IntRange(0), help=f"Only so many, the last.  [default: {LAST}; of a run, all]"
)
@click.option("--whole", is_flag=True, help="Long values in full.")
@json_option
def tail(app: str, log: str, run: str, event: str, follow: bool, lines: int | None, whole: bool, as_json: bool) -> None:
    """Print the journal as it was written, by time: a line a record.

    APP is module:app or the app's name alone. An embedded log can be read while no engine has it open.
    """
    if follow and not log.startswith("kafka://"):
        raise UsageProblem("--follow: nobody writes to an embedded log while it is open here; leave it out")
    wanted = Wanted(run, event)
    count = lines if lines is not None else None if wanted else LAST
    asyncio.run(_tail(log, app_name(app), wanted, count, follow, printed(whole=whole, as_json=as_json)))


async def _tail(
    log: str, app: str, wanted: Wanted, count: int | None, follow: bool, show: Callable[[Line], None]
) -> None:
    async with opened_any(log, app) as source:
        ends = [await source.latest(partition) for partition in range(source.partitions)]
        last: deque[Line] = deque(maxlen=count)
        async for line in stored(source, ends, None if wanted else count):
            if wanted.takes(line):
                if count is None:
                    show(line)
                else:
                    last.append(line)
        for line in last:
            show(line)
        if follow:
            async for line in _coming(source, ends):
                if wanted.takes(line):
                    show(line)


async def _coming(log: Log, ends: list[int]) -> AsyncGenerator[Line]:
    """What is written from `ends` on, as it is read. Raises `LogError` if a partition cannot be read any more."""
    arrived: asyncio.Queue[Batch | Exception] = asyncio.Queue()
    readers = [
        log.follow(partition, end, arrived.put_nowait, failed=arrived.put_nowait) for partition, end in enumerate(ends)
    ]
    try:
        while True:
            found = await arrived.get()
            if isinstance(found, Exception):
                raise LogError(str(found))
            for index, raw in enumerate(found.values):
                yield line_of(found.timestamp_ms, found.partition, found.offset + index, bytes(raw))
    finally:
        for reader in readers:
            reader.close()
