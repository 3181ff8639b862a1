"""Large records: found wherever they stand on their way to the store, and gone with what refers to them."""

from random import Random

import msgspec
import pytest

from perdure.flow.routing import run_id
from perdure.flow.wholes import Wholes, ending_in, payload_in
from perdure_schemas.payload import ErrorInfo
from perdure_schemas.records import Ending, OpOpened, Queued, RetryRule, RunFinished, RunRequested, Sleep, V
from tests.flow.storm import seeds
from tests.flow.world import DictStore, called, payload

RUN = run_id("r")
_ENCODE = msgspec.json.Encoder().encode


@pytest.mark.parametrize("seed", seeds(30))
def test_lives_of_records_and_checkpoints_in_any_order(seed: int) -> None:
    random = Random(seed)
    store = DictStore()
    wholes = Wholes(store)
    expected: dict[int, bytes] = {}
    changes: tuple[list[tuple[bytes, bytes]], list[bytes]] | None = None
    for offset in range(200):
        draw = random.random()
        if draw < 0.4:
            expected[offset] = b"%d" % offset
            wholes.add(offset, expected[offset])
        elif draw < 0.6 and expected:
            gone = random.choice(list(expected))
            del expected[gone]
            wholes.delete(gone)
        elif changes is None:
            changes = [], []
            wholes.seal(*changes)
        else:
            store.write(*changes, ())
            wholes.written()
            changes = None
        assert [int(raw) for _, raw in wholes.items()] == sorted(expected)
        assert [wholes.get(any_) for any_ in range(offset + 2)] == [expected.get(any_) for any_ in range(offset + 2)]


def test_a_record_gives_what_a_reference_to_it_stands_for() -> None:
    event, arguments, result = payload({"x": 1}), payload([[1], {}]), payload(3)
    ending = Ending(RUN, "work", "failed", ErrorInfo("E", "no"))
    requested = _ENCODE(RunRequested(RUN, "work", "event", event=event, arguments=arguments, ending=ending, v=V))
    assert payload_in(requested, "event") == event
    assert payload_in(requested, "arguments") == arguments
    assert ending_in(requested) == ending
    assert payload_in(_ENCODE(RunFinished(RUN, "completed", result, v=V)), "result") == result
    queued = Queued("gpu", "render", arguments, RetryRule(4, 1_000, 2.0, 3_600_000), lease_ms=1)
    assert payload_in(_ENCODE(OpOpened(RUN, "0/a#0", "d", queued, v=V)), "arguments") == arguments
    assert payload_in(_ENCODE(called(RUN, "0/a#0", RUN)), "arguments") == payload([[], {}])
    assert payload_in(_ENCODE(OpOpened(RUN, "0/a#0", "d", Sleep(5), v=V)), "arguments") is None
