"""`--function`, `--status`, …: which runs are meant."""

import time
from collections.abc import Callable
from functools import wraps
from typing import Any, get_args

import click

from perdure.cli.exits import UsageProblem
from perdure.errors import PayloadError
from perdure.sdk.moments import moment_ms
from perdure.sdk.port import RunFilter, RunStatus

STATUSES = click.Choice(get_args(RunStatus))
_OPTIONS = (
    click.option("--function", default="", help="Only runs of this function."),
    click.option("--status", type=STATUSES, help="Only runs that are so."),
    click.option("--event", "event_id", default="", help="Only runs that this event started, by its id."),
    click.option("--since", help="Requested since then: 1h, 7d, or a time such as 2026-11-21T18:00."),
    click.option("--until", help="Requested before then; as --since."),
    click.option("--metadata", multiple=True, help="Only runs with this: KEY=VALUE. May be given several times."),
    click.option("--where", default="", help="A condition over the run's trigger: 'event.data.total > 100'."),
)


def filter_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Gives the command a `wanted: RunFilter`."""

    @wraps(command)
    def filtered(
        *args: Any,
        function: str,
        status: str | None,
        event_id: str,
        since: str | None,
        until: str | None,
        metadata: tuple[str, ...],
        where: str,
        **others: Any,
    ) -> Any:
        pairs = dict(map(_pair, metadata))
        times = moment_of(since, "--since"), moment_of(until, "--until")
        return command(*args, wanted=RunFilter(function, status or "", event_id, *times, pairs, where), **others)

    told: Callable[..., Any] = filtered
    for option in reversed(_OPTIONS):
        told = option(told)
    return told


def moment_of(text: str | None, option: str) -> int | None:
    """In ms; in the reader's own zone, if it names none. Raises `UsageProblem`."""
    try:
        return None if text is None else moment_ms(text, int(time.time() * 1000), option, zone=None)
    except PayloadError as error:
        raise UsageProblem(str(error)) from None


def _pair(text: str) -> tuple[str, str]:
    key, sign, value = text.partition("=")
    if not (key and sign):
        raise UsageProblem(f"--metadata {text!r}: say KEY=VALUE")
    return key, value
