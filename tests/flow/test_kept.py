"""Kept events: found by key in order of arrival, without reading all that a busy key holds."""

import pytest

from perdure.flow import kept
from perdure.flow.kept import Kept, row_of
from perdure.flow.states import KeptEvent
from tests.flow.world import DictStore, event


class Stored:
    def __init__(self) -> None:
        self.store = DictStore()
        self.rows_read = 0
        self.kept = Kept(self)
        self._changes: tuple[list[tuple[bytes, bytes]], list[bytes]] = ([], [])

    def get(self, key: bytes, /) -> bytes | None:
        raise AssertionError("copies are scanned")

    def scan(self, prefix: bytes, /, start: bytes = b"", limit: int = 0) -> list[tuple[bytes, bytes]]:
        rows = self.store.scan(prefix, start, limit)
        self.rows_read += len(rows)
        return rows

    def keep(self, key: str, position: int, at: int = 0, high: int | None = None) -> None:
        copy = KeptEvent(position, event(str(position)), at, at if high is None else high)
        self.kept.add(key, copy)

    def seal(self) -> None:
        self._changes = ([], [])
        self.kept.seal(*self._changes)

    def write(self) -> None:
        self.store.write(*self._changes, ())
        self.kept.written()

    def found(self, key: str, position: int = 0, at: int = 0, end: int = 1 << 40) -> list[int]:
        return [copy.position for copy in self.kept.since(key, position, at, end)]

    def all(self) -> list[bytes]:
        return sorted(row for row, _ in self.kept.items())


def test_copies_come_in_order_from_store_checkpoint_and_memory() -> None:
    stored = Stored()
    stored.keep("k", 1)
    stored.keep("k", 2)
    stored.keep("other", 3)
    stored.seal()
    stored.write()
    stored.keep("k", 4)
    stored.seal()
    stored.keep("k", 5)
    assert stored.found("k") == [1, 2, 4, 5]
    assert stored.found("k", position=4) == [4, 5]
    assert (stored.found("k/"), stored.found("")) == ([], [])
    assert stored.all() == sorted([row_of("k", n) for n in (1, 2, 4, 5)] + [row_of("other", 3)])


def test_a_deleted_copy_is_gone_wherever_it_stood() -> None:
    stored = Stored()
    stored.keep("k", 1)
    stored.keep("k", 2)
    stored.seal()
    stored.write()
    stored.keep("k", 3)
    stored.kept.delete(row_of("k", 1))
    stored.seal()
    stored.keep("k", 4)
    stored.keep("k", 5)
    for position in (2, 3, 4):
        stored.kept.delete(row_of("k", position))
    assert stored.found("k") == [5]
    stored.kept.delete(row_of("k", 5))
    assert (stored.found("k"), stored.all()) == ([], [])
    stored.write()
    assert (stored.found("k"), stored.all()) == ([], [])
    stored.seal()
    stored.write()
    assert stored.store.values == {}


def test_a_new_subscription_reads_only_what_came_since(monkeypatch: pytest.MonkeyPatch) -> None:
    """`high` only grows with the position, so that the first row worth reading is found by halving."""
    stored = Stored()
    for position in range(10_000):
        stored.keep("k", position * 3, at=position)
    stored.seal()
    stored.write()
    assert stored.found("k", at=9_990, end=30_000) == [3 * n for n in range(9_990, 10_000)]
    assert stored.rows_read < 2 * kept._CHUNK  # pyright: ignore[reportPrivateUsage]
    assert stored.found("k", at=10_000, end=30_000) == []
    assert stored.found("k", at=5_000, end=30_000) == [3 * n for n in range(5_000, 10_000)]


def test_a_copy_with_an_early_timestamp_is_found_after_a_later_one() -> None:
    """Clocks of the partitions that took events in differ: timestamps do not grow with the position."""
    stored = Stored()
    for position in range(200):
        stored.keep("k", position, at=100 - position % 50, high=100)
    stored.seal()
    stored.write()
    assert stored.found("k", at=100, end=200) == list(range(200))


def test_only_as_many_rows_are_read_as_are_wanted() -> None:
    stored = Stored()
    for position in range(1_000):
        stored.keep("k", position)
    stored.seal()
    stored.write()
    assert next(stored.kept.since("k", 0, 0, 1_000)).position == 0
    assert stored.rows_read == kept._CHUNK  # pyright: ignore[reportPrivateUsage]
