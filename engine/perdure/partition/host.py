"""Who runs user code, as a processor sees it. The worker implements it."""

from collections.abc import Iterable
from typing import Protocol

from perdure.flow.effects import Act
from perdure.flow.states import RunState


class Host(Protocol):
    """All methods are synchronous and called on the loop's thread."""

    def perform(self, partition: int, acts: list[Act]) -> None:
        """Step 3 of the loop: start, resume, cancel user code."""
        ...

    def resident(self, run: str) -> bool:
        """Whether the run's user code is in memory."""
        ...

    def folded_before(self, partition: int, acts: list[Act]) -> None:
        """Acts of the tail, before `recover`: they are not performed, and the last owner may not have come to them."""
        ...

    def recover(self, partition: int, runs: list[RunState], unclean: bool) -> None:
        """Runs that have work, found at start. `unclean`: the last owner died, its steps may have been running."""
        ...

    def opine_again(self, partition: int, lost: Iterable[tuple[str, str]]) -> None:
        """Opinions (run, op) of ours that were not read back, or did not count since we were not the owner by then.

        Who still waits for one gives it again: a step announces itself, a run that was parked begins again. What else
        the run does goes on, its steps in flight above all.
        """
        ...

    def pause(self, partition: int) -> None:
        """The partition is not ours to act upon: no step begins until `go_on`, or `drop`."""
        ...

    def go_on(self, partition: int) -> None:
        """The partition came back: what was held begins."""
        ...

    def drop(self, partition: int) -> None:
        """The partition went elsewhere: stop its steps, and forget its runs."""
        ...

    def halted(self, partition: int, reason: str) -> None:
        """The partition met what must not be skipped: its runs stop where they are."""
        ...
