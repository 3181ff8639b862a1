"""Logs as the command line names them: those that processes share, and for reading any other."""

from collections.abc import AsyncGenerator, Collection
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import click

from perdure.cli.exits import UsageProblem
from perdure.cli.settings import AppArgument, Setting
from perdure.errors import LogMismatch
from perdure.log import open_log
from perdure.log.directory import partitions_of
from perdure.log.kafka import KafkaLog, parse
from perdure.log.kafka.client import Client
from perdure.log.kafka.topics import Topics
from perdure.log.protocol import Log

_JOURNAL = ".journal"


def log_options(command: click.decorators.FC) -> click.decorators.FC:
    """Which app's topics on which log."""
    option = click.option("--log", cls=Setting, default="embedded://.perdure", help="The log's URL, or a folder.")
    return click.argument("app", cls=AppArgument, metavar="APP")(option(command))


def app_name(app: str) -> str:
    """Of `module:app`, which is imported, or of the name itself."""
    if ":" not in app and not app.endswith(".py"):
        return app
    from perdure.cli.loading import load_app

    return load_app(app).name


def queues_of(app: str) -> Collection[str]:
    """Those of `module:app` that its steps name; none are known of a mere name."""
    if ":" not in app:
        return ()
    from perdure.cli.loading import load_app

    loaded = load_app(app)
    loaded.load()
    return sorted({spec.queue for spec in loaded.pool_steps.values() if spec.queue})


def shared_url(log: str, data: str | None = None) -> str:
    """The URL, with the folder that was named beside it. Raises `UsageProblem` for a log of one process."""
    if not log.startswith("kafka://"):
        raise UsageProblem(
            f"--log {shown(log) or 'is missing'}: a log that processes share is needed, such as "
            "--log kafka://localhost:9092; on one machine `perdure serve` does without"
        )
    if data is None:
        return log
    return f"{log}{'&' if '?' in log else '?'}data={quote(data, safe='/')}"


def shown(log: str) -> str:
    """The URL without its settings, which may hold a password."""
    return log.partition("?")[0]


async def partitions_there(log: str, app: str) -> int | None:
    """How many the journal of the app has; None if there is none yet."""
    address = parse(log)
    journal = address.topic(app, "journal")
    return (await Topics(Client(replace(address, create=False))).partitions_of([journal])).get(journal)


async def only_app(log: str) -> str:
    """The name of the one app that has topics there. Raises `UsageProblem` if there is none, or more."""
    address = parse(log)
    names = await Topics(Client(replace(address, create=False))).names()
    prefix = address.topic("")
    apps = [name.removeprefix(prefix).removesuffix(_JOURNAL) for name in names if name.endswith(_JOURNAL)]
    if len(apps) != 1:
        which = f"there are {', '.join(apps)}" if apps else "there is none"
        raise UsageProblem(f"--app: say which app of {shown(log)} is meant; {which}")
    return apps[0]


@asynccontextmanager
async def opened(log: str, app: str) -> AsyncGenerator[KafkaLog]:
    """A shared log to look at: without state, and without making what is not there. Raises `LogMismatch`."""
    partitions = await partitions_there(shared_url(log), app)
    if partitions is None:
        raise LogMismatch(f"there is no journal of app {app!r} at {shown(log)}: `perdure topics list` shows what is")
    found = KafkaLog(replace(parse(log), create=False), app, partitions, stores=False)
    await found.open()
    try:
        yield found
    finally:
        await found.close()


@asynccontextmanager
async def opened_any(log: str, app: str) -> AsyncGenerator[Log]:
    """A log to look at, shared or not. Raises `LogMismatch` where there is none, `LogInUse`."""
    if log.startswith("kafka://"):
        async with opened(log, app) as shared:
            yield shared
        return
    folder = Path(log.removeprefix("embedded://").partition("?")[0])
    partitions = partitions_of(folder)
    if partitions is None:
        raise LogMismatch(f"there is no log in {folder}: say which with --log FOLDER, or --log kafka://HOST:PORT")
    found = open_log(f"embedded://{folder}?retention=forever", app=app, partitions=partitions)
    await found.open()
    try:
        yield found
    finally:
        await found.close()
