"""The expression language: what conditions match, and what is refused where it is defined."""

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.errors import DefinitionError
from perdure.flow.expressions import EXPRESSION_VERSION, compile_where

EVENT = {
    "id": "e1",
    "name": "cart/added",
    "data": {
        "s": "abc",
        "digits": "12",
        "i": 3,
        "f": 1.5,
        "one": 1.0,
        "big": 2**53 + 1,
        "huge": 2**64 - 1,
        "t": True,
        "no": False,
        "nil": None,
        "l": [1, 2.5, "x", None, [1], {"k": 1}],
        "tags": ["red", "green"],
        "empty": [],
        "o": {"k": {"deep": 1}, "odd key": 2, "in": 5, "": 0},
        "items": [{"sku": "a", "price": 10}, {"sku": "b", "price": 20}],
    },
    "user": {"id": "u1"},
    "ts": 1_700_000_000_000,
    "v": "2",
}
INCOMING = {"id": "e2", "name": "cart/purchased", "data": {"s": "abc", "i": 4}, "user": {}, "ts": 5, "v": ""}


def holds(source):
    return compile_where(source).matches(EVENT, INCOMING)


TRUE = """
true
!false
event.id == "e1"
event["id"] == 'e1'
event.data.s == async.data.s
event.data.i != async.data.i
event.data.s != "x"
"x" != event.data.s
event.data.i == 3
3 == event.data.i
3 != event.data.f
event.data.i == 3.0
event.data.one == 1
event.data.big == 9007199254740993
event.data.big != 9007199254740992.0
event.data.huge == 18446744073709551615
event.data.s != 1
event.data.digits != 12
event.data.t == true
event.data.t
!event.data.no
event.data.t != 1
event.data.nil == null
event.data.nil != false
event.data.nil != 0
event.data.i < async.data.i
event.data.i <= 3
event.data.i > 2.5
event.data.f >= 1
event.data.s < "abd"
event.data.no < event.data.t
event.ts > 1600000000000
event.data.l[0] == 1
event.data.l[1.0] == 2.5
event.data.l[event.data.i] == null
event.data.o.k.deep == 1
event.data["o"]["k"]["deep"] == 1
event.data.o["odd key"] == 2
event.data.o["in"] == 5
event.data.o[""] == 0
event.data.o[event.data.s.startsWith("a") ? "odd key" : "k"] == 2
event.data.l == [1, 2.5, "x", null, [1.0], {"k": 1}]
event.data.l != [1, 2.5, "x", null, [true], {"k": 1}]
event.data.l[5] == {"k": 1.0}
event.data.l[5] != {"k": true}
event.data.l[5] != {"j": 1}
event.data.l[5] != {}
event.data.l[5] != 1
event.data.empty == []
event.data.empty != {}
[event.data.i, event.data.s] == [3, "abc"]
{"a": event.data.i}.a == 3
{"a": event.data.i} == {"a": 3,}
[1, event.data.i,] == [1, 3]
event.data.s in ["abc", "d"]
!(event.data.i in ["3"])
event.data.i in [1, 3.0]
event.data.i in [-1, -2.5, 3]
-event.data.i in [- -1, -3]
-event.data.i in {"a": [-3]}.a
!(event.data.t in [1])
"red" in event.data.tags
"k" in event.data.o
!(1 in event.data.o)
!("zz" in event.data.o)
event.data.i + 1 == 4
event.data.i - 1 == 2
event.data.i * 2 == 6
event.data.i / 2 == 1
-event.data.i / 2 == -1
event.data.i % 2 == 1
-event.data.i % 2 == -1
-event.data.i == -3
- -event.data.i == 3
!!event.data.t
event.data.f * 2 == 3
event.data.i + event.data.f == 4.5
event.data.f / 2 == 0.75
event.data.f / 0 > 1e308
-event.data.f / 0.0 < -1e308
event.data.f / -0.0 < -1e308
event.data.s + "d" == "abcd"
event.data.tags + ["x"] == ["red", "green", "x"]
1 + 2 * 3 == 7
(1 + 2) * 3 == 9
10 - 3 - 2 == 5
2 * 7 / 2 == 7
event.data.i == 3 && event.data.s == "abc" && event.data.t
event.data.i == 4 || event.data.s == "abc"
event.data.i == 4 || event.data.i == 5 || event.data.t
event.data.t ? event.data.i == 3 : event.data.missing
event.data.no ? event.data.missing : true
true || false && false
event.data.no ? false : event.data.no ? false : true
(event.data.i == 3) == true
event.data.i < 4 == true
has(event.data.s)
!has(event.data.zz)
has(event.data.o.k.deep)
has(event.data["s"])
has(event.data.nil)
has(event.user.id)
!has(async.user.id)
size(event.data.s) == 3
event.data.l.size() == 6
size(event.data.o) == 4
size("é😀") == 2
event.data.s.startsWith("ab")
event.data.s.endsWith("bc")
event.data.s.contains("b")
event.data.s.matches("^a.c$")
event.data.s.matches("b")
!event.data.s.matches("^b")
"ABCé".lowerAscii() == "abcé"
event.data.s.upperAscii() == "ABC"
int("12") == 12
int(event.data.digits) + 1 == 13
int(-1.9) == -1
int(1.9) == 1
int(7) == 7
double("1.5e3") == 1500
double(event.data.i) == 3
double("inf") > 1e300
double("NaN") != double("NaN")
string(12) == "12"
string(1.0) == "1"
string(1.5) == "1.5"
string(true) == "true"
string(false) == "false"
string("x") == "x"
event.data.items.exists(i, i.sku == "b" && i.price > 15)
event.data.items.all(i, i.price >= 10)
!event.data.items.all(i, i.price > 10)
!event.data.items.exists(i, i.price == event.data.i)
event.data.empty.all(i, i == 1)
!event.data.empty.exists(i, i == 1)
event.data.o.exists(key, key == "odd key")
event.data.tags.exists(t, t == "red" || t.missing)
!event.data.tags.all(t, t == "nope" && t.missing)
event.data.tags.exists(t, t.contains(async.data.s.contains("a") ? "ee" : "xx"))
event.data.missing || true
true || event.data.missing
!(event.data.missing && false)
!(false && event.data.s)
event.data.s || true
"\\x41\\101\\u00e9\\U0001F600" == "AAé😀"
'it\\'s' == "it's"
"a\\n\\t\\"\\\\" == 'a\\n\\t"\\\\'
r'\\d' == "\\\\d"
R"\\d" == '\\\\d'
0x10 == 16
.5 == 0.5
1e3 == 1000
-9223372036854775808 < 0
(-5).missing || true
event.data.i /* no comment */ == 3 || true
""".strip().splitlines()[:-1]


