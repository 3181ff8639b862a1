"""The simulated log does what every log must."""

import asyncio
import functools
import inspect
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any, cast

import pytest

from perdure.log.protocol import Log
from tests.log.conformance import Conformance
from tests.simulation.cluster import Cluster
from tests.simulation.disk import SimDisk
from tests.simulation.disklog import DiskLog
from tests.simulation.loop import SimLoop
from tests.simulation.simlog import SimLog
from tests.simulation.swarm import Swarm
from tests.simulation.trace import Trace


def simulated(suite: type[Conformance]) -> type[Conformance]:
    """The tests of `suite`, each on a simulated loop of its own. Its fixture `bench` gives the swarm to use."""
    for name in dir(suite):
        test = getattr(suite, name)
        if name.startswith("test_") and inspect.iscoroutinefunction(test):
            setattr(suite, name, _on_a_loop(test))
    return suite


def _on_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(self: Conformance, bench: Swarm, **given: Any) -> None:
        async def on_it() -> None:
            made = SimBench(bench)
            await made.log.open()
            await test(self, made, **given)

        loop = SimLoop(Random(7))
        try:
            loop.run_until_complete(on_it())
        finally:
            loop.close()

    return run


class SimBench:
    """A log of the simulator, and its next lives."""

    def __init__(self, swarm: Swarm) -> None:
        self.loop = cast("SimLoop", asyncio.get_running_loop())
        self.swarm = swarm
        self.cluster = Cluster(self.loop, Random(1), swarm, Trace())
        self.disk = SimDisk("disk", Random(2), swarm, Trace())
        self.lives = 0
        self.log: Log = self.next()

    def next(self) -> SimLog | DiskLog:
        self.lives += 1
        owner = self.loop.add_owner(f"life {self.lives}")
        self.disk.process_is_dead = lambda: owner.dead
        self.sim: SimLog | DiskLog = SimLog(self.cluster, owner, self.disk)
        if self.swarm.embedded:
            self.sim = DiskLog(
                self.loop, Random(3), self.swarm, Trace(), owner, self.disk, lambda: self.cluster.clock_ms(0)
            )
        self.log = self.sim
        return self.sim

    async def reopen(self) -> Log:
        await self.log.close()
        await self.next().open()
        return self.log

    async def crash(self) -> Log:
        self.loop.bury(self.sim.owner)
        if self.swarm.embedded:
            self.disk.lose_power()
        await self.next().open()
        return self.log


class Elsewhere(Conformance):
    """Without the tests that take more for granted than a log that is elsewhere promises."""

    # What a dead process had in hand is dealt again after a session.
    test_the_next_process_gets_what_was_not_done = None  # type: ignore[assignment]
    test_what_is_done_goes_no_sooner_than_what_came_before_it = None  # type: ignore[assignment]
    # What was acknowledged need not have been read by then.
    test_a_sink_may_append_follow_and_close_others = None  # type: ignore[assignment]
    test_close_twice_and_readers_end = None  # type: ignore[assignment]


@simulated
class TestCalm(Elsewhere):
    @pytest.fixture
    def bench(self) -> Swarm:
        return Swarm(partitions=3)


@simulated
class TestRough(Elsewhere):
    """Slow, and with losses."""

    @pytest.fixture
    def bench(self) -> Swarm:
        return Swarm(partitions=3, tail=0.05, p_lost_request=0.1, p_lost_answer=0.1, request_timeout=0.2)


@simulated
class TestEmbedded(Conformance):
    """Every crash is one of the machine's."""

    @pytest.fixture
    def bench(self) -> Swarm:
        return Swarm(partitions=3, embedded=True)
