"""`perdure runs`: one file a command."""

import click

from perdure.cli.runs.cancel import cancel
from perdure.cli.runs.listing import listing
from perdure.cli.runs.rerun import rerun
from perdure.cli.runs.show import show
from perdure.cli.runs.unpark import unpark

__all__ = ["runs"]


@click.group()
def runs() -> None:
    """Look at runs, cancel them, run them again, let parked ones go on."""


for command in (listing, show, cancel, rerun, unpark):
    runs.add_command(command)
