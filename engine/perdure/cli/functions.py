"""`perdure functions`."""

import click
from rich.table import Table

from perdure.cli.command import client_options, port_at
from perdure.cli.output import console, moment, print_json, styled
from perdure.sdk.port import FunctionView


@click.command()
@client_options
@click.pass_context
def functions(ctx: click.Context, url: str | None, as_json: bool) -> None:
    """List the functions of the app, what starts them, and how many runs are going on."""
    views = port_at(ctx, url).functions()
    if as_json:
        print_json({"data": views, "cursor": ""})
        return
    table = Table("function", "starts", "cancelled by", "retries", "running", box=None, header_style="bold")
    held = any(view.held for view in views)
    paused = any(view.paused_since is not None for view in views)
    if held:
        table.add_column("held", style="magenta")
    if paused:
        table.add_column("paused since", style="yellow")
        table.add_column("waiting", style="yellow")
    for view in views:
        row = [view.id, starts(view), ", ".join(view.cancel_on), str(view.retries), str(view.running or "")]
        row += [str(view.held or "")] if held else []
        row += [moment(view.paused_since), str(view.waiting or "")] if paused else []
        table.add_row(*map(styled, row))
    console().print(table)
    if held:
        console().print("held: runs of functions that this engine's code does not have; they go on when it does")


def starts(view: FunctionView) -> str:
    """What starts it, in words."""
    if view.cron:
        next_fire = f", next {moment(view.next_fire)}" if view.next_fire else ""
        return f"at {view.cron}{next_fire}"
    return "on " + ", ".join(view.triggers) if view.triggers else "when called"
