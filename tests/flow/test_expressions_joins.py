"""Paths, join values and keys, and the comparisons of a condition that can become a join."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.errors import DefinitionError
from perdure.flow.expressions import (
    MISSING,
    Equality,
    bind,
    canonical_path,
    compile_where,
    equalities,
    format_path,
    get_path,
    join_key,
    join_value,
    parse_path,
)

from .made_expressions import conditions, events, paths
from .made_expressions import json as json_values

DOCUMENT = {
    "id": "e1",
    "data": {"cart_id": "c1", "nil": None, "items": [{"sku": "a"}, {"sku": "b"}], "odd key": 1, "a.b": 2, "7": 3},
    "user": {},
}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("id", "e1"),
        ("data.cart_id", "c1"),
        ('data["cart_id"]', "c1"),
        ("data['cart_id']", "c1"),
        ("data.items[1].sku", "b"),
        ("data.items[0]", {"sku": "a"}),
        ('data["odd key"]', 1),
        ('data["a.b"]', 2),
        ('data["7"]', 3),
        ("data.nil", None),
        ("data.missing", MISSING),
        ("data.items[2]", MISSING),
        ("data.items.sku", MISSING),
        ("data.cart_id.x", MISSING),
        ("data.cart_id[0]", MISSING),
        ("data[0]", MISSING),
        ("data.nil.x", MISSING),
        ("user.id", MISSING),
        ("other", MISSING),
    ],
)
def test_what_a_path_leads_to(path, value):
    found = get_path(DOCUMENT, path)
    assert found is value if value is MISSING else found == value


@pytest.mark.parametrize(
    ("path", "steps"),
    [
        ("data.cart_id", ("data", "cart_id")),
        ('data["cart_id"]', ("data", "cart_id")),
        ("data.items[0].sku", ("data", "items", 0, "sku")),
        ('data["a \\"b\\" ]"].x', ("data", 'a "b" ]', "x")),
        ("data.order-id", ("data", "order-id")),
        ("data.größe", ("data", "größe")),
        ("user.id", ("user", "id")),
        ("id", ("id",)),
        ("name", ("name",)),
        ("ts", ("ts",)),
    ],
)
def test_paths_that_events_can_be_joined_on(path, steps):
    assert parse_path(path) == steps
    assert parse_path(canonical_path(path)) == steps
    assert canonical_path(canonical_path(path)) == canonical_path(path)


def test_one_path_has_one_text():
    assert canonical_path('data["items"][0]["sku"]') == canonical_path("data.items[0].sku") == "data.items[0].sku"
    assert canonical_path("data['odd key']") == 'data["odd key"]'
    assert canonical_path("data.order-id") == 'data["order-id"]'


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("", "is empty"),
        ("  ", "is empty"),
        ("cart_id", "an event has no 'cart_id'.*say 'data.cart_id'"),
        ("dta.cart_id", "did you mean 'data'"),
        ("items[0].sku", r"say 'data.items\[0\].sku'"),
        ("event.data.cart_id", "a path starts within the event; say 'data.cart_id'"),
        ("async.data.cart_id", "say 'data.cart_id'"),
        ("event", "say 'data'"),
        ("data", "'data' is an object, and objects match nothing"),
        ("user", "'user' is an object"),
        ("id.x", "'id' is not an object"),
        ("ts[0]", "'ts' is not an object"),
        ("data.", "not a path"),
        (".data", "not a path"),
        ("data..x", "not a path"),
        ("data x", "not a path"),
        ("data.items[-1]", "not a path"),
        ("data.items[0", "not a path"),
        ("data.items.0", r"say \[0\] for a position"),
        ('data["x', "not a path"),
        ("data.x == event.data.x", "conditions go into where="),
        ("data.x]", "not a path"),
        ("[0]", "a path starts with a name"),
        ("data" + ".x" * 130, "264 characters long"),
    ],
)
def test_paths_that_cannot_be_right(path, why):
    with pytest.raises(DefinitionError, match=why) as refused:
        parse_path(path, what="match")
    assert str(refused.value).startswith("match")


def test_other_documents_have_other_roots():
    assert get_path({"tenant": {"id": 7}}, "tenant.id") == 7
    with pytest.raises(DefinitionError, match="not a path"):
        get_path({}, "tenant..id")


names = st.text(max_size=5)


@given(st.lists(names | st.integers(0, 99), max_size=5))
def test_any_steps_have_a_text_that_reads_back(more):
    steps = ("data", *more)
    assert parse_path(format_path((*steps, "x"))) == (*steps, "x")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("c1", "s:c1"),
        ("", "s:"),
        ("1", "s:1"),
        ("x" * 256, "s:" + "x" * 256),
        (1, "n:1"),
        (-1, "n:-1"),
        (1.0, "n:1"),
        (0, "n:0"),
        (-0.0, "n:0"),
        (1.5, "n:1.5"),
        (1e300, "n:" + str(int(1e300))),
        (2**53 + 1, "n:9007199254740993"),
        (2.0**53, "n:9007199254740992"),
        (2**64 - 1, "n:18446744073709551615"),
        (5e-324, "n:5e-324"),
        (True, "b:true"),
        (False, "b:false"),
        (None, None),
        (MISSING, None),
        ({}, None),
        ([], None),
        (["c1"], None),
        (math.nan, None),
        (math.inf, None),
        (-math.inf, None),
    ],
)
def test_join_values(value, text):
    assert join_value(value) == text


def test_a_long_text_joins_by_its_digest():
    value = join_value("x" * 100_000)
    assert value is not None
    assert value.startswith("h:")
    assert len(value) == 66
    assert value != join_value("x" * 99_999)
    assert join_value("\ud800" * 300) is not None
    assert join_value("h:" + value) != value


scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text()
    | st.sampled_from([1, 1.0, True, "1", 0, -0.0, False, 2**53, 2.0**53, 2**53 + 1])
)


@given(scalars, scalars)
def test_join_values_are_equal_as_the_language_has_it(left, right):
    texts = join_value(left), join_value(right)
    equal = compile_where("event.data.x == async.data.x").matches({"data": {"x": left}}, {"data": {"x": right}})
    if None not in texts:
        assert (texts[0] == texts[1]) is equal
    elif left is not None or right is not None:
        assert texts[0] != texts[1] or not equal or left in (math.inf, -math.inf)


def test_join_keys_are_readable_and_unambiguous():
    assert join_key("cart/purchased", "data.cart_id", "s:c1") == '["cart/purchased","data.cart_id","s:c1"]'
    assert join_key("cart/purchased", "", "") == '["cart/purchased","",""]'
    assert join_key("größe", 'data["a,\\"b"]', 's:","') == json.dumps(
        ["größe", 'data["a,\\"b"]', 's:","'], separators=(",", ":"), ensure_ascii=False
    )


@given(st.tuples(names, names, names), st.tuples(names, names, names))
def test_different_keys_have_different_texts(left, right):
    assert (join_key(*left) == join_key(*right)) is (left == right)
    assert tuple(json.loads(join_key(*left))) == left


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("async.data.x == event.data.y", [Equality("data.x", "data.y", None, "")]),
        ("event.data.y == async.data.x", [Equality("data.x", "data.y", None, "")]),
        ("async.data.x == 'c1'", [Equality("data.x", "", "c1", "")]),
        ("1 == async.data.x", [Equality("data.x", "", 1, "")]),
        ("async.data.x == 1.5", [Equality("data.x", "", 1.5, "")]),
        ("async.data.x == true", [Equality("data.x", "", True, "")]),
        ("async.user.id == event.id", [Equality("user.id", "id", None, "")]),
        ("async.id == event.data['odd key']", [Equality("id", 'data["odd key"]', None, "")]),
        ("async.data.items[0].sku == event.data.l[1]", [Equality("data.items[0].sku", "data.l[1]", None, "")]),
        (
            "async.data.x == event.data.x && async.data.total > 5",
            [Equality("data.x", "data.x", None, "async.data.total > 5")],
        ),
        (
            "async.data.a == 1 && async.data.b == event.data.b && (async.data.c || async.data.d)",
            [
                Equality("data.a", "", 1, "async.data.b == event.data.b && (async.data.c || async.data.d)"),
                Equality("data.b", "data.b", None, "async.data.a == 1 && (async.data.c || async.data.d)"),
            ],
        ),
        ("async.data.x == event.data.x || true", []),
        ("!(async.data.x == event.data.x)", []),
        ("async.data.x != event.data.x", []),
        ("async.data.x == null", []),
        ("async.data.x == []", []),
        ("async.data.x == {}", []),
        ("async.data.x == async.data.y", []),
        ("event.data.x == event.data.y", []),
        ("event.data.x == 1", []),
        ("async.data.x == event.data.x + 1", []),
        ("async.data == event.data", []),
        ("async == event", []),
        ("async.data.x == event", []),
        ("async.id.x == event.id", []),
        ("async.data.l[async.data.i] == 1", []),
        ("async.data.l[-1] == 1", []),
        ("async.data.l[0.0] == 1", []),
        ("async.data.l[true] == 1", []),
        ("size(async.data.x) == 1", []),
        ("async.data.l.exists(x, x == 1) == true", []),
        ("async.data.flag", []),
    ],
)
def test_comparisons_that_can_become_a_join(source, found):
    assert equalities(source) == found


def test_what_bind_computes_can_become_a_join():
    bound = bind("async.data.x == event.data.n + 1", {"data": {"n": 1}})
    assert equalities(bound) == [Equality("data.x", "", 2, "")]
    with pytest.raises(DefinitionError):
        equalities("async.data.x = 1")


joins = st.one_of(
    st.tuples(paths, paths).map(" == ".join),
    st.tuples(paths, st.sampled_from(["1", "1.0", '"a"', "true"])).map(" == ".join),
)


@given(joins, conditions(), events(), events(), json_values(), st.booleans())
@settings(max_examples=120)
def test_a_join_and_what_remains_are_the_whole_condition(join, more, event, incoming, shared, same):
    if same:
        event["data"]["a"] = incoming["data"]["a"] = shared
    source = f"{join} && ({more})"
    for found in equalities(source):
        here = get_path(incoming, found.path)
        known = get_path(event, found.equals) if found.equals else found.value
        rest = not found.rest or compile_where(found.rest).matches(event, incoming)
        whole = compile_where(source).matches(event, incoming)
        if join_value(here) is not None and join_value(here) == join_value(known):
            assert whole is rest
        elif whole:
            assert here is None or isinstance(here, dict | list), "only these are equal and join nothing"
