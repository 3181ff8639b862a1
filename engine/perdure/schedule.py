"""Cron lines: checked when they are defined, and computed to absolute times outside the folds.

A line has five fields (minute, hour, day, month, weekday) or is an alias such as `@daily`; there is no field for
seconds, whose place differs from cron to cron. Names (`mon`, `jan`), ranges, steps, `L` and `#` are croniter's. Where
both day and weekday are given, either suffices, as in every cron.

In a zone with daylight saving time, as in Vixie's cron:

- A line that names hours (`30 2 * * *`, `0 */6 * * *`) fires once for each local time it names. Where the clock is
  put back and that time comes twice, it fires the first time; where the clock leaps over it, at the end of the leap.
- A line for every hour (`*/10 * * * *`, `0 * * * *`) keeps its rhythm: it fires at each moment whose local time
  fits, so it goes on in the repeated hour, and has nothing to make up for in the hour that is leapt over.
"""

import difflib
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import NamedTuple
from zoneinfo import ZoneInfo, available_timezones

from croniter import CroniterBadDateError, croniter

from perdure.errors import DefinitionError

ALIASES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_FIELDS = (("minute", 59), ("hour", 23), ("day", 31), ("month", 12), ("weekday", 7))
_SHAPE = "five fields are needed: minute hour day month weekday, as in '0 9 * * 1-5'"
_RANDOM = re.compile(r"(?<![a-z])[hr](?![a-z])", re.IGNORECASE)
_STEP = re.compile(r"/(\d+)")
_NO_PLACES = frozenset({"", "localtime", "posixrules", "Factory"})
"""Not the same zone on every machine."""

_START_S = 1_700_000_000


class _Schedule(NamedTuple):
    line: str
    zone: ZoneInfo
    every_hour: bool


def check(line: str, tz: str = "UTC") -> None:
    """Raises DefinitionError for a line that is no schedule or never fires, and for an unknown time zone."""
    _schedule(line, tz)


def next_fire(line: str, tz: str, after_ms: int) -> int:
    """The first fire later than `after_ms`; both in milliseconds since the epoch, UTC.

    Raises DefinitionError as `check` does.
    """
    schedule = _schedule(line, tz)
    after = after_ms // 1_000
    return (_next_in_rhythm if schedule.every_hour else _next_named)(schedule, after) * 1_000


def last_fire(line: str, tz: str, due_ms: int, now_ms: int) -> int:
    """The latest fire until `now_ms`, of which `due_ms` is one; that one if it lies in the future."""
    found, beyond = due_ms, now_ms
    while beyond - found > 1_000:
        middle = (found + beyond) // 2
        following = next_fire(line, tz, middle)
        if following > now_ms:
            beyond = middle
        else:
            found = following
    following = next_fire(line, tz, found)
    return following if following <= now_ms else found


@lru_cache(maxsize=1_024)
def _schedule(line: str, tz: str) -> _Schedule:
    shown = f"cron {line!r}"
    fields = ALIASES.get(line.strip().lower(), line).split()
    _check_shape(shown, fields)
    plain = " ".join(fields)
    try:
        hours = croniter.expand(plain)[0][1]
        croniter(plain, float(_START_S)).get_next(float)
    except CroniterBadDateError:
        raise DefinitionError(f"{shown}: never fires: no year has such a day") from None
    except ValueError as problem:
        reason = re.sub(r"^\[.*?\]\s*", "", str(problem)).strip(" .")
        raise DefinitionError(f"{shown}: {reason}; {_SHAPE}") from None
    return _Schedule(plain, _zone(tz), hours == ["*"])


