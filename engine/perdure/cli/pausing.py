"""`perdure pause` and `perdure resume`."""

from collections.abc import Callable

import click

from perdure.cli.command import client_options, port_at
from perdure.cli.output import console, print_json, styled


@click.command()
@click.argument("functions", nargs=-1, required=True, metavar="FUNCTION...")
@client_options
@click.pass_context
def pause(ctx: click.Context, functions: tuple[str, ...], url: str | None, as_json: bool) -> None:
    """Let no run of these functions start, until they are resumed.

    Nothing is lost: events, schedules and calls request runs as ever, and these wait. Runs that have started go on.
    """
    _each(functions, port_at(ctx, url).pause, "{} is paused: its runs wait until `perdure resume {}`", as_json)


@click.command()
@click.argument("functions", nargs=-1, required=True, metavar="FUNCTION...")
@client_options
@click.pass_context
def resume(ctx: click.Context, functions: tuple[str, ...], url: str | None, as_json: bool) -> None:
    """Let paused functions go on: the runs that wait start, in the order in which they came."""
    _each(functions, port_at(ctx, url).resume, "{} goes on", as_json)


def _each(functions: tuple[str, ...], ask: Callable[[str], None], said: str, as_json: bool) -> None:
    for function in functions:
        ask(function)
        if not as_json:
            console().print(styled(said.format(function, function)))
    if as_json:
        print_json({"functions": list(functions)})
