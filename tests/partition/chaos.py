"""Pods of one log under faults by chance: rebalances, zombies, crashes, late copies. The code is the real one."""

import asyncio
import random

import msgspec

from perdure import App
from perdure_schemas.event import EventBody
from tests.partition.cluster import Cluster, Pod

COPIED = (
    b"owner.",
    b"run.parked",
    b"step.completed",
    b"event.received",
    b"run.requested",
    b"run.finished",
    b'"from":[',
)
"""Records of which an abandoned producer may bring another copy, later."""


class Chaos:
    """A cluster in trouble, until `heal`."""

    def __init__(self, seed: int, apps: dict[str, App]) -> None:
        self.rng = random.Random(seed)
        self.cluster = Cluster(self.rng.choice((1, 2, 3)))
        self.apps = apps
        self.deaths = 0
        self._sending: set[asyncio.Task[None]] = set()

    @property
    def names(self) -> list[str]:
        return list(self.apps)

    async def start(self) -> None:
        for name, app in self.apps.items():
            await self.cluster.pod(name, app).start()
        await self.deal()
        while not any(pod.opening.done() for pod in self.pods()):
            await self.deal()
            await self.cluster.settle()

    def pods(self) -> list[Pod]:
        return self.cluster.alive()

    async def deal(self) -> None:
        """The group gives every partition to somebody, or to nobody for now."""
        hands: dict[str, list[int]] = {name: [] for name in self.names}
        for partition in range(self.cluster.partitions):
            if self.rng.random() < 0.95:
                hands[self.rng.choice(self.names)].append(partition)
        self.cluster.deal(hands)

    def send(self, event: EventBody) -> None:
        """Until somebody has acknowledged it."""
        self._sending.add(asyncio.ensure_future(self._sent(event)))

    async def _sent(self, event: EventBody) -> None:
        while True:
            pods = [pod for pod in self.pods() if not pod.log.frozen]
            if pods:
                pod = self.rng.choice(pods)
                sending = asyncio.ensure_future(pod.port.send([event]))
                for _ in range(200):
                    await asyncio.sleep(0)
                    if sending.done() or not pod.alive:
                        break
                if sending.done():
                    sending.result()
                    return
                sending.cancel()
            await asyncio.sleep(0)

    async def turns(self, most: int) -> None:
        for _ in range(self.rng.randrange(most)):
            await asyncio.sleep(0)
            for pod in self.pods():
                if self.rng.random() < 0.3:
                    pod.turn()
        self.cluster.now += self.rng.randrange(50)

    async def strike(self) -> None:
        """One fault, or the end of one."""
        rng, kind = self.rng, self.rng.random()
        pods = self.pods()
        if not pods or kind < 0.15:
            await self._start_one()
            return
        pod = rng.choice(pods)
        if kind < 0.45:
            await self.deal()
        elif kind < 0.60:
            pod.log.freeze()
        elif kind < 0.75:
            self._back(pod)
        elif kind < 0.80:
            pod.log.cut_off = True
        elif kind < 0.88:
            held = rng.randrange(self.cluster.partitions)
            pod.log.held_back = lambda partition, _: partition == held
        elif kind < 0.92:
            self.deaths += 1
            await pod.kill()
        else:
            self._late_copy()

    async def _start_one(self) -> None:
        dead = [pod for pod in self.cluster.pods.values() if not pod.alive]
        if dead:
            await self.rng.choice(dead).start()

    def _back(self, pod: Pod) -> None:
        """It moves again, reaches the group, and is told at once what that says, or later."""
        pod.log.cut_off = False
        pod.log.thaw()
        if self.rng.random() < 0.5:
            self._tell(pod)

    def _tell(self, pod: Pod) -> None:
        pod.log.lose()
        pod.log.gain(self.cluster.hands.get(pod.name, ()))

    def _late_copy(self) -> None:
        partition = self.rng.randrange(self.cluster.partitions)
        raws = [raw for batch in self.cluster.journals[partition] for raw in batch.values]
        raws = [raw for raw in raws[-60:] if any(kind in raw for kind in COPIED)]
        if raws:
            self.cluster.write(partition, [self.rng.choice(raws)])

    async def heal(self) -> None:
        """No more faults: everybody is there, and everything is dealt."""
        while len(self.pods()) < len(self.apps):
            await self._start_one()
        for pod in self.pods():
            pod.log.cut_off = False
            pod.log.thaw()
        await self.give(
            {
                name: [p for p in range(self.cluster.partitions) if self.names[p % len(self.names)] == name]
                for name in self.names
            }
        )
        if self._sending:
            await asyncio.wait(self._sending)
            for one in self._sending:
                one.result()
        await self.cluster.settle()

    async def give(self, hands: "dict[str, list[int]]") -> None:
        self.cluster.deal(hands)
        await self.cluster.settle()
        self.cluster.check()
        for pod in self.pods():
            assert pod.owned() == hands.get(pod.name, []), f"{pod.name}: {pod.owned()}, {hands}"
            assert all(one.current for one in pod.node.processors if one.performing), (
                "its opinions are ignored for good"
            )

    async def close(self) -> None:
        for one in self._sending:
            one.cancel()
        for pod in self.pods():
            await pod.kill()


def event(event_id: str, name: str, **data: object) -> EventBody:
    return EventBody(event_id, name, msgspec.Raw(msgspec.json.encode(data)))
