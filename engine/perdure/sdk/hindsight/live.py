"""Who watches is told which runs changed: each at its own pace, in bounded memory.

    projector ──► Changes.tell ──► each Watch: run → its latest ──► next(): at most every PAUSE_S, all that has come

Of a run that changed often, and of a reader that is slow, only the latest is kept; of one that is too slow nothing, and
it is told to look again.
"""

import asyncio
from collections.abc import Iterable
from typing import NamedTuple

from msgspec import Struct

PAUSE_S = 0.3
"""Between two messages to one who watches."""
MOST = 500
"""Runs in one message; of more it says only that there were."""


class Change(Struct, frozen=True):
    """A run as it is now. `n`: how many changes this stands for."""

    id: str
    function: str
    status: str
    n: int


class Told(NamedTuple):
    """`runs` None: more changed than can be told. `number`: who knows up to it has missed nothing."""

    number: int
    runs: list[Change] | None


class Watch:
    """One who watches, from `number` on."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._pending: dict[str, Change] = {}
        self._missed = False
        self._some = asyncio.Event()
        self._rest_until = 0.0

    def tell(self, number: int, changes: Iterable[Change]) -> None:
        """Keep them until they are asked for."""
        self._number = number
        if self._missed:
            return
        for one in changes:
            before = self._pending.get(one.id)
            self._pending[one.id] = one if before is None else Change(one.id, one.function, one.status, before.n + 1)
        if len(self._pending) > MOST:
            self.miss()
        elif self._pending:
            self._some.set()

    def miss(self) -> None:
        """It cannot be told all that happened."""
        self._pending.clear()
        self._missed = True
        self._some.set()

    async def next(self) -> Told:
        """What changed since the last. Waits for something, and rests before. Nothing is lost by a cancel."""
        now = asyncio.get_running_loop().time
        await self._some.wait()
        await asyncio.sleep(max(0.0, self._rest_until - now()))
        self._rest_until = now() + PAUSE_S
        self._some.clear()
        found, self._pending = [*self._pending.values()], {}
        missed, self._missed = self._missed, False
        return Told(self._number, None if missed else found)


class Watched:
    """All who watch the runs of this process."""

    def __init__(self) -> None:
        self._watches: set[Watch] = set()
        self.number = 0

    def __bool__(self) -> bool:
        return bool(self._watches)

    def open(self) -> Watch:
        """From now on; to be closed."""
        watch = Watch(self.number)
        self._watches.add(watch)
        return watch

    def close(self, watch: Watch) -> None:
        self._watches.discard(watch)

    def tell(self, changes: list[Change]) -> None:
        self.number += 1
        for watch in self._watches:
            watch.tell(self.number, changes)

    def miss(self) -> None:
        """What changed cannot be told."""
        self.tell([])
        for watch in self._watches:
            watch.miss()
