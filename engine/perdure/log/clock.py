"""The clock of a log that has none but the machine's: it never goes back, and never stands still."""

import time


class Clock:
    """The wall clock; where that was set back, half its pace until it has caught up.

    Standing still as long would hold every timer for as far as the clock was set back, and going on at full pace would
    fire what has a date, schedules above all, that much too early for good.
    """

    def __init__(self) -> None:
        self._now_ns = 0
        self._steady_ns = time.monotonic_ns()

    def now_ms(self) -> int:
        steady = time.monotonic_ns()
        self._now_ns = max(time.time_ns(), self._now_ns + (steady - self._steady_ns) // 2)
        self._steady_ns = steady
        return self._now_ns // 1_000_000

    def at_least(self, ms: int) -> None:
        """The log has been as far as this."""
        self._now_ns = max(self._now_ns, ms * 1_000_000)
