"""What was appended and is not acknowledged yet, by topic and partition. Decides; `writer.py` sends.

    put ─► lane of (topic, partition):  | a  b  c |  d  e  f …
                                         in flight   waits: goes as one batch when the flight is over

Tickets are numbered over all lanes. One is acknowledged when its record, and every record of a lower ticket, is: that
is one less than the lowest ticket that still stands in any lane.
"""

from collections import deque
from collections.abc import Iterator

from perdure.log.kafka.client import Partition


class Lane:
    """Records on their way to one partition, in order."""

    __slots__ = ("_tickets", "_values", "flying", "place")

    def __init__(self, place: Partition) -> None:
        self.place = place
        self.flying = 0
        """So many of the first are in flight."""
        self._values: deque[bytes] = deque()
        self._tickets: deque[int] = deque()

    def __len__(self) -> int:
        return len(self._values)

    @property
    def lowest(self) -> int:
        return self._tickets[0]

    def put(self, ticket: int, value: bytes) -> None:
        self._values.append(value)
        self._tickets.append(ticket)

    def __iter__(self) -> Iterator[bytes]:
        """What is not acknowledged, first what has waited longest."""
        return iter(self._values)

    def landed(self) -> int:
        """The flight is over: its records are durable. How many they were."""
        count, self.flying = self.flying, 0
        for _ in range(count):
            self._values.popleft()
            self._tickets.popleft()
        return count


class Lanes:
    """All lanes, and the ticket up to which everything is durable."""

    def __init__(self) -> None:
        self.ticket = 0
        self.acknowledged = 0
        self._lanes: dict[Partition, Lane] = {}
        self._full: dict[Lane, None] = {}
        """Lanes that hold something, in the order in which they began to."""

    def put(self, place: Partition, value: bytes) -> int:
        lane = self._lanes.get(place)
        if lane is None:
            lane = self._lanes[place] = Lane(place)
        self.ticket += 1
        lane.put(self.ticket, value)
        self._full[lane] = None
        return self.ticket

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
