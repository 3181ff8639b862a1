"""Schedules: what is refused, and when they fire, also where clocks are put back and forward."""

from datetime import UTC, datetime
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.errors import DefinitionError
from perdure.schedule import ALIASES, check, last_fire, next_fire

NEW_YORK, ROME, LORD_HOWE = "America/New_York", "Europe/Rome", "Australia/Lord_Howe"


def ms(text, tz="UTC"):
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(tz)).timestamp() * 1_000)


def fires(line, tz, start, count):
    """The next fires as local times with their offsets."""
    at, found = ms(start, tz), []
    for _ in range(count):
        at = next_fire(line, tz, at)
        found.append(datetime.fromtimestamp(at / 1_000, ZoneInfo(tz)).strftime("%m-%d %H:%M %z"))
    return found


@pytest.mark.parametrize(
    "line",
    [
        *ALIASES,
        "@Daily",
        "* * * * *",
        "0 9 * * 1-5",
        "*/5 8-18 * * mon-fri",
        "0 0 L * *",
        "0 0 * * 5#1",
        "0 0 29 2 *",
        " 0  0 1 jan * ",
        "0 22-4 * * *",
        "0 0 * mar thu",
        "0 0 31 2 mon",
    ],
)
def test_lines_that_are_right(line):
    check(line)
    assert next_fire(line, "UTC", ms("2026-01-01")) > ms("2026-01-01")


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("", "0 fields; five fields are needed"),
        ("* * * *", "4 fields"),
        ("* * * * * *", "seconds are not supported"),
        ("* * * * * * *", "7 fields"),
        ("@reboot", "unknown alias; there are @hourly"),
        ("60 * * * *", "out of range"),
        ("0 0 32 * *", "out of range"),
        ("0 0 * * 8", "out of range"),
        ("0 0 * 13 *", "out of range"),
        ("a b c d e", "not acceptable"),
        ("-5 * * * *", "negative"),
        ("*/0 * * * *", "step '0'"),
        ("*/90 * * * *", "minute '*/90' steps over its whole range; say 59 at most"),
        ("0 */24 * * *", "hour '*/24' steps"),
        ("0 0 31 2 *", "never fires"),
        ("0 0 30-31 2 *", "never fires"),
        ("0 0 31 2,4,6,9,11 *", "never fires"),
        ("R * * * *", "minute 'R' is random (R) or hashed (H)"),
        ("0 r(1-5) * * *", "hour 'r(1-5)' is random"),
        ("0 H * * *", "hour 'H' is random"),
        ("TZ=Europe/Rome 0 9 * * *", "say tz='Europe/Rome'"),
        ("CRON_TZ=Europe/Rome 0 9 * * *", "say tz='Europe/Rome'"),
    ],
)
def test_lines_that_cannot_be_right(line, why):
    with pytest.raises(DefinitionError) as refused:
        check(line)
    assert why in str(refused.value)
    assert str(refused.value).startswith(f"cron {line!r}: ")


@pytest.mark.parametrize(
    ("tz", "hint"),
    [
        ("Rome", "did you mean 'Europe/Rome'"),
        ("new york", "did you mean 'America/New_York'"),
        ("europe/rome", "did you mean 'Europe/Rome'"),
        ("Europe/Rme", "did you mean 'Europe/Rome'"),
        ("Amstredam", "did you mean 'Europe/Amsterdam'"),
        ("UTC+2", "say a place"),
        ("+02:00", "say a place"),
        ("", "say a place"),
        ("Europe", "say a place"),
        ("../../etc/passwd", "say a place"),
        ("/etc/localtime", "say a place"),
        ("localtime", "say a place"),
        ("a\0b", "say a place"),
    ],
)
def test_unknown_time_zones_come_with_a_hint(tz, hint):
    with pytest.raises(DefinitionError) as refused:
        check("0 0 * * *", tz)
    assert f"tz={tz!r}: unknown time zone" in str(refused.value)
    assert hint in str(refused.value)


@given(st.text(st.sampled_from("0123456789*/,-#LRHWsunmoj @?x"), max_size=24))
@settings(max_examples=300)
def test_no_line_raises_anything_else(line):
    try:
        check(line)
    except DefinitionError:
        return
    assert next_fire(line, ROME, ms("2026-03-28T12:00")) > ms("2026-03-28T12:00")


def test_fires_are_strictly_later():
    noon = ms("2026-05-01T12:00")
    assert next_fire("0 12 * * *", "UTC", noon - 1) == noon
    assert next_fire("0 12 * * *", "UTC", noon) == ms("2026-05-02T12:00")
    assert next_fire("0 12 * * *", "UTC", noon + 1) == ms("2026-05-02T12:00")
    assert next_fire("0 12 * * *", ROME, noon) == ms("2026-05-02T10:00")
    assert next_fire("@yearly", "UTC", noon) == ms("2027-01-01")
    assert next_fire("0 0 1 * mon", "UTC", noon) == ms("2026-05-04"), "either of day and weekday suffices"
    assert next_fire("0 0 29 2 *", "UTC", noon) == ms("2028-02-29")


