"""What if the app had been another: which runs its triggers, rules and options would have started and ended.

The recorded events are folded with its definition beside their own; nothing runs (see `beside.py`). What differs is
told run by run, with the reason.
"""

from collections.abc import Iterator

from msgspec import Struct

from perdure.errors import LogMismatch
from perdure.flow.patterns import is_own
from perdure.flow.routing import partition_of_run
from perdure.past.beside import Beside
from perdure.past.order import ordered
from perdure.past.reasons import Sides, sides_of, why_ends, why_starts, why_starts_not
from perdure.past.tale import Fate, Tale, Told
from perdure.past.tape import Tape
from perdure_schemas.definition import Definition


class Counts(Struct):
    """Runs of a function. What its own code ended, or did not, is only in `started`."""

    started: int = 0
    cancelled: int = 0
    timed_out: int = 0
    discarded: int = 0


class Compared(Struct):
    """One function, as it went and as it would have gone."""

    function: str
    was: Counts
    would: Counts


class Difference(Struct):
    """One run that would have begun or ended otherwise.

    `what`: `starts`, `starts_no_longer`, or how it would have ended: `cancelled`, `timed_out`, `discarded`,
    `goes_on` where something had ended it.
    """

    what: str
    function: str
    run: str
    at: int
    """When it was requested."""
    event_id: str
    """Its trigger."""
    event_name: str
    why: str
    by: str = ""
    """The event that would cancel it, or did."""
    by_name: str = ""
    if_running: bool = False
    """It never ran, so nobody knows whether it would not have ended before."""


class WhatIf(Struct):
    """`since` to `until`, by log time, but not from before the log begins. `trimmed`: it began earlier once."""

    app: str
    since: int
    until: int
    records: int
    functions: list[Compared]
    differences: list[Difference]
    trimmed: bool = False


def what_if(tape: Tape, definition: Definition | None, since: int = 0) -> WhatIf:
    """`definition` None: with those of the past, which makes no difference.

    Raises `LogMismatch` for the log of another app.
    """
    if definition is not None and tape.app and tape.app != definition.app:
        raise LogMismatch(f"this is the log of app {tape.app!r}, not of {definition.app!r}")
    was, would = Tale(), Tale()
    beside = Beside(tape, definition, was, would)
    records = until = 0
    for stood in ordered(tape.parts, beside.waits_for):
        beside.take(stood)
        records += 1
        until = max(until, stood.entry.at)
    beside.end()
    counted = _Counted(beside, was, would, max(since, _beginning(tape)))
    differences = list(counted.differences())
    return WhatIf(tape.app, counted.since, until, records, counted.functions(), differences, beside.trimmed)


def _beginning(tape: Tape) -> int:
    """From when on all of the log is there."""
    firsts = [(part.state is not None, part.entries[0].at) for part in tape.parts.values() if part.entries]
    trimmed = [at for was_trimmed, at in firsts if was_trimmed]
    return max(trimmed) if trimmed else min((at for _, at in firsts), default=0)


class _Counted:
    """Both tales from a time on, without the engine's own functions."""

    def __init__(self, beside: Beside, was: Tale, would: Tale, since: int) -> None:
        self.since = since
        self._beside = beside
        self._was, self._would = was, would

    def functions(self) -> list[Compared]:
        """By their ids."""
        was, would = self._counts(self._was), self._counts(self._would)
        return [
            Compared(one, was.get(one, Counts()), would.get(one, Counts())) for one in sorted(was.keys() | would.keys())
        ]

    def _counts(self, tale: Tale) -> dict[str, Counts]:
        found: dict[str, Counts] = {}
        for told in tale.runs.values():
            if is_own(told.function):
                continue
            if told.at >= self.since:
                found.setdefault(told.function, Counts()).started += 1
            if told.fate is not None and (told.ended_at or 0) >= self.since:
                counts = found.setdefault(told.function, Counts())
                setattr(counts, told.fate.what, getattr(counts, told.fate.what) + 1)
        return found

    def differences(self) -> Iterator[Difference]:
        """By the time of their requests."""
        runs = {**self._would.runs, **self._was.runs}
        for told in sorted(runs.values(), key=lambda told: (told.at, told.run)):
            if not is_own(told.function):
                yield from self._of(self._was.runs.get(told.run), self._would.runs.get(told.run))

    def _of(self, was: Told | None, would: Told | None) -> Iterator[Difference]:
        if would is None and was is not None and was.at >= self.since:
            yield _difference("starts_no_longer", was, None, why_starts_not(self._sides(was), was, self._would))
        if would is None:
            return
        if was is None and would.at >= self.since:
            yield _difference("starts", would, None, why_starts(self._sides(would), would))
        if self._ends_otherwise(was, would):
            then, now = was.fate if was is not None else None, would.fate
            why = why_ends(self._sides(would), then, now)
            what = now.what if now is not None else "goes_on"
            yield _difference(what, would, now or then, why, if_running=_is_guess(was, would))

    def _sides(self, told: Told) -> Sides:
        views = self._beside.was, self._beside.would
        partition = partition_of_run(told.run, len(views[0]))
        return sides_of(views[0][partition], views[1][partition], told)

    def _ends_otherwise(self, was: Told | None, would: Told) -> bool:
        then = was.fate if was is not None else None
        when = max(would.ended_at or 0, (was.ended_at if was is not None else None) or 0)
        return then != would.fate and when >= self.since


def _is_guess(was: Told | None, would: Told) -> bool:
    """Whether the run had ended otherwise in the past by then, or had never been."""
    if was is None:
        return True
    return was.fate is not None and (was.ended_at or 0) < (would.ended_at or 0)


def _difference(what: str, told: Told, by: Fate | None, why: str, *, if_running: bool = False) -> Difference:
    return Difference(
        what,
        told.function,
        told.run,
        told.at,
        told.event_id,
        told.event_name,
        why,
        by.event_id if by is not None else "",
        by.event_name if by is not None else "",
        if_running,
    )
