"""`perdure logs`: what a run logged."""

import sys
import time
from collections.abc import Iterator
from typing import get_args

import click
from rich.text import Text

from perdure.cli.command import client_options, port_at
from perdure.cli.output import console, print_json, styled
from perdure.flow.lines import op_name
from perdure.flow.states import TERMINAL
from perdure.sdk.http_sync import SyncHttpPort
from perdure_schemas.records import LogLevel, RunLogged

LOOK_SECONDS = 0.5
"""Between two looks at what has come."""
STYLES: dict[LogLevel, str] = {
    "debug": "dim",
    "info": "cyan",
    "warning": "yellow",
    "error": "red",
    "critical": "bold red",
}


@click.command()
@click.argument("run_id")
@click.option("--follow", "-f", is_flag=True, help="Go on with what comes, until the run has ended.")
@click.option("--level", type=click.Choice(get_args(LogLevel)), default="debug", help="Only this and above.")
@client_options
@click.pass_context
def logs(ctx: click.Context, run_id: str, follow: bool, level: LogLevel, url: str | None, as_json: bool) -> None:
    """Print what a run logged, in its steps and outside of them: a line each.

    Lines are kept as long as the log keeps what people look at (7 days, if nobody says otherwise).
    """
    shown = console()
    for line in lines_of(port_at(ctx, url), run_id, level, follow=follow):
        if as_json:
            # Each by itself: who reads them need not wait for the last one.
            print_json(line)
        else:
            shown.print(line_text(line), soft_wrap=True)
        sys.stdout.flush()


def lines_of(port: SyncHttpPort, run: str, level: LogLevel = "debug", *, follow: bool = False) -> Iterator[RunLogged]:
    """All that there are; with `follow` also those that come, until the run has ended and nothing more comes."""
    cursor, over = "", False
    while True:
        page = port.lines(run, level=level, cursor=cursor)
        yield from page.data
        cursor = page.cursor
        if not page.end:
            continue
        if not follow or over:
            return
        # What a run says last is on its way for a moment after its end.
        over = port.status(run) in TERMINAL
        time.sleep(LOOK_SECONDS)


def line_text(line: RunLogged, *, step: bool = True) -> Text:
    """Time, level, step, message on one line, whatever the message has in it; a traceback below."""
    at = time.strftime("%H:%M:%S", time.localtime(line.at / 1000))
    text = Text.assemble((f"{at}.{line.at % 1000:03d} ", "dim"), (f"{line.level:8} ", STYLES[line.level]))
    if step and line.op:
        again = f" try {line.attempt}" if line.attempt > 1 else ""
        text.append_text(styled(f"{op_name(line.op) or line.op}{again}: ", "bold"))
    text.append_text(styled(line.message))
    if line.error:
        below = "\n".join(f"    {one}" for one in line.error.rstrip().splitlines())
        text.append_text(Text("\n")).append_text(styled(below, "dim", lines=True))
    return text
