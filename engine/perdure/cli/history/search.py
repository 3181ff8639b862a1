"""`perdure history search`."""

import click
from msgspec.structs import replace

from perdure.cli.command import json_option
from perdure.cli.exits import UsageProblem
from perdure.cli.filters import filter_options
from perdure.cli.history.places import history_option, place_of
from perdure.cli.output import console, print_json, styled
from perdure.cli.runs.listing import table
from perdure.cli.settings import Setting
from perdure.cli.sharing import app_name
from perdure.history.store import RunQuery, RunsPage
from perdure.sdk.hindsight.filters import fits, query_of
from perdure.sdk.hindsight.pages import summary_of
from perdure.sdk.port import RunFilter


@click.command()
@click.option(
    "--log", cls=Setting, default="embedded://.perdure", show_default=True, help="The log's URL, or a folder."
)
@history_option
@click.option("--app", cls=Setting, default="", help="module:app, or its name; for Kafka and PostgreSQL.")
@filter_options
@click.option("--limit", type=click.IntRange(1, 500), default=50, show_default=True)
@click.option("--cursor", default="", help="The next page, as the last one gave it.")
@json_option
def search(
    log: str,
    history: str,
    app: str,
    wanted: RunFilter,
    limit: int,
    cursor: str,
    as_json: bool,
) -> None:
    """Search the runs in an app's history, newest first, also while an engine runs.

    All conditions hold together. A page that had to look at many runs to find few is short, and says how to go on.
    """
    found, after = _page(history, log, app, query_of(wanted, limit, cursor))
    # Which of the running are suspended only their engine knows.
    rest = replace(wanted, status="")
    runs = [run for run in map(summary_of, found) if fits(rest, run)]
    if as_json:
        print_json({"data": runs, "cursor": "" if after is None else str(after)})
        return
    console().print(table(runs) if runs else "no runs")
    if after is not None:
        console(stderr=True).print(styled(f"there may be more: --cursor {after}"), style="dim")


def _page(history: str, log: str, app: str, query: RunQuery) -> RunsPage:
    def name() -> str:
        if not app:
            raise UsageProblem("--app: say whose history, of those that lie there")
        return app_name(app)

    store = place_of(history, log, name).store(writes=False)
    store.open()
    try:
        return store.runs(query)
    finally:
        store.close()
