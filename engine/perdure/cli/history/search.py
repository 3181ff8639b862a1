"""`perdure history search`."""

import time
from datetime import datetime
from typing import cast

import click

from perdure.cli.command import json_option
from perdure.cli.exits import UsageProblem
from perdure.cli.history.places import place_of
from perdure.cli.output import console, print_json, styled
from perdure.cli.runs.listing import STATUSES, table
from perdure.cli.settings import Setting
from perdure.cli.sharing import app_name
from perdure.duration import parse_ms
from perdure.errors import DefinitionError
from perdure.flow.expressions import compile_where
from perdure.history.rows import RunRow
from perdure.history.sqlite import SqliteHistory
from perdure.history.store import Cursor, RunQuery, RunsPage, parse_cursor
from perdure.sdk.port import RunStatus, RunSummary


@click.command()
@click.option(
    "--log", cls=Setting, default="embedded://.perdure", show_default=True, help="The log's URL, or a folder."
)
@click.option("--app", cls=Setting, default="", help="module:app, or its name; for a log on Kafka.")
@click.option("--function", default="", help="Only runs of this function.")
@click.option("--status", type=STATUSES, help="Only runs that are so.")
@click.option("--event", "event_id", default="", help="Only runs that this event started, by its id.")
@click.option("--since", help="Requested since then: 1h, 7d, or a time such as 2026-11-21T18:00.")
@click.option("--until", help="Requested before then; as --since.")
@click.option("--metadata", help="Only runs with this metadata: KEY=VALUE.")
@click.option("--where", help="A condition over the run's trigger: 'event.data.total > 100'.")
@click.option("--limit", type=click.IntRange(1, 500), default=50, show_default=True)
@click.option("--cursor", default="", help="The next page, as the last one gave it.")
@json_option
def search(
    log: str,
    app: str,
    function: str,
    status: str | None,
    event_id: str,
    since: str | None,
    until: str | None,
    metadata: str | None,
    where: str | None,
    limit: int,
    cursor: str,
    as_json: bool,
) -> None:
    """Search the runs in an app's history, newest first, also while an engine runs.

    All conditions hold together. A page that had to look at many runs to find few is short, and says how to go on.
    """
    now = int(time.time() * 1000)
    query = RunQuery(
        function,
        status or "",
        None if since is None else _moment(since, now, "--since"),
        None if until is None else _moment(until, now, "--until"),
        event_id,
        None if metadata is None else _pair(metadata),
        None if where is None else compile_where(where, names=frozenset({"event"})),
        limit,
        _cursor(cursor),
    )
    page = _page(log, app, query)
    after = "" if page.cursor is None else str(page.cursor)
    if as_json:
        print_json({"data": page.runs, "cursor": after})
        return
    console().print(table([_summary(run) for run in page.runs]) if page.runs else "no runs")
    if after:
        console(stderr=True).print(styled(f"there may be more: --cursor {after}"), style="dim")


def _page(log: str, app: str, query: RunQuery) -> RunsPage:
    if log.startswith("kafka://") and not app:
        raise UsageProblem("--app: say whose history, of those on this log")
    place = place_of(log, app_name(app) if app else "")
    if place is None:
        raise UsageProblem("--log memory://: a log in memory is gone with its engine, and has no history")
    history = SqliteHistory(place, writes=False)
    history.open()
    try:
        return history.runs(query)
    finally:
        history.close()


def _summary(run: RunRow) -> RunSummary:
    return RunSummary(
        run.id,
        run.function,
        cast("RunStatus", run.status),
        run.cause,
        run.event_id,
        run.requested_at,
        run.ended_at,
        run.parent,
        run.rerun_of,
        run.metadata,
    )


def _moment(text: str, now: int, option: str) -> int:
    """A length of time before now, or a time, in the reader's own zone if it names none."""
    try:
        return now - parse_ms(text)
    except DefinitionError:
        pass
    try:
        return int(datetime.fromisoformat(text).astimezone().timestamp() * 1000)
    except (ValueError, OverflowError, OSError):
        raise UsageProblem(f"{option} {text!r}: say 1h, 7d, or a time such as 2026-11-21T18:00") from None


def _pair(text: str) -> tuple[str, str]:
    key, sign, value = text.partition("=")
    if not (key and sign):
        raise UsageProblem(f"--metadata {text!r}: say KEY=VALUE")
    return key, value


def _cursor(text: str) -> Cursor | None:
    try:
        return parse_cursor(text)
    except ValueError as error:
        raise UsageProblem(f"--{error}") from None