@pytest.mark.parametrize("source", TRUE)
def test_what_matches(source):
    assert holds(source)


FALSE = """
false
event.data.i == "3"
event.data.digits == 12
event.data.t == 1
event.data.one == true
event.data.t == "true"
event.data.nil == ""
event.data.missing == null
event.data.missing != 1
!(event.data.missing == 1)
event.data.missing
event.data.missing.deeper == 1
event.data.s.length == 3
event.data.nil.x == 1
event.data.i.x == 1
event.data.l.x == 1
event.data.s[0] == "a"
event.data.l[6] == 1
event.data.l[-1] == {"k": 1}
event.data.l[0.5] == 1
event.data.l[true] == 2.5
event.data.l["0"] == 1
event.data.l[double("NaN")] == 1
event.data.l[double("inf")] == 1
event.data.o[1] == 1
event.data.o[event.data.l] == 1
event.data.s
event.data.i
!event.data.s
event.data.s && true
event.data.s || false
event.data.missing || false
event.data.missing && true
event.data.i ? true : true
event.data.missing ? true : true
event.data.s < 1
event.data.nil < 1
event.data.nil <= null
event.data.l < event.data.l
event.data.t < 2
1 in event.data.s
"k" in event.data.i
event.data.s + 1 == "abc1"
event.data.t + 1 == 2
event.data.s - "c" == "ab"
event.data.s * 2 == "abcabc"
event.data.s / 2 == 1
event.data.i / 0 == 0
event.data.i % 0 == 0
event.data.f % 2 == 0
event.data.i % 2.0 == 1
-event.data.s == "abc"
-event.data.t == -1
event.data.huge + 1 > 0
event.data.huge * 2 > 0
-9223372036854775808 - 1 < 0
-(-9223372036854775808) > 0
-9223372036854775808 / -1 > 0
0.0 / 0.0 == 0.0 / 0.0
double("nan") / 0.0 > 0
event.data.f == double("nan")
has(event.data.missing.x)
has(event.data.s.x)
has(event.data.l.x)
size(event.data.i) == 1
size(event.data.nil) == 0
event.data.i.startsWith("3")
event.data.s.startsWith(event.data.i)
event.data.i.matches("3")
event.data.i.lowerAscii() == "3"
int("1.5") == 1
int("x") == 0
int(" 5") == 5
int("1_0") == 10
int("99999999999999999999") > 0
int("999999999999999999999999") > 0
int("9223372036854775808") > 0
int(1e300) > 0
int(double("nan")) == 0
int(double("inf")) > 0
int(event.data.t) == 1
int(event.data.nil) == 0
int(event.data.huge) > 0
double("x") == 0
double(event.data.t) == 1
double(event.data.l) == 1
string(event.data.nil) == "null"
string(event.data.l) == ""
event.data.i.exists(x, true)
event.data.s.all(x, true)
event.data.tags.exists(t, t.missing == 1)
event.data.tags.all(t, t.missing == 1)
event.data.tags.all(t, t == "red" || t.missing)
event.data.tags.exists(t, t)
event.data.tags.all(t, t)
event == 1
async.user.id == event.user.id
1 / 0 == 1
{}.missing
""".strip().splitlines()


