"""Side topics of the embedded log: best effort, written with the next flush of the journal."""

from rocksdict import WriteBatch

from perdure.log import rows
from perdure.log.disk import Disk
from perdure.log.encoding import COMMANDS, encode, side_prefix, split
from perdure.log.protocol import Batch

SideRecord = tuple[str, int, bytes]
"""(topic, partition, record)."""

Ends = dict[bytes, int]
"""By prefix of the topic's keys: one past its last record."""


class SideTopics:
    """Where each side topic ends, found when it is first asked for: there may be many that nobody uses."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._ends: Ends = {}

    def put(self, batch: WriteBatch, records: list[SideRecord], now_ms: int) -> Ends:
        """Add `records` to a flush; the new ends, for `advance` once the flush is durable."""
        groups: dict[bytes, list[bytes]] = {}
        for topic, partition, value in records:
            groups.setdefault(side_prefix(topic, partition), []).append(value)
        ends: Ends = {}
        for prefix, values in groups.items():
            end = self._end(prefix)
            for part in split(values):
                batch.put(prefix + end.to_bytes(8, "big"), encode(now_ms, part), self._disk.side_handle)
                end += len(part)
            ends[prefix] = end
        return ends

    def advance(self, ends: Ends) -> None:
        self._ends.update(ends)

    def forget(self) -> None:
        """After a failure only the disk knows what came through."""
        self._ends.clear()

    def read(self, topic: str, partition: int, offset: int, limit_bytes: int) -> list[Batch]:
        """See `Log.read_side`."""
        prefix = side_prefix(topic, partition)
        first, end = rows.first(self._disk.side, prefix), self._end(prefix)
        if first is None or offset >= end:
            return []
        return rows.read(self._disk.side, prefix, partition, max(offset, first), end, limit_bytes)

    def trim(self, batch: WriteBatch, partition: int, since_ms: int) -> None:
        """Add to `batch` the end of what is older than `since_ms`. The last row of a topic stays: its end is there."""
        side, suffix = self._disk.side, partition.to_bytes(2, "big")
        stored = side.iter()
        stored.seek(b"")
        while stored.valid():
            topic: bytes = stored.key()[:-11]
            prefix = topic + b"\0" + suffix
            key = None if topic.startswith(COMMANDS.encode()) else rows.newer(side, prefix, since_ms)
            if key is not None:
                batch.delete_range(prefix, key, self._disk.side_handle)
            stored.seek(topic + b"\1")
        stored.status()

    def _end(self, prefix: bytes) -> int:
        end = self._ends.get(prefix)
        if end is None:
            end, _ = rows.last(self._disk.side, prefix)
            self._ends[prefix] = end
        return end
