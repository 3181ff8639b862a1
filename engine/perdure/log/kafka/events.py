"""The topic of events, which anybody may write to and every app of the namespace reads. See `Events`."""

import json
from collections.abc import Callable, Mapping, Sequence

from perdure.log.kafka.address import Address
from perdure.log.kafka.client import Partition, partition_in, spread
from perdure.log.kafka.hands import Hands, Members
from perdure.log.kafka.topics import Topics
from perdure.log.protocol import Arrived, Reader

IN_HAND = 5_000
"""Events that were read and whose intake is not durable yet."""


class KafkaEvents:
    """See `Events`."""

    def __init__(
        self, members: Members, topics: Topics, address: Address, app: str, put_on: Callable[[Partition, bytes], int]
    ) -> None:
        self._members = members
        self._topics = topics
        self._hands: Hands | None = None
        self._put_on = put_on
        self._group = address.topic(app, "ingest")
        # A group that nobody is a member of: brokers take no offsets from outside for one that has members.
        self._skipped = address.topic(app, "ingest", "skipped")
        self._letters = partition_in(address.topic(app, "dead-letters"), 0)
        self.topic = address.topic("events")
        self.partitions = 1
        """The topic may be others', with as many as they like."""

    def put(self, event: str, value: bytes) -> int:
        return self._put_on(partition_in(self.topic, spread(event, self.partitions)), value)

    def subscribe(self, take: Callable[[Arrived], None]) -> Reader:
        self._hands = self._members.join(
            take, what="events", topic=self.topic, group=self._group, limit=IN_HAND, known_gaps=self._known_gaps
        )
        return self._hands

    @property
    def gaps(self) -> Mapping[int, tuple[int, int]]:
        return {} if self._hands is None else self._hands.waiting

    async def ends(self) -> Sequence[int]:
        bounds = (await self._topics.bounds_of([self.topic]))[self.topic]
        return [end for _, (_, end) in sorted(bounds.items())]

    async def begin_here(self) -> None:
        """What this app, which has no members yet, takes in begins with what comes from here on."""
        for partition, end in enumerate(await self.ends()):
            await self._topics.place_group(self._group, partition_in(self.topic, partition), end)

    async def skip_gap(self, partition: int, offset: int) -> None:
        """Somebody knows that what stood below `offset` is gone: whoever has the partition goes on."""
        await self._topics.place_group(self._skipped, partition_in(self.topic, partition), offset)

    async def _known_gaps(self) -> Mapping[int, int]:
        return await self._topics.places_of(self._skipped, self.topic)

    def refuse(self, arrived: Arrived, reason: str) -> None:
        topic, partition, offset = arrived.origin
        letter = {"topic": topic, "partition": partition, "offset": offset, "reason": reason}
        self._put_on(self._letters, json.dumps(letter).encode())
        arrived.done()
