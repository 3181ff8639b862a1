"""`perdure dev`."""

import click

from perdure.cli.command import json_option
from perdure.cli.listening import check_loopback
from perdure.cli.serve import engine_options, log_url
from perdure.cli.stderr_log import logging_options


@click.command()
@engine_options
@click.option("--reload/--no-reload", default=True, show_default=True, help="Restart when a Python file changes.")
@logging_options
@json_option
@click.pass_context
def dev(
    ctx: click.Context,
    app: str,
    log: str,
    partitions: int,
    retention: str | None,
    host: str,
    port: int,
    history: str,
    no_history: bool,
    history_retention: str | None,
    reload: bool,
    as_json: bool,
) -> None:
    """Run the app with its gateway, and again whenever its code changes.

    Runs that are under way go on with the new code; one that asks for something else than its log holds is parked,
    and tried again at the next change.
    """
    from perdure.cli.orders import Served
    from perdure.cli.supervisor import Supervisor

    kept = None if no_history else history
    served = Served(app, log_url(log, retention), partitions, kept, history_retention)
    supervisor = Supervisor(served, check_loopback(host), port, reload=reload, as_json=as_json)
    ctx.exit(supervisor.run())
