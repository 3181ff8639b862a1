"""`perdure runs rerun`."""

import click

from perdure.cli.command import client_options, port_at
from perdure.cli.output import console, print_json, styled


@click.command()
@click.argument("run_ids", nargs=-1, required=True, metavar="RUN_ID...")
@client_options
@click.pass_context
def rerun(ctx: click.Context, run_ids: tuple[str, ...], url: str | None, as_json: bool) -> None:
    """Run again with the same trigger or arguments, as new runs. Prints their ids."""
    port = port_at(ctx, url)
    started = [port.rerun(run_id) for run_id in run_ids]
    if as_json:
        print_json({"run_ids": started})
    else:
        for run_id in started:
            console().print(styled(run_id))
