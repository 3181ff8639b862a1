"""`perdure runs cancel`."""

import sys

import click

from perdure.cli.command import client_options, port_at
from perdure.cli.exits import UsageProblem
from perdure.cli.filters import filter_options
from perdure.cli.output import console, print_json, styled
from perdure.cli.runs.bulk import bulk
from perdure.errors import KeepsNothing
from perdure.sdk.port import RunFilter


@click.command()
@click.argument("run_ids", nargs=-1, metavar="[RUN_ID]...")
@filter_options
@click.option("--reason", default="", help="Kept with the run.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask before cancelling by a filter.")
@client_options
@click.pass_context
def cancel(
    ctx: click.Context,
    run_ids: tuple[str, ...],
    wanted: RunFilter,
    reason: str,
    yes: bool,
    url: str | None,
    as_json: bool,
) -> None:
    """Cancel runs, by id or by a filter. Runs that have ended stay as they are.

    By a filter it asks the engine's history which runs there are; a job cancels them, and goes on without this command.
    """
    port = port_at(ctx, url)
    filtered = wanted != RunFilter()
    if filtered == bool(run_ids):
        raise UsageProblem("which runs? give their ids, or at least one of --function, --status, --event, --since, …")
    count = len(run_ids)
    if filtered:
        try:
            bulk(port, "cancel", wanted, reason=reason, yes=yes, as_json=as_json)
            return
        except KeepsNothing:
            if wanted.needs_history:
                raise
        # What an engine without history has in its state, it cancels while it is asked.
        if not yes and sys.stdin.isatty():
            click.confirm("Cancel all of them that are not over?", abort=True)
        count = port.cancel_all(function=wanted.function, event_id=wanted.event_id, status=wanted.status, reason=reason)
    for run_id in run_ids:
        port.cancel(run_id, reason)
    if as_json:
        print_json({"count": count, "run_ids": list(run_ids)})
    else:
        console().print(styled(f"cancelled {count} run{'' if count == 1 else 's'}"))
