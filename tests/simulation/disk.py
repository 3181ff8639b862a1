"""A machine's disk: it outlives the processes upon it, and what it loses is drawn.

    writes    1   2   3   4   5   6   7
              ───────────┬───────────────
              synced     │ in the page cache: a killed process loses none of it,
                         │ a machine without power some end of it, and then all after that

All stores of a machine share one write-ahead log, as they share one RocksDB: what is lost is always an end. A torn
last write is found by its checksum, and lost as a whole. A flipped bit is found when the disk is opened: such a state
is refused, and the engine goes on without it.
"""

from bisect import bisect_left, insort
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from random import Random

from perdure.errors import LogFull
from perdure.log.protocol import Batch
from tests.simulation.swarm import Swarm
from tests.simulation.trace import Trace

Undo = list[tuple[bytes, bytes | None]]


class SimStore:
    """See `Store`."""

    def __init__(self, disk: "SimDisk", name: str) -> None:
        self._disk = disk
        self.name = name
        self.values: dict[bytes, bytes] = {}
        self._keys: list[bytes] = []

    def get(self, key: bytes, /) -> bytes | None:
        return self.values.get(key)

    def scan(self, prefix: bytes, /, start: bytes = b"", limit: int = 0) -> list[tuple[bytes, bytes]]:
        found: list[tuple[bytes, bytes]] = []
        keys, values = self._keys, self.values
        for index in range(bisect_left(keys, max(prefix, start)), len(keys)):
            key = keys[index]
            if not key.startswith(prefix) or (limit and len(found) == limit):
                break
            found.append((key, values[key]))
        return found

    def write(
        self, puts: Sequence[tuple[bytes, bytes]], deletes: Sequence[bytes], /, clear: Sequence[bytes] = ()
    ) -> None:
        self._disk.write(self, puts, deletes, clear)

    def apply(self, puts: Sequence[tuple[bytes, bytes]], deletes: Sequence[bytes], clear: Sequence[bytes]) -> Undo:
        """Change, and how to change it back."""
        undo: Undo = []
        for prefix in clear:
            for key, _ in self.scan(prefix):
                self._set(key, None, undo)
        for key in deletes:
            self._set(key, None, undo)
        for key, value in puts:
            self._set(key, value, undo)
        return undo

    def back(self, undo: Undo) -> None:
        nowhere: Undo = []
        for key, value in reversed(undo):
            self._set(key, value, nowhere)

    def _set(self, key: bytes, value: bytes | None, undo: Undo) -> None:
        old = self.values.get(key)
        undo.append((key, old))
        if value is None:
            if old is not None:
                del self.values[key]
                del self._keys[bisect_left(self._keys, key)]
            return
        if old is None:
            insort(self._keys, key)
        self.values[key] = value


class SimDisk:
    """The disk of one machine. `die` kills its process at a write: what that does afterwards goes nowhere."""

    def __init__(self, name: str, rng: Random, swarm: Swarm, trace: Trace) -> None:
        self.name = name
        self._random = rng.random
        self._rng = rng
        self._swarm = swarm
        self._trace = trace
        self._stores: dict[str, SimStore] = {}
        self._unsynced: deque[tuple[int, Callable[[], None]]] = deque()
        self.promised: defaultdict[int, list[tuple[int, bytes]]] = defaultdict(list)
        """By partition, what a log on this disk has acknowledged: (offset, record). Not on the disk itself."""
        self.trimmed: defaultdict[int, list[Batch]] = defaultdict(list)
        """By partition, what is gone for all, kept for who checks. Not on the disk itself."""
        self.side: dict[tuple[str, int], list[Batch]] = {}
        self.full = False
        self.writes = 0
        self.process_is_dead: Callable[[], bool] = lambda: True
        self.die: Callable[[], None] | None = None

    def store(self, name: str) -> SimStore:
        found = self._stores.get(name)
        if found is None:
            found = self._stores[name] = SimStore(self, name)
        return found

    def write(
        self,
        store: SimStore,
        puts: Sequence[tuple[bytes, bytes]],
        deletes: Sequence[bytes],
        clear: Sequence[bytes] = (),
    ) -> None:
        if self.process_is_dead():
            return
        if self.full:
            raise LogFull(f"no space left on the disk of {self.name}")
        at = self._random()
        dies = at < self._swarm.p_crash_at_write and self.die is not None
        if dies and at < self._swarm.p_crash_at_write / 2:
            self._trace.note("died", f"{self.name} before a write")
            self._dies()
            return
        undo = store.apply(puts, deletes, clear)
        self.add_undo(lambda: store.back(undo))
        self._trace.note("write", f"{self.name} {store.name} {len(puts)} {len(deletes)} {len(clear)}")
        if dies:
            self._trace.note("died", f"{self.name} after a write")
            self._dies()

    def _dies(self) -> None:
        if self.die is not None:
            self.die()

    def add_undo(self, undo: Callable[[], None]) -> None:
        """A write was made that power loss may undo."""
        self.writes += 1
        if self._unsynced and self._random() < 0.1:
            self.sync()  # the system writes back what is old enough, whenever it likes
        self._unsynced.append((self.writes, undo))

    def sync(self) -> None:
        """Everything written so far is durable."""
        self._unsynced.clear()

    def sync_to(self, written: int) -> None:
        """The first `written` of all writes are durable."""
        while self._unsynced and self._unsynced[0][0] <= written:
            self._unsynced.popleft()

    def lose_power(self) -> None:
        """Some end of what was not synced is gone."""
        lost = self._rng.randint(0, len(self._unsynced))
        for _ in range(lost):
            self._unsynced.pop()[1]()
        self._unsynced.clear()
        self._trace.note("lost", f"{self.name} {lost} writes")

    def reopen(self) -> None:
        """The next process opens the disk."""
        if self._random() < self._swarm.p_flip:
            self._trace.note("flipped", f"{self.name} {len(self._stores)} stores refused")
            self.forget()

    def forget(self) -> None:
        """All state is gone; a log that stands on this disk is not. Once that was trimmed, the two go together."""
        log = self._stores.get("log")
        if log is not None and log.scan(b"s", limit=1):
            return
        self._unsynced.clear()
        for name, store in self._stores.items():
            if name != "log":
                store.apply((), (), (b"",))
