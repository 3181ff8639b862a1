"""`perdure runs list`."""

import sys
import time
from collections.abc import Callable
from difflib import get_close_matches
from typing import NoReturn

import click
from rich.table import Table
from rich.text import Text

from perdure.cli.command import client_options, port_at
from perdure.cli.exits import UsageProblem
from perdure.cli.filters import filter_options
from perdure.cli.output import console, moment, print_json, status_text, styled, took
from perdure.errors import UnknownFunction
from perdure.sdk.http_sync import SyncHttpPort
from perdure.sdk.port import RunFilter, RunSummary

LOOK_SECONDS = 1.0
"""Between two looks at what has changed."""


@click.command("list")
@filter_options
@click.option("--limit", type=click.IntRange(1, 500), default=50, show_default=True)
@click.option("--cursor", default="", help="The next page, as the last one gave it.")
@click.option("--watch", "-w", is_flag=True, help="Go on with what changes; into a pipe a line for each change.")
@client_options
@click.pass_context
def listing(
    ctx: click.Context, wanted: RunFilter, limit: int, cursor: str, watch: bool, url: str | None, as_json: bool
) -> None:
    """List runs, newest first. All conditions hold together.

    --since, --until, --metadata and --where are asked of the engine's history.
    """
    port = port_at(ctx, url)
    if watch:
        if cursor:
            raise UsageProblem("--watch shows the newest: leave out --cursor")
        watch_runs(lambda: port.search(wanted, limit=limit)[0], as_json=as_json)
    found, after = port.search(wanted, limit=limit, cursor=cursor)
    if wanted.function and not found:
        check_function(port, wanted.function)
    if as_json:
        print_json({"data": found, "cursor": after})
        return
    console().print(table(found) if found else "no runs")
    if after:
        console(stderr=True).print(styled(f"there may be more: --cursor {after}"), style="dim")


def watch_runs(look: Callable[[], list[RunSummary]], *, as_json: bool) -> NoReturn:
    """Until it is interrupted, or nobody answers any more."""
    from rich.live import Live

    screen = console()
    if not as_json and screen.is_terminal:
        with Live(console=screen, auto_refresh=False, screen=True) as live:
            while True:
                live.update(table(look()), refresh=True)
                time.sleep(LOOK_SECONDS)
    known: dict[str, RunSummary] = {}
    while True:
        found = {run.id: run for run in look()}
        for run in reversed([run for run in found.values() if run != known.get(run.id)]):
            if as_json:
                print_json(run)
            else:
                line = f"{moment(run.requested_at)} {run.id} {run.function} {run.status} {started_by(run)}"
                screen.print(styled(line), soft_wrap=True)
        sys.stdout.flush()
        known = found
        time.sleep(LOOK_SECONDS)


def check_function(port: SyncHttpPort, function: str) -> None:
    """A misspelt name would look like a function that never ran. Raises `UnknownFunction`."""
    known = [view.id for view in port.functions()]
    if function not in known:
        close = get_close_matches(function, known, 1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known)}"
        raise UnknownFunction(f"no function {function!r} has runs: {hint}")


def table(runs: list[RunSummary]) -> Table:
    """A line for each."""
    table = Table("run", "function", "status", "started by", "requested", "took", box=None, header_style="bold")
    table.columns[0].no_wrap = True
    for run in runs:
        length = None if run.ended_at is None else run.ended_at - run.requested_at
        table.add_row(
            styled(run.id),
            styled(run.function),
            status_text(run.status),
            styled(started_by(run)),
            Text(moment(run.requested_at), no_wrap=True),
            Text(took(length), justify="right"),
        )
    return table


def started_by(run: RunSummary) -> str:
    """What started the run, with the id to look further."""
    if run.rerun_of:
        return f"{'fork' if run.cause == 'fork' else 'rerun'} of {run.rerun_of}"
    if run.parent:
        return f"{run.cause} by {run.parent}"
    return f"{run.cause} {run.event_id}".strip()
