"""A world: brokers, pods, faults, and whoever sends events, in one loop under one seed. See README.md."""

import asyncio
import gc
import logging
import warnings
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import ExitStack
from random import Random
from types import TracebackType
from typing import Any, TypeVar

import msgspec

from perdure.errors import EngineClosed, LogError
from perdure.partition import Processor
from perdure.sdk.app import App
from perdure.sdk.local_port import LocalPort
from perdure.sdk.port import Enqueue
from perdure_schemas.event import EventBody
from tests.simulation.chaos import Chaos
from tests.simulation.cluster import EVENTS, Cluster
from tests.simulation.control import controlled
from tests.simulation.disklog import DiskLog
from tests.simulation.loop import Owner, SimLoop, SimTask
from tests.simulation.pod import Pod, Unanswered
from tests.simulation.swarm import Swarm, drawn
from tests.simulation.topics import Journal
from tests.simulation.trace import Trace

T = TypeVar("T")
MOST_CALLBACKS = 400_000
"""A world that needs more goes round in circles."""


class Unsettled(AssertionError):
    """I14: faults have stopped, and after the time given something still moves, or does not move and should."""


class _Collected(logging.Handler):
    def __init__(self, world: "World") -> None:
        super().__init__(logging.WARNING)
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        if not self._world.loop.current.dead:
            self._world.warnings.append(record.getMessage())


