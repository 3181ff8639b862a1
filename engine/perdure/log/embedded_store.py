"""The state beside each partition, in the column family `state`: keys prefixed with the partition's number."""

from collections.abc import Callable, Sequence

from rocksdict import ReadOptions, WriteBatch

from perdure.log.disk import Disk

# Above this many keys a range tombstone is cheaper than one for each. Not below: RocksDB sorts all range tombstones
# of a memtable again for the first read after each write.
_MANY_KEYS = 1_000


class EmbeddedStore:
    """See `Store`. `write` goes into the WAL with the log's records, and is durable with the log's next flush."""

    def __init__(self, disk: Disk, partition: int, write: Callable[[WriteBatch], None]) -> None:
        self._disk = disk
        self._prefix = partition.to_bytes(2, "big")
        self._write = write

    def get(self, key: bytes, /) -> bytes | None:
        """Raises `LogCorrupt`."""
        try:
            value: bytes | None = self._disk.state.get(self._prefix + key)
        except Exception as error:
            raise self._disk.explain(error) from error
        return value

    def scan(self, prefix: bytes, /, start: bytes = b"", limit: int = 0) -> list[tuple[bytes, bytes]]:
        """Raises `LogCorrupt`."""
        try:
            return self._scan(prefix, max(prefix, start), limit)
        except Exception as error:
            raise self._disk.explain(error) from error

    def write(
        self, puts: Sequence[tuple[bytes, bytes]], deletes: Sequence[bytes], /, clear: Sequence[bytes] = ()
    ) -> None:
        """Raises `LogFull`, `LogCorrupt`."""
        try:
            batch = self._disk.batch(self._disk.state_handle)
        except AttributeError as error:
            raise self._disk.explain(error) from error
        own = self._prefix
        for prefix in clear:
            self._clear(batch, prefix)
        for key in deletes:
            batch.delete(own + key)
        put = batch.put
        for key, value in puts:
            put(own + key, value)
        self._write(batch)

    def drop(self) -> None:
        self.write((), (), clear=(b"",))

    def _scan(self, prefix: bytes, first: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        skip = len(self._prefix)
        options = ReadOptions()
        bound = successor(self._prefix + prefix)
        if bound is not None:
            options.set_iterate_upper_bound(bound)
        # Not `items()`: it ends at a damaged block as if there were no more.
        rows = self._disk.state.iter(options)
        valid, key, value, step = rows.valid, rows.key, rows.value, rows.next
        found: list[tuple[bytes, bytes]] = []
        rows.seek(self._prefix + first)
        while valid():
            found.append((key()[skip:], value()))
            if len(found) == limit:
                return found
            step()
        rows.status()
        return found

    def _clear(self, batch: WriteBatch, prefix: bytes) -> None:
        rows = self.scan(prefix, limit=_MANY_KEYS)
        bound = successor(self._prefix + prefix)
        if len(rows) < _MANY_KEYS or bound is None:
            rows = rows if len(rows) < _MANY_KEYS else self.scan(prefix)
            for key, _ in rows:
                batch.delete(self._prefix + key)
        else:
            # Named again: a batch's default column family is not taken for ranges.
            batch.delete_range(self._prefix + prefix, bound, self._disk.state_handle)


def successor(prefix: bytes) -> bytes | None:
    """The first key after all that begin with `prefix`; None if there is no such key."""
    stripped = prefix.rstrip(b"\xff")
    return stripped[:-1] + bytes([stripped[-1] + 1]) if stripped else None
