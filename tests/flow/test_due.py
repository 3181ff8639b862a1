"""The due-time index: what is due is found, near or far, stored or not."""

from random import Random

import pytest

from perdure.flow import due
from perdure.flow.due import WINDOW_MS, DueIndex
from perdure.flow.tables import EmptyBacking
from tests.flow.storm import seeds
from tests.flow.world import DictStore


class Stored:
    def __init__(self) -> None:
        self.store = DictStore()
        self.index = DueIndex(b"t/", self.store)
        self._puts: list[tuple[bytes, bytes]] = []
        self._deletes: list[bytes] = []

    def seal(self) -> None:
        self._puts, self._deletes = [], []
        self.index.seal(self._puts, self._deletes)

    def write(self) -> None:
        self.store.write(self._puts, self._deletes, ())
        self.index.written()

    def checkpoint(self) -> None:
        self.seal()
        self.write()

    def restart(self) -> None:
        self.index = DueIndex(b"t/", self.store)


def test_what_is_due_comes_earliest_first_and_stays_until_it_is_removed() -> None:
    index = DueIndex(b"t/", EmptyBacking())
    for at in (30, 10, 20, 40):
        index.add(at, b"%d" % at)
    assert index.due(30, 10) == index.due(30, 10) == [(10, b"10"), (20, b"20"), (30, b"30")]
    assert index.due(30, 2) == [(10, b"10"), (20, b"20")]
    index.remove(10, b"10")
    assert index.due(30, 10) == [(20, b"20"), (30, b"30")]
    assert index.next(30) == 20


def test_taking_removes() -> None:
    index = DueIndex(b"t/", EmptyBacking())
    for at in (30, 10, 20):
        index.add(at, b"%d" % at)
    assert index.next(0) == 10
    index.remove(20, b"20")
    assert index.take(100, 1) == [b"10"]
    assert index.take(100, 9) == [b"30"]
    assert index.take(100, 9) == []
    assert index.rows() == []


def test_far_entries_are_only_in_the_store_until_their_time_comes() -> None:
    stored = Stored()
    far = 10 * WINDOW_MS
    stored.index.add(far, b"far")
    stored.checkpoint()
    stored.restart()
    assert stored.index.next(0) is None
    assert stored.index.first() == far
    assert stored.index.next(far - WINDOW_MS) == far
    assert stored.index.due(far, 1) == [(far, b"far")]


def test_an_entry_added_twice_is_due_once() -> None:
    index = DueIndex(b"t/", EmptyBacking())
    assert index.next(0) is None
    index.add(5, b"a")
    index.add(5, b"a")
    assert index.due(5, 9) == [(5, b"a")]


def test_the_earliest_of_all_is_found_wherever_it_stands() -> None:
    stored = Stored()
    assert stored.index.first() is None
    stored.index.add(5 * WINDOW_MS, b"stored")
    stored.checkpoint()
    stored.index.add(7 * WINDOW_MS, b"new")
    assert stored.index.first() == 5 * WINDOW_MS
    stored.index.add(3 * WINDOW_MS, b"newer")
    assert stored.index.first() == 3 * WINDOW_MS


def test_what_is_added_and_removed_between_checkpoints_never_reaches_the_store() -> None:
    stored = Stored()
    stored.index.add(5, b"a")
    stored.index.remove(5, b"a")
    stored.checkpoint()
    assert stored.store.values == {}


def test_what_is_removed_while_its_checkpoint_is_under_way_goes_with_the_next() -> None:
    stored = Stored()
    stored.index.add(5, b"a")
    stored.seal()
    assert stored.index.rows() == [b"t/" + (5).to_bytes(8, "big") + b"a"]
    stored.index.remove(5, b"a")
    assert stored.index.rows() == []
    stored.write()
    assert (stored.index.rows(), stored.index.due(9, 9)) == ([], [])
    stored.checkpoint()
    assert stored.store.values == {}


@pytest.mark.parametrize("seed", seeds(30))
def test_any_order_of_changes_and_checkpoints_is_like_a_set(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(due, "_SCAN", 3)
    random = Random(seed)
    stored = Stored()
    expected: dict[bytes, int] = {}
    at, sealed = 0, False
    for n in range(300):
        draw = random.random()
        if draw < 0.4:
            key = b"%d" % n
            expected[key] = at + random.choice([0, 1_000, 100_000, 1_000_000])
            stored.index.add(expected[key], key)
        elif draw < 0.6 and expected:
            key = random.choice(list(expected))
            stored.index.remove(expected.pop(key), key)
        elif draw < 0.7:
            at += random.choice([0, 10_000, 200_000])
        elif draw < 0.8:
            for key in stored.index.take(at, 3):
                assert expected.pop(key) <= at
        elif sealed:
            stored.write()
            sealed = False
        else:
            stored.seal()
            sealed = True
            if draw > 0.95:
                stored.write()
                stored.restart()
                sealed = False
        entries = sorted((when, key) for key, when in expected.items())
        assert stored.index.rows() == [b"t/" + when.to_bytes(8, "big") + key for when, key in entries]
        assert stored.index.due(at, 1_000) == [entry for entry in entries if entry[0] <= at]
        assert stored.index.first() == (entries[0][0] if entries else None)
        soonest = stored.index.next(at)
        if soonest is not None or (entries and entries[0][0] <= at):
            assert soonest == entries[0][0]


def test_an_entry_that_is_due_soon_can_be_noticed() -> None:
    """Whoever sleeps until the next one looks again."""
    index = DueIndex(b"t/", EmptyBacking())
    assert index.next(0) is None
    before = index.near
    index.add(2 * WINDOW_MS, b"far")
    assert index.near == before
    index.add(5, b"soon")
    assert index.near > before
