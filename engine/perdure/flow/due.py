"""The due-time index: what is to happen when, ordered by time, with only the near future in memory."""

from collections.abc import Iterator
from heapq import heappop, heappush

from perdure.flow.tables import Backing

WINDOW_MS = 60_000
"""Entries due within this much of the newest question are in memory; later ones only in the store."""
_SCAN = 1_000


class DueIndex:
    """A set of (due, key), asked for what is due by a moment. Keys are unique for ever."""

    def __init__(self, prefix: bytes, backing: Backing) -> None:
        self.prefix = prefix
        self._backing = backing
        self._heap: list[tuple[int, bytes]] = []
        self._near: dict[bytes, int] = {}
        self._loaded_until = -1
        self._puts: dict[bytes, None] = {}
        self._deletes: dict[bytes, None] = {}
        self._sealed_puts: dict[bytes, None] = {}
        self._sealed_deletes: dict[bytes, None] = {}

    def _row(self, due: int, key: bytes) -> bytes:
        return self.prefix + due.to_bytes(8, "big") + key

    def add(self, due: int, key: bytes) -> None:
        """`due` in milliseconds since the epoch."""
        self._puts[self.prefix + due.to_bytes(8, "big") + key] = None
        if due <= self._loaded_until:
            self._near[key] = due
            heappush(self._heap, (due, key))

    @property
    def near(self) -> int:
        """Grows when an entry is added that is due soon."""
        return len(self._heap)

    def remove(self, due: int, key: bytes) -> None:
        self._near.pop(key, None)
        self._drop(self._row(due, key))

    def _drop(self, row: bytes) -> None:
        # What was added and removed between two checkpoints never reaches the store.
        if row in self._puts:
            del self._puts[row]
        else:
            self._deletes[row] = None

    def take(self, at: int, limit: int) -> list[bytes]:
        """Remove up to `limit` entries due by `at`; returns their keys, earliest first."""
        self._load(at)
        taken: list[bytes] = []
        heap = self._heap
        while heap and heap[0][0] <= at and len(taken) < limit:
            due, key = heappop(heap)
            if self._near.get(key) == due:
                self.remove(due, key)
                taken.append(key)
        return taken

    def due(self, at: int, limit: int) -> list[tuple[int, bytes]]:
        """Up to `limit` entries due by `at`, earliest first, without removing them."""
        self._load(at)
        found: list[tuple[int, bytes]] = []
        heap = self._heap
        while heap and heap[0][0] <= at and len(found) < limit:
            entry = heappop(heap)
            if self._near.get(entry[1]) == entry[0] and (not found or found[-1] != entry):
                found.append(entry)
        for entry in found:
            heappush(heap, entry)
        return found

    def next(self, at: int) -> int | None:
        """When the earliest entry is due, as far as the window reaches; None if nothing is near."""
        self._load(at)
        heap = self._heap
        while heap and self._near.get(heap[0][1]) != heap[0][0]:
            heappop(heap)
        return heap[0][0] if heap else None

    def first(self) -> int | None:
        """When the earliest entry of all is due (looks beyond the window; for jumping clocks)."""
        best = min((int.from_bytes(row[len(self.prefix) :][:8], "big") for row in self._unwritten()), default=None)
        for row, _ in self._stored(self.prefix):
            due = int.from_bytes(row[len(self.prefix) :][:8], "big")
            return due if best is None else min(due, best)
        return best

    def rows(self) -> list[bytes]:
        """Every entry as its row, in order."""
        return sorted({*self._unwritten(), *(row for row, _ in self._stored(self.prefix))})

    def _unwritten(self) -> Iterator[bytes]:
        for row in self._sealed_puts:
            if row not in self._deletes:
                yield row
        yield from self._puts

    def _stored(self, start: bytes) -> Iterator[tuple[bytes, bytes]]:
        while True:
            rows = self._backing.scan(self.prefix, start, _SCAN)
            for pair in rows:
                if pair[0] not in self._deletes and pair[0] not in self._sealed_deletes:
                    yield pair
            if len(rows) < _SCAN:
                return
            start = rows[-1][0] + b"\0"

    def _load(self, at: int) -> None:
        if at <= self._loaded_until:
            return
        after, self._loaded_until = self._loaded_until, at + WINDOW_MS
        skip = len(self.prefix)
        start = self.prefix + (after + 1).to_bytes(8, "big")
        for row, _ in self._stored(start):
            if int.from_bytes(row[skip : skip + 8], "big") > self._loaded_until:
                break
            self._admit(row)
        for row in self._unwritten():
            self._admit(row)

    def _admit(self, row: bytes) -> None:
        skip = len(self.prefix)
        due, key = int.from_bytes(row[skip : skip + 8], "big"), row[skip + 8 :]
        if due <= self._loaded_until and self._near.get(key) != due:
            self._near[key] = due
            heappush(self._heap, (due, key))

    def seal(self, puts: list[tuple[bytes, bytes]], deletes: list[bytes]) -> None:
        """Hand over what changed since the last seal, for one write."""
        puts.extend((row, b"") for row in self._puts)
        deletes.extend(self._deletes)
        self._sealed_puts, self._puts = self._puts, {}
        self._sealed_deletes, self._deletes = self._deletes, {}

    def written(self) -> None:
        self._sealed_puts, self._sealed_deletes = {}, {}
