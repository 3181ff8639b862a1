"""`perdure history rebuild`."""

import asyncio
from collections.abc import Generator
from contextlib import contextmanager

import click
from msgspec import Struct

from perdure.cli.command import json_option
from perdure.cli.history.places import Place, history_option, place_of, retention_ms, retention_option
from perdure.cli.output import console, print_json, styled
from perdure.cli.sharing import app_name, log_options, opened_any
from perdure.history.projector import Projector, Told
from perdure.history.store import History
from perdure.log.protocol import Log


class Rebuilt(Struct):
    """What came of it. `halted`: partitions that were read only in part, and why."""

    history: str
    records: int
    gaps: list[int]
    halted: dict[int, str]


@click.command()
@log_options
@history_option
@retention_option
@json_option
def rebuild(app: str, log: str, history: str, history_retention: str | None, as_json: bool) -> None:
    """Make the history of APP anew from its log.

    The one that is there stays until the new one is whole. No engine may have the log open if it is a folder; with one
    on Kafka and history in the data directory, no `perdure serve` or `gateway`. What was trimmed from the log cannot
    come back.
    """
    with _shown(as_json) as told:
        rebuilt = asyncio.run(_rebuild(app_name(app), log, history, retention_ms(history_retention), told))
    if as_json:
        print_json(rebuilt)
        return
    screen = console()
    screen.print(styled(f"{rebuilt.history} is made anew from {rebuilt.records:,} records"))
    if rebuilt.gaps:
        which = ", ".join(map(str, rebuilt.gaps))
        screen.print(styled(f"partitions {which}: the log was trimmed; what came before is not in it", "yellow"))
    for partition, why in rebuilt.halted.items():
        screen.print(styled(f"partition {partition}: only up to a record that newer code must read: {why}", "yellow"))


async def _rebuild(app: str, log: str, history: str, keeps_ms: int | None, told: Told) -> Rebuilt:
    place = place_of(history, log, lambda: app)
    async with opened_any(log, app) as opened:
        with place.anew() as store:
            return await _filled(place, store, opened, keeps_ms, told)


async def _filled(place: Place, store: History, opened: Log, keeps_ms: int | None, told: Told) -> Rebuilt:
    projector = Projector(opened, store, retention_ms=keeps_ms)
    await projector.open()
    try:
        records = await projector.catch_up(told)
        gaps = [one for one in range(opened.partitions) if store.standing(one).gap]
    finally:
        await projector.close()
    return Rebuilt(place.shown, records, gaps, projector.halted)


@contextmanager
def _shown(as_json: bool) -> Generator[Told]:
    """A bar for people, on standard error; nothing where nobody looks."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    screen = console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=screen, transient=True, disable=as_json or not screen.is_terminal) as bar:
        task = bar.add_task("reading", total=None)

        def told(done: int, of: int) -> None:
            bar.update(task, completed=done, total=of)

        yield told
