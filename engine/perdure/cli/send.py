"""`perdure send`."""

import sys

import click

from perdure.cli.command import client_options, port_at
from perdure.cli.exits import UsageProblem
from perdure.cli.given import object_of
from perdure.cli.output import console, print_json, styled
from perdure.errors import DefinitionError, PayloadError
from perdure.flow.patterns import check_event_name
from perdure.sdk.event_input import check_event_id, new_event_id
from perdure_schemas.event import EventBody


@click.command()
@click.argument("name")
@click.option("--data", default="{}", help="A JSON object; @FILE reads a file, - standard input.", show_default=True)
@click.option("--user", default="{}", help="A JSON object: who did it.")
@click.option("--id", "event_id", default="", help="Makes it count once, however often it is sent.")
@client_options
@click.pass_context
def send(ctx: click.Context, name: str, data: str, user: str, event_id: str, url: str | None, as_json: bool) -> None:
    """Send one event and print its id, once it is durable."""
    try:
        body = EventBody(
            id=check_event_id(event_id) or new_event_id(),
            name=check_event_name(name),
            data=object_of(data, "--data"),
            user=object_of(user, "--user"),
        )
    except (PayloadError, DefinitionError) as error:
        raise UsageProblem(str(error)) from None
    (sent,) = port_at(ctx, url).send([body])
    if as_json:
        print_json({"ids": [sent]})
        return
    console().print(styled(sent))
    if sys.stdout.isatty():
        console(stderr=True).print(styled(f"perdure runs list --event {sent}  shows what it started"), style="dim")
