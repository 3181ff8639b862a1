"""What was appended and is not acknowledged yet, by topic and partition. Decides; `writer.py` sends.

    put ─► lane of (topic, partition):  | a  b  c |  d  e  f …
                                         in flight   waits: goes as one batch when the flight is over

Tickets are numbered over all lanes. One is acknowledged when its record, and every record of a lower ticket, is: that
is one less than the lowest ticket that still stands in any lane.
"""

from collections.abc import Callable, Sequence

from perdure.log.kafka.client import Partition


class Lane:
    """Records on their way to one partition, in order."""

    __slots__ = ("_lanes", "_tickets", "_values", "flying", "place")

    def __init__(self, lanes: "Lanes", place: Partition) -> None:
        self._lanes = lanes
        self.place = place
        self.flying = 0
        """So many of the first are in flight."""
        self._values: list[bytes] = []
        self._tickets: list[int] = []

    def __len__(self) -> int:
        return len(self._values)

    @property
    def lowest(self) -> int:
        return self._tickets[0]

    def put(self, value: bytes) -> int:
        """Every record comes through here: the first one that waits wakes who sends, and no other."""
        lanes = self._lanes
        ticket = lanes.ticket = lanes.ticket + 1
        if not self._values:
            lanes.begun(self)
        self._values.append(value)
        self._tickets.append(ticket)
        return ticket

    def first(self, limit_bytes: int) -> Sequence[bytes]:
        """What has waited longest, of all that is not acknowledged: as much as fits, and at least one record."""
        if sum(map(len, self._values)) <= limit_bytes:
            return self._values
        size = 0
        for count, value in enumerate(self._values):
            size += len(value)
            if count and size > limit_bytes:
                return self._values[:count]
        return self._values

    def landed(self) -> int:
        """The flight is over: its records are durable. How many they were."""
        count, self.flying = self.flying, 0
        del self._values[:count]
        del self._tickets[:count]
        return count


class Lanes:
    """All lanes, and the ticket up to which everything is durable. `wake` is called when one has begun to fill."""

    def __init__(self) -> None:
        self.ticket = 0
        self.acknowledged = 0
        self.wake: Callable[[], None] = _nobody
        self._lanes: dict[Partition, Lane] = {}
        self._full: dict[Lane, None] = {}
        """Lanes that hold something, in the order in which they began to."""

    def lane(self, place: Partition) -> Lane:
        lane = self._lanes.get(place)
        if lane is None:
            lane = self._lanes[place] = Lane(self, place)
        return lane

    def begun(self, lane: Lane) -> None:
        self._full[lane] = None
        self.wake()

    def waiting(self) -> list[Lane]:
        """Lanes that have something to send, and nothing in flight."""
        return [lane for lane in self._full if not lane.flying]

    def landed(self, lane: Lane) -> int:
        """Its flight is over. How many records were in it; `acknowledged` may have gone up."""
        count = lane.landed()
        if not lane:
            del self._full[lane]
        self.acknowledged = min((one.lowest for one in self._full), default=self.ticket + 1) - 1
        return count

    def ground(self) -> None:
        """No flight will be heard of again: everything is to be sent once more, in order."""
        for lane in self._full:
            lane.flying = 0


def _nobody() -> None:
    """Nobody sends yet."""
