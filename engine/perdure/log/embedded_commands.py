"""Queues of the embedded log: a row for each command in the column family `side`, gone when the command is done.

Commands and what is done of them go out with the flushes of the journal, in the order of their calls: so a command is
gone only once all that was appended before its `done` is durable.
"""

from collections.abc import Callable

from rocksdict import WriteBatch

from perdure.log import rows
from perdure.log.commands import Consumer, Queues, Stored
from perdure.log.disk import Disk
from perdure.log.encoding import COMMANDS, decode, encode, side_prefix
from perdure.log.flight import Entry
from perdure.log.protocol import Take


class EmbeddedCommands:
    """See `Commands`. `queue_up` adds an entry to the next flush and returns its ticket."""

    local = True

    def __init__(self, disk: Disk, queue_up: Callable[[Entry], int]) -> None:
        self._disk = disk
        self._queue_up = queue_up
        self._queues = Queues(self._read, lambda queue, place: queue_up(Entry(queue, b"", place)))
        self._ends: dict[str, int] = {}

    def put(self, queue: str, key: str, value: bytes) -> int:
        return self._queue_up(Entry(queue, value))

    def subscribe(self, queue: str, take: Take, *, limit: int) -> Consumer:
        return self._queues.subscribe(queue, take, limit)

    def write(self, batch: WriteBatch, entries: list[Entry], now_ms: int) -> dict[str, int]:
        """Add `entries` to a flush; the new ends, for `advance` once the flush is durable."""
        ends: dict[str, int] = {}
        for entry in entries:
            prefix = _prefix(entry.queue)
            if entry.done is not None:
                batch.delete(prefix + entry.done.to_bytes(8, "big"), self._disk.side_handle)
                continue
            place = ends.get(entry.queue)
            if place is None:
                place = self._end(entry.queue)
            batch.put(prefix + place.to_bytes(8, "big"), encode(now_ms, [entry.value]), self._disk.side_handle)
            ends[entry.queue] = place + 1
        return ends

    def advance(self, ends: dict[str, int]) -> None:
        self._ends.update(ends)
        for queue in ends:
            self._queues.came(queue)

    def close(self) -> None:
        self._queues.close()
        self._ends.clear()

    def _end(self, queue: str) -> int:
        end = self._ends.get(queue)
        if end is None:
            end = self._ends[queue] = rows.last(self._disk.side, _prefix(queue))[0]
        return end

    def _read(self, queue: str, place: int, limit: int) -> Stored:
        prefix = _prefix(queue)
        found: Stored = []
        try:
            end = self._end(queue)
            stored = self._disk.side.iter()
            stored.seek(prefix + place.to_bytes(8, "big"))
            while stored.valid() and len(found) < limit:
                key: bytes = stored.key()
                at = int.from_bytes(key[-8:], "big")
                if key[:-8] != prefix or at >= end:
                    break
                found.append((at, decode(stored.value())[1][0]))
                stored.next()
            stored.status()
        except Exception as error:
            raise self._disk.explain(error) from error
        return found


def _prefix(queue: str) -> bytes:
    return side_prefix(COMMANDS + queue, 0)
