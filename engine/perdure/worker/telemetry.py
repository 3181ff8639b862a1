"""What is told of the work of this process to whoever watches it: numbers, and spans."""

from collections import deque
from collections.abc import Iterable

from perdure.flow.effects import Act, Deliver, Ended, Faltered
from perdure.flow.view import View
from perdure.worker.measures import Measures
from perdure.worker.tracing import Tracing

TOLD_AGAIN = 10_000
"""Of what a process may have died over before its spans were sent, so much is told again."""


class Telemetry:
    """Of one worker."""

    def __init__(self, tracing: Tracing | None) -> None:
        self.measures = Measures()
        self.tracing = tracing
        self._tails: dict[int, deque[Act]] = {}
        """By partition, what has ended by the records that its last owner may have died over."""

    def saw(self, view: View, acts: Iterable[Act]) -> None:
        """What a batch of the log has brought."""
        if self.measures.wanted:
            self.measures.saw(view, acts)
        if self.tracing is not None:
            self.tracing.saw(view, acts)

    def saw_before(self, partition: int, acts: Iterable[Act]) -> None:
        """What a batch of the tail has brought, before it is known whether the last owner told of it."""
        if self.tracing is not None:
            tail = self._tails.setdefault(partition, deque(maxlen=TOLD_AGAIN))
            tail.extend(act for act in acts if isinstance(act, Deliver | Faltered | Ended))

    def begin(self, view: View, *, unclean: bool) -> None:
        """All of the tail was folded. `unclean`: the last owner died."""
        tail = self._tails.pop(view.partition, None)
        if unclean and tail and self.tracing is not None:
            self.tracing.saw(view, tail)

    def forget(self, partition: int) -> None:
        """It went elsewhere, or halted."""
        self._tails.pop(partition, None)