@pytest.mark.parametrize("source", FALSE)
def test_what_does_not_match(source):
    assert not holds(source)


def test_long_texts_are_not_searched():
    event = {"data": {"text": "a" * 10_001}}
    assert not compile_where('event.data.text.matches("a")').matches(event, None)
    assert not compile_where('!event.data.text.matches("b")').matches(event, None)
    event["data"]["text"] = "a" * 10_000
    assert compile_where('event.data.text.matches("a")').matches(event, None)


def test_an_event_that_is_not_there_is_an_error():
    assert not compile_where("event == null").matches(None, INCOMING)
    assert not compile_where("has(event.data)").matches(None, INCOMING)
    assert not compile_where("event.data.s == 1").matches(None, INCOMING)
    assert not compile_where("async.data.i == 4").matches(EVENT, None)
    assert compile_where("async.data.i == 4").matches(None, INCOMING)
    assert compile_where("event.id == 'x' || async.data.i == 4").matches(None, INCOMING)
    assert compile_where("event != async").matches(EVENT, INCOMING)
    assert compile_where("event == async").matches(EVENT, dict(EVENT))


def test_a_condition_knows_what_it_is_of():
    condition = compile_where("event.data.i == 3 && true")
    assert condition.names == {"event"}
    assert condition.source == "event.data.i == 3 && true"
    assert repr(condition) == "Condition('event.data.i == 3 && true')"
    assert compile_where("async.data.xs.exists(x, x == event.id)").names == {"event", "async"}
    assert compile_where(condition.source) is condition, "compiled once"
    assert EXPRESSION_VERSION == 1


def test_comments_and_lines():
    assert holds("event.data.i == 3 // three\n  && event.data.t")


