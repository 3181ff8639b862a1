"""`perdure topics …`."""

import click

from perdure.cli.topics.copy import copy
from perdure.cli.topics.create import create
from perdure.cli.topics.listing import listing
from perdure.cli.topics.skip_gap import skip_gap
from perdure.cli.topics.tail import tail

__all__ = ["topics"]


@click.group()
def topics() -> None:
    """Make the topics of an app, read and copy them."""


for command in (create, listing, tail, skip_gap, copy):
    topics.add_command(command)
