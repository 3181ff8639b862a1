"""Durations: what is read, what is refused and with which advice, and moments to sleep until."""

from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.duration import LONGEST_MS, human, parse_ms, until_ms
from perdure.errors import DefinitionError

SECOND, MINUTE, HOUR, DAY = 1_000, 60_000, 3_600_000, 86_400_000


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("24h", DAY),
        ("7d", 7 * DAY),
        ("1 day", DAY),
        ("2 Days", 2 * DAY),
        ("2h45m", 2 * HOUR + 45 * MINUTE),
        ("1 day 2 hours", DAY + 2 * HOUR),
        ("45m2h", 2 * HOUR + 45 * MINUTE),
        ("500ms", 500),
        ("1.5h", 90 * MINUTE),
        ("0.1s", 100),
        ("2 weeks", 14 * DAY),
        (" 30 s ", 30 * SECOND),
        ("24H", DAY),
        ("90sec", 90 * SECOND),
        ("5 min", 5 * MINUTE),
        ("0s", 0),
        ("0.0001s", 1),
        (timedelta(minutes=5), 5 * MINUTE),
        (timedelta(microseconds=1), 1),
        (timedelta(milliseconds=2), 2),
        (timedelta(0), 0),
    ],
)
def test_what_is_read(text, ms):
    assert parse_ms(text) == ms


@pytest.mark.parametrize(
    ("value", "advice"),
    [
        (300, 'say "300s" or "5m"'),
        (90, 'say "90s" or "90m"'),
        (1.5, 'say "1.5s" or "1.5m"'),
        (0, 'say "0s" or "0m"'),
        ("300", 'say "300s" or "5m"'),
        (True, "not bool"),
        (None, "not NoneType"),
        (b"5m", "not bytes"),
        (["5m"], "not list"),
        ("", "empty"),
        ("  ", "empty"),
        ("-5m", "cannot be negative"),
        (timedelta(seconds=-1), "cannot be negative"),
        (timedelta(microseconds=-1), "cannot be negative"),
        ("5x", "unknown unit 'x'"),
        ("5 fortnights", "unknown unit 'fortnights'"),
        ("5M", "no fixed length"),
        ("1 month", "no fixed length"),
        ("1y", "no fixed length"),
        ("1h1h", "twice"),
        ("1h 1hour", "twice"),
        ("PT5M", "not a duration"),
        ("1h,3m", "not a duration"),
        ("tomorrow", "not a duration"),
        ("1.h", "no unit"),
        ("5½m", "no unit"),
        ("٣m", "not a duration"),
        ("101 years", "no fixed length"),
        ("40000d", "hundred years"),
        ("9" * 30 + "s", "hundred years"),
        (timedelta(days=40_000), "hundred years"),
    ],
)
def test_what_is_refused_names_the_option_and_says_what_to_do(value, advice):
    with pytest.raises(DefinitionError) as refused:
        parse_ms(value, what="timeout")
    assert str(refused.value).startswith(f"timeout={value!r}: ")
    assert advice in str(refused.value)


@pytest.mark.parametrize("value", ["0s", "0h 0m", timedelta(0)])
def test_zero_is_refused_where_it_is_senseless(value):
    assert parse_ms(value) == 0
    with pytest.raises(DefinitionError, match="longer than zero"):
        parse_ms(value, what="period", positive=True)
    assert parse_ms("1ms", positive=True) == 1


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, "0s"),
        (1, "1ms"),
        (999, "999ms"),
        (1_500, "1.5s"),
        (1_001, "1.001s"),
        (30 * SECOND, "30s"),
        (90 * SECOND, "1m30s"),
        (2 * HOUR + 45 * MINUTE, "2h45m"),
        (3 * DAY, "3d"),
        (DAY + 1, "1d0.001s"),
        (-5 * SECOND, "-5s"),
    ],
)
def test_for_people(ms, text):
    assert human(ms) == text


@given(st.integers(0, LONGEST_MS))
def test_what_people_read_is_read_back(ms):
    assert parse_ms(human(ms)) == ms


@given(st.timedeltas(timedelta(0), timedelta(days=36_000)))
def test_a_timedelta_is_rounded_up_to_the_millisecond(value):
    ms = parse_ms(value)
    assert timedelta(milliseconds=ms - 1) < value <= timedelta(milliseconds=ms)


@given(st.text(max_size=20))
def test_no_text_raises_anything_else(text):
    with suppress(DefinitionError):
        assert 0 <= parse_ms(text) <= LONGEST_MS


def test_sleeping_until():
    moment = datetime(2026, 1, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    assert until_ms("5m", 1_000) == 301_000
    assert until_ms(timedelta(seconds=1), 1_000) == 2_000
    assert until_ms(moment, 0) == int(moment.timestamp() * 1_000)
    assert until_ms(datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC), 5) == -1_000
    assert until_ms(datetime(1970, 1, 1, 0, 0, 0, 1, tzinfo=UTC), 0) == 1


def test_the_ends_of_the_calendar_are_moments_too():
    assert until_ms(datetime(9999, 12, 31, tzinfo=timezone(timedelta(hours=-12))), 0) == 253_402_257_600_000
    assert until_ms(datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=12))), 0) < 0


def test_a_naive_datetime_is_refused():
    with pytest.raises(DefinitionError, match="naive datetime: give it a time zone"):
        until_ms(datetime(2026, 1, 1), 0)  # noqa: DTZ001
    with pytest.raises(DefinitionError, match=r'sleep=300: .*say "300s" or "5m"'):
        until_ms(300, 0)  # type: ignore[arg-type]


@given(st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=30))])))
def test_a_datetime_is_its_moment_rounded_up(moment):
    exact = (moment - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(milliseconds=1)
    assert abs(until_ms(moment, 0) - exact) <= 1
