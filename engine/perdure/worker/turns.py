"""Turns: work goes on side by side, but a suspect has the process to itself."""

import asyncio


class Turns:
    """While a suspect waits or runs, nothing else begins: so it does come to its turn, and who dies is known."""

    def __init__(self) -> None:
        self._changed = asyncio.Condition()
        self._inside = 0
        self._suspects = 0

    async def begin(self, *, alone: bool) -> None:
        """Returns when it may run. `end` must follow."""
        async with self._changed:
            self._suspects += alone
            try:
                await self._changed.wait_for(lambda: not self._inside if alone else not self._suspects)
            except BaseException:
                self._suspects -= alone
                self._changed.notify_all()
                raise
            self._inside += 1

    async def end(self, *, alone: bool) -> None:
        async with self._changed:
            self._inside -= 1
            self._suspects -= alone
            self._changed.notify_all()
