"""`perdure runs rerun`."""

import click

from perdure.cli.command import client_options, port_at
from perdure.cli.exits import UsageProblem
from perdure.cli.filters import filter_options
from perdure.cli.output import console, print_json, styled
from perdure.cli.runs.bulk import bulk
from perdure.sdk.port import RunFilter


@click.command()
@click.argument("run_ids", nargs=-1, metavar="[RUN_ID]...")
@filter_options
@click.option("--yes", "-y", is_flag=True, help="Do not ask before running again by a filter.")
@client_options
@click.pass_context
def rerun(
    ctx: click.Context, run_ids: tuple[str, ...], wanted: RunFilter, yes: bool, url: str | None, as_json: bool
) -> None:
    """Run again with the same trigger or arguments, as new runs. Prints their ids, or how many, if it was by a filter.

    By a filter those that have ended run again, as a job, which goes on without this command.
    """
    port = port_at(ctx, url)
    filtered = wanted != RunFilter()
    if filtered == bool(run_ids):
        raise UsageProblem("which runs? give their ids, or at least one of --function, --status, --event, --since, …")
    if filtered:
        bulk(port, "rerun", wanted, yes=yes, as_json=as_json)
        return
    started = [port.rerun(run_id) for run_id in run_ids]
    if as_json:
        print_json({"run_ids": started})
    else:
        for run_id in started:
            console().print(styled(run_id))
