"""The topic of events, which anybody may write to and every app of the namespace reads. See `Events`."""

import json
from collections.abc import Callable

from perdure.flow.routing import partition_of
from perdure.log.kafka.address import Address
from perdure.log.kafka.client import Partition, partition_in
from perdure.log.kafka.hands import Members
from perdure.log.protocol import Arrived, Reader

IN_HAND = 5_000
"""Events that were read and whose intake is not durable yet."""


class KafkaEvents:
    """See `Events`."""

    def __init__(self, members: Members, address: Address, app: str, put_on: Callable[[Partition, bytes], int]) -> None:
        self._members = members
        self._put_on = put_on
        self._group = address.topic(app, "ingest")
        self._letters = partition_in(address.topic(app, "dead-letters"), 0)
        self.topic = address.topic("events")
        self.partitions = 1
        """The topic may be others', with as many as they like."""

    def put(self, event: str, value: bytes) -> int:
        return self._put_on(partition_in(self.topic, partition_of(event, self.partitions)), value)

    def subscribe(self, take: Callable[[Arrived], None]) -> Reader:
        # An app that is new here begins with what comes; from then on its place is kept.
        return self._members.join(
            take, what="the events", topic=self.topic, group=self._group, limit=IN_HAND, first="latest"
        )

    def refuse(self, arrived: Arrived, reason: str) -> None:
        topic, partition, offset = arrived.origin
        letter = {"topic": topic, "partition": partition, "offset": offset, "reason": reason}
        self._put_on(self._letters, json.dumps(letter).encode())
        arrived.done()
