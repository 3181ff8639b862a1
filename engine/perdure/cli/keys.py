"""`perdure keys`."""

import click

from perdure.cli.command import json_option
from perdure.cli.exits import UsageProblem
from perdure.cli.output import console, print_json, styled
from perdure.errors import DefinitionError
from perdure.sdk.keys import SCOPES, Scope, new_key


@click.group()
def keys() -> None:
    """API keys, without which an engine answers its own machine alone."""


@keys.command()
@click.argument("name", default="")
@click.option(
    "--scope",
    "scopes",
    type=click.Choice(SCOPES),
    multiple=True,
    required=True,
    help="send: events, calls · read: look, wait for results, metrics · operate: cancel, rerun, pause … Several times.",
)
@json_option
def new(name: str, scopes: tuple[Scope, ...], as_json: bool) -> None:
    """Make a key for NAME (a service, a person), and print it once: it is kept nowhere.

    The engine gets the line with the digest, whoever asks gets the key. An engine takes as many lines as it is given:
    add the new one, give out the new key, then take the old line away.
    """
    try:
        key, grant = new_key(scopes, name)
    except DefinitionError as error:
        raise UsageProblem(str(error)) from None
    if as_json:
        print_json({"name": grant.name, "scopes": sorted(grant.scopes), "key": key, "line": grant.line()})
        return
    screen = console()
    screen.print("the key, for who asks: PERDURE_API_KEY, or a file that PERDURE_API_KEY_FILE names", style="dim")
    screen.print(styled(f"  {key}", "bold"), soft_wrap=True)
    screen.print("its line, for the engine: PERDURE_KEYS, or a file of lines that PERDURE_KEYS_FILE names", style="dim")
    screen.print(styled(f"  {grant.line()}"), soft_wrap=True)
    screen.print("It is not shown again. The line is no secret.", style="dim")
