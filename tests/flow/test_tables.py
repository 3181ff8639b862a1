"""Tables: what is read is the newest, wherever it stands on its way to the store."""

from random import Random

import msgspec
import pytest

from perdure.flow.tables import EmptyBacking, Table
from tests.flow.storm import seeds
from tests.flow.world import DictStore


class Counted(msgspec.Struct):
    n: int


class Stored:
    """A table over a store, with its checkpoints."""

    def __init__(self) -> None:
        self.store = DictStore()
        self.reads = 0
        self.table = Table(b"c/", Counted, self)
        self._puts: list[tuple[bytes, bytes]] = []
        self._deletes: list[bytes] = []

    def get(self, key: bytes, /) -> bytes | None:
        self.reads += 1
        return self.store.get(key)

    def scan(self, prefix: bytes, /, start: bytes = b"", limit: int = 0) -> list[tuple[bytes, bytes]]:
        return self.store.scan(prefix, start, limit)

    def seal(self) -> None:
        self._puts, self._deletes = [], []
        self.table.seal(self._puts, self._deletes)

    def write(self) -> None:
        self.store.write(self._puts, self._deletes, ())
        for key in self.table.written():
            self.table.forget(key)

    def checkpoint(self) -> None:
        self.seal()
        self.write()

    def all(self) -> dict[str, int]:
        return {key: value.n for key, value in self.table.items()}


def test_a_value_changed_in_place_is_stored_when_touched() -> None:
    stored = Stored()
    stored.table.put("a", Counted(1))
    stored.checkpoint()
    value = stored.table.get("a")
    assert value is not None
    value.n = 2
    stored.table.touch("a")
    stored.checkpoint()
    assert stored.table.cache == {}
    assert stored.all() == {"a": 2}


def test_what_is_on_its_way_to_the_store_is_read_from_there() -> None:
    stored = Stored()
    stored.table.put("a", Counted(1))
    stored.table.put("b", Counted(1))
    stored.checkpoint()
    stored.table.put("a", Counted(2))
    stored.table.delete("b")
    stored.seal()
    assert stored.table.forget("a")
    assert stored.table.get("a") == Counted(2)
    assert stored.table.get("b") is None
    assert stored.all() == {"a": 2}


def test_what_was_deleted_and_put_again_while_a_checkpoint_was_under_way_is_there() -> None:
    stored = Stored()
    stored.table.put("a", Counted(1))
    stored.checkpoint()
    stored.table.delete("a")
    stored.seal()
    stored.table.put("a", Counted(2))
    stored.write()
    assert stored.all() == {"a": 2}
    stored.checkpoint()
    assert stored.all() == {"a": 2}


def test_what_was_deleted_during_a_checkpoint_stays_deleted() -> None:
    stored = Stored()
    stored.table.put("a", Counted(1))
    stored.seal()
    stored.table.delete("a")
    stored.write()
    assert stored.table.get("a") is None
    assert stored.all() == {}
    stored.checkpoint()
    assert stored.store.values == {}


def test_a_value_with_changes_is_not_forgotten() -> None:
    stored = Stored()
    stored.table.put("a", Counted(1))
    assert not stored.table.forget("a")
    assert stored.table.cache


def test_what_was_only_read_leaves_memory_at_the_next_checkpoint_too() -> None:
    """Stubs of ended runs are asked for by late copies: they must not stay."""
    stored = Stored()
    stored.table.put("a", Counted(1))
    stored.checkpoint()
    assert stored.table.get("a") == stored.table.get("a") == Counted(1)
    assert stored.reads == 1
    stored.checkpoint()
    assert stored.table.cache == {}


def test_reading_all_reads_each_once_and_keeps_none() -> None:
    stored = Stored()
    for key in "abc":
        stored.table.put(key, Counted(1))
    stored.checkpoint()
    assert list(stored.all()) == ["a", "b", "c"]
    assert list(stored.table.values()) == [Counted(1)] * 3
    assert stored.reads == 0
    assert stored.table.cache == {}


def test_one_checkpoint_at_a_time() -> None:
    stored = Stored()
    stored.table.put("a", Counted(1))
    stored.seal()
    stored.table.put("a", Counted(2))
    with pytest.raises(AssertionError, match="I7"):
        stored.seal()


def test_over_nothing_a_table_has_what_was_put() -> None:
    table = Table(b"c/", Counted, EmptyBacking())
    assert table.get("a") is None
    table.put("a", Counted(1))
    assert dict(table.items()) == {"a": Counted(1)}


@pytest.mark.parametrize("seed", seeds(30))
def test_any_order_of_changes_and_checkpoints_reads_like_a_dict(seed: int) -> None:
    random = Random(seed)
    stored = Stored()
    expected: dict[str, int] = {}
    sealed = False
    for n in range(200):
        key = random.choice("abcdef")
        draw = random.random()
        value = stored.table.get(key)
        assert (value.n if value else None) == expected.get(key)
        if draw < 0.3:
            stored.table.put(key, Counted(n))
            expected[key] = n
        elif draw < 0.5 and value is not None:
            value.n = expected[key] = n
            stored.table.touch(key)
        elif draw < 0.7:
            stored.table.delete(key)
            expected.pop(key, None)
        elif draw < 0.8:
            stored.table.forget(key)
        elif sealed:
            stored.write()
            sealed = False
        else:
            stored.seal()
            sealed = True
        assert stored.all() == dict(sorted(expected.items()))
