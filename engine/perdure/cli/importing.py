"""`perdure import`."""

import asyncio
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import click

from perdure.cli.banner import say
from perdure.cli.command import json_option
from perdure.cli.exits import UsageProblem
from perdure.cli.output import console, print_json, styled
from perdure.cli.sharing import shown
from perdure.cli.topics.targets import folder_of, half_is_there, new_log
from perdure.past.file import read_file
from perdure.past.importing import Imported, Told, checked, write
from perdure.past.tape import Tape


@click.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--log", "target", required=True, help="The folder that is made: embedded://FOLDER. It must be new.")
@json_option
def import_(file: Path, target: str, as_json: bool) -> None:
    """Make a log of FILE, which `perdure export` wrote: a past that `dev`, `replay`, `state` and `fork` have at hand.

    Nothing goes on in it: runs that still lived are cancelled there, no timer fires and no step runs. What you start or
    fork there is live.
    """
    if "://" in target and not target.startswith("embedded://"):
        raise UsageProblem(
            f"--log {shown(target)}: a past is imported into a folder, embedded://FOLDER; `perdure topics copy` "
            "moves a log with all that is under way"
        )
    tape = checked(read_file(file), str(file))
    try:
        with _shown(as_json) as told:
            done = asyncio.run(_import(tape, target, told))
    except KeyboardInterrupt:
        say(f"stopped. {half_is_there(target)}", as_json=as_json)
        raise
    _tell(tape, done, target, as_json=as_json)


async def _import(tape: Tape, target: str, told: Told) -> Imported:
    async with new_log(str(folder_of(target)), tape.app, tape.partitions) as log:
        return await write(tape, log, told)


@contextmanager
def _shown(as_json: bool) -> Generator[Told]:
    """A bar for people, on standard error; nothing where nobody looks."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    screen = console(stderr=True)
    columns = TextColumn("importing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=screen, transient=True, disable=as_json or not screen.is_terminal) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, of: bar.update(task, completed=done, total=of)


def _tell(tape: Tape, done: Imported, target: str, *, as_json: bool) -> None:
    if as_json:
        print_json({"app": tape.app, "log": shown(target), "partitions": tape.partitions, **_rows(done)})
        return
    console().print(
        styled(
            f"{shown(target)}: {_runs(done.runs)} of {tape.app!r}, {done.records:,} records. Look at it with "
            f"`perdure dev MODULE:APP --log {shown(target)}`"
        ),
        soft_wrap=True,
    )
    if done.cancelled:
        say(f"{_runs(len(done.cancelled))} had not ended: cancelled in this copy", as_json=False)
    if done.left_out:
        say(
            f"left out: {_runs(len(done.left_out))} whose first records had been trimmed; `perdure replay --file` "
            "reads them",
            as_json=False,
        )


def _rows(done: Imported) -> dict[str, object]:
    return {
        "runs": done.runs,
        "records": done.records,
        "cancelled": list(done.cancelled),
        "left_out": list(done.left_out),
    }


def _runs(count: int) -> str:
    return f"{count:,} run{'s' * (count != 1)}"
