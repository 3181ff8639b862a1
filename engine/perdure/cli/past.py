"""Where commands that look back read from: a log that no engine here has open, a file, or a running engine."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import click

from perdure.cli.command import F, client_options, port_at
from perdure.cli.exits import UsageProblem
from perdure.cli.sharing import app_name, only_app, opened_any
from perdure.past.file import read_file, tape_of
from perdure.past.merging import merged
from perdure.past.reading import Wanted, read_tape
from perdure.past.tape import Tape
from perdure.sdk.http_sync import SyncHttpPort
from perdure.sdk.port import RunFilter

PAGE = 500

Read = Callable[[Wanted], Tape]


def past_options(command: F) -> F:
    """`--log`, `--file`, `--url` and `--json`. The log of the settings is not meant: an engine may have it open."""
    log = click.option("--log", "past_log", help="A log to read: a folder that no engine has open, or kafka://…")
    file = click.option("--file", "past_file", type=click.Path(path_type=Path), help="What `perdure export` wrote.")
    return log(file(client_options(command)))


def past_source(ctx: click.Context, log: str | None, file: Path | None, url: str | None, app: str = "") -> Read:
    """Gives tapes of what is wanted. `app`: `module:app` or a name, where the source may have others.

    Raises `UsageProblem`; what it returns raises `UnknownRun`, and `LogError` where nothing can be read.
    """
    if log is not None and file is not None:
        raise UsageProblem("--log and --file: one of both is read; leave the other out")
    if file is not None:
        return lambda wanted: _checked(read_file(file), str(file), app)
    if log is not None:
        return lambda wanted: _checked(asyncio.run(_of_log(log, app, wanted)), log, app)
    port = port_at(ctx, url)
    return lambda wanted: _checked(_of_engine(port, wanted), port.base, app)


async def _of_log(log: str, app: str, wanted: Wanted) -> Tape:
    name = app_name(app) if app else await only_app(log) if log.startswith("kafka://") else ""
    async with opened_any(log, name) as source:
        return await read_tape(source, wanted, name if log.startswith("kafka://") else "")


def _of_engine(port: SyncHttpPort, wanted: Wanted) -> Tape:
    runs = set(wanted.runs)
    if wanted.since is not None or not runs:
        runs |= _known(port, RunFilter(since=wanted.since))
    if not runs:
        raise UsageProblem(f"{port.base} knows of no run since then")
    return merged([tape_of(port.tape(run).splitlines(keepends=True), port.base) for run in sorted(runs)])


def _known(port: SyncHttpPort, wanted: RunFilter) -> set[str]:
    found: set[str] = set()
    cursor = ""
    while True:
        page, cursor = port.search(wanted, limit=PAGE, cursor=cursor)
        found.update(run.id for run in page)
        if not cursor:
            return found


def _checked(tape: Tape, source: str, app: str) -> Tape:
    if app and tape.app and tape.app != (name := app_name(app)):
        raise UsageProblem(f"{source} has runs of app {tape.app!r}, and not of {name!r}")
    return tape
