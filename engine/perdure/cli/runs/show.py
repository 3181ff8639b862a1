"""`perdure runs show`."""

from itertools import islice

import click

from perdure.cli.command import client_options, port_at
from perdure.cli.logs import lines_of
from perdure.cli.output import console, print_json
from perdure.cli.runs.picture import print_run

LINES = 2_000
"""Of what the run logged, so many are asked for; `perdure logs` shows all."""


@click.command()
@click.argument("run_id")
@click.option("--all", "whole", is_flag=True, help="Every step, and inputs and results in full.")
@client_options
@click.pass_context
def show(ctx: click.Context, run_id: str, whole: bool, url: str | None, as_json: bool) -> None:
    """Show what happened to a run: its steps, attempts, times, inputs, results, errors, waits, and what it logged."""
    port = port_at(ctx, url)
    detail = port.run(run_id)
    if as_json:
        print_json(detail)
    else:
        print_run(console(), detail, list(islice(lines_of(port, run_id), LINES)), whole=whole)
