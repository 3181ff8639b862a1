"""What a scraper is told of the work of this process: plain numbers, counted as results are read back.

From the first time on that somebody asks: a process that nobody watches pays nothing for it.
"""

from collections import Counter
from collections.abc import Iterable

from perdure.flow.effects import Act, Deliver, Ended, Retry
from perdure.flow.patterns import is_own
from perdure.flow.states import RunState
from perdure.flow.view import View
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
    """Of one worker. Runs are those that are owned here, but the engine's own; steps are theirs, wherever they ran."""

    def __init__(self) -> None:
        self.wanted = False
        """Somebody has asked."""
        self.completed = Spread()
        self.failed = 0
        """Given up: out of attempts, or not to be tried again."""
        self.retries = 0
        self.runs: Counter[str] = Counter()
        """Status → how many have ended by it."""
        self.runs_took = Spread()
        """From start to end; of those that had begun."""
        self.runs_waited = Spread()
        """From their request to their start: a delay that they were asked for with counts, too."""
        self.loop_delay = Spread()

    def saw(self, view: View, acts: Iterable[Act]) -> None:
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
            elif type(act) is Ended:
                run = view.runs.get(act.run)
                if run is not None and run.function and not is_own(run.function):
                    self._ended(run)
        self.completed.gather()
        self.runs_took.gather()
        self.runs_waited.gather()

    def _ended(self, run: RunState) -> None:
        self.runs[run.status] += 1
        if run.started_at and run.ended_at is not None:
            self.runs_took.waiting.append((run.ended_at - run.started_at) * 1000)
            self.runs_waited.waiting.append((run.started_at - run.requested_at) * 1000)
