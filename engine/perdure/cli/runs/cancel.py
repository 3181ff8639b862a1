"""`perdure runs cancel`."""

import sys

import click

from perdure.cli.command import client_options, port_at
from perdure.cli.exits import UsageProblem
from perdure.cli.output import console, print_json, styled


@click.command()
@click.argument("run_ids", nargs=-1, metavar="[RUN_ID]...")
@click.option("--function", default="", help="All runs of this function that are not over.")
@click.option("--event", "event_id", default="", help="All runs that this event started.")
@click.option("--status", type=click.Choice(["queued", "running", "suspended", "parked"]), help="All that are so.")
@click.option("--reason", default="", help="Kept with the run.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask before cancelling by a filter.")
@client_options
@click.pass_context
def cancel(
    ctx: click.Context,
    run_ids: tuple[str, ...],
    function: str,
    event_id: str,
    status: str | None,
    reason: str,
    yes: bool,
    url: str | None,
    as_json: bool,
) -> None:
    """Cancel runs, by id or by a filter. Runs that have ended stay as they are."""
    port = port_at(ctx, url)
    filtered = bool(function or event_id or status)
    if filtered == bool(run_ids):
        raise UsageProblem("which runs? give their ids, or at least one of --function, --event, --status")
    if not filtered:
        for run_id in run_ids:
            port.cancel(run_id, reason)
        count = len(run_ids)
    else:
        if not yes and sys.stdin.isatty():
            wanted = ", ".join(filter(None, [function, event_id, status]))
            click.confirm(f"Cancel all runs of {wanted!r} that are not over?", abort=True)
        count = port.cancel_all(function=function, event_id=event_id, status=status or "", reason=reason)
    if as_json:
        print_json({"count": count, "run_ids": list(run_ids)})
    else:
        console().print(styled(f"cancelled {count} run{'' if count == 1 else 's'}"))
