"""`perdure backfill`: past events for a function that did not get them."""

import click

from perdure.cli.command import client_options, port_at
from perdure.cli.exits import UsageProblem
from perdure.cli.filters import moment_of
from perdure.cli.runs.bulk import bulk
from perdure.duration import parse_ms
from perdure.errors import DefinitionError
from perdure.sdk.port import RunFilter


@click.command()
@click.argument("function")
@click.option("--since", required=True, help="Events that came since then: 1h, 7d, or a time such as 2026-11-21T18:00.")
@click.option("--until", help="Events that came before then; as --since.")
@click.option("--where", default="", help="Of those that its triggers fit, only these: 'event.data.total > 100'.")
@click.option("--rate", default="", help="At most so many a second, a minute, …: 50/s, 100/m.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask before it begins.")
@client_options
@click.pass_context
def backfill(
    ctx: click.Context,
    function: str,
    since: str,
    until: str | None,
    where: str,
    rate: str,
    yes: bool,
    url: str | None,
    as_json: bool,
) -> None:
    """Start FUNCTION for past events that its triggers fit, and that have not started it.

    For a function that is new, or that asks for more than it did. Counted first, then done as a job, which goes on
    without this command, and after a restart. An event starts a function once, however often it is asked for.

    The active code of the engine decides. Which events came is asked of its history.
    """
    wanted = RunFilter(function, since=moment_of(since, "--since"), until=moment_of(until, "--until"), where=where)
    bulk(port_at(ctx, url), "backfill", wanted, rate=per_second(rate), yes=yes, as_json=as_json)


def per_second(text: str) -> float:
    """`50/s`, `100/m`; 0 for none. Raises `UsageProblem`."""
    count, _, unit = text.partition("/")
    try:
        found = float(count) * 1000 / parse_ms(unit if unit[:1].isdecimal() else f"1{unit}") if text else 0
    except (ValueError, ZeroDivisionError, DefinitionError):
        found = -1
    if not 0 <= found < 1e6 or (text and not found):
        raise UsageProblem(f"--rate {text!r}: say how many in what time, such as 50/s or 100/m")
    return found
