"""When has a run settled? When nothing of it moved for eight successive turns of the loop.

Chains of futures need a turn a link (`gather(shield(shield(gather)))`): two or three turns fail on such, eight hold.
O(1) a turn: child tasks count their moves, and the root's waiter is compared by identity. One ticker serves all.
"""

import asyncio
from contextvars import Context
from typing import Protocol

QUIET_TURNS = 8
RESTLESS_TURNS = 2_000
"""A task that polls with `sleep(0)` never rests: after so many turns the run counts as settled all the same."""


class Settling(Protocol):
    """A run, as far as settling needs it."""

    moves: int

    def root_waiter(self) -> object | None:
        """What the root task waits on; None while it is on the move. Stable while it waits."""
        ...

    def settled(self) -> None: ...

    def gone(self) -> bool: ...


class _Watch:
    __slots__ = ("moves", "quiet", "turns", "waiter")

    def __init__(self) -> None:
        self.moves = -1
        self.quiet = 0
        self.turns = 0
        self.waiter: object | None = None


class Settler:
    """Watches runs until they settle, then says so to them, once."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._watched: dict[Settling, _Watch] = {}
        self._ticking = False
        self._context = Context()

    @property
    def busy(self) -> bool:
        return bool(self._watched)

    def watches(self, run: Settling) -> bool:
        """Whether the run is on its way to rest."""
        return run in self._watched

    def watch(self, run: Settling) -> None:
        """Begin, or begin again: something of the run is about to move."""
        if run not in self._watched:
            self._watched[run] = _Watch()
            if not self._ticking:
                self._ticking = True
                self._loop.call_soon(self._tick, context=self._context)

    def forget(self, run: Settling) -> None:
        self._watched.pop(run, None)

    def _tick(self) -> None:
        settled: list[Settling] = []
        for run, watch in self._watched.items():
            waiter = run.root_waiter()
            watch.turns += 1
            if waiter is None or waiter is not watch.waiter or run.moves != watch.moves:
                watch.waiter, watch.moves, watch.quiet = waiter, run.moves, 0
                if watch.turns < RESTLESS_TURNS and not run.gone():
                    continue
            watch.quiet += 1
            if watch.quiet >= QUIET_TURNS or watch.turns >= RESTLESS_TURNS or run.gone():
                settled.append(run)
        for run in settled:
            del self._watched[run]
        for run in settled:
            if not run.gone():
                run.settled()
        if self._watched:
            self._loop.call_soon(self._tick, context=self._context)
        else:
            self._ticking = False
