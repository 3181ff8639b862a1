"""The command line: `perdure`, also `python -m perdure`."""

import click

from perdure.cli.backfill import backfill
from perdure.cli.check import check
from perdure.cli.command import Main
from perdure.cli.dev import dev
from perdure.cli.explain import explain
from perdure.cli.export import export
from perdure.cli.fork import fork
from perdure.cli.functions import functions
from perdure.cli.gateway import gateway
from perdure.cli.history import history
from perdure.cli.importing import import_
from perdure.cli.keys import keys
from perdure.cli.letters import dead_letters
from perdure.cli.logs import logs
from perdure.cli.output import release
from perdure.cli.pausing import pause, resume
from perdure.cli.replay import replay
from perdure.cli.runs import runs
from perdure.cli.send import send
from perdure.cli.serve import serve
from perdure.cli.state import state
from perdure.cli.topics import topics
from perdure.cli.whatif import whatif
from perdure.cli.worker import worker

__all__ = ["main"]


@click.group(
    cls=Main,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=(
        "Settings: a flag, else PERDURE_URL, PERDURE_LOG, PERDURE_APP, … in the environment (PERDURE_LOG_FILE names a "
        "file that holds the value), else perdure.toml or [tool.perdure] in pyproject.toml here, else the default."
        "\n\n\b\n"
        "Exit codes: 0 done · 1 refused or failed · 2 wrong usage · 3 not found ·\n"
        "4 no engine answers · 5 the log cannot be used · 130 stopped at once"
    ),
)
@click.version_option(release() or "(not installed)", message="perdure %(version)s")
def main() -> None:
    """Durable Python functions: they outlive the process they started in."""


for command in (
    *(dev, serve, worker, gateway, keys),
    *(send, functions, pause, resume, runs, explain, logs),
    *(replay, check, fork, whatif, backfill, export, import_, state),
    *(history, topics, dead_letters),
):
    main.add_command(command)