def test_a_named_hour_that_comes_twice_fires_the_first_time():
    assert fires("30 1 * * *", NEW_YORK, "2026-10-31T12:00", 2) == ["11-01 01:30 -0400", "11-02 01:30 -0500"]
    assert fires("*/30 1 * * *", NEW_YORK, "2026-10-31T12:00", 3) == [
        "11-01 01:00 -0400",
        "11-01 01:30 -0400",
        "11-02 01:00 -0500",
    ]
    assert fires("30 2 * * *", ROME, "2026-10-24T12:00", 2) == ["10-25 02:30 +0200", "10-26 02:30 +0100"]
    between = ms("2026-10-25T01:10")  # 02:10 for the second time
    assert next_fire("30 2 * * *", ROME, between) == ms("2026-10-26T01:30")


def test_a_named_time_that_is_leapt_over_fires_at_the_end_of_the_leap():
    assert fires("30 2 * * *", NEW_YORK, "2026-03-07T12:00", 2) == ["03-08 03:00 -0400", "03-09 02:30 -0400"]
    assert fires("*/20 2 * * *", NEW_YORK, "2026-03-07T12:00", 2) == ["03-08 03:00 -0400", "03-09 02:00 -0400"]
    assert fires("0 2,3 * * *", NEW_YORK, "2026-03-07T12:00", 2) == ["03-08 03:00 -0400", "03-09 02:00 -0400"]
    assert fires("0 0 30 12 *", "Pacific/Apia", "2011-12-29T12:00", 1) == ["12-31 00:00 +1400"], "a day leapt over"


def test_every_hour_keeps_its_rhythm():
    assert fires("*/30 * * * *", NEW_YORK, "2026-11-01T00:30", 6) == [
        "11-01 01:00 -0400",
        "11-01 01:30 -0400",
        "11-01 01:00 -0500",
        "11-01 01:30 -0500",
        "11-01 02:00 -0500",
        "11-01 02:30 -0500",
    ]
    assert fires("30 * * * *", NEW_YORK, "2026-03-08T00:45", 3) == [
        "03-08 01:30 -0500",
        "03-08 03:30 -0400",
        "03-08 04:30 -0400",
    ]
    assert fires("*/15 * * * *", LORD_HOWE, "2026-04-05T01:30", 4) == [
        "04-05 01:45 +1100",
        "04-05 01:30 +1030",
        "04-05 01:45 +1030",
        "04-05 02:00 +1030",
    ]


def minutes_that_match(line_minute, tz, start, end):
    zone = ZoneInfo(tz)
    return [
        at
        for at in range(start, end, 60_000)
        if datetime.fromtimestamp(at / 1_000, zone).minute == line_minute and at > start
    ]


@pytest.mark.parametrize("tz", ["UTC", NEW_YORK, ROME, LORD_HOWE])
@pytest.mark.parametrize("day", ["2026-03-08", "2026-03-29", "2026-04-05", "2026-10-04", "2026-10-25", "2026-11-01"])
def test_every_hour_is_each_moment_whose_local_time_fits(tz, day):
    start = ms(day) - 36 * 3_600_000
    end = start + 72 * 3_600_000
    expected, at, found = minutes_that_match(20, tz, start, end), start, []
    while (at := next_fire("20 * * * *", tz, at)) < end:
        found.append(at)
    assert found == expected


@given(
    st.sampled_from(["30 1 * * *", "30 2 * * *", "0 0 * * *", "*/7 2 * * *", "0 */3 * * *", "*/20 * * * *", "@weekly"]),
    st.sampled_from([NEW_YORK, ROME, LORD_HOWE, "America/Sao_Paulo", "Asia/Kathmandu", "UTC"]),
    st.datetimes(datetime(2010, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
)
@settings(max_examples=150)
def test_the_next_fire_does_not_depend_on_where_one_asks_from(line, tz, start):
    at = int(start.timestamp() * 1_000)
    fire = next_fire(line, tz, at)
    assert fire > at
    assert next_fire(line, tz, fire - 1) == fire
    assert next_fire(line, tz, (at + fire) // 2) == fire


@given(
    st.sampled_from(["30 2 * * *", "*/7 2 * * *", "*/20 * * * *", "@weekly"]),
    st.sampled_from([NEW_YORK, LORD_HOWE, "UTC"]),
    st.datetimes(datetime(2010, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
    st.integers(0, 20 * 86_400_000),
)
@settings(max_examples=100)
def test_the_last_fire_of_many_is_that_after_which_the_next_lies_ahead(line, tz, start, later_ms):
    due = next_fire(line, tz, int(start.timestamp() * 1_000))
    now = due + later_ms
    last = last_fire(line, tz, due, now)
    assert due <= last <= now < next_fire(line, tz, last)
    assert next_fire(line, tz, last - 1) == last
    assert last_fire(line, tz, due, due - 1) == due


def test_each_local_day_has_its_fire():
    for tz in (NEW_YORK, ROME, LORD_HOWE):
        at, days = ms("2026-01-01"), []
        for _ in range(366):
            at = next_fire("30 2 * * *", tz, at)
            days.append(datetime.fromtimestamp(at / 1_000, ZoneInfo(tz)).toordinal())
        assert all(later - earlier == 1 for earlier, later in pairwise(days))
