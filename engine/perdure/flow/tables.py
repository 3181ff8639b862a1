"""Typed tables over a key-value backing: a cache of decoded values, and what changed since the last checkpoint.

get ──► cache ──► sealed (on its way to the store) ──► backing
put ──► cache + dirty ──seal()──► sealed + one write ──written()──► backing
"""

from collections.abc import Iterator, Sequence
from typing import Generic, Protocol, TypeVar

import msgspec

T = TypeVar("T")


class Backing(Protocol):
    """The reading half of a partition's store."""

    def get(self, key: bytes, /) -> bytes | None: ...

    def scan(self, prefix: bytes, /, start: bytes = b"", limit: int = 0) -> Sequence[tuple[bytes, bytes]]: ...


class EmptyBacking:
    """Nothing is stored: the folds' own tests, and a fold from the first record."""

    def get(self, key: bytes, /) -> bytes | None:
        return None

    def scan(self, prefix: bytes, /, start: bytes = b"", limit: int = 0) -> Sequence[tuple[bytes, bytes]]:
        return ()


_ENCODER = msgspec.json.Encoder()


class Table(Generic[T]):
    """Values of one type by key. Values are changed in place; `touch` says so."""

    def __init__(self, prefix: bytes, of: type[T], backing: Backing) -> None:
        self.prefix = prefix
        self._backing = backing
        self._decode = msgspec.json.Decoder(of).decode
        self.cache: dict[str, T] = {}
        self.dirty: dict[str, None] = {}
        self._loaded: dict[str, None] = {}
        self._gone: set[str] = set()
        self._sealed: dict[str, bytes | None] = {}

    def get(self, key: str) -> T | None:
        """The value to change in place, or None."""
        value = self.cache.get(key)
        if value is not None or key in self._gone:
            return value
        raw = self._sealed[key] if key in self._sealed else self._backing.get(self.prefix + key.encode())
        if raw is None:
            return None
        value = self.cache[key] = self._decode(raw)
        self._loaded[key] = None
        return value

    def put(self, key: str, value: T) -> None:
        self.cache[key] = value
        self.dirty[key] = None
        if self._gone:
            self._gone.discard(key)

    def touch(self, key: str) -> None:
        """The value of `key` was changed in place."""
        self.dirty[key] = None

    def delete(self, key: str) -> None:
        self.cache.pop(key, None)
        self._gone.add(key)
        self.dirty[key] = None

    def forget(self, key: str) -> bool:
        """Drop a value from memory if the store has it as it is; False if it does not yet."""
        if key in self.dirty:
            return False
        self.cache.pop(key, None)
        self._loaded.pop(key, None)
        return True

    def _rows(self) -> dict[str, bytes]:
        """Every key with its stored value, which counts only where the cache has none."""
        skip = len(self.prefix)
        found = {row[skip:].decode(): raw for row, raw in self._backing.scan(self.prefix, self.prefix)}
        found.update((key, raw or b"") for key, raw in self._sealed.items())
        found.update((key, b"") for key in self.dirty)
        for key in self._gone:
            found.pop(key, None)
        return found

    def items(self) -> Iterator[tuple[str, T]]:
        """Every value by key, in order, to be read. What was not in memory is not kept there."""
        for key, raw in sorted(self._rows().items()):
            value = self.cache.get(key)
            yield key, self._decode(raw) if value is None else value

    def values(self) -> Iterator[T]:
        """Every value, in the order of the keys."""
        return (value for _, value in self.items())

    def seal(self, puts: list[tuple[bytes, bytes]], deletes: list[bytes]) -> None:
        """Hand over what changed since the last seal, for one write. One seal at a time."""
        assert not self._sealed, "I7: a second checkpoint began before the first was written"
        sealed = self._sealed
        for key in self.dirty:
            row = self.prefix + key.encode()
            value = self.cache.get(key)
            if value is None:
                sealed[key] = None
                deletes.append(row)
            else:
                raw = sealed[key] = _ENCODER.encode(value)
                puts.append((row, raw))
        self.dirty = {}

    def written(self) -> list[str]:
        """The sealed changes are in the store: returns the keys that may leave memory, if `forget` lets them."""
        keys = [*self._sealed, *self._loaded]
        self._gone.difference_update(key for key in self._sealed if key not in self.dirty)
        self._sealed = {}
        self._loaded.clear()
        return keys
