"""What user code did and saw, in all pods of a world: beside the log, the second witness."""

from typing import Any, NamedTuple

from perdure.partition import Processor
from perdure.worker.execution import Execution
from perdure.worker.lineage import InStep, in_step


class Body(NamedTuple):
    """A step's body begins or ends. `folded`: what the pod had folded of the run's partition when it began."""

    pod: str
    owner: tuple[int, str]
    partition: int
    folded: int
    run: str
    turn: int
    """How often the function was begun whole."""
    op: str
    attempt: int
    thread: bool
    word: str
    """`began`, `done`, `raised`."""
    tenure: int = -1
    """Of the partition, from its recovery in a pod to its drop: whoever was the owner in between."""
    claim: str = ""
    """By which a member of a worker pool runs it. What such a one has folded is not known: its claim's place is."""


class Ledger:
    """One for each world. Nothing in it is ever taken back."""

    def __init__(self) -> None:
        self.bodies: list[Body] = []
        self.seen: dict[tuple[str, str], tuple[Any, int, int]] = {}
        """(run, place in the program) → what user code got there; and log time before and after, as the run saw it."""
        self._tenures: dict[Processor, int] = {}
        self.conflicts: list[str] = []
        """The same place of the same run gave another thing on a replay."""

    def body(self, pod: str, word: str) -> None:
        """Called in a step's body."""
        inside = in_step.get()
        assert inside is not None, "a step runs as a plain function: its result would be recorded nowhere"
        work: object = inside.execution
        if not isinstance(work, Execution):
            self.bodies.append(_of_a_member(pod, word, work, inside))
            return
        execution = work
        processor, owner = execution.processor, execution.processor.owner
        if word == "began" and inside.spec.is_async and not processor.assigned:  # type: ignore[attr-defined]
            self.conflicts.append(f"I6: {inside.op} of {execution.run_id} begins in {pod}, which had to give it away")
        self.bodies.append(
            Body(
                pod,
                (owner.number, owner.token),
                processor.partition,
                processor.offset,
                execution.run_id,
                execution.state.attempt,
                inside.op,
                inside.attempt,
                not inside.spec.is_async,  # type: ignore[attr-defined]
                word,
                self._tenures.setdefault(processor, len(self._tenures)),
            )
        )

    def saw(self, run: str, place: str, value: Any, before_ms: int, after_ms: int) -> None:
        """Called by user code outside of steps: again on each replay, with the same value each time (I4, I16)."""
        now = value, before_ms, after_ms
        known = self.seen.setdefault((run, place), now)
        if known != now:
            self.conflicts.append(f"I16: run {run} at {place} saw {known}, and now {now}")


def _of_a_member(pod: str, word: str, work: Any, inside: InStep) -> Body:
    claim: str = work._claim
    return Body(pod, (0, ""), work._partition, -1, work.run_id, 0, inside.op, inside.attempt, False, word, claim=claim)
