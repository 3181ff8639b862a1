"""The patterns of `matches()`: they find what Python's `re` finds, and never take longer than the text is long."""

import re
import time
from contextlib import suppress

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from perdure.flow.expressions.regex import MAX_TEXT, Regex, compile_regex

PATTERNS = [
    "",
    "abc",
    "a|b|",
    "^a",
    "b$",
    "^$",
    "a*b+c?",
    "a{2}",
    "a{2,}",
    "a{1,3}b",
    "a{0}b",
    "a{,2}",
    "x{",
    "x{a}",
    "(ab)*c",
    "(?:ab|c)+",
    "(?P<name>a)(?<other>b)",
    "(a|ab)(c|bcd)(d*)",
    "(a*)*b",
    "(a*)+$",
    "(|a)+c",
    "[abc]",
    "[^abc]",
    "[a-c]x",
    "[-a]",
    "[a-]",
    "[]a]",
    "[^]a]",
    r"[\d\s]x",
    r"[\w-]+@\w+",
    r"[^\D]",
    r"[\W]",
    r"[\n\]\\]",
    r"[\x41-\x43]",
    r"\d{3}-\D\w\W",
    r"\x41\x{42}",
    r"\.\*\[\]\{\}\(\)\|\^\$\?\+\\\/",
    r"\ba\b",
    r"a\Bb",
    r"\Aab",
    r"ab\z",
    "a.c",
    "(?i)AbC[x-z]é",
    "(?s)a.c",
    "(?m)^b$",
    "(?is)A.C",
    "a+?b*?c??",
    "a{1,2}?",
    r"\t\n\r\f\v\a",
    "é",
    "^cart/(added|removed)$",
    r"^[\w.+-]+@[\w-]+\.[\w.]+$",
]
TEXTS = [
    *["", "a", "b", "ab", "abc", "aab", "aaab", "abab", "ababc", "abcd", "a\nc", "a\nb", "b\n", "\nb", "x{", "x{a}"],
    *["é", "É", "ABCX", "abcxé", "ABCYÉ", "123-x_-", "123", "a b", " a ", "[", "]", "-", "a-", "_", "\\", "me@host"],
    *["A", "AB", "B", ".*[]{}()|^$?+\\/", "\t\n\r\f\v\a", "cart/added", "cart/addedx", "a.b+c@x-y.org", "c", "d", "1x"],
]


def expected(pattern, text):
    """What Python says. It spells three things otherwise, and lets `$` stand before a last newline."""
    python = pattern.replace("(?<", "(?P<").replace(r"\z", r"\Z").replace(r"\x{42}", r"\x42")
    if "(?m)" not in pattern:
        python = re.sub(r"(?<!\\)\$", r"\\Z", python)
    return re.compile(python, re.ASCII if "(?i)" not in pattern else 0).search(text) is not None


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns_match_what_they_match_in_python(pattern):
    if pattern == "a{,2}":
        assert Regex(pattern).search("xa{,2}")
        assert not Regex(pattern).search("aa"), "as in RE2, this is no repetition"
        return
    regex = Regex(pattern)
    for text in TEXTS:
        for _ in ("first", "again, from the table"):
            assert regex.search(text) is expected(pattern, text), text


atoms = st.sampled_from(
    ["a", "b", ".", "[ab]", "[^a]", "(a|b)", "(ab|a)", "(a|)", r"\b", r"\w", "^", "$", r"\B", r"\W"]
)
made = st.recursive(
    atoms,
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        inner.map("({})*".format),
        inner.map("({})+".format),
        inner.map("(?:{}){{1,2}}".format),
        inner.map("(?:{})?".format),
        st.tuples(inner, inner).map("({0[0]}|{0[1]})".format),
    ),
    max_leaves=6,
)


@given(made, st.lists(st.text(st.sampled_from("ab \n"), max_size=8), max_size=4))
@settings(max_examples=150)
@example("(^)*a", ["ba"])
@example("(a*)*b", ["aaa"])
def test_made_patterns_match_what_they_match_in_python(pattern, texts):
    regex = Regex(pattern)
    for text in texts:
        if not text and r"\B" in pattern:
            continue  # Python before 3.14 alone finds no \B in an empty text.
        assert regex.search(text) is expected(pattern, text)


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("(a", "a '(' without its ')', at character 3"),
        ("a)", "a ')' without its '(', at character 2"),
        ("[a", "a '[' without its ']'"),
        ("[", "a '[' without its ']'"),
        ("[a-", "a '[' without its ']'"),
        ("[c-a]", "a range from high to low"),
        (r"[a-\d]", "unknown escape"),
        ("[[:alpha:]]", "named classes"),
        ("*a", "nothing stands before '*' to repeat"),
        ("(+a)", "nothing stands before '+'"),
        ("a**", "a repetition of a repetition"),
        ("a{2}{3}", "a repetition of a repetition"),
        ("a{3,2}", "from more to less"),
        (r"(a)\1", "back references are not possible"),
        (r"\q", r"unknown escape '\q'"),
        (r"[\b]", r"unknown escape '\b'"),
        (r"\p{L}", r"unknown escape '\p'"),
        ("a\\", "ends in a backslash"),
        ("[\\", "ends in a backslash"),
        ("(?=a)", "look-around"),
        ("(?!a)", "look-around"),
        ("(?<=a)b", "look-around"),
        ("a(?i)b", "look-around and flags"),
        ("(" * 25 + ")" * 25, "nested more than 24 deep"),
        ("a{1000}", "too large"),
        ("(a{30}){40}", "too large"),
        ("((){9999}){9999}", "too large"),
        ("(((a?){9}){9}){99}", "too large"),
        ("a" * 2_000, "too large"),
    ],
)
def test_what_is_refused(pattern, why):
    with pytest.raises(ValueError, match=re.escape(why)):
        compile_regex(pattern)


@given(st.text(st.sampled_from("ab(){}[]*+?|^$.\\-,:=<>!dDxPi0123"), max_size=12), st.text(max_size=5))
@settings(max_examples=150)
def test_no_pattern_raises_anything_else(pattern, text):
    with suppress(ValueError):
        assert Regex(pattern).search(text) in (True, False)


@pytest.mark.parametrize("pattern", ["(a+)+$", "^(a|a)*$", "(a|aa)+$", "a*a*a*a*a*a*b", "(.*)*x", "([a-z]+)*d$"])
def test_what_hangs_others_is_quick(pattern):
    started = time.process_time()
    assert not Regex(pattern).search("a" * (MAX_TEXT - 1) + "!")
    assert time.process_time() - started < 1


def test_the_table_of_states_is_bounded(monkeypatch):
    monkeypatch.setattr("perdure.flow.expressions.regex._MAX_EDGES", 100)
    regex = Regex("(a|b)*a(a|b){8}$")
    many = "".join(format(number, "b").replace("0", "a").replace("1", "b") for number in range(500))
    for start in range(0, 3_000, 100):
        part = many[start : start + 100]
        assert regex.search(part) is (part[-9] == "a")
        assert len(regex._states) <= 101
    unlike = Regex("[^x]x$")
    for code in range(0x4E00, 0x4E00 + 250):
        assert not unlike.search(chr(code))
    assert unlike.search("yx")
    assert len(unlike._start.edges) <= 100
