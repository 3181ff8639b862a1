"""Everything in a process that is different each time, under the seed while a world is open.

    chance       secrets, os.urandom, random           one stream each, drawn from the seed
    clocks       time.time, monotonic, …               the loop's
    threads      perdure.worker.Threads                inline, at a moment that is drawn
                 perdure.worker.Watchdog               none: nothing blocks a loop whose time stands still
    addresses    sets of tasks and futures             `SimTask`, `SimFuture` are hashed by number; tasks of a run
                                                       as the engine hashes them
    collector    gc                                    off: it would close generators at moments of its own

What is left: sets of strings, whose order `PYTHONHASHSEED` changes. The engine must not let that order out; the test
of equal traces in processes of different hash seeds is what holds it to that.
"""

import asyncio
import gc
import os
import random
import secrets
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from random import Random
from typing import Any, cast

import perdure.partition.ownership
import perdure.partition.snapshots
import perdure.partition.timers
import perdure.sdk.node
import perdure.worker.pool
import perdure.worker.queued
import perdure.worker.steps
import perdure.worker.worker
from tests.simulation.loop import SimLoop, SimTask
from tests.simulation.swarm import Swarm


class Patches:
    """Attributes that are others for a while."""

    def __init__(self) -> None:
        self._undo: list[tuple[object, str, object]] = []

    def set(self, target: object, name: str, value: object) -> None:
        self._undo.append((target, name, getattr(target, name)))
        setattr(target, name, value)

    def undo(self) -> None:
        for target, name, value in reversed(self._undo):
            setattr(target, name, value)
        self._undo.clear()


class SimThreads(Executor):
    """`def` steps, inline on the loop: a thread that begins and ends at a moment that is drawn."""

    chance = Random(0)

    def __init__(self, limit: int) -> None:
        self._loop = cast("SimLoop", asyncio.get_running_loop())
        self._owner = self._loop.current
        self._over = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        future: Future[Any] = Future()
        self._loop.post(self._owner, self.chance.random() ** 3 * 0.5, self._run, future, lambda: fn(*args, **kwargs))
        return future

    def _run(self, future: "Future[Any]", call: Callable[[], Any]) -> None:
        if self._over or not future.set_running_or_notify_cancel():
            return
        try:
            value = call()
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(value)

    def abandon(self) -> None:
        pass

    def shutdown(self, wait: bool = False, *, cancel_futures: bool = True) -> None:
        self._over = True


class NoWatchdog:
    def __init__(self, worker: object) -> None:
        pass

    def stop(self) -> None:
        pass


_frozen = False


@contextmanager
def controlled(loop: SimLoop, rng: Random, swarm: Swarm) -> Iterator[None]:
    """See the module's text. `swarm` says how long the engine waits where it is free to."""
    global _frozen
    tokens, threads = Random(rng.random()), Random(rng.random())
    state = random.getstate()
    random.seed(rng.random())
    patches = Patches()
    patches.set(secrets, "token_bytes", lambda n=32: tokens.randbytes(n))
    patches.set(secrets, "token_hex", lambda n=32: tokens.randbytes(n).hex())
    patches.set(os, "urandom", tokens.randbytes)
    patches.set(time, "time", lambda: loop.wall_ms() / 1000)
    patches.set(time, "time_ns", lambda: loop.wall_ms() * 1_000_000)
    patches.set(time, "monotonic", loop.time)
    patches.set(time, "monotonic_ns", lambda: int(loop.time() * 1e9))
    patches.set(time, "sleep", lambda seconds: None)
    patches.set(perdure.worker.steps, "monotonic_ns", lambda: int(loop.time() * 1e9))
    patches.set(perdure.worker.pool, "monotonic_ns", lambda: int(loop.time() * 1e9))
    patches.set(perdure.worker.worker, "Threads", SimThreads)
    patches.set(perdure.worker.pool, "Threads", SimThreads)
    patches.set(perdure.worker.worker, "Watchdog", NoWatchdog)
    patches.set(perdure.sdk.node, "TICK_SECONDS", swarm.tick_seconds)
    patches.set(perdure.sdk.node, "CHECKPOINT_TICKS", swarm.checkpoint_ticks)
    patches.set(perdure.partition.snapshots, "ROUND_MS", swarm.round_ms)
    patches.set(perdure.partition.snapshots, "TRIM_MS", swarm.round_ms)
    patches.set(perdure.partition.ownership, "GRACE_SECONDS", swarm.grace_seconds)
    patches.set(perdure.partition.timers, "FIRES_A_TICK", swarm.fires_a_tick)
    patches.set(perdure.worker.queued, "LEASE_MS", swarm.lease_ms)
    patches.set(perdure.worker.pool, "ASK_AGAIN_SECONDS", swarm.ask_again_seconds)
    patches.set(asyncio, "Task", SimTask)
    patches.set(SimThreads, "chance", threads)
    if not _frozen:
        # What the interpreter holds before the first world is never garbage: collecting after each world stays cheap.
        gc.collect()
        gc.freeze()
        _frozen = True
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        patches.undo()
        random.setstate(state)
        if collecting:
            gc.enable()
