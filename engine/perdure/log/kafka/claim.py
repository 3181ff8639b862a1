"""Work that one process does at a time: it is the only member of a group that there is for that."""

import asyncio
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager

from perdure.errors import LogInUse
from perdure.log.kafka.client import Client, Partition, begin, explained, listener, stop
from perdure.log.kafka.topics import Topics

_POLL_MS = 100


@asynccontextmanager
async def claimed(client: Client, topic: str, what: str) -> AsyncGenerator[None]:
    """`topic` has one partition, and stands for the work. Raises `LogInUse` if another process is at it.

    Who joined is looked at first, so that whoever is at work is not disturbed. Of two that come at the same time, the
    group gives the partition to one.
    """
    busy = LogInUse(
        f"{what} is under way already; if its process was killed, try again in {client.address.session_ms / 1000:g}s"
    )
    if await Topics(client).has_members(topic):
        raise busy
    given: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    class Listener(listener()):  # type: ignore[misc]
        """In aiokafka's words."""

        async def on_partitions_revoked(self, revoked: Iterable[Partition]) -> None: ...

        async def on_partitions_assigned(self, assigned: Iterable[Partition]) -> None:
            # Who fetches from a topic that is deleted asks about it again and again, and brokers that make topics by
            # themselves make it anew at any such question.
            consumer.pause(*assigned)
            if not given.done():
                given.set_result(bool(list(assigned)))

    consumer = client.member(topic, partition_assignment_strategy=(client.sticky(),))
    try:
        with explained():
            await begin(consumer)
            consumer.subscribe([topic], listener=Listener())
            while not given.done():
                await consumer.getmany(timeout_ms=_POLL_MS)
        if not given.result():
            raise busy
        yield
    finally:
        await stop(consumer)
