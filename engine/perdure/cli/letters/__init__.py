"""`perdure dead-letters …`."""

import click

from perdure.cli.letters.listing import listing
from perdure.cli.letters.retry import retry

__all__ = ["dead_letters"]


@click.group("dead-letters")
def dead_letters() -> None:
    """Look at records of the topic of events that nobody could read, and try them again."""


for command in (listing, retry):
    dead_letters.add_command(command)
