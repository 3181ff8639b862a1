"""What happened, in order, as one hash: two runs of a seed are the same if their hashes are.

Tracebacks are left out, since other versions of Python word them otherwise, and so are digests of code.
"""

import re
from collections import Counter, deque

from xxhash import xxh3_64

_TRACEBACK = re.compile(rb'"traceback":"(?:[^"\\]|\\.)*"')


class Trace:
    """`keep`: how many of the last lines are kept to be shown."""

    def __init__(self, keep: int = 4_000) -> None:
        self._hash = xxh3_64()
        self._last: deque[tuple[str, str, bytes]] = deque(maxlen=keep)
        self.counts: Counter[str] = Counter()
        self.renamed: dict[bytes, bytes] = {}
        """What is another on another version of Python (digests of code), and what stands for it here."""

    def note(self, kind: str, what: str = "", value: bytes = b"") -> None:
        """`value`: a record, as its bytes."""
        self.counts[kind] += 1
        if b'"traceback"' in value:
            value = _TRACEBACK.sub(b'"traceback":""', value)
        for old, new in self.renamed.items():
            value = value.replace(old, new)
        self._hash.update(b"%b\t%b\t%b\n" % (kind.encode(), what.encode(), value))
        self._last.append((kind, what, value))

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()

    @property
    def lines(self) -> list[str]:
        """The last ones, for people to read."""
        return [f"{kind:11} {what} {value[:400].decode(errors='replace')}".rstrip() for kind, what, value in self._last]