BAD = [
    ("", "empty", 0),
    ("   ", "empty", 0),
    ("event.data.i = 3", "'=' alone means nothing here; say '=='", 14),
    ("event.data.i === 3", "'=' alone", 16),
    ("event.data.t & event.data.t", "say '&&'", 14),
    ("event.data.t | event.data.t", r"say '\|\|'", 14),
    ("event.data.t and event.data.t", "say '&&' instead of 'and'", 14),
    ("event.data.t or event.data.t", r"say '\|\|' instead of 'or'", 14),
    ("not event.data.t", "say '!' instead of 'not'", 1),
    ("event.data.i == None", "say 'null' instead of 'None'", 17),
    ("event.data.t == True", "say 'true' instead of 'True'", 17),
    ("event.data.i == ", "expected a value, but the expression ends", 17),
    ("event.data.i == 3)", r"here the expression should end, not '\)'", 18),
    ("event.data.i == 3 4", "here the expression should end, not '4'", 19),
    ("(event.data.i == 3", r"expected '\)', but the expression ends", 19),
    ("event.data.i == [1, 2", "expected ','", 22),
    ("event.data.i == [1 2]", "expected ',', not '2'", 20),
    ("event.data.l[0 == 1", r"expected '\]'", 20),
    ('event.data.s == "abc', "not closed", 17),
    ("event.data.s == 'abc\n'", "not closed", 17),
    ('event.data.s == "\\q"', r"unknown escape '\\q'; write '\\\\'", 18),
    ('event.data.s == "\\ud800"', "no character", 18),
    ('event.data.s == "\\U00110000"', "no character", 18),
    ("event.data.i == 1u", "without suffix", 17),
    ("event.data.i == 1.5.2", "expected a field.s name", 19),
    ("event.data.i == 18446744073709551616", "64 bit", 17),
    ("event.data.i == 0xfffffffffffffffff", "64 bit", 17),
    ("event.data.i == 999999999999999999999999999", "64 bit", 17),
    ("event.data.i == -9223372036854775809", "64 bit", 18),
    ("event.data.i in [-9223372036854775809]", "64 bit", 19),
    ("event.data.i == $x", r"unexpected character '\$'", 17),
    ("event.data.i == {1: 2}", "expected a key, a text in quotes, not '1'", 18),
    ('event.data.i == {"a": 2, "a": 3}', "stands twice", 26),
    ('event.data.i == {"a" 2}', "expected ':'", 22),
    ("evnt.data.x == 1", "unknown name 'evnt'; did you mean 'event'.; known here: async, event", 1),
    ("data.x == 1", "'data' of which event. say 'event.data'", 1),
    ("foo == 1", "unknown name 'foo'; known here", 1),
    ("event.dat.x == 1", "'event' has no 'dat'; did you mean 'data'", 7),
    ("async.cart_id == 1", "say 'async.data.cart_id' for its data", 7),
    ('event["cart_id"] == 1', "say 'event.data.cart_id' for its data", 6),
    ("event[0] == 1", "'event' has no 0", 6),
    ("has(event.cart)", "has no 'cart'", 11),
    ("event.data.in == 1", r"'in' is a word of the language; write \[\"in\"\]", 12),
    ("event.data.true == 1", "is a word of the language", 12),
    ("event.data.1 == 1", "should end", 11),
    ("event.data. == 1", "expected a field's name, not '=='|say '=='", 13),
    ("in == 1", "expected a value, not 'in'", 1),
    ("foo(event.data.x)", "no function 'foo' can stand by itself; there are double, has, int, size, string", 1),
    ("sise(event.data.x) == 1", "did you mean 'size'", 1),
    ("event.data.s.startswith('a')", "did you mean 'startsWith'", 14),
    ("event.data.s.map(x, x)", "no function 'map' can stand behind a value", 14),
    ("timestamp(event.ts) > 1", "no function 'timestamp'", 1),
    ("size() == 1", "size.. takes 1 value, not 0", 1),
    ("size(event.data.s, 1) == 1", "size.. takes 1 value, not 2", 1),
    ("event.data.s.startsWith()", "takes 1 value, not 0", 14),
    ("event.data.s.size(1) == 1", "takes 0 values, not 1", 14),
    ("has(event)", "has.. takes one field", 1),
    ("has(event.data.l[0])", "has.. takes one field", 1),
    ("has(event.data.s, event.data.i)", "has.. takes one field", 1),
    ("has()", "has.. takes one field", 1),
    ("event.data.s.matches(event.data.p)", "must be written out", 33),
    ("event.data.s.matches(1)", "must be written out", 22),
    ("event.data.s.matches('(a')", "matches.*without its", 22),
    ("event.data.l.exists(event, true)", "expected a new name for the item", 21),
    ("event.data.l.exists(1, true)", "expected a new name for the item", 21),
    ("event.data.l.exists(in, true)", "expected a new name for the item", 21),
    ("event.data.l.exists(x)", "expected ','", 22),
    ("event.data.l.exists(x, 1)", "true or false is needed", 24),
    ("event.data.l.exists(x, x.all(y, y == 1))", "its cost would multiply", 26),
    ("event.data.l.exists(x, true) && x == 1", "unknown name 'x'", 33),
    ("event.data.i == 1 && 'a'", "true or false is needed", 22),
    ("event.data.i + 1 || true", "true or false is needed", 14),
    ("!3", "true or false is needed", 2),
    ("1 ? true : false", "true or false is needed", 1),
    ("true ? true", "expected ':'", 12),
    ("event.data.i + 1", "not a condition", 14),
    ("'abc'", "not a condition", 1),
    ("-event.data.i", "not a condition", 1),
    ("[event.data.t]", "not a condition", 1),
    ('{"a": event.data.t}', "not a condition", 1),
    ("size(event.data.s)", "not a condition", 1),
    ("true ? 1 : 'a'", "not a condition", 6),
    ("(" * 200 + "true" + ")" * 200, "nested too deep", None),
    ("!" * 200 + "event.data.t", "nested too deep", 1),
    ("event.data.i == " + "1+" * 200 + "1", "nested", None),
    ("event.data.i == 1" + " + 1" * 40 + " + event.data.i", "nested", None),
    ("event.data" + ".x" * 200, "nested", None),
    ("(" * 33 + "!" * 33 + "event.data.t" + ")" * 33, "nested .* deep; at most 32", None),
    ("[" * 40 + "]" * 40 + " == event.data.l", "nested .* deep; at most 32", None),
    ('event.data.s == "' + "x" * 2_048 + '"', "2066 characters; at most 2048", None),
]


