"""The topics of an app: made if they are missing, and looked at before anything is written.

<ns>.<app>.journal       P partitions, kept until the owner trims it; the brokers' clock
<ns>.<app>.snapshots     P partitions, compacted
<ns>.<app>.logs          P partitions, kept for the retention; `dead-letters` likewise
<ns>.<app>.commands.<q>  the queues, made when they are first used
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Collection, Mapping
from contextlib import asynccontextmanager
from typing import Any

from perdure.errors import LogError, LogMismatch
from perdure.log.kafka.address import Address
from perdure.log.kafka.checks import LOOKED_AT, Described, refusal, warnings
from perdure.log.kafka.client import REQUEST_BYTES, Client, Partition, begin, close, errors, partition_in, stop, structs
from perdure.log.kafka.client import admin as admin_library
from perdure.log.protocol import SIDES

log = logging.getLogger("perdure.log.kafka")
COPIES = 3
"""Of each record, where there are as many brokers and nothing else is asked for."""
_SIDE_RETENTION_MS = 7 * 86_400_000
_VISIBLE_SECONDS = 30.0


def settings_of(kind: str, retention_ms: int | None) -> dict[str, str]:
    """What a topic is made with, by its kind: journal, snapshots, commands, logs, dead-letters, events."""
    kept = str(_SIDE_RETENTION_MS if retention_ms is None else retention_ms)
    settings = {"max.message.bytes": str(REQUEST_BYTES), "message.timestamp.type": "LogAppendTime"}
    match kind:
        case "journal":
            # Not by time, nor by size: only the owner knows what is needed.
            return settings | {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"}
        case "snapshots":
            return settings | {"cleanup.policy": "compact"}
        case _:
            return settings | {"cleanup.policy": "delete", "retention.ms": kept}


def half_of(address: Address, app: str) -> str:
    """A topic that is there while the others are not all of what is copied into them."""
    return address.topic(app, "copying")


def wanted_of(address: Address, app: str, partitions: int) -> dict[str, tuple[str, int]]:
    """Topics that an app needs from the beginning, for `Topics.ensure`."""
    kinds = ("journal", "snapshots", *SIDES)
    own = {address.topic(app, kind): (kind, partitions) for kind in kinds}
    return own | {address.topic("events"): ("events", partitions)}


class Topics:
    """What the brokers have of the app's topics."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._address: Address = client.address
        self._known: set[str] = set()
        self._making = asyncio.Lock()

    async def ensure(self, wanted: Mapping[str, tuple[str, int]], *, half: str = "") -> dict[str, int]:
        """Make what is missing of `wanted` (topic → kind and partitions); the partitions that each one has.

        Raises `LogMismatch` for another count than wanted, `LogError` if one is missing and may not be made, or if the
        topic `half` is there.
        """
        async with self._making, self._admin() as admin:
            if half and half in await admin.list_topics():
                raise LogError(
                    f"topic {half} says that these are the half of a copy, which is under way or was stopped: "
                    "`perdure topics copy` again, to the same place, begins anew"
                )
            there = await _partitions(admin, list(wanted))
            missing = [topic for topic in wanted if topic not in there]
            if missing and not self._address.create:
                raise LogError(
                    f"topic {missing[0]} is missing: `perdure topics create` makes it, or leave out create=no"
                )
            if missing:
                await self._create(admin, {topic: wanted[topic] for topic in missing})
                there |= await _seen(admin, missing)
            for topic, (kind, count) in wanted.items():
                if kind != "events" and there[topic] != count:
                    raise LogMismatch(
                        f"topic {topic} has {there[topic]} partitions, and {count} were asked for. The number is "
                        f"fixed when it is made, since a run's id says where it lives: say "
                        f"partitions={there[topic]}, or begin anew in another namespace"
                    )
            await self._check(admin, wanted)
            self._known.update(wanted)
            return there

    async def _check(self, admin: Any, wanted: Mapping[str, tuple[str, int]]) -> None:
        """Raises `LogMismatch` for topics that would break a promise; says which of them are weak."""
        found = await _described(admin, {topic: kind for topic, (kind, _) in wanted.items()})
        wrong = refusal(found, ",".join(self._address.servers))
        if wrong:
            raise LogMismatch(wrong)
        for warning in warnings(found):
            log.warning("%s", warning)

    async def partitions_of(self, topics: Collection[str]) -> dict[str, int]:
        """How many each has, of those that there are."""
        async with self._admin() as admin:
            return await _partitions(admin, list(topics))

    async def bounds_of(self, topics: Collection[str]) -> dict[str, dict[int, tuple[int, int]]]:
        """Topic → partition → its first offset and its end."""
        counts = await self.partitions_of(topics)
        places = [partition_in(topic, number) for topic, count in counts.items() for number in range(count)]
        if not places:
            return {}
        consumer = self._client.consumer()
        try:
            await begin(consumer)
            starts, ends = await consumer.beginning_offsets(places), await consumer.end_offsets(places)
        finally:
            await stop(consumer)
        found: dict[str, dict[int, tuple[int, int]]] = {topic: {} for topic in counts}
        for place in places:
            found[place.topic][place.partition] = starts[place], ends[place]
        return found

    async def names(self) -> list[str]:
        """Every topic of the namespace."""
        async with self._admin() as admin:
            prefix = self._address.topic("")
            return sorted(topic for topic in await admin.list_topics() if topic.startswith(prefix))

    async def ensure_one(self, topic: str, kind: str, partitions: int) -> None:
        if topic not in self._known:
            await self.ensure({topic: (kind, partitions)})

    async def trim(self, place: Partition, offset: int) -> int:
        """Delete what lies below `offset`; where the partition begins now."""
        async with self._admin() as admin:
            records = admin_library().RecordsToDelete(before_offset=offset)
            partition = structs().TopicPartition(place.topic, place.partition)
            done: dict[Any, int] = await admin.delete_records({partition: records})
            return done[partition]

    async def place_group(self, group: str, place: Partition, offset: int) -> None:
        """Where a group without members is to go on."""
        consumer = self._client.consumer(group_id=group)
        try:
            await begin(consumer)
            consumer.assign([place])
            await consumer.commit({place: offset})
        finally:
            await stop(consumer)

    async def places_of(self, group: str, topic: str) -> dict[int, int]:
        """Partition → where the group goes on."""
        async with self._admin() as admin:
            found = await admin.list_consumer_group_offsets(group)
        return {place.partition: where.offset for place, where in found.items() if place.topic == topic}

    async def has_members(self, group: str) -> bool:
        """Whether any process is in the group, as far as its coordinator has noticed."""
        async with self._admin() as admin:
            try:
                answers = await admin.describe_consumer_groups([group])
            except errors().GroupCoordinatorNotAvailableError:
                # Of brokers that never had a group.
                return False
        return any(members for answer in answers for _, _, _, _, _, members, *_ in answer.groups)

    async def delete_all(self) -> None:
        """Every topic of the namespace."""
        await self.delete(await self.names())

    async def delete(self, topics: Collection[str]) -> None:
        """Returns when they are gone, and may be made again."""
        async with self._admin() as admin:
            left = set(topics)
            while left := left & set(await admin.list_topics()):
                await admin.delete_topics(sorted(left))
                await asyncio.sleep(0.05)

    async def mark(self, topic: str) -> None:
        """Make a topic that says something by being there."""
        async with self._admin() as admin:
            await self._create(admin, {topic: ("mark", 1)})
            await _seen(admin, [topic])

    async def _create(self, admin: Any, wanted: Mapping[str, tuple[str, int]]) -> None:
        copies = self._address.replication or min(COPIES, await _brokers(admin))
        # One copy may be missing, and what is acknowledged stands in two at least.
        least = {"min.insync.replicas": str(max(1, copies - 1))}
        new = [
            admin_library().NewTopic(
                name=topic,
                num_partitions=count,
                replication_factor=copies,
                topic_configs=settings_of(kind, self._address.retention_ms) | least,
            )
            for topic, (kind, count) in wanted.items()
        ]
        answer = await admin.create_topics(new)
        for topic, code, *why in answer.topic_errors:
            error = errors().for_code(code)
            if error not in (errors().NoError, errors().TopicAlreadyExistsError):
                raise LogError(f"topic {topic} could not be made: {error.__name__} {why[0] if why else ''}".rstrip())
        log.info("made %s", ", ".join(wanted))

    @asynccontextmanager
    async def _admin(self) -> AsyncGenerator[Any]:
        admin = self._client.admin()
        try:
            async with asyncio.timeout(_VISIBLE_SECONDS):
                await begin(admin)
                yield admin
        except _away() as error:
            servers = ",".join(self._address.servers)
            raise LogError(f"no Kafka broker answers at {servers}: is it running, and reachable from here?") from error
        finally:
            await close(admin.close())


