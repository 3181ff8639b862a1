"""`perdure send`."""

import sys
from pathlib import Path

import click
from msgspec import Raw

from perdure.cli.command import client_options, port_at
from perdure.cli.exits import UsageProblem
from perdure.cli.output import console, print_json, styled
from perdure.errors import DefinitionError, PayloadError
from perdure.flow.patterns import check_event_name
from perdure.sdk.event_input import check_event_id, new_event_id
from perdure.sdk.json_guard import EVENT_LIMIT_BYTES, compact, guard
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
            data=_object(data, "--data"),
            user=_object(user, "--user"),
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


def _object(text: str, option: str) -> Raw:
    raw = _content(text, option)
    guard(raw, limit=EVENT_LIMIT_BYTES, what=option)
    raw = raw.strip()
    if not raw.startswith(b"{"):
        raise PayloadError(f'{option} must be a JSON object such as \'{{"cart_id": "c1"}}\', in single quotes')
    return compact(raw)


def _content(text: str, option: str) -> bytes:
    if text == "-":
        return sys.stdin.buffer.read(EVENT_LIMIT_BYTES + 1)
    if not text.startswith("@"):
        return text.encode("utf-8", "surrogateescape")
    try:
        with Path(text[1:]).open("rb") as file:
            return file.read(EVENT_LIMIT_BYTES + 1)
    except OSError as error:
        raise UsageProblem(f"{option} {text}: {error.strerror or error}") from None