class World:
    """`apps`: one app, or the app of each version by name, oldest first; a deploy goes to the next one.

    `swarm`: what is drawn from the seed if it is not given.
    """

    def __init__(self, seed: int, apps: App | Mapping[str, App], swarm: Swarm | None = None) -> None:
        self.seed = seed
        self.apps: Mapping[str, App] = {"v1": apps} if isinstance(apps, App) else apps
        self.swarm = swarm if swarm is not None else drawn(seed)
        self.trace = Trace()
        self.loop = SimLoop(self.draw("loop"), most_callbacks=MOST_CALLBACKS)
        self.cluster = Cluster(self.loop, self.draw("cluster"), self.swarm, self.trace)
        self.warnings: list[str] = []
        """What the engine logged."""
        self.problems: list[str] = []
        """What must not be: exceptions that nobody caught, partitions that halted."""
        self.faults = 0
        self.odd: set[str] = set()
        """Pods around which something is not as it is around others: what fickle code reads."""
        self.over = False
        self.dead: list[Owner] = []
        self.pods_by_owner: dict[str, Pod] = {}
        self.ran: dict[str, str] = {}
        """Life of a pod → the version that it runs."""
        self.taken_up: dict[str, int] = {}
        """Token of an owner → what it had folded of its partition when it took that up."""
        self.pods: list[Pod] = []
        self.versions = list(self.apps)
        self.version = self.versions[0]
        """What pods that start now run."""
        self._client = self.draw("client")
        self._stack = ExitStack()
        self.chaos = Chaos(self, self.draw("chaos"))
        self.cluster.on_append = self.chaos.appended
        self.cluster.on_owner = self.chaos.owner_started

    def draw(self, purpose: str) -> Random:
        """A stream of chance of its own: what one part draws does not change what others draw."""
        return Random(f"{self.seed}/{purpose}")

    # Life of the world

    def __enter__(self) -> "World":
        self._stack.enter_context(controlled(self.loop, self.draw("control"), self.swarm))
        _open.append(self)
        self._stack.callback(_open.remove, self)
        logger, handler = logging.getLogger("perdure"), _Collected(self)
        before = logger.propagate
        logger.addHandler(handler)
        logger.propagate = False
        self._stack.callback(setattr, logger, "propagate", before)
        self._stack.callback(logger.removeHandler, handler)
        self.loop.set_exception_handler(self._uncaught)
        for number in range(self.swarm.pods):
            self.add_pod(f"pod-{number + 1}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.over = self.loop.inert = True
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for owner in [*self.dead, *self.loop.owners]:
                owner.dead = True
                _close_all(owner)
            self.loop.close()
            self.pods.clear()
            self.pods_by_owner.clear()
            gc.collect()
        self._stack.close()

    def _uncaught(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        task = context.get("task") or context.get("future")
        owner = task.owner if isinstance(task, SimTask) else self.loop.current
        if owner.dead or self.over:
            return
        error = context.get("exception")
        self.problems.append(f"{owner}: {context.get('message')}: {type(error).__name__}: {error}")
        self.last_error = error

    def add_pod(self, name: str, version: str = "") -> Pod:
        pod = Pod(self, name, version or self.version)
        self.pods.append(pod)
        pod.start()
        return pod

    # Time

    @property
    def time(self) -> float:
        """Virtual seconds since the world began, leaps of the wall clock left out."""
        return self.loop.time() - 1_000.0

    def later(self, seconds: float, callback: Callable[[], object]) -> None:
        """Done by the world, not by a pod."""
        self.loop.post(self.loop.outside, seconds, callback)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def play(self, story: Callable[["World"], Awaitable[T]]) -> T:
        """Run the world until `story`, which lives outside all pods, has ended. Faults happen meanwhile."""
        self.chaos.begin()

        async def told() -> T:
            await self._defined()
            return await story(self)

        return self.loop.run_until_complete(told())

    async def _defined(self) -> None:
        """Until every partition knows the code's paths and triggers: events count from there on."""
        known: set[int] = set()
        while len(known) < self.swarm.partitions:
            await asyncio.sleep(0.05)
            known.update(one.partition for _, one in self.owned() if one.view.routes() is not None)

    # What clients do

    async def ask(self, question: Callable[[LocalPort], Awaitable[T]], *, patience: float = 300.0) -> T:
        """Ask some pod, another one if it does not answer, until one does. Errors of the engine's own are raised.

        What was asked may have been done several times: at least once.
        """
        until = self.loop.time() + patience
        while True:
            ready = [pod for pod in self.pods if pod.open and not pod.stopping]
            pod = self._client.choice(ready) if ready else None
            try:
                if pod is not None:
                    return await pod.ask(question)
            except (Unanswered, LogError, EngineClosed):
                pass
            if self.loop.time() > until:
                raise Unsettled(f"no pod answered for {patience:g}s")
            await asyncio.sleep(0.2 + self._client.random())

    async def send(self, name: str, data: object = None, *, id: str, user: object = None) -> None:
        """An event, sent until it is acknowledged."""
        encode = msgspec.json.encode
        body = EventBody(id, name, msgspec.Raw(encode(data or {})), msgspec.Raw(encode(user or {})))
        self.trace.note("client", f"send {name} {id}")
        await self.ask(lambda port: port.send([body]))
        self.trace.note("client", f"sent {id}")

    async def enqueue(self, function: str, *args: object, id: str, **kwargs: object) -> str:
        """A background run, asked for until it is acknowledged; its id."""
        request = Enqueue(
            function=function,
            arguments=msgspec.Raw(msgspec.json.encode([list(args), kwargs])),
            idempotency_key=id,
        )
        self.trace.note("client", f"enqueue {function} {id}")
        return await self.ask(lambda port: port.enqueue(request))

    async def cancel(self, run: str, reason: str = "") -> None:
        """Cancel a run, until that is acknowledged."""
        self.trace.note("client", f"cancel {run}")
        await self.ask(lambda port: port.cancel(run, reason))

    def deploy(self, version: str) -> None:
        """A rolling deploy: pods are stopped one after another, and start again with `version`."""
        self.version = version
        self.chaos.roll(version)

    # What user code says

    def happened(self, what: str) -> None:
        """For steps and functions: it is in the trace and in `effects`, unless the pod that says it is dead."""
        owner = self.loop.current
        if not owner.dead and not self.over:
            self.trace.note("happened", f"{owner.name} {what}")
            self.effects.append((self.time, owner.name, what))

    @property
    def effects(self) -> "list[tuple[float, str, str]]":
        """(time, life of a pod, what) in the order in which it happened."""
        found: list[tuple[float, str, str]] = self.__dict__.setdefault("_effects", [])
        return found

    @property
    def journals(self) -> list[Journal]:
        """What the brokers have; in an embedded world what is acknowledged on the disk."""
        log = self.pods[0].log
        return log.journals if isinstance(log, DiskLog) else self.cluster.journals

    # The end

    def heal(self, version: str = "", *, activate: bool = False) -> None:
        """Faults stop: all pods run this code, else the newest; they reach the brokers and are let go on.

        `activate`: whatever the log has seen, this code is to be the current one.
        """
        self.trace.note("heal")
        self.swarm.calm()
        self.chaos.heal(version or self.versions[-1], activate=activate)

    def owned(self) -> Iterator[tuple[Pod, Processor]]:
        """Processors by which partitions are performed at present."""
        for pod in self.pods:
            if pod.alive and pod.node is not None:
                for processor in pod.processors():
                    yield pod, processor

    def busy(self) -> str:
        """What still moves by itself, or nothing."""
        if self.chaos.busy():
            return self.chaos.busy()
        if self.cluster.late:
            return "a batch is on its way to the brokers"
        if self.cluster.group.rebalancing and not self.swarm.embedded:
            return "the group is dealing partitions"
        found: set[int] = set()
        for pod in self.pods:
            if not pod.alive or pod.node is None or pod.log is None:
                return f"{pod.name} is down"
            if not pod.open:
                return f"{pod.name} is not open yet"
            if pod.log.unacknowledged:
                return f"{pod.name} waits for an acknowledgement"
            if pod.log.is_cut():
                return f"{pod.name} is cut off"
            if not pod.node.worker.quiet():
                return f"{pod.name} runs user code"
            if pod.node.pools.busy:
                return f"{pod.name} has a step of a queue"
            for processor in pod.processors():
                if processor.halted:
                    return processor.halted
                if processor.partition in found:
                    return f"two pods perform partition {processor.partition}"
                if not processor.current:
                    return f"{pod.name} is not the owner of partition {processor.partition} by its log"
                found.add(processor.partition)
                end = self.journals[processor.partition].end
                if processor.offset != end:
                    return f"{pod.name} has folded partition {processor.partition} to {processor.offset} of {end}"
                due = processor.timers.first_due()
                if due is not None and due <= processor.timers.now_ms():
                    return f"{pod.name} has a timer that is due in partition {processor.partition}"
        for name, queue in self.cluster.queues.items():
            if name.startswith(EVENTS) and queue.tasks:
                return f"{name} has events that nobody has taken in"
        missing = sorted(set(range(self.swarm.partitions)) - found)
        return f"nobody owns {missing}" if missing else ""

    async def settle(self, within: float = 120.0) -> None:
        """Until nothing moves by itself any more. Raises `Unsettled` after `within` virtual seconds."""
        until = self.loop.time() + within
        quiet = 0
        while quiet < 3:
            await asyncio.sleep(0.1 + self.swarm.latency)
            why = self.busy()
            quiet = 0 if why else quiet + 1
            if self.loop.time() > until:
                raise Unsettled(f"I14: after {within:g}s without faults: {why}")

    def leap(self, to_ms: int) -> None:
        """All clocks on the wall go on to `to_ms`, and nothing else happens meanwhile."""
        self.loop.leapt += max(0, to_ms - self.loop.wall_ms()) / 1000
        self.trace.note("leap", str(self.loop.wall_ms()))

    async def finish(self, *, days: float = 400.0, within: float = 120.0) -> None:
        """Settle, go to the next timer, and so on, until no timer is left (but those of schedules)."""
        until = self.loop.wall_ms() + int(days * 86_400_000)
        for _ in range(2_000):
            await self.settle(within)
            dues = [
                due for _, processor in self.owned() if (due := processor.timers.first_due(crons=False)) is not None
            ]
            if not dues or min(dues) > until:
                return
            self.leap(min(dues))
        raise Unsettled("I14: two thousand timers later there is still one")

    def records(self) -> list[list[tuple[int, int, bytes]]]:
        """(offset, timestamp, value) of all that each partition keeps."""
        return [journal.records() for journal in self.journals]

    def report(self) -> str:
        """One line: what this world was."""
        counts = self.trace.counts
        kinds = (
            "killed",
            "frozen",
            "cut",
            "abandon",
            "late",
            "again",
            "rebalance",
            "deploy",
            "write",
            "snapshot",
            "trim",
        )
        shown = " ".join(f"{kind}={counts[kind]}" for kind in kinds if counts[kind])
        where = "embedded" if self.swarm.embedded else f"{self.swarm.pods} pods"
        return (
            f"seed {self.seed}: {where}, {self.swarm.partitions} partitions, {counts['append']} records, "
            f"{self.time:.1f}s, {self.loop.handles} callbacks, {shown}, trace {self.trace.digest}"
        )


def _close_all(owner: Owner) -> None:
    """Coroutines of a dead process: closed where nothing that they still do is heard of."""
    while owner.tasks:
        _, task = owner.tasks.popitem()
        setattr(task, "_log_destroy_pending", False)  # noqa: B010
        coroutine = task.get_coro()
        try:
            if coroutine is not None:
                coroutine.close()
        except BaseException:
            # User code that goes on after GeneratorExit, or engine code that finds what it does not expect.
            continue


_open: list[World] = []


def world() -> World:
    """The world that is open, for user code in its apps."""
    return _open[-1]


__all__ = ["Unsettled", "World", "world"]
