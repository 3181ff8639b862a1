"""Starts workers, gives them work, and takes from them what it can: their processes, their time, their disks, the

brokers. Which, when and how long is drawn from the seed.
"""

import asyncio
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.kafka.broker import Broker
from tests.kafka.chaos.child import PARTITIONS, SECOND, WORK
from tests.kafka.chaos.topic import Tail, Writing, make_topic
from tests.system.engine_process import ROOT, environment, tell

WORKERS = 3
WRITERS = 4
EVENTS = "chaos.events"
SESSION_S = 2.0
PATIENCE_S = 60.0
UNDER_WAY = 300
"""Runs that are under way at a time."""
NO_BROKER = "perdure.errors.LogError"
RETENTION = "20s"
"""The tail reads what is written before that."""


@dataclass
class Size:
    runs: int
    kills: int
    stops: int
    brokers: int


@dataclass
class Figures:
    born: dict[int, int] = field(default_factory=dict[int, int])
    """Process → wall clock just before it was started."""
    lives: int = 0
    wiped: int = 0
    begun_again: int = 0
    """Workers that found no broker when they began."""
    done: dict[str, int] = field(default_factory=lambda: {"kill": 0, "stop": 0, "broker": 0})
    began: float = field(default_factory=time.monotonic)


class Worker:
    """A pod: one process after another, on the same disk until it is wiped."""

    def __init__(self, folder: Path, name: str, bootstrap: str, figures: Figures) -> None:
        self.name, self.disk = name, folder / name
        self._folder, self._figures = folder, figures
        self._log = f"kafka://{bootstrap}/chaos?session={SESSION_S:g}s&retention={RETENTION}&data={self.disk}"
        self.process: subprocess.Popen[bytes]
        self.ready = False
        self._answers = b""
        self.states: dict[str, Any] | None = None
        self.sent: set[str] = set()

    def start(self, *, empty: bool = False) -> None:
        if empty:
            shutil.rmtree(self.disk, ignore_errors=True)
            self._figures.wiped += 1
        at = time.time_ns() // 1_000_000
        with (self._folder / f"{self.name}.err").open("ab") as errors:
            command = [sys.executable, "-m", "tests.kafka.chaos.child", self._log, str(self._folder / "steps.txt")]
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors
            )
        assert self.process.stdout is not None
        os.set_blocking(self.process.stdout.fileno(), False)
        self._figures.born[self.process.pid] = at
        self._figures.lives += 1
        self.ready, self._answers = False, b""

    def kill(self) -> None:
        self.check()
        self.end()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self.ready = False
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()

    def check(self) -> None:
        """It must not have ended by itself, but at its start without brokers: then it says so, and begins again."""
        if not self.ready and self.process.poll() is not None and NO_BROKER in self.errors()[-2000:]:
            self._figures.begun_again += 1
            self.end()
            self.start()
        assert self.process.poll() is None, f"{self.name} ended:\n{self.errors()[-4000:]}"

    def errors(self) -> str:
        return (self._folder / f"{self.name}.err").read_text()

    def tell(self, **order: Any) -> None:
        if not tell(self.process, order):
            self.check()

    def hear(self) -> None:
        self.check()
        assert self.process.stdout is not None
        self._answers += self.process.stdout.read() or b""
        *lines, self._answers = self._answers.split(b"\n")
        for answer in map(json.loads, lines):
            if "ready" in answer:
                self.ready = True
            elif "sent" in answer:
                self.sent.add(answer["sent"])
            else:
                self.states = answer


