"""A member of a consumer group that is given records, and says of each when nobody else need see it.

Progress of a partition is committed as far as there is no gap. What stands above a gap is given out again when the
partition changes hands, and so is what was in hand: at least once.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial

from perdure.log.kafka.client import (
    STOP_SECONDS,
    Client,
    Consumer,
    Partition,
    Record,
    begin,
    end,
    listener,
    partition_in,
    spawn,
    stop,
)
from perdure.log.kafka.lanes import Lanes

log = logging.getLogger("perdure.log.kafka")
_POLL_MS = 500
_COMMIT_SECONDS = 0.05
_AGAIN_SECONDS = 0.5
_LOOK_SECONDS = 2.0

Ensure = Callable[[str], Awaitable[None]]
KnownGaps = Callable[[], Awaitable[Mapping[int, int]]]
"""Partition → below this offset somebody knows that records are gone."""


class Members:
    """All memberships of this process in groups of consumers."""

    def __init__(self, client: Client, lanes: Lanes, ensure: Ensure) -> None:
        self._client = client
        self._lanes = lanes
        self._ensure = ensure
        self._hands: list[Hands] = []

    def join(
        self,
        take: Callable[["InHand"], None],
        *,
        what: str,
        topic: str,
        group: str,
        limit: int,
        known_gaps: KnownGaps | None = None,
    ) -> "Hands":
        """`what` it takes, in the words of people.

        Records that are gone before anybody took them are skipped, or wait to be among the `known_gaps`.
        """
        # Of a group that is new, or where records are gone, it begins early: `Hands` looks for gaps by itself.
        make = partial(self._client.member, group)
        hands = Hands(make, self._lanes, partial(self._ensure, topic), take, what, topic, limit, known_gaps)
        self._hands.append(hands)
        return hands

    def advance(self) -> None:
        """More is durable than before."""
        for hands in self._hands:
            hands.advance()

    async def close(self) -> None:
        for hands in self._hands:
            hands.close()
        await asyncio.gather(*(hands.ended() for hands in self._hands))

    async def abandon(self) -> None:
        """As a process that dies: what is done and not committed yet is given out again."""
        for hands in self._hands:
            hands.abandon()
        await self.close()


class MemberFailed(Exception):
    """Who took the commands raised: it is given none any more."""


class InHand:
    """See `Command` and `Arrived`."""

    def __init__(self, hands: "Hands", place: Partition, record: Record) -> None:
        self._hands = hands
        self._record = record
        self.place = place

    @property
    def value(self) -> bytes:
        return self._record.value or b""

    @property
    def headers(self) -> Sequence[tuple[str, bytes]]:
        return self._record.headers

    @property
    def timestamp_ms(self) -> int:
        return self._record.timestamp

    @property
    def origin(self) -> tuple[str, int, int]:
        return self.place.topic, self.place.partition, self._record.offset

    def done(self) -> None:
        self._hands.done(self)


class Progress:
    """What of one partition was given out, and how far it is done."""

    def __init__(self, position: int) -> None:
        self.committed = position
        self.position = position
        self._done: dict[int, bool] = {}

    def give(self, offset: int) -> bool:
        """Whether it was not given out before."""
        if offset < self.position:
            return False
        self.position = offset + 1
        self._done[offset] = False
        return True

    def done(self, offset: int) -> None:
        if offset in self._done:
            self._done[offset] = True

    def upto(self) -> int:
        """Everything below is done."""
        for offset in list(self._done):
            if not self._done[offset]:
                return offset
            del self._done[offset]
        return self.position


class Hands:
    """One membership; see `Members.join`."""

    def __init__(
        self,
        make: Callable[[], Consumer],
        lanes: Lanes,
        ensure: Callable[[], Awaitable[None]],
        take: Callable[[InHand], None],
        what: str,
        topic: str,
        limit: int,
        known_gaps: KnownGaps | None,
    ) -> None:
        self._make, self._lanes, self._ensure, self._take = make, lanes, ensure, take
        self._what, self._topic, self._limit = what, topic, limit
        self._gaps_matter = known_gaps is not None
        self._known_gaps = known_gaps or _none_known
        self.waiting: dict[int, tuple[int, int]] = {}
        """Partition → what of it is gone, from and to (exclusive): it is not read until somebody says so."""
        self._looked = 0.0
        self._begun = asyncio.Event()
        """Where to begin is known; records may have come before."""
        self._wrong: Exception | None = None
        """Why it is not known."""
        self._free = asyncio.Event()
        self._free.set()
        self._in_hand: set[tuple[int, int]] = set()
        self._settling: deque[tuple[int, InHand]] = deque()
        """Done, and committed once everything up to the ticket is durable."""
        self._progress: dict[int, Progress] = {}
        self._closed = self._abandoned = False
        self._consumer: Consumer | None = None
        self._committing: asyncio.Task[None] | None = None
        self._task = spawn(self._work())

    def close(self) -> None:
        """What is in hand goes to others; what is done stays done."""
        if not self._closed:
            self._closed = True
            self._task.cancel()

    def abandon(self) -> None:
        self._abandoned = True

    async def ended(self) -> None:
        """What is closed ends."""
        await end(self._task)

    def done(self, command: InHand) -> None:
        _, *numbers = command.origin
        place = numbers[0], numbers[1]
        if self._closed or place not in self._in_hand:
            return
        self._in_hand.discard(place)
        self._free.set()
        self._settling.append((self._lanes.ticket, command))
        self.advance()

    def advance(self) -> None:
        moved = False
        while self._settling and self._settling[0][0] <= self._lanes.acknowledged:
            _, command = self._settling.popleft()
            progress = self._progress.get(command.place.partition)
            if progress is not None:
                progress.done(command.origin[2])
                moved = True
        if moved and (self._committing is None or self._committing.done()):
            self._committing = spawn(self._commit_soon())

    async def _commit_soon(self) -> None:
        await asyncio.sleep(_COMMIT_SECONDS)
        await self._commit()

    async def _commit(self) -> None:
        consumer, offsets = self._consumer, dict[Partition, int]()
        for partition, progress in self._progress.items():
            upto = progress.upto()
            if upto > progress.committed:
                offsets[partition_in(self._topic, partition)] = progress.committed = upto
        if consumer is None or not offsets or self._abandoned:
            return
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await consumer.commit(offsets)
        except Exception as error:
            # What was not committed is given out again, and refused by whoever leased it: nothing is lost.
            log.warning("%s: %s", self._what, error)

    async def _work(self) -> None:
        try:
            while True:
                try:
                    await self._member()
                except MemberFailed:
                    return
                except Exception as error:
                    log.warning("%s cannot be read at present: %s", self._what, error)
                    await asyncio.sleep(_AGAIN_SECONDS)
        finally:
            await self._leave()

    async def _member(self) -> None:
        await self._ensure()
        self._progress.clear()
        self._wrong = None
        self._begun.clear()
        consumer = self._consumer = self._make()
        try:
            await begin(consumer)
            consumer.subscribe([self._topic], listener=self._listener(consumer))
            while True:
                await self._free.wait()
                room = self._limit - len(self._in_hand)
                if room <= 0:
                    self._free.clear()
                    continue
                await self._look_at_gaps(consumer)
                found = await consumer.getmany(timeout_ms=_POLL_MS, max_records=room)
                await self._begun.wait()
                if self._wrong is not None:
                    raise self._wrong
                for place, records in found.items():
                    if not await self._is_gap(consumer, place, records[0].offset):
                        for record in records:
                            self._give(place, record)
        finally:
            await self._leave()

    async def _leave(self) -> None:
        consumer = self._consumer
        if consumer is not None:
            await self._commit()
            self._consumer = None
            await stop(consumer)

    def _give(self, place: Partition, record: Record) -> None:
        offset = record.offset
        progress = self._progress.get(place.partition)
        if progress is None or not progress.give(offset):
            return  # of a partition that went away meanwhile, and is read elsewhere, or given before
        self._in_hand.add((place.partition, offset))
        try:
            self._take(InHand(self, place, record))
        except Exception as error:
            message = f"a member of {self._what} stopped"
            asyncio.get_running_loop().call_exception_handler({"message": message, "exception": error})
            self._progress.clear()  # what it had goes to others
            self._closed = True
            raise MemberFailed from error

    def _listener(self, consumer: Consumer) -> object:
        hands = self

        class Listener(listener()):  # type: ignore[misc]
            """In aiokafka's words."""

            async def on_partitions_revoked(self, revoked: Iterable[Partition]) -> None:
                hands._begun.clear()
                await hands._commit()

            async def on_partitions_assigned(self, assigned: Iterable[Partition]) -> None:
                # Who had it meanwhile may have gone further, or given back what we had.
                kept = {place.partition for place in assigned}
                hands._progress = {number: one for number, one in hands._progress.items() if number in kept}
                try:
                    await hands._begin(consumer, list(assigned))
                except Exception as error:  # aiokafka would log it, and go on
                    hands._wrong = error
                hands._begun.set()

        return Listener()

    async def _begin(self, consumer: Consumer, places: Sequence[Partition]) -> None:
        """A group that is new begins with what is kept; the others where they were, if that is still there."""
        self.waiting.clear()
        starts = await consumer.beginning_offsets(places)
        for place in places:
            at = await consumer.committed(place)
            if at is not None and at < starts[place]:
                self._miss(consumer, place, at, starts[place])
            elif place.partition not in self._progress:
                self._progress[place.partition] = Progress(starts[place] if at is None else at)

    async def _is_gap(self, consumer: Consumer, place: Partition, first: int) -> bool:
        """Whether records are gone before the `first` that was read. Marks of transactions are no records."""
        progress = self._progress.get(place.partition)
        if progress is None or first <= progress.position:
            return False
        start = (await consumer.beginning_offsets([place]))[place]
        if start <= progress.position:
            return False
        self._miss(consumer, place, progress.position, start)
        return self._gaps_matter

    def _miss(self, consumer: Consumer, place: Partition, at: int, start: int) -> None:
        """What stood from `at` to `start` is gone, and nobody took it."""
        partition = place.partition
        self._progress[partition] = Progress(start)
        consumer.seek(place, start)
        if not self._gaps_matter:
            return
        consumer.pause(place)
        self.waiting[partition] = at, start
        self._looked = asyncio.get_running_loop().time()
        log.error(
            "%s: partition %d of %s begins at offset %d, and was read up to %d: what stood between is gone, and was "
            "never taken in. Nothing of this partition is, until somebody says that this is known: "
            "perdure topics skip-gap APP --partition %d --offset %d",
            self._what, partition, self._topic, start, at, partition, start,
        )  # fmt: skip

    async def _look_at_gaps(self, consumer: Consumer) -> None:
        """Whether somebody has said so."""
        now = asyncio.get_running_loop().time()
        if not self.waiting or now - self._looked < _LOOK_SECONDS:
            return
        self._looked = now
        known = await self._known_gaps()
        for partition, (_, start) in list(self.waiting.items()):
            if known.get(partition, -1) >= start:
                del self.waiting[partition]
                consumer.resume(partition_in(self._topic, partition))


async def _none_known() -> Mapping[int, int]:
    return {}
