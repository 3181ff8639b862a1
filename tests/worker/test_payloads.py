"""What a function gets live is what it would get on replay; what differs is refused, and says where."""

import enum
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, NamedTuple, TypedDict, TypeVar
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta, Raw, Struct
from pydantic import BaseModel, Field

from perdure.errors import DefinitionError, PayloadError
from perdure.worker import payloads
from perdure.worker.payloads import DEPTH_LIMIT, check_depth, decoder_for, digest, encode, round_trip


class Order(Struct):
    id: str
    cents: int = 0


class Extra(Struct):
    data: Any = None


@dataclass
class Row:
    name: str
    tags: set[str] = field(default_factory=set)


@dataclass(eq=False)
class Silent:
    """Knows no equality: that it is read into its own type must do."""

    name: str
    amount: float = 0.5


class Model(BaseModel):
    at: datetime
    total: Decimal = Field(default=Decimal(0), alias="sum")


class Typed(TypedDict):
    n: int


class Pair(NamedTuple):
    left: int
    right: str


class Color(enum.StrEnum):
    RED = "red"


class Text(str):
    pass


class Pool:
    pass


T = TypeVar("T")
NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
ID = UUID("12345678123456781234567812345678")


def refusal(value: object, annotation: Any = Any) -> str:
    with pytest.raises(PayloadError) as caught:
        round_trip(value, annotation)
    return str(caught.value)


@pytest.mark.parametrize(
    "value",
    [None, True, 0, -1, 2**63, 10**30, "", "ä\n", 1.5, -0.0, [], {}, {"b": [1, {"a": None}], "a": 2.5}, [[True, "x"]]],
)
def test_plain_data_needs_no_annotation(value):
    raw, back = round_trip(value)
    assert back == value
    assert type(back) is type(value)
    assert msgspec.json.decode(raw) == value


def test_the_copy_is_private():
    value = {"rows": [1]}
    _, back = round_trip(value)
    value["rows"].append(2)
    assert back == {"rows": [1]}


def test_dicts_keep_the_order_of_their_keys():
    assert round_trip({"b": 1, "a": 2})[0] == b'{"b":1,"a":2}'


@pytest.mark.parametrize(
    ("value", "annotation"),
    [
        (Order("o1", 5), Order),
        (Row("x", {"b"}), Row),
        (Model(at=NOW, sum=Decimal("1.10")), Model),
        ([Model(at=NOW)], list[Model]),
        (Typed(n=1), Typed),
        (Pair(1, "x"), Pair),
        (Color.RED, Color),
        ((1, "a"), tuple[int, str]),
        ({1, 2}, set[int]),
        (frozenset({"a"}), frozenset[str]),
        (Decimal("1.10"), Decimal),
        (NOW, datetime),
        (timedelta(days=1, seconds=3), timedelta),
        (ID, UUID),
        (b"\x00\xff", bytes),
        ({1: "a"}, dict[int, str]),
        (5, Annotated[int, Meta(ge=0)]),
        (None, Order | None),
        (Order("o1"), Order | None),
        (10**30, int),
        (None, None),
        ("x", T),
        ({"a": 1}, object),
        (Silent("x"), Silent),
        ([Silent("x", 1.0)], list[Silent]),
    ],
)
def test_annotated_types_come_back_as_they_were(value, annotation):
    raw, back = round_trip(value, annotation)
    assert type(back) is type(value)
    assert encode(back) == raw


def test_an_int_fits_a_float_and_a_numpy_like_float_fits_too():
    class Float64(float):
        pass

    assert repr(round_trip(1, float)[1]) == "1.0"
    assert type(round_trip(Float64(1.5), float)[1]) is float
    assert round_trip({"x": Float64(1.5)})[1] == {"x": 1.5}


