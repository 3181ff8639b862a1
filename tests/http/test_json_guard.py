"""What is refused before anything decodes it, and with what words."""

import json
import time
from typing import Any

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import given

from perdure.errors import PayloadError, PayloadTooLarge
from perdure.sdk.json_guard import DEPTH_LIMIT, compact, guard


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "the body is empty"),
        (b" \n", "the body is empty"),
        (b'{"a":1', "line 1, column 7"),
        (b'{"a":1}}', "Extra data, at line 1, column 8"),
        (b'{\n "a": 1,\n}', "line 3, column 1"),
        (b"nul", "line 1, column 1"),
        (b"{'a': 1}", "line 1, column 2"),
        (b'"a\nb"', "Invalid control character, at line 1, column 3"),
        (b"[" * 1_000_000, "nested deeper than 64 levels: flatten it, or send it as a text, at line 1, column 65"),
        (b'{"a":' * 65 + b"1" + b"}" * 65, "nested deeper than 64 levels"),
        (b'{"a":1,"\\u0061":2}', "the key 'a' is twice in one object: keep one of them, at line 1, column 8"),
        (b'[{"a":{"b":1,\n"b":2}}]', "the key 'b' is twice in one object: keep one of them, at line 2, column 1"),
        (b'{"a":NaN}', "NaN is not JSON: send null, or the number as a text, at line 1, column 6"),
        (b"[-Infinity]", "-Infinity is not JSON"),
        (b"[1e400]", "the number 1e400 is too large: send it as a text, at line 1, column 2"),
        (b"18446744073709551616", "the integer 18446744073709551616 does not fit 64 bit: send it as a text"),
        (b"-9223372036854775809", "does not fit 64 bit"),
        (b"9" * 1_000_000, "does not fit 64 bit"),
        (b'{"a":"\xff"}', "not UTF-8: byte 0xff at position 6"),
        (b"\xef\xbb\xbf{}", "byte order mark"),
        ('"ü"'.encode("utf-16"), "not UTF-8"),
        (b'["\\ud83d"]', "half of a surrogate pair"),
        (b'{"\\ud83d": 1}', "half of a surrogate pair"),
        (b'"\xed\xa0\xbd"', "not UTF-8"),
    ],
)
def test_what_is_refused(raw: bytes, words: str) -> None:
    with pytest.raises(PayloadError) as caught:
        guard(raw)
    assert words in str(caught.value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    "raw",
    [
        b"{}",
        b" [1, 2.5, -3, 1e300, true, null] ",
        b"18446744073709551615",
        b"-9223372036854775808",
        b"123456789012345678901234567890.5",
        b'{"id": "123456789012345678901234567890"}',
        b"[" * DEPTH_LIMIT + b"]" * DEPTH_LIMIT,
        b'{"text": "' + b"[{" * 500 + b'", "b": "\\"[["}',
        b'{"a": {"a": {"a": 1}}, "b": [{"a": 1}, {"a": 1}]}',
        b'"\\ud83d\\ude00 \\\\ud800"',
        '{"ü": "😀"}'.encode(),
    ],
)
def test_what_passes(raw: bytes) -> None:
    guard(raw)


def test_too_large_is_an_error_of_its_own() -> None:
    guard(b'"' + b"x" * 98 + b'"', limit=100)
    with pytest.raises(PayloadTooLarge, match=r"the event has 101 bytes and may have 100"):
        guard(b'"' + b"x" * 99 + b'"', limit=100, what="the event")


values: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner),
    max_leaves=20,
)


@given(values, st.booleans(), st.sampled_from([None, 1]))
def test_whatever_json_is_written_passes_and_compacts_to_the_same(value: Any, ascii: bool, indent: int | None) -> None:
    raw = json.dumps(value, ensure_ascii=ascii, indent=indent).encode()
    guard(raw)
    small = compact(raw)
    assert b"\n" not in bytes(small)
    assert json.loads(bytes(small)) == value


@given(st.binary(max_size=60) | st.text('[]{}",:\\nul1e-+.NaIfity \ud800').map(lambda s: s.encode(errors="replace")))
def test_what_passes_can_be_decoded_by_all(raw: bytes) -> None:
    try:
        guard(raw)
    except PayloadError:
        return
    assert json.loads(raw) == msgspec.json.decode(raw)


def test_a_large_body_takes_no_longer_than_it_must() -> None:
    raw = json.dumps([{"name": "a/b", "data": {"n": n, "tags": ["x", "y"]}} for n in range(20_000)]).encode()
    began = time.process_time()
    guard(raw)
    assert time.process_time() - began < 2
