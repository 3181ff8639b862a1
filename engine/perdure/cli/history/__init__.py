"""`perdure history`: one file a command."""

import click

from perdure.cli.history.rebuild import rebuild
from perdure.cli.history.search import search

__all__ = ["history"]


@click.group()
def history() -> None:
    """Search what happened; make it anew from the log."""


for command in (rebuild, search):
    history.add_command(command)
