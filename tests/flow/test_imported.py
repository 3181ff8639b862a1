"""Records copied from another log fold as they did there, and what comes after them goes on from there."""

from collections.abc import Sequence
from random import Random
from typing import NamedTuple

import msgspec
import pytest

from perdure.flow import UnreadableRecord, decode, fold, fold_batch
from perdure.flow.imported import NoRecord, Origins, orig_of, with_orig, without_orig
from perdure.flow.routing import run_id
from perdure.flow.view import View
from perdure_schemas.records import AppDefined, AppPaths, Orig, Record, RunRequested, TimerFired, V
from tests.flow.storm import seeds
from tests.flow.test_storm_anything import played
from tests.flow.world import DictStore, called, definition_of, on, put_in_queue

LATER_MS = 1 << 40
"""What the clock of the other log says: later than everything in the story."""


class Stamped(NamedTuple):
    stamp_ms: int
    raw: bytes


def folded(view: View, records: Sequence[Stamped], offset: int) -> View:
    for index, record in enumerate(records, offset):
        fold(view, decode(record.raw), record.raw, index, record.stamp_ms)
    return view


def batched(view: View, records: Sequence[Stamped], offset: int, random: Random) -> View:
    """As a partition's processor does: slices of one time."""
    start = 0
    while start < len(records):
        end = start + 1
        most = start + random.randrange(1, 40)
        while end < min(most, len(records)) and records[end].stamp_ms == records[start].stamp_ms:
            end += 1
        fold_batch(view, [record.raw for record in records[start:end]], offset + start, records[start].stamp_ms)
        start = end
    return view


def copied(records: Sequence[Stamped], offset: int) -> list[Stamped]:
    """Of records from `offset` on."""
    return [
        Stamped(LATER_MS + index // 7, with_orig(record.raw, Orig(offset + index, record.stamp_ms)))
        for index, record in enumerate(records)
    ]


def with_repetitions(records: list[Stamped], random: Random) -> list[Stamped]:
    """As a writer makes them that sends again what was not acknowledged."""
    found = list(records)
    for _ in range(3):
        end = random.randrange(len(found) + 1)
        found[end:end] = found[max(0, end - random.randrange(30)) : end]
    return found


def logical(view: View) -> dict[str, bytes]:
    """But for what only a copy has."""
    view.meta.moved, view.meta.imported = 0, -1
    return view.logical()


@pytest.mark.parametrize("seed", seeds(12))
def test_a_copy_folds_as_what_it_was_copied_from(seed: int) -> None:
    random = Random(seed)
    for owner in played(seed, forgetful=False).owners:
        records = [Stamped(*record) for record in owner.journal.records]
        here = random.randrange(1, len(records))
        whole = folded(View(owner.partition, 4), records, 0)
        half = folded(View(owner.partition, 4), records[:here], 0)
        assert logical(folded(View(owner.partition, 4), copied(records[:here], 0), 0)) == half.logical()
        # What is copied, then what is written to the copy by itself: the same records at other offsets.
        copy = [*with_repetitions(copied(records[:here], 0), random), *records[here:]]
        assert logical(folded(View(owner.partition, 4), copy, 0)) == whole.logical()
        assert logical(batched(View(owner.partition, 4), copy, 0, random)) == whole.logical()
        # A copy of that copy.
        origins = Origins(0)
        again = [
            Stamped(LATER_MS * 2, with_orig(body, orig))
            for index, record in enumerate(copy)
            for orig, body in [origins.of(record.raw, index, record.stamp_ms)]
        ]
        assert logical(batched(View(owner.partition, 4), again, 0, random)) == whole.logical()


@pytest.mark.parametrize("seed", seeds(12))
def test_a_copy_of_what_was_trimmed_goes_on_from_its_state(seed: int) -> None:
    random = Random(seed)
    for owner in played(seed, forgetful=False).owners:
        records = [Stamped(*record) for record in owner.journal.records]
        at, end = sorted(random.sample(range(1, len(records)), 2))
        whole = folded(View(owner.partition, 4), records, 0)
        store = DictStore()
        state = folded(View(owner.partition, 4), records[:at], 0)
        # Offsets of the copy begin at 1, whatever they were.
        state.meta.moved, state.meta.imported = at - 1, at - 1
        changes: tuple[list[tuple[bytes, bytes]], list[bytes], list[bytes]] = ([], [], [])
        state.seal(*changes)
        store.write(*changes)
        view = View(owner.partition, 4, store)
        view.at, view.stamp = state.at, state.stamp
        batched(view, [*copied(records[at:end], at), *records[end:]], 1, random)
        assert logical(view) == whole.logical()
        assert view.offset == len(records) - 1


def test_the_place_of_what_cannot_be_folded_is_the_log_s_own() -> None:
    view = View(0, 1)
    good = msgspec.json.encode(TimerFired("cron:none", "", 0, v=V))
    with pytest.raises(UnreadableRecord):
        fold_batch(view, [with_orig(good, Orig(700, 5)), good, b'{"kind": "run.dreamt", "v": 1}'], 3, 9)
    assert (view.offset, view.offset - view.meta.moved) == (702, 5)


def test_orig_stands_at_the_end_and_is_taken_off_again() -> None:
    raw = msgspec.json.encode(RunRequested("r", "work", "enqueue", metadata={"a": ',"orig":{"offset":1,"at":2}}'}, v=V))
    orig = Orig(12, 34)
    stamped = with_orig(raw, orig)
    assert (orig_of(raw), orig_of(stamped)) == (None, orig)
    assert decode(stamped) == msgspec.structs.replace(decode(raw), orig=orig)
    assert without_orig(stamped, orig) == raw
    assert with_orig(raw + b" \n", orig) == stamped
    for nonsense in (b"", b"{}", b"[]", b"\xff", b"7"):
        with pytest.raises(NoRecord):
            orig_of(nonsense)


def past(record: Record, offset: int, at: int = 5) -> bytes:
    return with_orig(msgspec.json.encode(record), Orig(offset, at, past=True))


def test_what_an_imported_past_asks_for_is_not_asked_again() -> None:
    """Neither by its own records, nor by numbers that what comes after it would leave out."""
    view, run, child = View(0, 1), run_id("run"), run_id("child")
    records: list[Record] = [
        RunRequested(run, "work", "enqueue", v=V),
        called(run, "0/child#1", child),
        put_in_queue(run, "0/draw#1"),
    ]
    for offset, record in enumerate(records):
        raw = past(record, 40 + offset)
        fold(view, decode(raw), raw, offset, LATER_MS)
    assert (view.effects.sends, view.effects.commands, view.meta.outseq) == ([], [], {})
    state = view.runs.get(run)
    assert state is not None
    assert set(state.open) == {"0/child#1", "0/draw#1"}
    raw = msgspec.json.encode(called(run, "0/child#2", child))
    fold(view, decode(raw), raw, len(records), LATER_MS)
    assert [(partition, b'"from":[0,1]' in sent) for partition, sent in view.effects.sends] == [(0, True)]


def test_definitions_of_an_imported_past_have_their_numbers() -> None:
    """Partition 0 has not numbered them itself: what is defined there next is another."""
    view, old, new = View(0, 1), definition_of(on("placed", "order")), definition_of(on("paid", "order"))
    raw = past(AppPaths(7, old, v=V), 3)
    fold(view, decode(raw), raw, 0, LATER_MS)
    assert view.meta.last_number == 7
    raw = msgspec.json.encode(AppDefined(new, v=V))
    fold(view, decode(raw), raw, 1, LATER_MS)
    assert view.meta.numbers == {new.digest: 8}
