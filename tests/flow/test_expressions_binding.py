"""Partial evaluation: what `bind` writes, and that it matches exactly what the whole condition does."""

import pytest
from hypothesis import given, settings

from perdure.errors import DefinitionError
from perdure.flow.expressions import bind, compile_where
from perdure.flow.expressions.parser import EVENTS, parse
from perdure.flow.expressions.render import render

from .made_expressions import conditions, events

ASYNC = frozenset({"async"})
EVENT = {
    "id": "e1",
    "name": "cart/added",
    "data": {
        "s": 'say "hi"\n\\',
        "i": 3,
        "f": 1.0,
        "t": True,
        "no": False,
        "nil": None,
        "l": [1, "x", {"k": [None]}],
        "o": {"odd key": 1},
        "none": [],
        "dat": "dat",
        "data": "data",
    },
    "user": {},
    "ts": 5,
    "v": "",
}

BOUND = [
    ("async.data.x == event.data.i", "async.data.x == 3"),
    ("event.data.s == async.data.x", '"say \\"hi\\"\\n\\\\" == async.data.x'),
    ("async.data.x == event.data.f", "async.data.x == 1.0"),
    ("async.data.x == event.data.nil", "async.data.x == null"),
    ("async.data.x in event.data.l", 'async.data.x in [1, "x", {"k": [null]}]'),
    ("async.data.x == event.data.o", 'async.data.x == {"odd key": 1}'),
    ("async.data.x > event.data.i * 2 + 1", "async.data.x > 7"),
    ("async.data.x + event.data.i * 2 > 1", "async.data.x + 6 > 1"),
    ("async.data.x == -event.data.i", "async.data.x == -3"),
    ("-(async.data.x - -event.data.i) == 1", "-(async.data.x - -3) == 1"),
    ("async.data.x == event.data.f / 0", 'async.data.x == double("inf")'),
    ("async.data.x == size(event.data.l) && event.data.t", "async.data.x == 3"),
    ("event.data.no || async.data.x == 1", "async.data.x == 1"),
    ("event.data.t && async.data.x", "async.data.x"),
    ("event.data.no || async.data.x", "async.data.x"),
    ("!(event.data.t && async.data.x)", "!(true && async.data.x)"),
    ("!(event.data.no || async.data.x)", "!(false || async.data.x)"),
    ("!(event.data.t && async.data.x == 1)", "!(async.data.x == 1)"),
    ("!(event.data.t && !async.data.x)", "!!async.data.x"),
    ("event.data.t && (async.data.x == 1 && async.data.y == 2)", "async.data.x == 1 && async.data.y == 2"),
    ("event.data.no && async.data.x", "false"),
    ("event.data.t || async.data.x", "true"),
    ("!(event.data.no && async.data.x)", "true"),
    ("event.data.missing == async.data.x", "false"),
    ("event.data.missing == async.data.x || async.data.y == 1", "async.data.y == 1"),
    ("event.data.missing == async.data.x && async.data.y == 1", "false"),
    ("event.data.missing == 1 || event.data.missing2 == 1 || async.data.y == 1", "async.data.y == 1"),
    ("!(event.data.missing || event.data.missing2 || async.data.y)", "!({}.missing || async.data.y)"),
    ("!(event.data.missing == async.data.x || async.data.y == 1)", "!({}.missing || async.data.y == 1)"),
    ("!(event.data.missing == async.data.x)", "false"),
    ("event.data.s && async.data.y", "false"),
    ("event.data.s || async.data.y", "async.data.y"),
    ("!(event.data.s && async.data.y == 1)", "!({}.missing && async.data.y == 1)"),
    ("event.data.t ? async.data.x : async.data.y", "async.data.x"),
    ("event.data.no ? async.data.x : async.data.y", "async.data.y"),
    ("event.data.i ? async.data.x : async.data.y", "false"),
    ("(async.data.x ? event.data.i : 1) == 3", "(async.data.x ? 3 : 1) == 3"),
    ("async.data.x ? event.data.i == 3 : event.data.no", "async.data.x ? true : false"),
    ("async.data.x ? event.data.i : event.data.s", "false"),
    ("async.data.x ? event.data.missing : async.data.y == 1", "async.data.x ? false : async.data.y == 1"),
    ("!(async.data.x ? event.data.i : event.data.s)", "false"),
    ("(event.data.s && async.data.t) ? true : async.data.x", "{}.missing && async.data.t ? true : async.data.x"),
    ("event.data.l.exists(i, i == async.data.x)", '[1, "x", {"k": [null]}].exists(i, i == async.data.x)'),
    ("async.data.l.all(i, i < event.data.i)", "async.data.l.all(i, i < 3)"),
    ("async.data.l.exists(i, event.data.i)", "async.data.l.exists(i, {}.missing)"),
    ("async.data.l.exists(i, i == event.data.missing)", "async.data.l.exists(i, {}.missing)"),
    ("event.data.missing.exists(i, i == async.data.x)", "false"),
    ("event.data.none.all(i, i == event.data.missing || i == async.data.l[event.data.missing])", "true"),
    ("event.data.none.exists(i, i == event.data.missing || i == async.data.l[event.data.missing])", "false"),
    ("async.data.l[event.data.i] == 1", "async.data.l[3] == 1"),
    ("async.data[event.data.s] == 1", 'async.data["say \\"hi\\"\\n\\\\"] == 1'),
    ("async[event.data.dat] == 1", "false"),
    ("async[event.data.data].x == 1", "async.data.x == 1"),
    ("async[event.data.i] == 1", "false"),
    ("event.data.l[async.data.i] == 1", '[1, "x", {"k": [null]}][async.data.i] == 1'),
    ("event.data.i[async.data.i] == 1", "(3)[async.data.i] == 1"),
    ("(-event.data.i)[async.data.i] == 1", "(-3)[async.data.i] == 1"),
    ('[event.data.i, async.data.x] == [3, "x"]', '[3, async.data.x] == [3, "x"]'),
    ('{"a b": event.data.i, "b": async.data.x} == event.data.o', '{"a b": 3, "b": async.data.x} == {"odd key": 1}'),
    ("[event.data.missing, async.data.x] == []", "false"),
    ("async.data.x.startsWith(event.data.s)", 'async.data.x.startsWith("say \\"hi\\"\\n\\\\")'),
    ("event.data.s.startsWith(async.data.x)", '"say \\"hi\\"\\n\\\\".startsWith(async.data.x)'),
    ("has(async.data.x) && has(event.data.i)", "has(async.data.x)"),
    ("has(async.data['odd key']) && event.data.t", 'has(async.data["odd key"])'),
    ("async.data.x.matches(r'\\d+') && event.data.t", 'async.data.x.matches("\\\\d+")'),
    ("size(async.data.x) == event.data.i", "size(async.data.x) == 3"),
    ("async.data.x.size() == int(async.data.y) && event.data.t", "size(async.data.x) == int(async.data.y)"),
    ("async.data.x.lowerAscii() == event.data.s.lowerAscii()", 'async.data.x.lowerAscii() == "say \\"hi\\"\\n\\\\"'),
    ("async.data.x == -(9223372036854775809)", "async.data.x == -(9223372036854775809)"),
    ("async.data.x == - -1", "async.data.x == -(-1)"),
    ("!(async.data.x - (async.data.y - 1) == 2) && event.data.t", "!(async.data.x - (async.data.y - 1) == 2)"),
    ("(async.data.x - async.data.y) - 1 == 2", "async.data.x - async.data.y - 1 == 2"),
    ("(async.data.x == 1) == (async.data.y == 1)", "async.data.x == 1 == (async.data.y == 1)"),
    ("(async.data.x || async.data.y) && event.data.t", "async.data.x || async.data.y"),
    ("(async.data.x || async.data.y) && async.data.z", "(async.data.x || async.data.y) && async.data.z"),
    ("event.data.i == 3", "true"),
    ("event.data.i == 4", "false"),
    ("event.data.s", "false"),
    ("async.data.x == 1", "async.data.x == 1"),
    ("true", "true"),
    ("event.data.i == 3 || async.data.missing", "true"),
    ("event.data.i == 4 || event.data.no || event.data.s", "false"),
]