class Chaos:
    """The story. `play` returns when every event that was acknowledged has had its run, and all of it is read."""

    def __init__(self, folder: Path, seed: int, size: Size) -> None:
        self.folder, self.size, self.rng = folder, size, random.Random(seed)
        self.figures = Figures()
        self.events: dict[str, dict[str, Any]] = {}
        """Acknowledged, by id."""
        self.states: dict[str, tuple[str, str]] = {}
        self._broker = Broker(folder / "broker")
        self._writing = [Writing(self._broker.bootstrap, EVENTS) for _ in range(WRITERS)]
        self._workers: list[Worker] = []
        self._sending: set[asyncio.Task[None]] = set()
        self._begun = 0

    async def play(self) -> Tail:
        await asyncio.to_thread(self._broker.start)
        tail: Tail | None = None
        try:
            bootstrap = self._broker.bootstrap
            # Not by the engine, which would keep them for the retention alone.
            await make_topic(bootstrap, EVENTS, 4)
            self._workers = [Worker(self.folder, f"w{n}", bootstrap, self.figures) for n in range(WORKERS)]
            for worker in self._workers:
                worker.start()
            await self._until(lambda: all(worker.ready for worker in self._workers), "workers are ready")
            tail = Tail(bootstrap, "chaos.chaos.journal", PARTITIONS)
            feeding = asyncio.ensure_future(self._feed(tail))
            self._sending.add(feeding)
            await self._faults(tail)
            await feeding
            self._sending.discard(feeding)
            await self._drain(tail)
            await self._ask_states()
            await tail.complete()
            return tail
        finally:
            for task in self._sending:
                task.cancel()
            for writing in self._writing:
                await writing.close()
            if tail is not None:
                await tail.close()
                tail.save(self.folder / "journal.txt")
            for worker in self._workers:
                worker.end()
            self._broker.kill()

    # Work

    async def _feed(self, tail: Tail) -> None:
        """As many runs as the faults so far allow, so that there is work under each of them."""
        total = self.size.kills + self.size.stops + self.size.brokers
        while self._begun < self.size.runs:
            due = self.size.runs * (sum(self.figures.done.values()) + 1) / (total + 1)
            under_way = self._begun - len(tail.finished)
            if self._begun < due and under_way < UNDER_WAY:
                self._begin(tail)
            else:
                await asyncio.sleep(0.02)
            await asyncio.sleep(0)

    def _begin(self, tail: Tail) -> None:
        n = self._begun
        self._begun += 1
        data = {"n": n, "sleep_ms": self.rng.choice((1, 50, 500, 3000)), "paired": self.rng.random() < 0.25}
        task = asyncio.ensure_future(self._send(tail, f"e{n}", data))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _send(self, tail: Tail, id: str, data: dict[str, Any]) -> None:
        """Half of them through a worker, half by the topic. What a run waits for must come after what began it."""
        await self._send_one({"name": WORK, "id": id, "data": data})
        if data["paired"]:
            while id not in tail.run_of:
                await asyncio.sleep(0.05)
            await self._send_one({"name": SECOND, "id": f"{id}-2", "data": {"n": data["n"]}})

    async def _send_one(self, event: dict[str, Any]) -> None:
        if self.rng.random() < 0.5:
            await self.rng.choice(self._writing).send(event)
        else:
            await self._send_by_worker(event)
        self.events[event["id"]] = event

    async def _send_by_worker(self, event: dict[str, Any]) -> None:
        while True:
            worker = self.rng.choice(self._workers)
            if worker.ready:
                worker.tell(order="send", **event)
                until = time.monotonic() + 5
                while time.monotonic() < until:
                    if any(event["id"] in one.sent for one in self._workers):
                        return
                    await asyncio.sleep(0.05)
            await asyncio.sleep(0.05)

    # Faults

    async def _faults(self, tail: Tail) -> None:
        faults = ["kill"] * self.size.kills + ["stop"] * self.size.stops + ["broker"] * self.size.brokers
        self.rng.shuffle(faults)
        for fault in faults:
            await self._settle_a_little(tail)
            worker = self.rng.choice(self._workers)
            match fault:
                case "kill":
                    await self._kill(worker)
                case "stop":
                    await self._stop(worker)
                case _:
                    await self._kill_broker()
            self.figures.done[fault] += 1

    async def _settle_a_little(self, tail: Tail) -> None:
        """Mostly some work is done between two faults; now and then none."""
        wanted = len(tail.finished) + self.rng.choice((0, 1, 20, 60))
        pause = time.monotonic() + self.rng.uniform(0.2, 1.5)
        await self._until(
            lambda: (len(tail.finished) >= wanted or self._begun == len(tail.finished)) and time.monotonic() > pause,
            f"{wanted} runs have finished",
            tail,
        )

    async def _kill(self, worker: Worker) -> None:
        worker.kill()
        await asyncio.sleep(self.rng.choice((0, 0, 0.5, SESSION_S * 1.5)))
        worker.start(empty=self.rng.random() < 0.3)

    async def _stop(self, worker: Worker) -> None:
        os.kill(worker.process.pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(SESSION_S * self.rng.uniform(1.3, 3))
        finally:
            os.kill(worker.process.pid, signal.SIGCONT)

    async def _kill_broker(self) -> None:
        self._broker.kill()
        await asyncio.sleep(self.rng.uniform(0, 3))
        await asyncio.to_thread(self._broker.start)

    # The end

    async def _drain(self, tail: Tail) -> None:
        await self._until(lambda: not self._sending, "all events are acknowledged", tail)
        works = [id for id, event in self.events.items() if event["name"] == WORK]
        await self._until(lambda: all(map(tail.ended, works)), "all runs have ended", tail)

    async def _ask_states(self) -> None:
        """Of one worker with an empty disk, which takes over everything."""
        for worker in self._workers:
            worker.kill()
        last, *_ = self._workers
        self._workers = [last]
        last.start(empty=True)
        await self._until(lambda: last.ready, "the last worker is ready")
        while True:
            last.states = None
            last.tell(order="states")
            await self._until(lambda: last.states is not None, "the last worker answers")
            told: dict[str, Any] = last.states or {}
            if len(told["owned"]) == PARTITIONS:
                break
            await asyncio.sleep(0.5)
        self.states = {run: (function, status) for run, (function, status) in told["states"].items()}

    def _missing(self, tail: Tail | None) -> str:
        """What has not come to its end, and the last that the journal has of it."""
        if tail is None:
            return ""
        lines = [f"{self.figures.done}, {self._begun} begun, {len(self._sending)} sending, {len(tail.finished)} ended"]
        for n in range(self._begun):
            id = f"e{n}"
            if not tail.ended(id):
                run = tail.run_of.get(id, id)
                last = [entry for entries in tail.journal.values() for entry in entries if run.encode() in entry.raw]
                lines.append(f"{id} acknowledged: {id in self.events}, run: {run}")
                lines += [f"    {entry.partition} {entry.offset} {entry.ms} {entry.raw!r:.500}" for entry in last]
        return "\n".join(lines[:100])

    async def _until(self, condition: Any, what: str, tail: Tail | None = None) -> None:
        """Gives up when nothing has moved for `PATIENCE_S`."""
        moved, seen = time.monotonic(), -1
        while not condition():
            for worker in self._workers:
                worker.hear()
            if tail is not None:
                tail.check()
                if len(tail) != seen:
                    moved, seen = time.monotonic(), len(tail)
            said = "\n".join(f"{worker.name}:\n{worker.errors()[-2000:]}" for worker in self._workers)
            assert time.monotonic() - moved < PATIENCE_S, f"waited until {what}:\n{self._missing(tail)}\n{said}"
            await asyncio.sleep(0.02)
