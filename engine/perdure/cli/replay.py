"""`perdure replay`: a run of the past on the present code."""

import asyncio
import sys
from collections.abc import Callable
from contextlib import ExitStack, redirect_stdout
from pathlib import Path

import click
from rich.console import Console

from perdure.cli import exits
from perdure.cli.exits import UsageProblem
from perdure.cli.loading import load_app
from perdure.cli.output import console, print_json, styled
from perdure.cli.past import past_options, past_source
from perdure.cli.replayed import Told, as_json_value, print_replayed
from perdure.cli.settings import AppArgument
from perdure.flow.lines import op_name
from perdure.flow.view import View
from perdure.past.debugger import Debugger, Stopper
from perdure.past.moments import before_end
from perdure.past.reading import Wanted
from perdure.past.replay import RecordedEnd, Replayed, Replayer
from perdure.sdk.app import App
from perdure.sdk.environment import from_environment
from perdure.worker.places import open_place


@click.command()
@click.argument("run_id")
@click.argument("app", cls=AppArgument, metavar="MODULE:APP")
@click.option("--until", metavar="STEP", help="Stop where this op is asked for: charge, charge#2 or 0/charge#2.")
@click.option("--trace", is_flag=True, help="Print each op as it is asked for and answered.")
@click.option("--pdb", "debug", is_flag=True, help="Open pdb in your code: at --until, else where it fails, or begins.")
@past_options
@click.pass_context
def replay(
    ctx: click.Context,
    run_id: str,
    app: str,
    until: str | None,
    trace: bool,
    debug: bool,
    past_log: str | None,
    past_file: Path | None,
    url: str | None,
    as_json: bool,
) -> None:
    """Run the present code against what the log holds of a run, without side effects.

    Recorded results are served, no step begins, and nothing is written. Code outside of steps runs, as at every replay.
    """
    if debug and as_json:
        raise UsageProblem("--pdb is a talk, and --json one value: leave one of them out")
    code = load_app(app)
    tape = past_source(ctx, past_log, past_file, url, app)(Wanted(frozenset([run_id])))
    view, end = before_end(tape, run_id)
    stopper = _stopper(until, end, debug=debug)
    told = Told(stopper, trace=trace)
    with ExitStack() as stack:
        if as_json:
            # What the function prints is not the value.
            stack.enter_context(redirect_stdout(sys.stderr))
        stack.callback(stopper.leave)
        replayed = asyncio.run(_replay(code, view, run_id, end, told))
    if as_json:
        print_json(as_json_value(replayed, told))
    else:
        print_replayed(console(), replayed, told)
        _print_place(console(), stopper)
    if until is not None and not stopper.stopped_at:
        asked = ", ".join(one.op for one in replayed.asked) or "nothing"
        raise UsageProblem(f"--until {until}: the replay did not come to it; it asked for {asked}")
    ctx.exit(exits.OK if replayed.goes_well or replayed.verdict == "stopped" else exits.FAILED)


def _stopper(until: str | None, end: RecordedEnd | None, *, debug: bool) -> Stopper:
    wanted: Callable[[str], bool] | None = None
    if until is not None:
        wanted = lambda op: until in (op, op.partition("/")[2], op_name(op))  # noqa: E731
    elif debug and (end is None or end.status != "failed"):
        wanted = lambda op: True  # noqa: E731
    tell = console(stderr=True)
    return Debugger(wanted, lambda text: tell.print(styled(text, "bold"), soft_wrap=True)) if debug else Stopper(wanted)


async def _replay(app: App, view: View, run: str, end: RecordedEnd | None, told: Told) -> Replayed:
    replayer = Replayer(app, open_place(from_environment("PERDURE_PAYLOADS")))
    try:
        return await replayer.replay(view, run, end=end, onlooker=told)
    finally:
        await replayer.close()


def _print_place(screen: Console, stopper: Stopper) -> None:
    if stopper.place:
        screen.print()
        screen.print(styled(stopper.place, "bold"), soft_wrap=True)
        for name, value in stopper.locals.items():
            screen.print(styled(f"  {name} = {value}"), soft_wrap=True)
