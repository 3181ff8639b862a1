"""A run as a table for people."""

import time
from collections.abc import Iterator, Sequence

import msgspec
from msgspec import Raw, UnsetType
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from perdure.cli.logs import line_text
from perdure.cli.output import cut, moment, status_text, styled, took
from perdure.cli.runs.listing import started_by
from perdure.duration import human
from perdure.sdk.port import Attempt, OpDetail, RunDetail
from perdure_schemas.payload import ErrorInfo
from perdure_schemas.records import RunLogged

EDGE = 20
"""Of a long run, so many steps from its beginning and its end are shown; and all between that did not just succeed."""

MOST = 200
VALUE = 120
HEADER_VALUE = 400
LINES = 5
"""The last that a step logged; all of them with --all."""

_MARKS = {"completed": "✓", "failed": "✗", "open": "…", "closed": "–"}


def print_run(console: Console, detail: RunDetail, lines: Sequence[RunLogged] = (), *, whole: bool) -> None:
    """Header, why it is parked, steps with their lines, errors, lines of code outside steps."""
    console.print(_header(detail, whole))
    if detail.parked:
        console.print()
        console.print(Text("parked: it asked for something else than its log holds", "bold magenta"))
        console.print(_indented(detail.parked), soft_wrap=True)
    if detail.trimmed:
        console.print()
        console.print(Text("Some of its records are older than the log's retention: they are gone.", "dim"))
    if detail.ops:
        console.print()
        console.print(_ops(detail, lines, whole))
    for title, error in _errors(detail):
        console.print()
        console.print(title)
        console.print(_traceback(error), soft_wrap=True)
    outside = [line for line in lines if not line.op]
    if outside:
        console.print()
        console.print(Text("logged outside steps", "bold"))
        for line in _last(outside, whole):
            console.print(line, soft_wrap=True)


def _header(detail: RunDetail, whole: bool) -> Table:
    run = detail.run
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("run", styled(run.id))
    table.add_row("function", styled(run.function))
    table.add_row("status", status_text(run.status))
    table.add_row("started by", styled(started_by(run)))
    table.add_row("requested", Text(moment(run.requested_at)))
    if run.ended_at is None:
        table.add_row("going on for", Text(took(max(0, time.time() * 1000 - run.requested_at))))
    else:
        table.add_row("ended", Text(f"{moment(run.ended_at)}, after {took(run.ended_at - run.requested_at)}"))
    if run.metadata:
        table.add_row("metadata", styled(", ".join(f"{key}={value}" for key, value in run.metadata.items())))
    if detail.progress:
        table.add_row("progress", styled(", ".join(f"{key}={value}" for key, value in detail.progress.items())))
    values = (("event", _json(detail.event)), ("arguments", _call(detail.arguments)), ("result", _json(detail.result)))
    for label, text in values:
        if text:
            table.add_row(label, styled(text if whole else cut(text, HEADER_VALUE)))
    return table


def _last(lines: Sequence[RunLogged], whole: bool) -> list[Text]:
    """The last lines of a step, or of what is outside, and how many come before."""
    shown = lines if whole else lines[-LINES:]
    before = len(lines) - len(shown)
    hidden = [Text(f"… {before:,} lines before (perdure logs)", "dim")] if before else []
    return [*hidden, *(line_text(line, step=False) for line in shown)]


def _ops(detail: RunDetail, lines: Sequence[RunLogged], whole: bool) -> Table:
    logged: dict[str, list[RunLogged]] = {}
    for line in lines:
        logged.setdefault(line.op, []).append(line)
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("")
    table.add_column("step", overflow="fold", min_width=12)
    table.add_column("type")
    table.add_column("at", justify="right", no_wrap=True)
    table.add_column("took", justify="right", no_wrap=True)
    table.add_column("tries", justify="right")
    table.add_column("input → result", overflow="fold", ratio=1)
    shown = _shown(detail.ops, whole)
    last = -1
    for index in shown:
        _gap(table, index - last - 1)
        op = detail.ops[index]
        _row(table, detail, op, logged.get(op.op, []), whole)
        last = index
    _gap(table, len(detail.ops) - last - 1)
    return table


def _shown(ops: tuple[OpDetail, ...], whole: bool) -> list[int]:
    if whole or len(ops) <= 3 * EDGE:
        return list(range(len(ops)))
    middle = range(EDGE, len(ops) - EDGE)
    special = [index for index in middle if ops[index].status != "completed" or len(ops[index].attempts) > 1]
    return [*range(EDGE), *special[:MOST], *range(len(ops) - EDGE, len(ops))]


def _gap(table: Table, hidden: int) -> None:
    if hidden > 0:
        table.add_row("", Text(f"… {hidden:,} more (--all)", "dim"))


