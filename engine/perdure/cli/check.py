"""`perdure check`: would the runs that are under way go on with this code?"""

import asyncio
import sys
from contextlib import ExitStack, redirect_stdout
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from perdure.cli import exits
from perdure.cli.command import port_at
from perdure.cli.loading import load_app
from perdure.cli.output import console, print_json, styled
from perdure.cli.past import PAGE, past_options, past_source
from perdure.cli.replayed import side
from perdure.cli.settings import AppArgument
from perdure.cli.sharing import opened_any
from perdure.past.checking import Check, Group, Report, Told
from perdure.past.reading import Wanted
from perdure.past.replay import Replayer
from perdure.past.tape import Tape
from perdure.sdk.app import App
from perdure.sdk.environment import from_environment
from perdure.sdk.http_sync import SyncHttpPort
from perdure.sdk.port import RunFilter
from perdure.worker.places import open_place

UNDER_WAY = ("running", "suspended", "parked")
ENDED = ("completed", "failed")
WORDS = {
    "parks": "would park",
    "parked": "are parked, and would stay so",
    "held": "would be held",
    "retries": "would fail, and park in the end",
    "otherwise": "have ended, and now would end in another way",
    "stuck": "cannot be told of",
}


@click.command()
@click.argument("app", cls=AppArgument, metavar="MODULE:APP")
@click.option(
    "--finished", default=0, metavar="N", help="Also N of the runs that ended last: more are to come like them."
)
@past_options
@click.pass_context
def check(
    ctx: click.Context,
    app: str,
    finished: int,
    past_log: str | None,
    past_file: Path | None,
    url: str | None,
    as_json: bool,
) -> None:
    """Replay every run that is under way on this code, and tell which would not go on.

    Nothing is written. Exits with 1 if one would park: for CI, before a deploy.
    """
    code = load_app(app)
    with ExitStack() as stack:
        # What the functions print is not the report.
        stack.enter_context(redirect_stdout(sys.stderr))
        bar = stack.enter_context(_progress(visible=not as_json))
        task = bar.add_task("", total=None)

        def told(what: str, done: int, of: int) -> None:
            bar.update(task, description=what, completed=done, total=of)

        read = past_source(ctx, past_log, past_file, url, app)
        if past_log is not None:
            report = asyncio.run(_of_log(code, past_log, finished, told))
        elif past_file is not None:
            report = asyncio.run(_of_tape(code, read(Wanted()), finished, told))
        else:
            runs = known_runs(port_at(ctx, url), finished)
            told(f"fetching {len(runs):,} runs", 0, len(runs))
            report = asyncio.run(_of_tape(code, read(Wanted(runs)), finished, told)) if runs else Report()
    if as_json:
        print_json(report)
    else:
        print_report(console(), report, app)
    ctx.exit(exits.FAILED if report.breaks else exits.OK)


def known_runs(port: SyncHttpPort, finished: int) -> frozenset[str]:
    """What an engine has under way, and of what has ended the last ones."""
    found: set[str] = set()
    for status in UNDER_WAY:
        cursor = ""
        while True:
            page, cursor = port.search(RunFilter(status=status), limit=PAGE, cursor=cursor)
            found.update(run.id for run in page)
            if not cursor:
                break
    for status in ENDED if finished else ():
        page, _ = port.search(RunFilter(status=status), limit=min(finished, PAGE))
        found.update(run.id for run in page)
    return frozenset(found)


def _progress(*, visible: bool) -> Progress:
    """On standard error, where somebody looks at it."""
    screen = console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, console=screen, transient=True, disable=not (visible and screen.is_terminal))


async def _of_log(app: App, log: str, finished: int, told: Told) -> Report:
    async with opened_any(log, app.name) as source:
        with_code = _replayer(app)
        try:
            return await Check(with_code, told).log(source, finished)
        finally:
            await with_code.close()


async def _of_tape(app: App, tape: Tape, finished: int, told: Told) -> Report:
    with_code = _replayer(app)
    try:
        return await Check(with_code, told).tape(tape, finished)
    finally:
        await with_code.close()


def _replayer(app: App) -> Replayer:
    return Replayer(app, open_place(from_environment("PERDURE_PAYLOADS")))


def print_report(screen: Console, report: Report, app: str) -> None:
    """What goes on in a line; each group with both sides and some of its runs."""
    well = sum(report.well.values()) - report.well.get("as_recorded", 0)
    screen.print(
        styled(f"{well:,} {'run' if well == 1 else 'runs'} under way would go on", "green" if not report.breaks else "")
    )
    if report.finished:
        screen.print(
            f"{report.well.get('as_recorded', 0):,} of {report.finished:,} that have ended would end as they did"
        )
    for group in report.groups:
        screen.print()
        _print_group(screen, group, app)


def _print_group(screen: Console, group: Group, app: str) -> None:
    ended = f" ({group.finished:,} of them have ended)" if 0 < group.finished < group.count else ""
    what = f"{group.count:,} runs of {group.function} {WORDS[group.verdict]}{ended}: {group.cause}"
    screen.print(styled(what, "bold red" if group.breaks else "bold yellow"), soft_wrap=True)
    if group.verdict in ("parks", "parked"):
        screen.print(styled(f"  log   {side(group.recorded)}\n  code  {side(group.requested)}", lines=True))
    more = "" if group.count == len(group.examples) else f" and {group.count - len(group.examples):,} more"
    screen.print(styled(f"  {', '.join(group.examples)}{more}"), soft_wrap=True)
    if group.verdict == "parks":
        there = f" --until {group.requested.op}" if group.requested is not None else ""
        screen.print(styled(f"  perdure replay {group.examples[0]} {app} --pdb{there}", "dim"), soft_wrap=True)