def _away() -> tuple[type[Exception], ...]:
    known = errors()
    return known.KafkaConnectionError, known.RequestTimedOutError, known.NodeNotReadyError, TimeoutError


async def _brokers(admin: Any) -> int:
    """How many there are. Waits for one: who is busy or has just begun may answer and not be counted yet."""
    while True:
        known = (await admin.describe_cluster())["brokers"]
        if known:
            return len(known)
        await asyncio.sleep(0.1)


async def _partitions(admin: Any, topics: list[str]) -> dict[str, int]:
    # Brokers make a topic that they are asked about, if nobody forbids it; not so by a list of all.
    there = set(await admin.list_topics())
    described = await admin.describe_topics([topic for topic in topics if topic in there])
    return {one["topic"]: len(one["partitions"]) for one in described if not one["error_code"]}


async def _described(admin: Any, kinds: Mapping[str, str]) -> dict[str, Described]:
    """Topics as they are. What may not be looked at is taken to be as it should be, and named."""
    resource, topic_type = (
        admin_library().config_resource.ConfigResource,
        admin_library().config_resource.ConfigResourceType.TOPIC,
    )
    asked = [resource(topic_type, topic, dict.fromkeys(LOOKED_AT, "")) for topic in kinds]
    settings: dict[str, dict[str, str]] = {}
    for answer in await admin.describe_configs(asked):
        for code, message, _, topic, entries in answer.resources:
            settings[topic] = {entry[0]: entry[1] for entry in entries}
            if code:
                log.warning("the settings of topic %s are not checked: %s", topic, message or errors().for_code(code))
    copies = {
        one["topic"]: min(len(part["replicas"]) for part in one["partitions"])
        for one in await admin.describe_topics(list(kinds))
    }
    return {topic: Described(kind, copies[topic], settings[topic]) for topic, kind in kinds.items()}


async def _seen(admin: Any, topics: list[str]) -> dict[str, int]:
    """Until the brokers tell of what they just made, with a leader for each partition."""
    while True:
        described = await admin.describe_topics(topics)
        ready = [
            one for one in described if not one["error_code"] and all(part["leader"] >= 0 for part in one["partitions"])
        ]
        if len(ready) == len(topics):
            return {one["topic"]: len(one["partitions"]) for one in ready}
        await asyncio.sleep(0.02)
