"""A pod: a machine with a disk, and one life of the engine after another upon it."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar, cast

from perdure.errors import LogError
from perdure.log.protocol import Log
from perdure.partition import Processor
from perdure.sdk.app import App
from perdure.sdk.local_port import LocalPort
from perdure.sdk.node import Node
from tests.simulation.disk import SimDisk
from tests.simulation.disklog import DiskLog
from tests.simulation.loop import Owner
from tests.simulation.simlog import SimLog

if TYPE_CHECKING:
    from tests.simulation.world import World

T = TypeVar("T")


class Unanswered(Exception):
    """The pod did not answer: whether it did what it was asked for is not known."""


class _Node(Node):
    """Says what it had folded of a partition when it took that up."""

    def __init__(self, taken_up: dict[str, int], app: App, log: Log, **more: Any) -> None:
        super().__init__(app, log, **more)
        self._taken_up = taken_up

    def _owned(self, processor: Processor) -> None:
        self._taken_up[processor.owner.token] = processor.offset
        super()._owned(processor)


class Pod:
    """`version` names the app that the next life runs."""

    def __init__(self, world: "World", name: str, version: str) -> None:
        self.world = world
        self.name = name
        self.version = version
        self.lives = 0
        self.disk = SimDisk(name, world.draw(f"disk {name}"), world.swarm, world.trace)
        self.owner: Owner | None = None
        self.log: SimLog | DiskLog | None = None
        self.node: Node | None = None
        self.running = ""
        """Version of the present life."""
        self.open = False
        """The present life accepts events."""
        self.stopping = False
        self.activate = False
        """The next life makes its code the current one, whatever the log has seen (`worker --activate`)."""

    @property
    def alive(self) -> bool:
        return self.owner is not None and not self.owner.dead

    @property
    def frozen(self) -> bool:
        return self.owner is not None and self.owner.frozen

    def processors(self) -> list[Processor]:
        """Of the partitions that the present life performs, or that have halted."""
        if self.node is None or not self.alive:
            return []
        return [one for one in self.node.processors if one.performing or one.halted]

    # Lives

    def start(self) -> None:
        """The next life begins."""
        world = self.world
        assert not self.alive
        self.lives += 1
        owner = self.owner = world.loop.add_owner(f"{self.name}.{self.lives}")
        self.open = self.stopping = False
        self.running = self.version
        world.pods_by_owner[owner.name] = self
        world.ran[owner.name] = self.running
        world.trace.note("start", f"{owner.name} {self.running}")
        self.disk.process_is_dead = lambda: owner.dead
        self.disk.die = self.die
        self.disk.reopen()
        log = self.log = self._log(owner)
        with world.loop.on_behalf(owner):
            activate, self.activate = self.activate or None, False
            node = self.node = _Node(
                world.taken_up,
                world.apps[self.running],
                log,
                evict=world.swarm.evict,
                activate=activate,
                name=owner.name,
            )
            world.loop.create_task(self._open(owner, node))

    def _log(self, owner: Owner) -> SimLog | DiskLog:
        world = self.world
        if not world.swarm.embedded:
            return SimLog(world.cluster, owner, self.disk)
        chance = world.draw(f"log {owner}")
        return DiskLog(
            world.loop, chance, world.swarm, world.trace, owner, self.disk, lambda: world.cluster.clock_ms(0)
        )

    async def _open(self, owner: Owner, node: Node) -> None:
        try:
            await node.open()
        except LogError as error:
            self.world.trace.note("refused", f"{owner.name} {type(error).__name__}")
            self.world.warnings.append(f"{owner.name}: {error}")
            if not owner.dead:
                self.kill()
                self.world.later(1.0, self.restart)
            return
        self.open = True
        self.world.trace.note("open", owner.name)

    def kill(self) -> None:
        """SIGKILL: nothing of it happens any more, wherever it was. What it wrote to its disk stays."""
        owner = self.owner
        if owner is not None and not owner.dead:
            self.world.trace.note("killed", owner.name)
            self.world.loop.bury(owner)
            self.world.dead.append(owner)
            self.open = False

    def die(self) -> None:
        """Killed, and started again by whoever watches over pods."""
        self.kill()
        self.world.chaos.back(self)

    def lose_power(self) -> None:
        self.kill()
        self.disk.lose_power()

    def restart(self) -> None:
        if not self.alive and not self.world.over:
            self.start()

    def freeze(self, seconds: float) -> None:
        """It stands still, and comes back without knowing: a zombie, if that was long enough."""
        owner = self.owner
        if owner is None or owner.dead or owner.frozen:
            return
        owner.frozen = True
        self.world.trace.note("frozen", owner.name)

        def thaw() -> None:
            if owner.frozen and not owner.dead:
                owner.frozen = False
                self.world.trace.note("thawed", owner.name)

        self.world.later(seconds, thaw)

    def stop(self, then: Callable[[], None], grace: float = 5.0) -> None:
        """SIGTERM: it drains, leaves the group and ends; SIGKILL when the grace is over. `then` is called once."""
        owner, node = self.owner, self.node
        if owner is None or owner.dead or node is None or self.stopping:
            return
        self.stopping = True
        self.world.trace.note("stopping", owner.name)

        ended = False

        def end() -> None:
            nonlocal ended
            if not ended:
                ended = True
                if not owner.dead:
                    self.kill()
                then()

        async def close() -> None:
            try:
                await node.close()
            except LogError as error:
                self.world.warnings.append(f"{owner.name}: {error}")
            end()

        if self.open:
            with self.world.loop.on_behalf(owner):
                self.world.loop.create_task(close())
        self.world.later(grace, end)

    # Asking

    async def ask(self, question: Callable[[LocalPort], Awaitable[T]], timeout: float = 5.0) -> T:
        """What the pod's own port answers, as a gateway in it would be told. Raises `Unanswered`, or what it raises."""
        loop, owner, node = self.world.loop, self.owner, self.node
        if owner is None or owner.dead or node is None or not self.open or self.stopping:
            raise Unanswered(f"{self.name} is not open")
        answer: asyncio.Future[Any] = loop.create_future()

        async def asked() -> None:
            try:
                found = await question(LocalPort(node))
            except Exception as error:
                if not answer.done() and not owner.dead:
                    answer.set_exception(error)
            else:
                if not answer.done() and not owner.dead:
                    answer.set_result(found)

        with loop.on_behalf(owner):
            loop.create_task(asked())
        done, _ = await asyncio.wait({answer}, timeout=timeout)
        if not done:
            answer.cancel()
            raise Unanswered(f"{self.name} did not answer within {timeout:g}s")
        return cast("T", answer.result())


__all__ = ["Pod", "Unanswered"]
