"""`perdure whatif`: what other triggers, rules and options would have made of the past."""

import asyncio
import time

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from perdure.cli.command import json_option
from perdure.cli.exits import UsageProblem
from perdure.cli.filters import moment_of
from perdure.cli.output import console, moment, print_json, styled
from perdure.cli.settings import AppArgument, Setting
from perdure.cli.sharing import opened_any, shown
from perdure.cli.tables import app_that_notifies
from perdure.errors import LogInUse
from perdure.past.reading import read_tape
from perdure.past.tape import Tape
from perdure.past.whatif import Counts, Difference, WhatIf, what_if

SAID = {
    "starts": ("would start", "green"),
    "starts_no_longer": ("would not start", "red"),
    "cancelled": ("would be cancelled", "yellow"),
    "timed_out": ("would time out", "yellow"),
    "discarded": ("would be discarded", "yellow"),
    "goes_on": ("would go on", "cyan"),
}


@click.command()
@click.argument("app", cls=AppArgument, metavar="APP")
@click.option("--log", cls=Setting, default="embedded://.perdure", help="The log's URL, or a folder.")
@click.option("--since", default="7d", show_default=True, help="Counted from then: 1h, 7d, or 2026-11-21T18:00.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(0), help="So many differences are listed.")
@json_option
def whatif(app: str, log: str, since: str, limit: int, as_json: bool) -> None:
    """Fold the recorded events through the triggers, rules and options of APP (module:app), and tell what differs.

    How many runs would have started, been cancelled or timed out, against what happened, and for which events it
    differs. Nothing runs, and nothing is written. A run that APP alone would have started has no end that is known: it
    is taken to run on. With --json all differences are listed.
    """
    from_ms = moment_of(since, "--since") or 0
    if from_ms > time.time() * 1000:
        raise UsageProblem(f"--since {since!r} lies in the future: say 7d, or a time that has been")
    asked = app_that_notifies(app)
    asked.load()
    definition = asked.definition()
    found = what_if(asyncio.run(_tape(log, asked.name)), definition, from_ms)
    if as_json:
        print_json(found)
    else:
        _print(console(), found, limit)


async def _tape(log: str, app: str) -> Tape:
    try:
        async with opened_any(log, app) as opened:
            return await read_tape(opened)
    except LogInUse as error:
        raise LogInUse(
            f"{shown(log)} is in use by an engine, and all of it is to be read: stop that engine meanwhile, or name a "
            "snapshot of the folder with --log"
        ) from error


def _print(screen: Console, found: WhatIf, limit: int) -> None:
    if not found.records:
        screen.print("the log is empty: nothing has happened yet")
        return
    screen.print(styled(f"{found.app}: {moment(found.since)} to {moment(found.until)}, {found.records:,} records"))
    if found.trimmed:
        screen.print(
            styled("what came before was trimmed from the log: of runs that began then it tells nothing", "yellow")
        )
    screen.print(_table(found))
    if not found.differences:
        screen.print(styled("nothing would have gone otherwise", "green"))
        return
    screen.print()
    count = len(found.differences)
    screen.print(styled(f"{count:,} difference{'s' * (count != 1)}:", "bold"))
    for one in found.differences[:limit]:
        screen.print(_line(one), soft_wrap=True)
    if limit < count:
        screen.print(styled(f"… and {count - limit:,} more: --limit, or --json for all", "dim"))


def _table(found: WhatIf) -> Table:
    table = Table("function", "started", "cancelled", "timed out", "discarded", box=None, header_style="bold")
    for one in found.functions:
        table.add_row(styled(one.function), *(_change(one.was, one.would, name) for name in Counts.__struct_fields__))
    return table


def _change(was: Counts, would: Counts, name: str) -> Text:
    then, now = getattr(was, name), getattr(would, name)
    return Text(f"{then:,}", "dim") if then == now else Text(f"{then:,} → {now:,}", "bold")


def _line(one: Difference) -> Text:
    said, style = SAID[one.what]
    guess = ", if it were still running" if one.if_running else ""
    by = f" by {one.by_name} {one.by}" if one.by and one.what == "cancelled" else ""
    trigger = f"{one.event_name} {one.event_id}".strip()
    head = styled(f"{moment(one.at)} {one.function}: ")
    head.append_text(styled(f"{said}{by}{guess}", style))
    return head.append_text(styled(f", {trigger or one.run}: {one.why}"))
