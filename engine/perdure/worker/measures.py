"""What a scraper is told of the work of this process: plain numbers, counted as results are read back.

From the first time on that somebody asks: a process that nobody watches pays nothing for it.
"""

from collections import Counter
from collections.abc import Iterable

from perdure.flow.effects import Act, Deliver, Retry
from perdure_schemas.records import StepCompleted, StepFailed

GATHERED = 4_096
"""Values that wait to be counted."""


class Spread:
    """How values are spread, by their number of bits: 2ⁿ microseconds are the bounds."""

    def __init__(self) -> None:
        self.waiting: list[int] = []
        """Microseconds to be counted: whoever appends them sees to `gather`."""
        self._counts: Counter[int] = Counter()
        self._sum = 0

    def gather(self) -> None:
        """Count what waits, once that is worth it."""
        if len(self.waiting) >= GATHERED:
            self._gather()

    def _gather(self) -> None:
        self._counts.update(map(int.bit_length, self.waiting))
        self._sum += sum(self.waiting)
        self.waiting.clear()

    def told(self) -> tuple[dict[int, int], int]:
        """Number of bits → how many, and the sum of all."""
        self._gather()
        return dict(self._counts), self._sum


class Measures:
    """Of one worker. Steps are those of runs that are owned here, wherever their bodies ran."""

    def __init__(self) -> None:
        self.wanted = False
        """Somebody has asked."""
        self.completed = Spread()
        self.failed = 0
        """Given up: out of attempts, or not to be tried again."""
        self.retries = 0
        self.loop_delay = Spread()

    def saw(self, acts: Iterable[Act]) -> None:
        """What a batch of the log has brought."""
        took = self.completed.waiting.append
        for act in acts:
            if type(act) is Deliver:
                outcome = act.outcome
                if type(outcome) is StepCompleted:
                    took(outcome.took_us)
                elif type(outcome) is StepFailed:
                    self.failed += 1
            elif type(act) is Retry:
                self.retries += 1
        self.completed.gather()
