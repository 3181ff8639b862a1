"""`perdure runs show`."""

import click

from perdure.cli.command import client_options, port_at
from perdure.cli.output import console, print_json
from perdure.cli.runs.picture import print_run


@click.command()
@click.argument("run_id")
@click.option("--all", "whole", is_flag=True, help="Every step, and inputs and results in full.")
@client_options
@click.pass_context
def show(ctx: click.Context, run_id: str, whole: bool, url: str | None, as_json: bool) -> None:
    """Show what happened to a run: its steps, attempts, times, inputs, results, errors, what it waits for."""
    detail = port_at(ctx, url).run(run_id)
    if as_json:
        print_json(detail)
    else:
        print_run(console(), detail, whole=whole)