@pytest.mark.parametrize(("source", "why", "at"), BAD)
def test_what_is_refused_says_where_and_why(source, why, at):
    with pytest.raises(DefinitionError, match=why) as refused:
        compile_where(source)
    if at:
        assert f"(at character {at})" in str(refused.value)


def test_the_place_of_an_error_is_shown():
    with pytest.raises(DefinitionError) as refused:
        compile_where("event.data.i == 3 &&\n\tevent.data.s = 'a'\n&& true")
    assert str(refused.value).splitlines()[1:] == ["   event.data.s = 'a'", "                ^"]
    with pytest.raises(DefinitionError) as refused:
        compile_where("event.data.i == 3 && " * 40 + "foo && " + "event.data.t && " * 20 + "true")
    _, shown, caret = str(refused.value).splitlines()
    assert shown[caret.index("^") :].startswith("foo &&")
    assert len(shown) < 120


def test_names_can_be_fewer():
    assert compile_where("event.data.i == 3", names=frozenset({"event"})).matches(EVENT, None)
    with pytest.raises(DefinitionError, match="unknown name 'async'; known here: event"):
        compile_where("async.data.i == 3", names=frozenset({"event"}))
    with pytest.raises(DefinitionError, match=r"unknown name 'event' \(at"):
        compile_where("event.data.i == 3", names=frozenset())


@pytest.mark.parametrize("source", [None, 5, lambda event: True, b"true"])
def test_only_texts_are_expressions(source):
    with pytest.raises(DefinitionError, match="an expression is a text"):
        compile_where(source)


def test_limits_are_for_people_and_not_for_what_bind_writes():
    long = 'async.data.s == "' + "x" * 5_000 + '"'
    assert compile_where(long).matches(None, {"data": {"s": "x" * 5_000}})
    assert compile_where(long) is compile_where(long)
    deep = "[" * 64 + "]" * 64
    assert compile_where(f"async.data.l != {deep}").matches(None, INCOMING | {"data": {"l": 1}})
    with pytest.raises(DefinitionError, match="nested"):
        compile_where("[" * 129 + "]" * 129 + " == async.data.l")


def test_deep_but_allowed():
    assert holds("(" * 31 + "true" + ")" * 31)
    assert holds(" && ".join(["event.data.t"] * 100)), "a chain is not deep"
    assert holds("event.data.i == 3" + " + 1 - 1" * 13)


WORDS = st.sampled_from(
    [
        *["event", "async", ".data", ".x", ".in", "has(", "size(", ".exists(i,", ".matches('a')", "i", "in", "true"],
        *["(", ")", "[", "]", "{", "}", "==", "=", "<", "&&", "||", "!", "-", "+", "?", ":", ",", "//"],
        *["null", "'a'", "'", '"', "r'", "\\", "é", "1", "2.5", "1e400", "0x", "\n", " "],
    ]
)


@given(st.lists(WORDS, max_size=14).map(" ".join) | st.lists(WORDS, max_size=14).map("".join) | st.text(max_size=20))
@settings(max_examples=400)
def test_no_text_raises_anything_but_a_definition_error(source):
    with suppress(DefinitionError):
        assert compile_where(source).matches(EVENT, INCOMING) in (True, False)


@pytest.mark.parametrize("part", ["(", "[", "{'a':", "!", "-", "1==1+1*(", "size(", "true?", "event.data[", "has("])
def test_nesting_never_overflows_the_stack(part):
    for count in (39, 99, 1_000, 100_000):
        with pytest.raises(DefinitionError):
            compile_where(part * count)


def test_the_deepest_that_is_read_fits_the_stack():
    nested = "true || 1 == 1 + 1 * size([" * 19 + "[" * 10 + "]" * 10 + "])" * 19
    assert compile_where(nested).matches(None, None)
    assert compile_where("async.data.l == " + "[" * 100 + "]" * 100).names == {"async"}
