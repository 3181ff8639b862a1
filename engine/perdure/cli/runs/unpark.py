"""`perdure runs unpark`."""

import click

from perdure.cli.command import client_options, port_at
from perdure.cli.output import console, print_json, styled


@click.command()
@click.argument("run_ids", nargs=-1, required=True, metavar="RUN_ID...")
@client_options
@click.pass_context
def unpark(ctx: click.Context, run_ids: tuple[str, ...], url: str | None, as_json: bool) -> None:
    """Let parked runs try to go on, once what their code reads fits their logs again.

    Other code, once it is deployed, tries them by itself. A run that still asks for something else is parked again:
    `runs show` says what differs.
    """
    port = port_at(ctx, url)
    for run_id in run_ids:
        port.unpark(run_id)
    if as_json:
        print_json({"run_ids": list(run_ids)})
    else:
        for run_id in run_ids:
            console().print(styled(f"{run_id} tries to go on"))