@pytest.mark.parametrize(("source", "bound"), BOUND)
def test_what_is_written(source, bound):
    assert bind(source, EVENT) == bound
    assert render(parse(bound, ASYNC)) == bound


def test_bad_source_is_refused():
    with pytest.raises(DefinitionError, match="did you mean 'event'"):
        bind("evnt.data.x == 1", EVENT)


def test_large_values_are_written_out_and_read_back():
    deep: list[object] = []
    for _ in range(60):
        deep = [deep]
    data = {"text": "x" * 100_000, "deep": deep}
    for key, value in data.items():
        bound = compile_where(bind(f"async.data.x == event.data.{key}", EVENT | {"data": data}))
        assert bound.matches(None, {"data": {"x": value}})
        assert not bound.matches(None, {"data": {"x": "other"}})


@given(conditions(), events(), events())
@settings(max_examples=250)
def test_binding_first_matches_the_same(source, event, incoming):
    whole = compile_where(source).matches(event, incoming)
    bound = bind(source, event)
    assert compile_where(bound, names=ASYNC).matches(None, incoming) is whole, bound
    assert bind(bound, {}) == bound, "nothing is left to bind"


@given(conditions(), events(), events())
@settings(max_examples=100)
def test_what_is_rendered_reads_back_as_the_same(source, event, incoming):
    text = render(parse(source, EVENTS))
    assert render(parse(text, EVENTS)) == text
    assert compile_where(text).matches(event, incoming) is compile_where(source).matches(event, incoming)
