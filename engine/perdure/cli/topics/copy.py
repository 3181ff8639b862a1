"""`perdure topics copy`."""

import asyncio
from collections.abc import Callable, Generator
from contextlib import contextmanager

import click
import msgspec

from perdure.cli.banner import say
from perdure.cli.command import json_option
from perdure.cli.exits import UsageProblem
from perdure.cli.output import console, print_json, styled
from perdure.cli.settings import Setting
from perdure.cli.sharing import app_name, only_app, opened_any, shown
from perdure.cli.topics.targets import half_is_there, new_log
from perdure.flow import UnreadableRecord, decode
from perdure.log.protocol import Log
from perdure.partition import transfer
from perdure.partition.transfer import Copied
from perdure_schemas.records import AppDefined, AppPaths


@click.command()
@click.argument("source", metavar="FROM")
@click.argument("target", metavar="TO")
@click.option("--app", cls=Setting, default="", help="module:app, or its name.  [default: the only one that is there]")
@json_option
def copy(source: str, target: str, app: str, as_json: bool) -> None:
    """Copy an app's log into a new one: a folder to Kafka, for who outgrows one machine, or Kafka to a folder.

    FROM and TO are folders or URLs (embedded://FOLDER, kafka://HOST:PORT/NAMESPACE). TO must be new. All goes with it:
    what runs have done, what they wait for, when they are due. FROM stays as it is; no engine may have it open if it is
    a folder. Start an engine on one of both alone: it goes on with the runs.
    """
    try:
        with _shown(as_json) as told:
            name, copied = asyncio.run(_copy(source, target, app, told))
    except KeyboardInterrupt:
        say(f"stopped. {half_is_there(target)}", as_json=as_json)
        raise
    if as_json:
        print_json({"app": name, "from": shown(source), "to": shown(target), **_rows(copied)})
        return
    records = sum(one.records for one in copied.journal.values())
    console().print(
        styled(
            f"copied app {name!r} from {shown(source)} to {shown(target)}: {records:,} records in "
            f"{len(copied.journal)} partitions, read again on both sides and equal. {shown(source)} is unchanged: "
            "start an engine on one of both alone"
        )
    )


async def _copy(source: str, target: str, app: str, told: transfer.Told) -> tuple[str, Copied]:
    name = app_name(app) if app else await only_app(source) if source.startswith("kafka://") else ""
    async with opened_any(source, name) as log:
        name = await _app_in(log, name)
        async with new_log(target, name, log.partitions) as new:
            return name, await transfer.copy(log, new, told)


async def _app_in(log: Log, wanted: str) -> str:
    """The app whose log it is. Raises `UsageProblem` if another one is `wanted`."""
    found = await _defined_in(log)
    if found and wanted not in ("", found):
        raise UsageProblem(f"--app {wanted}: this is the log of app {found!r}")
    if not (found or wanted):
        raise UsageProblem("--app: nothing in this log says whose it is; name the app")
    return found or wanted


async def _defined_in(log: Log) -> str:
    """From the definitions that stand in its first partition; those that were trimmed are in the state."""
    known = await transfer.app_of(log)
    offset = log.start(0)
    while not known and offset < log.end(0):
        for batch in await log.fetch(0, offset):
            offset = batch.offset + len(batch.values)
            for raw in batch.values:
                try:
                    record = decode(bytes(raw))
                except UnreadableRecord:
                    continue
                if isinstance(record, AppDefined | AppPaths):
                    return record.definition.app
    return known


@contextmanager
def _shown(as_json: bool) -> Generator[Callable[[transfer.Progress], None]]:
    """A bar for people, on standard error; nothing where nobody looks."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    screen = console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=screen, transient=True, disable=as_json or not screen.is_terminal) as bar:
        tasks = {what: bar.add_task(what, total=None, visible=False) for what in ("copying", "comparing")}

        def told(progress: transfer.Progress) -> None:
            bar.update(tasks[progress.what], completed=progress.done, total=progress.of, visible=True)

        yield told


def _rows(copied: Copied) -> dict[str, object]:
    journal = [
        {"partition": one, **msgspec.to_builtins(found), "state": copied.state.get(one, 0)}
        for one, found in copied.journal.items()
    ]
    sides = [{"topic": one, **msgspec.to_builtins(found)} for one, found in copied.sides.items()]
    return {"journal": journal, "sides": sides, "commands": copied.commands}