def _check_shape(shown: str, fields: list[str]) -> None:
    if fields and fields[0].upper().startswith(("TZ=", "CRON_TZ=")):
        zone = fields[0].partition("=")[2]
        raise DefinitionError(f"{shown}: the time zone is an option of its own; say tz={zone!r}")
    if len(fields) == 1 and fields[0].startswith("@"):
        raise DefinitionError(f"{shown}: unknown alias; there are {', '.join(ALIASES)}")
    if len(fields) == 6:
        raise DefinitionError(f"{shown}: six fields: seconds are not supported; {_SHAPE}")
    if len(fields) != len(_FIELDS):
        raise DefinitionError(f"{shown}: {len(fields)} fields; {_SHAPE}")
    for field, (name, most) in zip(fields, _FIELDS, strict=True):
        if _RANDOM.search(field):
            raise DefinitionError(f"{shown}: {name} {field!r} is random (R) or hashed (H); write out when it fires")
        for step in _STEP.findall(field):
            if int(step) > most:
                raise DefinitionError(f"{shown}: {name} {field!r} steps over its whole range; say {most} at most")


def _walls(schedule: _Schedule, start: int) -> Iterator[int]:
    """Local times that the line names, later than `start`; as seconds since the epoch, as if they were UTC."""
    lines = croniter(schedule.line, float(start))
    while True:
        yield int(lines.get_next(float))


def _offset_at(zone: ZoneInfo, moment: int) -> int:
    return _seconds(datetime.fromtimestamp(moment, zone))


def _offsets_of(zone: ZoneInfo, wall: int) -> tuple[int, int]:
    """Offsets of a local time, first and second time. They differ where the time comes twice, or never."""
    local = datetime.fromtimestamp(wall, UTC).replace(tzinfo=zone)
    return _seconds(local.replace(fold=0)), _seconds(local.replace(fold=1))


def _seconds(local: datetime) -> int:
    return int((local.utcoffset() or timedelta()).total_seconds())


def _next_named(schedule: _Schedule, after: int) -> int:
    zone = schedule.zone
    walls = _walls(schedule, after + _offset_at(zone, after))
    while True:
        wall = next(walls)
        first, second = _offsets_of(zone, wall)
        moment = wall - first if first >= second else _end_of_leap(zone, wall - second, wall - first)
        if moment > after:
            return moment


def _next_in_rhythm(schedule: _Schedule, after: int) -> int:
    zone = schedule.zone
    now = after + _offset_at(zone, after)
    first, second = _offsets_of(zone, now)
    # In the first pass of an hour that comes twice, its beginning is also still to come.
    start = now - max(0, first - second)
    found: list[int] = []
    walls = _walls(schedule, start - 1)
    while True:
        wall = next(walls)
        moments = {wall - offset for offset in _offsets_of(zone, wall)}
        found += [moment for moment in moments if moment > after and moment + _offset_at(zone, moment) == wall]
        if wall > now and found:
            return min(found)


def _end_of_leap(zone: ZoneInfo, before: int, later: int) -> int:
    """The first second at which the offset is the one after the leap, which lies between the two moments."""
    offset = _offset_at(zone, later)
    while later - before > 1:
        middle = (before + later) // 2
        if _offset_at(zone, middle) == offset:
            later = middle
        else:
            before = middle
    return later


def _zone(tz: str) -> ZoneInfo:
    try:
        if tz not in _NO_PLACES:
            return ZoneInfo(tz)
    except (LookupError, ValueError, OSError):
        pass
    near = _near(tz)
    hint = f"did you mean {near!r}?" if near else "say a place, such as 'Europe/Rome', or 'UTC'"
    raise DefinitionError(f"tz={tz!r}: unknown time zone; {hint}") from None


def _near(tz: str) -> str:
    wanted = tz.strip().casefold().replace(" ", "_")
    names = {name.casefold(): name for name in sorted(available_timezones() - _NO_PLACES)}
    places = {name.rpartition("/")[2]: full for name, full in names.items()}
    if wanted in names:
        return names[wanted]
    if wanted in places:
        return places[wanted]
    if re.search(r"[+\d]", wanted):
        return ""
    for known in (names, places):
        for word in difflib.get_close_matches(wanted, known, 1, 0.75):
            return known[word]
    return ""