def test_dict_subclasses_are_dicts_where_an_annotation_says_so():
    assert round_trip(Counter("aab"), dict[str, int])[1] == {"a": 2, "b": 1}
    assert "defaultdict comes back as dict" in refusal(defaultdict(int, a=1))


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ((1, 2), "tuple comes back as list"),
        ({1, 2}, "set comes back as list"),
        (Decimal("1.1"), "Decimal comes back as str"),
        (float("nan"), "NaN comes back as None"),
        (float("inf"), "Infinity comes back as None"),
        (NOW, "datetime comes back as str"),
        (Row("x"), "Row comes back as dict"),
        (Order("o"), "Order comes back as dict"),
        (Model(at=NOW), "Model comes back as dict"),
        (Color.RED, "Color comes back as str"),
        (Text("x"), "Text comes back as str"),
        (b"x", "bytes comes back as str"),
        ({1: 2}, "the key 1 comes back as '1'"),
        ({"a": {"b": [0, (1,)]}}, "at ['a']['b'][1], tuple comes back as list"),
        ([{"x": float("nan")}], "at [0]['x'], NaN comes back as None"),
    ],
)
def test_what_comes_back_different_asks_for_an_annotation(value, found):
    assert refusal(value) == f"the result would come back different ({found}): annotate the return type"


def test_an_annotation_that_does_not_reach_deep_enough_is_named():
    message = refusal({"x": Decimal(1)}, dict[str, Any])
    assert message == (
        "the result would come back different (at ['x'], Decimal comes back as str): "
        "annotate the return type as what it is, not dict[str, Any]"
    )
    assert "at data, set comes back as list" in refusal(Extra({1}), Extra)
    assert "tuple comes back as list" in refusal((1,), Sequence[int])


@pytest.mark.parametrize(
    ("value", "annotation", "found"),
    [
        (True, int, "the result does not fit the return type, int: Expected `int`, got `bool`"),
        (5, None, "the result does not fit the return type, None: Expected `null`, got `int`"),
        ([1], list[str], "the result does not fit the return type, list[str]: Expected `str`, got `int` - at `$[0]`"),
        (float("nan"), float, "Expected `float`, got `null`"),
        (-1, Annotated[int, Meta(ge=0)], ">= 0"),
        ({"at": 5, "sum": "x"}, Model, "sum"),
    ],
)
def test_a_result_that_is_not_what_the_annotation_says(value, annotation, found):
    assert found in refusal(value, annotation)


def test_a_subclass_is_not_silently_cut_down():
    class Special(Order):
        note: str = ""

    assert "Special comes back as Order" in refusal(Special("o", 1, "n"), Order)


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (Pool(), "test_payloads.Pool cannot be written as JSON: use plain data, a msgspec Struct"),
        (1j, "complex cannot be written as JSON"),
        (range(3), "range cannot be written as JSON"),
        ({(1, 2): 3}, "a dict with tuples as keys cannot be written as JSON"),
        ({None: 3}, "cannot be written as JSON"),
        ("\ud800", "str cannot be written as JSON"),
        ({"x": Pool()}, "test_payloads.Pool cannot be written as JSON"),
    ],
)
def test_what_json_cannot_hold(value, found):
    assert found in refusal(value)
    with pytest.raises(PayloadError):
        encode(value)


def test_cycles_and_depth_are_refused():
    cycle: list[Any] = []
    cycle.append(cycle)
    assert "cannot be written as JSON" in refusal(cycle)
    deep: list[Any] = []
    for _ in range(DEPTH_LIMIT - 1):
        deep = [deep]
    assert round_trip(deep)[1] == deep
    assert "nested deeper than 64 levels" in refusal([deep])


def test_brackets_in_texts_are_no_depth():
    check_depth(encode(["[" * 200 + '\\"{' * 200]))
    check_depth(encode([[1]] * 500))


def test_the_caller_says_what_it_is_about():
    with pytest.raises(PayloadError, match=r"^argument 'n' of f\(\) would come .*: annotate the parameter 'n'$"):
        round_trip((1,), Any, None, "argument 'n' of f()", "the parameter 'n'")


