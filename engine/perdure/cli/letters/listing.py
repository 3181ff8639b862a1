"""`perdure dead-letters list`."""

import asyncio

import click
from rich.table import Table
from rich.text import Text

from perdure.cli.command import json_option
from perdure.cli.output import console, moment, print_json, styled
from perdure.cli.sharing import app_name, log_options, opened


@click.command("list")
@log_options
@click.option("--all", "settled", is_flag=True, help="Also those that were taken in since.")
@json_option
def listing(app: str, log: str, settled: bool, as_json: bool) -> None:
    """List what could not be read, and why. APP is module:app or the app's name alone."""
    from perdure.log.kafka.letters import Letter, letters_of

    async def look() -> list[Letter]:
        async with opened(log, app_name(app)) as shared:
            return await letters_of(shared)

    found = [letter for letter in asyncio.run(look()) if settled or not letter.event]
    if as_json:
        print_json({"data": found})
        return
    if not found:
        console().print("no dead letters")
        return
    table = Table("number", "put aside", "record", "reason", box=None, header_style="bold")
    for letter in found:
        reason = f"{letter.reason} (taken in since, as event {letter.event})" if letter.event else letter.reason
        table.add_row(str(letter.number), Text(moment(letter.at)), styled(letter.place), styled(reason))
    console().print(table)
