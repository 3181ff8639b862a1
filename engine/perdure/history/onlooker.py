"""The folds, looking on: they say what counts of the log, and what they would ask of an owner goes nowhere.

History must ignore what the folds ignore: a result after the outcome, an offer that is no longer wanted, a zombie's
opinion. So it does not judge again, but folds the journal once more, into a view of its own that keeps what runs need.
"""

from collections.abc import Callable, Mapping
from typing import Any

from perdure.flow import FOLDS
from perdure.flow.due import DueIndex
from perdure.flow.tables import Backing
from perdure.flow.view import View
from perdure_schemas.payload import Payload
from perdure_schemas.records import EventKeyed, EventReceived, MatchSubscribed, Record

Fold = Callable[[View, Any, int], None]


class _NoTimers(DueIndex):
    """Whether a fire counts stands with its run; who appends fires is another."""

    def add(self, due: int, key: bytes) -> None:
        """Nobody here waits for it."""

    def remove(self, due: int, key: bytes) -> None:
        """It is not here."""


class Onlooker(View):
    """A view without matchers and timers, whose folds send nothing."""

    def __init__(self, partition: int, partitions: int, backing: Backing) -> None:
        super().__init__(partition, partitions, backing)
        self.timers = _NoTimers(b"t/", backing)
        self.received = False
        """The last record was an event that had not been received before."""

    def send(self, partition: int, record: Record) -> int:
        """Whoever owns the partition sends it."""
        return 0

    def inline(self, payload: Payload | None, field: str = "result") -> Payload | None:
        """It is for records to others, of which there are none."""
        return payload

    def quiet(self) -> None:
        """What the last record asked for is done with."""
        effects = self.effects
        effects.acts, effects.duties, self.received = [], False, False
        effects.commands.clear()
        effects.fired.clear()


def _event_received(view: View, record: EventReceived, at: int) -> None:
    """Intake, as far as it says which events are new: what they start is in the runs' own partitions."""
    event = record.event.id
    if view.seen.get(event) is None:
        assert isinstance(view, Onlooker)
        view.received = True
        view.seen.put(event, 1)
        view.expiries.add(at + view.window_ms(), b"e/" + event.encode())


def _matchers_alone(view: View, record: Record, at: int) -> None:
    """What matchers make of it comes to the runs as records."""


ONLOOKING: Mapping[type[Record], Fold] = FOLDS | {
    EventReceived: _event_received,
    EventKeyed: _matchers_alone,
    MatchSubscribed: _matchers_alone,
}
"""The folds of history, by kind."""
