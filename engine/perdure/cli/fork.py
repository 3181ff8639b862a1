"""`perdure fork`."""

import secrets
import sys
from pathlib import Path

import click

from perdure.cli.command import port_at
from perdure.cli.exits import UsageProblem
from perdure.cli.given import json_of, object_of
from perdure.cli.output import console, print_json, styled
from perdure.cli.past import past_options, past_source
from perdure.errors import PayloadError
from perdure.past.fork import Change, Trigger, before_its_end, parts_of
from perdure.past.reading import Wanted
from perdure.past.tape import state_of_run


@click.command()
@click.argument("run_id")
@click.option("--at", required=True, metavar="STEP", help="An op such as 0/charge#1, or its name.")
@click.option(
    "--set", "changed", default="", metavar="WHAT=JSON",
    help="What STEP brings instead: result=JSON, error='Type: message', event=JSON (the data, for a wait), or timeout.",
)  # fmt: skip
@click.option("--event", default="", metavar="JSON", help="Data of the event that it starts with instead.")
@click.option("--args", "arguments", default="", metavar="JSON", help='What it is called with: [[1, 2], {"size": 3}].')
@click.option("--recorded", is_flag=True, help="What follows is as it was, as long as the code asks for the same.")
@click.option("--key", default="", help="Asked for again with the same one, it is the same run.")
@past_options
@click.pass_context
def fork(
    ctx: click.Context, run_id: str, at: str, changed: str, event: str, arguments: str, recorded: bool, key: str,
    past_log: str | None, past_file: Path | None, url: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Start a new run that has the history of RUN_ID up to STEP, and is live from there.

    Nothing of that history is done again: results are those that were recorded. With --set the new run gets another
    result, error or event at STEP; without it STEP runs again. The run is read from the running engine, or from --log
    or --file; the new one is started by the running engine. Prints its id.
    """
    try:
        change = _change(changed) if changed else None
        trigger = Trigger(
            object_of(event, "--event") if event else None, json_of(arguments, "--args") if arguments else None
        )
    except PayloadError as error:
        raise UsageProblem(str(error)) from None
    tape = past_source(ctx, past_log, past_file, url)(Wanted(frozenset({run_id})))
    view = before_its_end(tape, run_id)
    parts = parts_of(
        view,
        state_of_run(view, run_id),
        at,
        key or secrets.token_hex(16),
        change=change,
        trigger=trigger,
        recorded=recorded,
        same_log=past_log is None and past_file is None,
    )
    port = port_at(ctx, url)
    new = [port.fork(part) for part in parts][-1]
    if as_json:
        print_json({"run_id": new})
        return
    console().print(styled(new))
    if sys.stdout.isatty():
        console(stderr=True).print(styled(f"perdure runs show {new}  shows how it goes"), style="dim")


def _change(text: str) -> Change:
    what, given, value = text.partition("=")
    match what:
        case "result" if given:
            return Change(result=json_of(value, "--set result"))
        case "error" if value:
            return Change(error=value)
        case "event" if given:
            return Change(event=object_of(value, "--set event"))
        case "timeout" if not given:
            return Change(timeout=True)
        case _:
            raise UsageProblem(
                f"--set {text!r}: say result=JSON (a text in quotes: --set 'result=\"paid\"'), error=MESSAGE, "
                "event=JSON or timeout"
            )