def _row(table: Table, detail: RunDetail, op: OpDetail, lines: Sequence[RunLogged], whole: bool) -> None:
    mark = status_text(op.status)
    mark.plain = _MARKS.get(op.status, "?")
    table.add_row(
        mark,
        styled(op.name),
        styled(op.type, "dim"),
        Text(f"+{took(max(0, op.opened_at - detail.run.requested_at))}" if op.opened_at else "", "dim"),
        Text(took(_length_ms(op))),
        Text(str(len(op.attempts)) if len(op.attempts) > 1 else "", "yellow"),
        _story(op, lines, whole),
    )


def _length_ms(op: OpDetail) -> float | None:
    """A step's own time in its last attempt; for what waits, how long it waited."""
    if op.attempts and op.attempts[-1].took_us:
        return op.attempts[-1].took_us / 1000
    return None if op.ended_at is None or not op.opened_at else op.ended_at - op.opened_at


def _story(op: OpDetail, logged: Sequence[RunLogged], whole: bool) -> Group:
    limit = None if whole else VALUE
    lines: list[Text] = []
    if op.queue:
        again = f", {op.dispatches} times" if op.dispatches > 1 else ""
        who = f" · {op.member}" if op.member else ", nobody has it yet"
        lines.append(styled(f"queue {op.queue}{again}{who}", "dim"))
    if op.about:
        verb = {"wait": "waits for ", "sleep": "sleeps "}.get(op.type, "") if op.status == "open" else ""
        lines.append(styled(verb + op.about))
    asked, given = _call(op.input), _json(op.result)
    if asked or given:
        text = f"{_cut(asked, limit)} → {_cut(given, limit)}" if given else _cut(asked, limit)
        lines.append(styled(text.strip()))
    lines += [_attempt(attempt) for attempt in op.attempts if attempt.error is not None]
    if op.error is not None and not any(attempt.error is not None for attempt in op.attempts):
        lines.append(styled(_one_line(op.error), "red"))
    if op.status == "closed":
        lines.append(Text("closed before its result was needed", "dim"))
    return Group(*lines, *_last(logged, whole))


def _attempt(attempt: Attempt) -> Text:
    assert attempt.error is not None
    again = "" if attempt.retry_in_ms is None else f"; again in {human(attempt.retry_in_ms)}"
    text = f"try {attempt.number}, {took(attempt.took_us / 1000)}: {_one_line(attempt.error)}{again}"
    return styled(text, "red" if attempt.retry_in_ms is None else "yellow")


def _one_line(error: ErrorInfo) -> str:
    message = error.message.partition("\n")[0]
    return cut(f"{error.type}: {message}" if message else error.type, 200)


def _errors(detail: RunDetail) -> Iterator[tuple[Text, ErrorInfo]]:
    """The run's error, and each failed step's last one; not twice what is the same."""
    seen: set[tuple[str, str, str]] = set()
    for op in detail.ops:
        error = op.error or next((one.error for one in reversed(op.attempts) if one.error), None)
        if error is not None and op.status != "completed":
            seen.add((error.type, error.message, error.traceback))
            tries = f" after {error.attempts} tries" if op.error is not None and error.attempts > 1 else ""
            yield styled(f"{op.type} {op.name} failed{tries}", "bold red"), error
    error = detail.error
    if error is not None and (error.type, error.message, error.traceback) not in seen:
        yield Text(f"the run {'was cancelled' if detail.run.status == 'cancelled' else 'failed'}", "bold red"), error


def _traceback(error: ErrorInfo) -> Text:
    """As the log keeps it: frames of the user's own code alone."""
    text = error.traceback.rstrip() or (f"{error.type}: {error.message}" if error.message else error.type)
    return _indented(text)


def _indented(text: str) -> Text:
    return styled("\n".join(f"  {line}" for line in text.splitlines()), lines=True)


def _json(raw: Raw | UnsetType) -> str:
    return bytes(raw).decode("utf-8", "replace") if isinstance(raw, Raw) else ""


def _call(raw: Raw | UnsetType) -> str:
    """`[["ada", 5], {"copy": true}]` as it was called: `("ada", 5, copy=true)`."""
    if not isinstance(raw, Raw):
        return ""
    try:
        args, kwargs = msgspec.json.decode(raw, type=tuple[list[Raw], dict[str, Raw]])
    except msgspec.DecodeError:
        return _json(raw)
    return f"({', '.join([*map(_json, args), *(f'{name}={_json(value)}' for name, value in kwargs.items())])})"


def _cut(text: str, limit: int | None) -> str:
    return text if limit is None else cut(text, limit)
