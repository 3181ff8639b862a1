"""Records on the wire: every kind survives the trip, says what it is, and is spelt as it was when logs were written."""

import json
from typing import Any

import msgspec
import pytest

from perdure_schemas import (
    AnyLogged,
    AnyRecord,
    EventBody,
    EventReceived,
    KeyCursor,
    Orig,
    OwnerReleased,
    OwnerStarted,
    Payload,
    RunLogged,
    RunReported,
    RunRequested,
    V,
)
from tests.schemas.samples import GOLDEN, KINDS, samples, written

DECODER = msgspec.json.Decoder(AnyRecord)
STORED: dict[str, list[dict[str, Any]]] = json.loads(GOLDEN.read_text(encoding="utf-8"))
by_kind = pytest.mark.parametrize("kind", KINDS)


@by_kind
def test_round_trip(kind: str) -> None:
    """What is written is what is read, with all fields and with the required ones alone."""
    for sample in samples(kind):
        record = DECODER.decode(json.dumps(sample))
        assert type(record) is KINDS[kind]
        assert DECODER.decode(msgspec.json.encode(record)) == record
        line = json.loads(msgspec.json.encode(record))
        assert line.items() >= sample.items(), "a field was lost or changed"


@by_kind
def test_kind_and_version_are_always_written(kind: str) -> None:
    """Readers halt on an unknown kind or version, so both stand in every record, defaults or not."""
    for line in written(kind):
        assert line["kind"] == kind
        assert line["v"] == V
    for sample in samples(kind):
        without_version = {name: value for name, value in sample.items() if name != "v"}
        with pytest.raises(msgspec.ValidationError, match="missing required field `v`"):
            DECODER.decode(json.dumps(without_version))


@by_kind
def test_wire_format_is_the_golden_one(kind: str) -> None:
    """Names, order and defaults on the wire are fixed. If the change is meant: `python -m tests.schemas.samples`."""
    assert json.dumps(written(kind)) == json.dumps(STORED.get(kind))


@by_kind
def test_golden_records_are_still_read(kind: str) -> None:
    """Logs outlive code: what golden.json holds decodes, and is written again without a loss."""
    for line in STORED[kind]:
        assert json.loads(msgspec.json.encode(DECODER.decode(json.dumps(line)))) == line


def test_golden_file_has_exactly_the_kinds() -> None:
    assert list(STORED) == list(KINDS)


@by_kind
def test_fields_of_newer_writers_are_passed_over(kind: str) -> None:
    """A field that this code does not know is no error: fields are added with a default, under the same version."""
    sample = samples(kind)[0]
    assert DECODER.decode(json.dumps({**sample, "added_later": 1})) == DECODER.decode(json.dumps(sample))


def test_from_and_orig_are_spelt_so() -> None:
    record = OwnerReleased(v=V, from_=(3, 7), orig=Orig(offset=5, at=6), owner=_started().owner)
    line = json.loads(msgspec.json.encode(record))
    assert line["from"] == [3, 7]
    assert line["orig"] == {"offset": 5, "at": 6}
    assert "from_" not in line


def test_unused_from_and_orig_take_no_room() -> None:
    assert {"from", "orig"}.isdisjoint(json.loads(msgspec.json.encode(_started())))


@pytest.mark.parametrize("line", ['{"kind":"run.paused","v":1}', '{"kind":"","v":1}', '{"kind":1,"v":1}', '{"v":1}'])
def test_unknown_kind_is_refused(line: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        DECODER.decode(line)


def test_kinds_have_two_words() -> None:
    """`entity.what_happened`: consoles group and filter by the first word."""
    for kind in KINDS:
        entity, what = kind.split(".")
        assert entity.isalpha()
        assert what.replace("_", "").isalpha()


def test_user_data_is_not_touched() -> None:
    """Raw JSON goes through as the bytes it came in: spaces, big numbers and key order are the user's."""
    data = b'{ "b":1.0, "a": 123456789012345678901234567890 }'
    record = EventReceived(v=V, event=EventBody(id="e1", name="cart/added", data=msgspec.Raw(data)))
    line = msgspec.json.encode(record)
    assert data in line
    again = DECODER.decode(line)
    assert isinstance(again, EventReceived)
    assert bytes(again.event.data) == data
    assert bytes(again.event.user) == b"{}"


def test_empty_defaults_are_not_shared() -> None:
    """Collections that default to empty are made for each record."""
    first, second = KeyCursor(), KeyCursor()
    first.also.append(1)
    first.elsewhere["e1"] = 2
    assert second == KeyCursor()
    one = RunRequested(v=V, run="r1", function="f", cause="call")
    other = RunRequested(v=V, run="r2", function="f", cause="call")
    assert one.metadata is not other.metadata


def test_payload_is_inline_or_a_ref() -> None:
    assert msgspec.json.encode(Payload(inline=msgspec.Raw(b"null"))) == b'{"inline":null}'
    assert msgspec.json.decode(b'{"ref":{"partition":1,"offset":2}}', type=Payload).inline is msgspec.UNSET


def test_progress_is_told_apart_from_the_journal() -> None:
    """`run.reported` stands on the logs topic; in a journal it is an unknown kind."""
    line = msgspec.json.encode(RunReported(v=V, run="r1", at=1, fields={"done": 3, "of": None}))
    assert msgspec.json.decode(line)["kind"] == "run.reported"
    with pytest.raises(msgspec.ValidationError, match="Invalid value"):
        DECODER.decode(line)


def test_lines_are_told_apart_from_the_journal_and_say_no_more_than_they_have() -> None:
    """As `run.reported`, on the same topic."""
    line = msgspec.json.encode(RunLogged(v=V, run="r1", at=1, level="info", logger="shop", message="a\nb"))
    assert line == b'{"kind":"run.logged","v":1,"run":"r1","at":1,"level":"info","logger":"shop","message":"a\\nb"}'
    assert isinstance(msgspec.json.decode(line, type=AnyLogged), RunLogged)
    with pytest.raises(msgspec.ValidationError, match="Invalid value"):
        DECODER.decode(line)


def _started() -> OwnerStarted:
    least = DECODER.decode(json.dumps(samples("owner.started")[0]))
    assert isinstance(least, OwnerStarted)
    return least
