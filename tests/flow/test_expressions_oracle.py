"""Our conditions against Google's CEL, which knows nothing of us. Where they differ on purpose is listed here."""

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from perdure.flow.expressions import compile_where
from perdure.flow.expressions.regex import compile_regex

from .made_expressions import conditions, events, others, plain
from .test_expressions import EVENT, FALSE, INCOMING, TRUE
from .test_expressions_regex import PATTERNS, TEXTS

cel = pytest.importorskip("cel_expr_python.cel")

DIFFERENT = {
    "event.data.big != 9007199254740992.0": "compared exactly; cel-cpp rounds to a double",
    "event.data.huge == 18446744073709551615": "JSON integers reach 2**64 - 1; CEL wants 1u there",
    'has(event.data["s"])': "CEL wants a dot, which odd keys cannot have",
    'int(" 5") == 5': "cel-cpp skips blanks; cel-go, and so Inngest, does not",
    "int(event.data.t) == 1": "cel-cpp only; cel-go has no such conversion",
    '"ABCé".lowerAscii() == "abcé"': "an extension of cel-go",
    'event.data.s.upperAscii() == "ABC"': "an extension of cel-go",
    "event.data.f * 2 == 3": "JSON does not tell 2 from 2.0, so ints and doubles may meet",
    "event.data.i + event.data.f == 4.5": "likewise",
    "event.data.f / 2 == 0.75": "likewise",
    "event.data.f / 0 > 1e308": "likewise",
}


@pytest.fixture(scope="module")
def environment():
    return cel.NewEnv(variables={"event": cel.Type.DYN, "async": cel.Type.DYN})


def asked(environment, source, event, incoming):
    """Whether CEL says `true`. Without its type check, which refuses some comparisons that are merely unequal."""
    expression = environment.compile(source, disable_check=True)
    return expression.eval(data={"event": event, "async": incoming}).plain_value() is True


@pytest.mark.parametrize("source", [source for source in TRUE + FALSE if source not in DIFFERENT])
def test_the_table(environment, source):
    assert asked(environment, source, EVENT, INCOMING) is (source in TRUE)


@pytest.mark.parametrize("source", DIFFERENT)
def test_the_differences_are_still_there(environment, source):
    ours = compile_where(source).matches(EVENT, INCOMING)
    try:
        theirs = asked(environment, source, EVENT, INCOMING)
    except Exception:
        theirs = None
    assert ours is not theirs


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns_of_matches(environment, pattern):
    for text in TEXTS:
        theirs = asked(environment, "event.data.t.matches(event.data.p)", {"data": {"t": text, "p": pattern}}, {})
        assert compile_regex(pattern).search(text) is theirs, text


def check(environment, source, event, incoming):
    assert compile_where(source).matches(event, incoming) is asked(environment, source, event, incoming)


halves = st.sampled_from([0, 1, 2, 3, -1, 0.0, 1.0, 0.5, -2.5, 2.0])


@given(conditions(arithmetic=False), events(halves | others), events(halves | others))
@settings(max_examples=150)
def test_made_conditions(environment, source, event, incoming):
    check(environment, source, event, incoming)


@given(conditions(arithmetic=True), events(plain), events(plain))
@settings(max_examples=150)
def test_made_conditions_with_arithmetic_of_ints(environment, source, event, incoming):
    # Ints and doubles may not meet in CEL's arithmetic.
    assume(not any(double in source for double in ("2.0", "0.5", "double(")))
    check(environment, source, event, incoming)
