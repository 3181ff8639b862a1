"""What goes wrong in a world, and when."""

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING

import msgspec

from perdure.flow import decode
from perdure_schemas.records import AskedOp, OwnerStarted, RunParked, StepAttempted, V
from tests.simulation.cluster import OWNER_STARTED
from tests.simulation.simlog import SimLog
from tests.simulation.swarm import MORE_RATES, RATES

if TYPE_CHECKING:
    from tests.simulation.pod import Pod
    from tests.simulation.world import World

LONGEST_SECONDS = 90.0


class Chaos:
    """Each kind of fault comes at random moments, at the rate that the swarm says; 0 stops it."""

    def __init__(self, world: "World", rng: Random) -> None:
        self._world = world
        self._rng = rng
        self._begun = False
        self._rolling: list[tuple[Pod, str]] = []
        self._activates = False
        """Deploys of our own go back and forth: the log may have seen any code before."""
        self._faults: dict[str, Callable[[], None]] = {
            "crash": self._crash,
            "power_loss": self._power_loss,
            "freeze": self._freeze,
            "cut": self._cut,
            "slow": self._slow,
            "rebalance": self._rebalance,
            "deploy": self._deploy,
            "leap": self._leap,
            "leader": self._leader,
            "full": self._full,
            "compact": self._compact,
            "severed": self._sever,
        }

    def begin(self) -> None:
        if self._begun:
            return
        self._begun = True
        # Where faults come too fast for anything to be done between them, they end by themselves.
        self._world.later(LONGEST_SECONDS, self._world.swarm.calm)
        for kind in (*RATES, *MORE_RATES):
            self._plan(kind)

    def _plan(self, kind: str) -> None:
        rate: float = getattr(self._world.swarm, kind)
        if rate:
            self._world.later(self._rng.expovariate(rate), lambda: self._strike(kind))

    def _strike(self, kind: str) -> None:
        if getattr(self._world.swarm, kind) and not self._world.over:
            self._faults[kind]()
            self._plan(kind)

    def _someone(self) -> "Pod | None":
        alive = [pod for pod in self._world.pods if pod.alive]
        return self._rng.choice(alive) if alive else None

    def _note(self, kind: str, what: str) -> None:
        self._world.trace.note(kind, what)
        self._world.faults += 1

    # Processes

    def appended(self, who: str) -> None:
        """A pod's batch was stored, and it has not been told."""
        if self._world.swarm.p_crash_at_append and self._rng.random() < self._world.swarm.p_crash_at_append:
            pod = self._world.pods_by_owner.get(who)
            if pod is not None and pod.alive and pod.owner is not None and pod.owner.name == who:
                self._note("died", f"{who} after an append")
                pod.die()

    def back(self, pod: "Pod") -> None:
        """Whoever watches over pods starts it again."""
        self._world.later(self._rng.choice((0.1, 1.0, 1.0, 10.0)) * self._rng.random(), pod.restart)

    def _crash(self) -> None:
        pod = self._someone()
        if pod is not None:
            self._note("crash", pod.name)
            pod.kill()
            # State beside a log of one machine is lost with the log, or not at all: the log may have been trimmed.
            if self._rng.random() < 0.3 and not self._world.swarm.embedded:
                self._note("empty", pod.name)
                pod.disk.forget()
            self.back(pod)

    def _power_loss(self) -> None:
        pod = self._someone()
        if pod is not None:
            self._note("power", pod.name)
            pod.lose_power()
            self.back(pod)

    def _freeze(self) -> None:
        pod = self._someone()
        if pod is not None:
            self._world.faults += 1
            pod.freeze(self._rng.choice((0.5, 2.0, 15.0)) * (0.5 + self._rng.random()))

    def _slow(self) -> None:
        pod = self._someone()
        if pod is not None and pod.owner is not None:
            seconds = self._rng.random() * 2
            self._note("slow", f"{pod.name} {seconds:.3f}")
            pod.owner.stalled_until = max(pod.owner.stalled_until, self._world.loop.time() + seconds)

    def _deploy(self) -> None:
        versions = self._world.versions
        if len(versions) > 1 and not self._rolling:
            # Mostly forward, now and then back again.
            at = versions.index(self._world.version)
            step = 1 if self._rng.random() < 0.8 else -1
            target = versions[max(0, min(len(versions) - 1, at + step))]
            if target != self._world.version:
                self._activates = True
                self._world.deploy(target)

    def roll(self, version: str) -> None:
        """Pods one after another are stopped and started with `version`."""
        self._note("deploy", version)
        self._rolling = [(pod, version) for pod in self._world.pods]
        self._rolling[0][0].activate = self._activates
        self._next_pod()

    def _next_pod(self) -> None:
        if not self._rolling:
            return
        pod, version = self._rolling.pop(0)
        pod.version = version

        def then() -> None:
            pod.restart()
            self._world.later(0.2 + self._rng.random() * self._world.swarm.roll_seconds, self._next_pod)

        if pod.alive and not pod.stopping:
            pod.stop(then)
        else:
            self._world.later(0.2, self._next_pod)

    # Network, brokers, disks

    def _cut(self) -> None:
        pod = self._someone()
        if pod is not None and pod.log is not None:
            seconds = self._rng.choice((0.2, 2.0, 12.0)) * (0.5 + self._rng.random())
            self._note("cut", f"{pod.name} {seconds:.3f}")
            pod.log.cut_until = max(pod.log.cut_until, self._world.loop.time() + seconds)

    def _sever(self) -> None:
        pod, partition = self._someone(), self._rng.randrange(self._world.swarm.partitions)
        if pod is not None and isinstance(pod.log, SimLog):
            seconds = self._rng.choice((0.5, 2.0, 6.0)) * (0.5 + self._rng.random())
            self._note("severed", f"{pod.name} {partition} {seconds:.3f}")
            pod.log.sever(partition, seconds)

    def _rebalance(self) -> None:
        self._world.faults += 1
        self._world.cluster.group.rebalance("the coordinator wants it")

    def _leap(self) -> None:
        cluster = self._world.cluster
        broker = self._rng.randrange(cluster.brokers)
        by_ms = int(self._rng.choice((100, 3_000, 60_000)) * self._rng.random())
        self._note("leapt", f"broker {broker} {by_ms}")
        cluster.leapt_ms[broker] += by_ms

        def come_back() -> None:
            cluster.leapt_ms[broker] -= by_ms
            self._world.trace.note("leapt", f"broker {broker} {-by_ms}")

        self._world.later(5 * self._rng.random(), come_back)

    def _leader(self) -> None:
        cluster = self._world.cluster
        journal = self._rng.choice(cluster.journals)
        journal.leader = self._rng.randrange(cluster.brokers)
        self._note("leader", f"{journal.partition} {journal.leader}")

    def _full(self) -> None:
        pod = self._rng.choice(self._world.pods)
        if not pod.disk.full:
            self._note("full", pod.name)
            pod.disk.full = True
            self._world.later(3 * self._rng.random(), lambda: self._room(pod))

    def _room(self, pod: "Pod") -> None:
        pod.disk.full = False
        self._world.trace.note("room", pod.name)

    def _compact(self) -> None:
        topic = self._rng.choice(self._world.cluster.snapshots)
        self._note("compact", str(topic.compact(self._rng)))

    def owner_started(self, partition: int) -> None:
        """Somebody else owns the partition: who did so before may be a zombie for a while."""
        while self._rng.random() < self._world.swarm.p_ghost / 1.5:
            self._world.later(self._rng.random() ** 2 * 3, lambda: self._ghost(partition))

    def _ghost(self, partition: int) -> None:
        """What a zombie writes depends on how far it has read: here it is whatever one might have written."""
        world = self._world
        journal = world.cluster.journals[partition]
        started = [decode(raw) for _, _, raw in journal.everything() if OWNER_STARTED in raw]
        owners = [one for one in started if isinstance(one, OwnerStarted)]
        runs = sorted(
            state.id
            for _, one in world.owned()
            if one.partition == journal.partition
            for state in one.view.runs.values()
            if state.status == "running"
        )
        latest = max(one.owner.number for one in owners)
        ghosts = [one for one in owners if one.owner.number < latest]
        if not ghosts or not runs or not world.swarm.p_ghost:
            return
        ghost, run = self._rng.choice(ghosts), self._rng.choice(runs)
        opinion = self._rng.choice(
            (
                RunParked(run, ghost.owner, ghost.code, "it differs", AskedOp("0/work#1"), None, v=V),
                StepAttempted(run, "0/work#1", ghost.owner, v=V),
            )
        )
        self._note("ghost", f"{journal.partition} {ghost.owner.number} {run}")
        producer, value = world.cluster.new_producer(), msgspec.json.encode(opinion)
        world.cluster.produce(producer, 0, journal.partition, [value], "a ghost")

    # The end of it

    def busy(self) -> str:
        return "a deploy is rolling" if self._rolling else ""

    def heal(self, version: str, *, activate: bool) -> None:
        world = self._world
        self._rolling.clear()
        world.version = version
        for pod in world.pods:
            pod.disk.full = False
            pod.version = world.version
            if pod.log is not None:
                pod.log.cut_until = 0.0
                if isinstance(pod.log, SimLog):
                    pod.log.severed_until.clear()
            if pod.owner is not None:
                pod.owner.stalled_until = 0.0
                if pod.owner.frozen and pod.alive:
                    pod.owner.frozen = False
                    world.trace.note("thawed", pod.owner.name)
            # Deploys may have gone back and forth: one pod says which code is to be the current one.
            pod.activate = pod is world.pods[0] and (self._activates or activate)
            if not pod.alive:
                pod.restart()
            elif (pod.running != pod.version or pod.activate) and not pod.stopping:
                pod.kill()
                pod.restart()
