"""What `cancel`, `rerun` and `backfill` do with many runs: counted, confirmed, done as a job that is waited for."""

import secrets
import sys
import time

import click

from perdure.cli.output import console, print_json, styled
from perdure.sdk.http_sync import SyncHttpPort
from perdure.sdk.port import Action, RunFilter

LOOK_SECONDS = 0.3
"""Between two looks at how far it is."""


ASKED = {"cancel": "Cancel", "rerun": "Run again", "backfill": "Start"}
SAID = {"cancel": "cancelled", "rerun": "ran again", "backfill": "started"}


def bulk(
    port: SyncHttpPort,
    action: Action,
    wanted: RunFilter,
    *,
    reason: str = "",
    rate: float = 0,
    yes: bool,
    as_json: bool,
) -> None:
    """Ends when the job has."""
    if not yes and sys.stdin.isatty():
        count = port.make_job(action, wanted, dry_run=True).count
        click.confirm(f"{ASKED[action]} {_runs(count)}?", abort=True)
    job = port.make_job(action, wanted, reason=reason, rate=rate, job=secrets.token_hex(8))
    screen = console(stderr=True)
    with screen.status("") as status:
        while job.state == "running":
            status.update(styled(f"{job.done:,} of {job.count:,}"))
            time.sleep(LOOK_SECONDS)
            job = port.job(job.id)
    if as_json:
        print_json(job)
        return
    console().print(styled(f"{SAID[action]} {_runs(job.count - job.failed)}"))
    if job.failed:
        screen.print(styled(f"{_runs(job.failed)} in vain, the first because {job.error}", "yellow"))


def _runs(count: int) -> str:
    return f"{count:,} run{'' if count == 1 else 's'}"
