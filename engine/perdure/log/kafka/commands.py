"""Queues of worker pools: a topic and a consumer group for each. See `Commands`.

Members of a group have partitions, so a queue has at most as many members at work as its topic has partitions. What is
given out twice is claimed once: its lease has an owner.
"""

from collections.abc import Callable

from perdure.log.kafka.client import Partition, partition_in, spread
from perdure.log.kafka.hands import Members
from perdure.log.protocol import Reader, Take

PARTITIONS = 16
"""Of a queue's topic: the most members that can work at a time."""


class KafkaCommands:
    """See `Commands`. `topic_of` a queue; `put_on` queues a record up for a partition."""

    def __init__(
        self, members: Members, topic_of: Callable[[str], str], put_on: Callable[[Partition, bytes], int]
    ) -> None:
        self._members = members
        self._topic_of = topic_of
        self._put_on = put_on

    @property
    def local(self) -> bool:
        return False

    def put(self, queue: str, key: str, value: bytes) -> int:
        return self._put_on(partition_in(self._topic_of(queue), spread(key, PARTITIONS)), value)

    def subscribe(self, queue: str, take: Take, *, limit: int) -> Reader:
        topic = self._topic_of(queue)
        return self._members.join(take, what=f"queue {queue!r}", topic=topic, group=topic, limit=limit)
