"""Steps that may be what kills their process: from the second death on they run one at a time, so that it is found."""

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from perdure.worker.execution import Execution
    from perdure.worker.lineage import InStep


class Suspects:
    """Whose turn it is. Who waits for its turn waits as for an outcome, since that may come instead.

    (The process before may be a zombie whose step ends after all: what it writes counts.)
    """

    def __init__(self) -> None:
        self._queue: deque[InStep] = deque()

    def enter(self, attempt: "InStep") -> None:
        """Stand in line. Whoever is not `first` is told to go on when it is."""
        self._queue.append(attempt)

    def first(self, attempt: "InStep") -> bool:
        return self._queue[0] is attempt

    def leave(self, attempt: "InStep") -> None:
        first = self.first(attempt)
        self._queue.remove(attempt)
        if first and self._queue:
            following = self._queue[0]
            following.execution.go(following.op)

    def wait_in(self, execution: "Execution") -> bool:
        """Whether a step of the run stands in line: its turn is nothing that the log would bring back."""
        return any(attempt.execution is execution for attempt in self._queue)
