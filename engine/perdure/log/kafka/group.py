"""Membership of the app's group: which partitions of the journal are ours.

A consumer that consumes nothing: it subscribes to the journal, and all partitions that it is given are paused. Eager
rebalancing, as aiokafka has no other: all are revoked, then some are assigned, most of them those that we had.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from contextvars import Context
from typing import Any

from perdure.errors import LogError
from perdure.log.kafka.client import Client, Consumer, Partition, begin, end, listener, spawn, stop
from perdure.log.protocol import Member

log = logging.getLogger("perdure.log.kafka")
_AGAIN_SECONDS = 0.5
LAST_WORDS_SECONDS = 3.0
"""How long a partition is held on to, for what its owner still had to say."""


class Group:
    """See the module's text. `written` returns when all that was appended so far is durable."""

    def __init__(self, client: Client, group: str, topic: str, written: Callable[[], Awaitable[None]]) -> None:
        self._client = client
        self._name = group
        self._topic = topic
        self._written = written
        self._session = client.address.session_ms / 1000
        self._member: Member | None = None
        self._mine: frozenset[int] = frozenset()
        self._beaten = -1e9
        """When the last heartbeat was sent that was answered well."""
        self._task: asyncio.Task[None] | None = None
        self._consumer: Consumer | None = None

    def join(self, member: Member) -> None:
        if self._member is not None:
            raise LogError("this log has its member already: a process is one member of its group")
        self._member = member
        self._task = spawn(self._belong())

    async def leave(self) -> None:
        """Others take over at once. The member is told nothing any more."""
        await self._end(leaving=True)

    async def abandon(self) -> None:
        """As a process that dies: the group notices when the session has timed out."""
        await self._end(leaving=False)

    def confirmed(self, partition: int) -> bool:
        return partition in self._mine and time.monotonic() - self._beaten < self._session

    async def _end(self, *, leaving: bool) -> None:
        self._member, self._mine = None, frozenset()
        task, self._task = self._task, None
        if task is not None:
            await end(task)
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            if not leaving:
                _die(consumer)
            await stop(consumer)

    async def _belong(self) -> None:
        while True:
            consumer = self._client.member(
                self._name,
                # Who has last words to say is waited for.
                rebalance_timeout_ms=self._client.address.session_ms + int(LAST_WORDS_SECONDS * 1000),
                partition_assignment_strategy=(self._client.sticky(),),
            )
            self._consumer = consumer
            try:
                await begin(consumer)
                self._listen(consumer)
                consumer.subscribe([self._topic], listener=self._listener(consumer))
                # What goes wrong in the group's own task is told to whoever asks for records.
                while True:
                    await consumer.getmany(timeout_ms=60_000)
            except Exception as error:
                log.warning("the group of %s is left and joined again: %s", self._name, error)
            await stop(consumer)
            await self._revoke()
            await asyncio.sleep(_AGAIN_SECONDS)

    def _listener(self, consumer: Consumer) -> object:
        group = self

        class Listener(listener()):  # type: ignore[misc]
            """In aiokafka's words."""

            async def on_partitions_revoked(self, revoked: Iterable[Partition]) -> None:
                await group._revoke()

            async def on_partitions_assigned(self, assigned: Iterable[Partition]) -> None:
                consumer.pause(*assigned)
                group._assign(place.partition for place in assigned)

        return Listener()

    def _listen(self, consumer: Consumer) -> None:
        """aiokafka tells nobody that a heartbeat was answered: its coordinator's method is wrapped."""
        coordinator: Any = getattr(consumer, "_coordinator")  # noqa: B009
        beat = coordinator._do_heartbeat

        async def heard() -> bool:
            sent = time.monotonic()
            good: bool = await beat()
            if good:
                self._beaten = sent
            return good

        coordinator._do_heartbeat = heard

    def _assign(self, partitions: Iterable[int]) -> None:
        self._mine = frozenset(partitions)
        self._beaten = time.monotonic()
        if self._member is not None:
            Context().run(self._member.assigned, sorted(self._mine))

    async def _revoke(self) -> None:
        mine, self._mine = self._mine, frozenset()
        if self._member is None or not mine:
            return
        Context().run(self._member.revoked, sorted(mine))
        with suppress(TimeoutError, LogError):
            async with asyncio.timeout(LAST_WORDS_SECONDS):
                await self._written()


def _die(consumer: Consumer) -> None:
    """Without a word to the group."""

    async def say_nothing() -> None:
        return

    coordinator: Any = getattr(consumer, "_coordinator", None)
    if coordinator is not None:
        coordinator._maybe_leave_group = say_nothing
