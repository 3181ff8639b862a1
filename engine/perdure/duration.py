"""Lengths of time as people write them (`"24h"`, `"2h45m"`, a timedelta), in whole milliseconds."""

import re
from datetime import date, datetime, timedelta
from decimal import ROUND_CEILING, Decimal

from perdure.errors import DefinitionError, Duration

LONGEST_MS = 36_525 * 86_400_000
"""A hundred years. What is longer is a slip, and sums of it would leave 64 bit."""

_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_NAMES = {
    "ms": "ms millisecond milliseconds msec msecs",
    "s": "s sec secs second seconds",
    "m": "m min mins minute minutes",
    "h": "h hr hrs hour hours",
    "d": "d day days",
    "w": "w wk week weeks",
}
_UNITS = {word: unit for unit, words in _NAMES.items() for word in words.split()}
_PART = re.compile(r"\s*(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>[^\W\d_]*)\s*", re.ASCII)
_EXAMPLES = 'say for example "30s", "5m", "2h45m" or "7d"'
_MICROSECOND = timedelta(microseconds=1)
_EPOCH_ORDINAL = date(1970, 1, 1).toordinal()


def parse_ms(value: object, *, what: str = "duration", positive: bool = False) -> int:
    """Milliseconds of a duration: a text such as `"1.5h"`, `"2h45m"`, `"1 day"`, or a timedelta.

    What is finer than a millisecond is rounded up, because a timer must not be early.
    `what` is the name of the option, for messages; `positive` refuses zero as well.
    Raises DefinitionError for numbers (of what unit?), negative, empty or unknown text.
    """
    if isinstance(value, timedelta):
        ms = -(-(value // _MICROSECOND) // 1_000)
        if value < timedelta():
            raise DefinitionError(f"{what}={value!r}: a duration cannot be negative")
    elif isinstance(value, str):
        ms = _parse_text(value, what)
    else:
        raise DefinitionError(f"{what}={value!r}: {_refusal(value)}")
    if positive and ms == 0:
        raise DefinitionError(f"{what}={value!r}: must be longer than zero; {_EXAMPLES}")
    if ms > LONGEST_MS:
        raise DefinitionError(f"{what}={value!r}: longer than a hundred years")
    return ms


def until_ms(value: Duration | datetime, now_ms: int, *, what: str = "sleep") -> int:
    """The moment `value` means, in milliseconds since the epoch: a duration counts from `now_ms`.

    A datetime must be aware; one in the past is allowed and is due at once.
    Raises DefinitionError as `parse_ms` does, and for naive datetimes.
    """
    if not isinstance(value, datetime):
        return now_ms + parse_ms(value, what=what)
    offset = value.utcoffset()
    if offset is None:
        raise DefinitionError(
            f"{what}={value!r}: naive datetime: give it a time zone, e.g. tzinfo=UTC or ZoneInfo('Europe/Rome')"
        )
    # By parts and not by a subtraction of aware datetimes, which would leave out of range years near 1 and 9999.
    days = value.toordinal() - _EPOCH_ORDINAL
    in_day = timedelta(hours=value.hour, minutes=value.minute, seconds=value.second, microseconds=value.microsecond)
    micros = (timedelta(days=days) + in_day - offset) // _MICROSECOND
    return -(-micros // 1_000)


def human(ms: int) -> str:
    """A duration for people: `2h45m`, `1.5s`, `500ms`, `3d`. `parse_ms` reads it back to the same value."""
    if ms < 0:
        return "-" + human(-ms)
    if 0 < ms < 1_000:
        return f"{ms}ms"
    parts: list[str] = []
    rest = ms
    for unit in ("d", "h", "m"):
        count, rest = divmod(rest, _MS[unit])
        if count:
            parts.append(f"{count}{unit}")
    if rest or not parts:
        seconds, millis = divmod(rest, 1_000)
        parts.append(f"{seconds}.{millis:03d}".rstrip("0") + "s" if millis else f"{seconds}s")
    return "".join(parts)


def _parse_text(text: str, what: str) -> int:
    shown = f"{what}={text!r}"
    if not text.strip():
        raise DefinitionError(f"{shown}: empty; {_EXAMPLES}")
    if text.lstrip().startswith("-"):
        raise DefinitionError(f"{shown}: a duration cannot be negative")
    total, at, seen = Decimal(0), 0, set[str]()
    while at < len(text):
        part = _PART.match(text, at)
        if part is None:
            raise DefinitionError(f"{shown}: not a duration; {_EXAMPLES}")
        unit = _unit(part["unit"], part["number"], shown)
        if unit in seen:
            raise DefinitionError(f"{shown}: has {unit!r} twice; write each unit once")
        seen.add(unit)
        if len(part["number"]) > 20:
            raise DefinitionError(f"{shown}: longer than a hundred years, or finer than can be kept")
        total += Decimal(part["number"]) * _MS[unit]
        at = part.end()
    return int(total.to_integral_value(ROUND_CEILING))


def _unit(word: str, number: str, shown: str) -> str:
    if not word:
        raise DefinitionError(f"{shown}: a number has no unit; {_say(number)}")
    if word == "M" or word.lower() in ("mo", "month", "months", "y", "yr", "year", "years"):
        raise DefinitionError(f'{shown}: months and years have no fixed length; say days ("30d"), and "m" for minutes')
    unit = _UNITS.get(word.lower())
    if unit is None:
        raise DefinitionError(f"{shown}: unknown unit {word!r}; units are ms, s, m, h, d, w and their names")
    return unit


def _refusal(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return f"a duration is a text or a timedelta, not {type(value).__name__}; {_EXAMPLES}"
    return f"a number has no unit; {_say(str(value))}"


def _say(number: str) -> str:
    minutes = int(number) // 60 if number.isdigit() and int(number) % 60 == 0 and int(number) else number
    return f'say "{number}s" or "{minutes}m"'