class TestDecoders:
    def test_they_are_kept_by_the_annotation(self):
        hint = dict[str, int]
        assert decoder_for(hint) is decoder_for(hint)

    def test_raw_and_bytes(self):
        assert decoder_for(Order)(Raw(b'{"id":"o"}')) == decoder_for(Order)(b'{"id":"o"}') == Order("o")
        assert decoder_for(Model)(Raw(b'{"at":"2026-05-01T12:00:00Z","sum":"1"}')).total == 1

    def test_the_cache_is_bounded(self, monkeypatch):
        monkeypatch.setattr(payloads, "_decoders", {})
        monkeypatch.setattr(payloads, "_REMEMBERED", 3)
        for _ in range(10):
            assert decoder_for(list[int])(b"[1]") == [1]
        assert len(payloads._decoders) <= 3

    @pytest.mark.parametrize("hint", [Order, list[Model], Model, Pool])
    def test_what_does_not_fit_is_a_decode_error(self, hint):
        with pytest.raises(msgspec.DecodeError):
            decoder_for(hint)(b'{"x":1}')

    def test_an_annotation_that_nothing_can_be_read_into(self):
        with pytest.raises(DefinitionError, match=r"Order \| .*Extra cannot be read back from JSON: .*must be tagged"):
            decoder_for(Order | Extra)

    def test_an_annotation_may_bring_its_own_reader(self):
        class Reader:
            def __perdure_decode__(self, raw):
                return bytes(raw)

        assert decoder_for(Reader())(b"1") == b"1"

    def test_strict_pydantic_models_read_json_as_json(self):
        class Strict(BaseModel, strict=True):
            at: datetime

        value = [Strict(at=NOW)]
        assert round_trip(value, list[Strict])[1] == value


class TestDigest:
    def test_it_names_its_algorithm_and_gives_the_input(self):
        found, raw = digest("charge", (1, "a"), {"b": 1, "a": 2})
        assert found.startswith("x3:")
        assert len(found) == 3 + 16
        assert raw == b'[[1,"a"],{"a":2,"b":1}]'

    def test_it_stays_what_logs_hold(self):
        """A changed algorithm would park every run in the world."""
        assert digest("charge", (Order("o1", 5),), {"note": None})[0] == "x3:e0ba03aaf561b55d"

    def test_order_of_keys_and_sets_does_not_matter(self):
        assert digest("s", ({"a": 1, "b": 2},), {"x": 1, "y": 2}) == digest("s", ({"b": 2, "a": 1},), {"y": 2, "x": 1})
        assert digest("s", ({"c", "a", "b"},), {}) == digest("s", ({"b", "c", "a"},), {})

    def test_name_args_and_kwargs_matter(self):
        found = {
            digest(name, args, kwargs)[0]
            for name in ("a", "b")
            for args in ((), (1,), (True,), ("1",), (1.5,), ([1],))
            for kwargs in ({}, {"n": 1}, {"n": 2}, {"m": 1})
        }
        assert len(found) == 2 * 6 * 4

    def test_what_json_cannot_hold_counts_by_its_type(self):
        assert digest("s", (Pool(),), {}) == digest("s", (Pool(),), {})
        assert digest("s", (Pool(),), {})[1] == b'[["<test_payloads.Pool>"],{}]'.replace(
            b"test_payloads", Pool.__module__.encode()
        )
        assert digest("s", (Pool(),), {})[0] != digest("s", (object(),), {})[0]

    @pytest.mark.parametrize(
        "value",
        [{(1, 2): 3}, {1: 2, "a": 3}, {1, "x", (2,)}, "\ud800", {"x": {1j: 2}}, Row, print, lambda: 1, [{None: 1}]],
    )
    def test_it_never_fails(self, value):
        assert digest("s", (value,), {"k": value}) == digest("s", (value,), {"k": value})

    def test_neither_do_cycles_stop_it(self):
        cycle: list[Any] = [1]
        cycle.append(cycle)
        assert digest("s", (cycle,), {}) == digest("s", (cycle,), {})

    def test_odd_values_still_differ(self):
        assert digest("s", ({(1, 2): 3},), {})[0] != digest("s", ({(1, 2): 4},), {})[0]


texts = st.text(st.characters(exclude_categories=["Cs"]))
numbers = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner),
    max_leaves=20,
)


@given(json_values)
def test_any_json_survives(value):
    raw, back = round_trip(value)
    assert back == value
    assert decoder_for(Any)(raw) == value
    assert digest("s", (value,), {}) == digest("s", (back,), {})
