"""Event names and trigger patterns."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.errors import DefinitionError
from perdure.flow.patterns import MAX_NAME, check_event_name, check_pattern, name_matches


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [
        ("cart/added", "cart/added", True),
        ("cart/added", "cart/added2", False),
        ("cart/added", "Cart/added", False),
        ("cart/*", "cart/added", True),
        ("cart/*", "cart/", True),
        ("cart/*", "cart", False),
        ("cart/*", "carts/added", False),
        ("app/user.*", "app/user.created", True),
        ("app/user.*", "app/users", False),
        ("*", "anything", True),
        ("*", "perdure/function.failed", False),
        ("per*", "perdure/function.failed", False),
        ("per*", "person/born", True),
        ("perdure/*", "perdure/function.failed", True),
        ("perdure/function.*", "perdure/function.failed", True),
        ("perdure/function.failed", "perdure/function.failed", True),
    ],
)
def test_which_names_match(pattern, name, matches):
    assert name_matches(pattern, name) is matches


@pytest.mark.parametrize("name", ["cart/added", "a", "Order Placed", "user.created", "größe", "x" * MAX_NAME, "a/b/c"])
def test_names_that_events_can_have(name):
    assert check_event_name(name) == name
    assert check_pattern(name) == name
    assert name_matches(name, name)


@pytest.mark.parametrize("pattern", ["*", "cart/*", "app/user.*", "x" * (MAX_NAME - 1) + "*"])
def test_patterns_that_triggers_can_have(pattern):
    assert check_pattern(pattern) == pattern
    with pytest.raises(DefinitionError, match="an event has one"):
        check_event_name(pattern)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "is empty"),
        ("x" * (MAX_NAME + 1), "257 characters long; at most 256"),
        (" cart", "a blank"),
        ("cart ", "a blank"),
        ("cart\n", "a blank"),
        ("ca\nrt", "control or other unprintable"),
        ("ca\0rt", "control or other unprintable"),
        ("ca\u202ert", "control or other unprintable"),
        ("ca\ud800rt", "control or other unprintable"),
        (None, "not NoneType"),
        (b"cart", "not bytes"),
        (7, "not int"),
    ],
)
def test_what_is_no_name(name, why):
    for check in (check_event_name, check_pattern):
        with pytest.raises(DefinitionError, match=why):
            check(name, what="event")


@pytest.mark.parametrize("pattern", ["*/added", "ca*t", "cart/**", "**", "a*b*"])
def test_a_wildcard_stands_once_and_at_the_end(pattern):
    with pytest.raises(DefinitionError, match="only once and at the end"):
        check_pattern(pattern)


@given(st.text(), st.text())
def test_a_prefix_with_a_wildcard_is_a_prefix(prefix, rest):
    if (prefix + rest).startswith("perdure/") or "*" in prefix:
        return
    assert name_matches(prefix + "*", prefix + rest)
    assert name_matches(prefix, prefix)
