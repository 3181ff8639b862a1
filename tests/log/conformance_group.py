"""What every log must do for the members of the app's group; see `conformance`. Here the bench has the only member."""

import asyncio
from collections.abc import Sequence
from contextvars import ContextVar

import pytest

from perdure.errors import LogError
from tests.log.tools import Bench, fetch_all, flat, values, write

_caller: ContextVar[str] = ContextVar("_caller", default="nobody")


class Told:
    """A member that keeps what it is told."""

    def __init__(self) -> None:
        self.mine: set[int] = set()
        self.callers: set[str] = set()
        self._changed = asyncio.Event()

    def assigned(self, partitions: Sequence[int], /) -> None:
        assert not self.mine.intersection(partitions), "what is ours is not assigned again"
        self.mine.update(partitions)
        self.callers.add(_caller.get())
        self._changed.set()

    def revoked(self, partitions: Sequence[int], /) -> None:
        assert self.mine.issuperset(partitions), "only what is ours is revoked"
        self.mine.difference_update(partitions)
        self.callers.add(_caller.get())

    async def until(self, partitions: int) -> None:
        async with asyncio.timeout(60):
            while len(self.mine) < partitions:
                self._changed.clear()
                await self._changed.wait()


class GroupConformance:
    async def test_the_only_member_is_assigned_everything(self, bench: Bench) -> None:
        log, told = bench.log, Told()
        everything = range(log.partitions)
        assert not any(log.confirmed(partition) for partition in everything)
        token = _caller.set("whoever joins")
        try:
            log.join(told)
        finally:
            _caller.reset(token)
        await told.until(log.partitions)
        assert told.mine == set(everything)
        assert all(log.confirmed(partition) for partition in everything)
        assert told.callers == {"nobody"}

    async def test_who_left_is_told_nothing_and_owns_nothing(self, bench: Bench) -> None:
        log, told = bench.log, Told()
        log.join(told)
        await told.until(log.partitions)
        await log.leave()
        await log.leave()
        assert not any(log.confirmed(partition) for partition in range(log.partitions))
        again = Told()
        log.join(again)
        await again.until(log.partitions)
        assert told.mine == again.mine

    async def test_a_log_has_one_member_at_most(self, bench: Bench) -> None:
        bench.log.join(Told())
        with pytest.raises(LogError, match="one member"):
            bench.log.join(Told())

    async def test_membership_ends_with_the_log(self, bench: Bench) -> None:
        bench.log.join(Told())
        await bench.log.close()
        with pytest.raises(LogError, match="not open"):
            bench.log.join(Told())
        log, told = await bench.reopen(), Told()
        log.join(told)
        await told.until(log.partitions)

    async def test_membership_ends_with_a_crash(self, bench: Bench) -> None:
        bench.log.join(Told())
        log, told = await bench.crash(), Told()
        log.join(told)
        await told.until(log.partitions)

    async def test_only_partitions_that_are_there(self, bench: Bench) -> None:
        for partition in (-1, bench.log.partitions):
            with pytest.raises(IndexError):
                bench.log.confirmed(partition)

    async def test_who_owns_nothing_appends_and_reads(self, bench: Bench) -> None:
        await write(bench.log, [b"a"])
        assert [value for _, value in await fetch_all(bench.log)] == [b"a"]

    async def test_latest_is_one_past_the_last_record(self, bench: Bench) -> None:
        log = bench.log
        assert await log.latest(0) == log.end(0)
        await write(log, [b"a", b"b", b"c"])
        assert await log.latest(0) == (await fetch_all(log))[-1][0] + 1 == log.end(0)
        assert await log.latest(1) == log.end(1)

    async def test_fetch_begins_anywhere_inside_the_log(self, bench: Bench) -> None:
        log = bench.log
        for index in range(5):
            await write(log, [b"%d" % index * 100])
        records = await fetch_all(log)
        for index, (offset, _) in enumerate(records):
            assert flat(await log.fetch(0, offset)) == records[index:]
        assert values(await log.fetch(0, log.start(0), limit_bytes=1)) == [b"0" * 100]
        assert await log.fetch(0, log.end(0)) == []
        for offset in (log.start(0) - 1, log.end(0) + 1):
            with pytest.raises(IndexError):
                await log.fetch(0, offset)
