"""`perdure explain`: what came of an event."""

import click
import msgspec
from rich.console import Console

from perdure.cli.command import client_options, port_at
from perdure.cli.output import console, moment, print_json, styled
from perdure.cli.runs.listing import table
from perdure.sdk.port import EventDetail
from perdure_schemas.event import EventBody

STYLES = {"started": "green", "where_false": "yellow", "added_later": "yellow", "not_awaited": "dim"}


@click.command()
@click.argument("event_id")
@client_options
@click.pass_context
def explain(ctx: click.Context, event_id: str, url: str | None, as_json: bool) -> None:
    """Tell what an event started, matched and cancelled, and why it did not do more.

    Asked of the engine's history.
    """
    detail = port_at(ctx, url).event(event_id)
    if as_json:
        print_json(detail)
    else:
        _print(console(), detail)


def _print(screen: Console, detail: EventDetail) -> None:
    body = msgspec.json.decode(detail.event, type=EventBody)
    screen.print(styled(f"{body.name} {body.id}, received {moment(detail.received_at)}", "bold"))
    for one in detail.decisions:
        line = styled(f"{one.decision.replace('_', ' '):12} ", STYLES.get(one.decision, "cyan"))
        what = f"{one.function}: {one.why}" if not one.run else f"{one.function} {one.run}"
        screen.print(line.append_text(styled(what)), soft_wrap=True)
    for use in detail.uses:
        what = f"a wait of {use.function} {use.run}" if use.what == "matched" else f"{use.function} {use.run}"
        screen.print(styled(f"{use.what:12} ", "green").append_text(styled(what)), soft_wrap=True)
    if detail.nothing:
        screen.print(styled(f"it did nothing: {detail.nothing}", "yellow"), soft_wrap=True)
    if detail.behind:
        screen.print(styled(f"history is {detail.behind:,} records behind: more may have come of it", "dim"))
    if detail.runs:
        screen.print()
        screen.print(table(list(detail.runs)))
