"""`perdure state`: a run, or a join key, as it was at a moment."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import click
import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from perdure.cli.exits import UsageProblem
from perdure.cli.filters import moment_of
from perdure.cli.output import console, cut, inert, moment, print_json, status_text, styled
from perdure.cli.past import past_options, past_source
from perdure.errors import DefinitionError
from perdure.flow.routing import partition_of
from perdure.past.reading import Wanted
from perdure.past.state import KeyAt, RunAt, key_at, key_of_event, run_at
from perdure.past.tape import Tape

VALUE = 100


@click.command()
@click.argument("run_id", required=False)
@click.option("--key", nargs=3, metavar="NAME PATH VALUE", help="Of a join key: paid data.cart 7.")
@click.option("--at", help="The offset of a record, or a time: 1h ago as 1h, 2026-11-21T18:00.  [default: now]")
@click.option("--app", default="", help="module:app, or its name, where the log has several.")
@past_options
@click.pass_context
def state(
    ctx: click.Context,
    run_id: str | None,
    key: tuple[str, str, str] | None,
    at: str | None,
    app: str,
    past_log: str | None,
    past_file: Path | None,
    url: str | None,
    as_json: bool,
) -> None:
    """Show what was known of a run at a moment: its status, what it had done, what it waited for.

    With --key: which waits and cancel rules listened for an event with that value, and which events were kept for those
    to come; this is read of a log or a file, and not of a running engine.
    """
    if (run_id is None) == (key is None):
        raise UsageProblem("say of what: a run's id, or --key NAME PATH VALUE")
    until, at_ms = (int(at), None) if at is not None and at.isdecimal() else (None, moment_of(at, "--at"))
    read = past_source(ctx, past_log, past_file, url, app)
    if run_id is not None:
        run = run_at(read(Wanted(frozenset([run_id]))), run_id, until, at_ms)
        print_json(run) if as_json else _print_run(console(), run)
        return
    if past_log is None and past_file is None:
        raise UsageProblem("--key: a running engine gives its runs alone: name a --log or a --file")
    assert key is not None
    joined = _joined(*key)
    tape = read(Wanted())
    kept = key_at(tape, _partition_of(tape, joined), joined, until, at_ms)
    print_json(kept) if as_json else _print_key(console(), kept)


def _joined(name: str, path: str, text: str) -> str:
    """As JSON where that is possible, as `match=` has it: `7` is a number, and `"7"` a text."""
    try:
        value: Any = json.loads(text)
    except ValueError:
        value = text
    try:
        return key_of_event(name, path, value)
    except (DefinitionError, ValueError) as error:
        raise UsageProblem(f"--key: {error}") from None


def _partition_of(tape: Tape, key: str) -> int:
    partition = partition_of(key, tape.partitions)
    if partition not in tape.parts:
        raise UsageProblem(f"--key: the file has nothing of partition {partition}, where this key lives: export --all")
    return partition


def _print_run(screen: Console, found: RunAt) -> None:
    run = found.run
    table = _header()
    table.add_row("run", styled(run.id))
    table.add_row("function", styled(run.function))
    table.add_row("status", status_text("paused" if run.paused else run.status))
    where = f"partition {found.partition}, offset {found.offset}: record {found.nth} of {found.of}, {found.kind}"
    table.add_row("at", styled(f"{moment(found.at)}  {where}"))
    table.add_row("requested", styled(f"{moment(run.requested_at)}  by {run.cause}"))
    if run.started_at:
        table.add_row("started", styled(moment(run.started_at)))
    if run.ended_at is not None:
        table.add_row("ended", styled(moment(run.ended_at)))
    for name, value in (("event", run.event), ("arguments", run.arguments), ("result", run.result)):
        if value is not None:
            table.add_row(name, styled(_short(value)))
    if run.error is not None:
        table.add_row("error", styled(f"{run.error.type}: {run.error.message}", "red"))
    if run.parked is not None:
        table.add_row("parked", styled(run.parked.message, "magenta"))
    for name, timer in run.timers.items():
        table.add_row(f"{name} due", styled(moment(timer.due)))
    screen.print(table)
    rows = list(_rows(found))
    if rows:
        ops = Table("op", "", "offset", "time", "", box=None, header_style="bold")
        for row in rows:
            ops.add_row(*row)
        screen.print()
        screen.print(ops)


def _rows(found: RunAt) -> Iterator[tuple[Text, ...]]:
    for line in found.lines:
        record = json.loads(bytes(line.record))
        told = next((_short(record[field]) for field in ("result", "event", "error", "opening") if field in record), "")
        yield styled(line.op), styled(line.kind), Text(str(line.offset)), styled(moment(line.at)), styled(told)
    for name, op in found.run.open.items():
        queued = found.queued.get(name)
        waits = f"{op.key} where {where}" if (where := found.run.waits.get(op.key, {}).get(name)) else op.key
        told = f"queue {queued.opening.queue}, {queued.member or 'nobody has it'}" if queued is not None else ""
        due = "" if op.due is None else f"until {moment(op.due)}"
        about = " ".join(one for one in (told, waits, op.child, f"attempt {op.attempt}", due) if one)
        yield styled(name), Text(f"open {op.type}", "cyan"), Text(""), Text(""), styled(about)


def _print_key(screen: Console, found: KeyAt) -> None:
    table = _header()
    table.add_row("key", styled(found.key))
    table.add_row("at", styled(f"{moment(found.at)}  partition {found.partition}, offset {found.offset}"))
    screen.print(table)
    screen.print()
    if not found.subscriptions and not found.events:
        screen.print("nobody waits for such an event, and none is kept")
        return
    rows = Table("", "", "", "", box=None)
    for one in found.subscriptions:
        what = "cancel rule" if one.rule >= 0 else "wait"
        for wait in one.waits:
            told = f"{wait.op if one.rule < 0 else ''} {wait.where and 'where ' + wait.where}".strip()
            rows.add_row(Text(what, "cyan"), styled(one.run), styled(told), Text(f"after position {one.upto}"))
    for kept in found.events:
        name = styled(f"{kept.event.name} {kept.event.id}")
        rows.add_row(Text("event", "bold"), name, styled(_short(kept.event.data)), Text(f"position {kept.position}"))
    screen.print(rows)


def _header() -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    return table


def _short(value: object) -> str:
    """Of a payload, what it holds."""
    plain = json.loads(msgspec.json.encode(value))
    shown = cast("dict[str, Any]", plain).get("inline", plain) if isinstance(plain, dict) else plain
    return cut(inert(json.dumps(shown, ensure_ascii=False)), VALUE)
