"""The table of folds, and what happens to a record before its fold: decoding, numbering, imported places."""

import re
from itertools import groupby
from operator import itemgetter
from typing import get_args

import msgspec
import pytest

import perdure.flow
from perdure.flow import FOLDS, UnreadableRecord, decode, fold, fold_batch
from perdure.flow.routing import run_id
from perdure.flow.view import View
from perdure_schemas.records import AnyRecord, Orig, Owner, OwnerStarted, Record, RunCancelRequested, RunRequested, V
from tests.flow.test_storm_anything import played
from tests.flow.world import World, refold

_ENCODE = msgspec.json.Encoder().encode


def _kind(record: type[Record]) -> str:
    return str(record.__struct_config__.tag)


def test_the_table_in_the_text_is_what_is_registered() -> None:
    kinds: dict[str, set[str]] = {}
    for line in (perdure.flow.__doc__ or "").splitlines():
        if line[4:5].isdigit():
            kinds[line.split()[1]] = set()
        if kinds:
            kinds[list(kinds)[-1]].update(re.findall(r"\b[a-z]+\.[a-z_]+", line))
    assert list(kinds) == ["definitions", "pausing", "intake", "run", "matcher", "timer", "queues"]
    modules = {"ops": "run", "forking": "run"}
    registered: dict[str, set[str]] = {name: set() for name in kinds}
    for record, folded in FOLDS.items():
        module = folded.__module__.rpartition(".")[2]
        registered[modules.get(module, module)].add(_kind(record))
    assert kinds == registered


def test_every_kind_of_record_has_a_fold() -> None:
    assert set(FOLDS) == set(get_args(AnyRecord))


@pytest.mark.parametrize(
    "raw",
    [
        b'{"kind":"run.unheard_of","v":1}',
        b'{"kind":"app.ready","number":1,"v":2}',
        b'{"kind":"app.ready","number":"one","v":1}',
        b'{"kind":"app.ready"}',
        b"[]",
        b"",
        b'{"kind":"run.cancel_requested","v":1,"run":"\xff"}',
        b'{"kind":"event.received","v":1,"event":{"id":"x","name":"n","data":'
        + b"[" * 100_000
        + b"]" * 100_000
        + b"}}",
    ],
)
def test_what_cannot_be_read_halts(raw: bytes) -> None:
    with pytest.raises(UnreadableRecord):
        decode(raw)
    view = View(0, 1)
    readable = _ENCODE(OwnerStarted(Owner(1, "a"), "code", 1, v=V))
    with pytest.raises(UnreadableRecord):
        fold_batch(view, [readable, raw, readable], 5, 1_000)
    assert view.offset == 6, "where it stands"
    assert view.meta.owner is not None, "what came before it is folded"


def test_a_record_of_this_version_is_read() -> None:
    assert decode(b'{"kind":"run.cancel_requested","v":1,"run":"a"}') == RunCancelRequested("a", v=V)


@pytest.mark.parametrize("seed", range(3))
def test_a_batch_folds_like_its_records_one_by_one(seed: int) -> None:
    """I2, for any batching: numbered, imported and plain records, and repetitions."""
    story = played(seed)
    journal = story.journals[seed]
    one_by_one, effects = refold(journal, seed, story.partitions)
    batched = View(seed, story.partitions)
    offset = folded = 0
    for stamp, records in groupby(journal.records, key=itemgetter(0)):
        values = [raw for _, raw in records]
        folded += fold_batch(batched, values, offset, stamp)
        offset += len(values)
    assert batched.logical() == one_by_one.logical()
    assert batched.effects.sends == effects
    assert folded < len(journal), "there were repetitions"


def test_numbered_records_are_taken_in_order_and_once() -> None:
    view = View(0, 3)

    def take(n: int, token: str) -> bool:
        record = OwnerStarted(Owner(view.offset + 1, token), "code", 1, v=V, from_=(2, n))
        raw = _ENCODE(record)
        return fold(view, decode(raw), raw, view.offset + 1, 1_000)

    assert take(1, "a")
    assert not take(1, "again")
    assert not take(3, "ahead")
    assert take(2, "b")
    assert view.meta.owner is not None
    assert view.meta.owner.token == "b"


def test_an_imported_record_keeps_its_place_and_time(world: World) -> None:
    run = run_id("imported")
    world.to_run(run, RunRequested(run, "work", "enqueue", orig=Orig(77, 500_000), v=V))
    assert (world.run(run).requested_offset, world.run(run).requested_at, world.run(run).since) == (
        77,
        500_000,
        500_000,
    )
