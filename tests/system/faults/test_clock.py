"""A clock that leaps by an hour, to and fro, under a running engine: timers are neither early nor lost (I9)."""

import asyncio
import random
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.system.kill.reader import read_journal
from tests.system.shop import Shop, check_stores

HOUR_MS = 3_600_000
LEAPS = (-HOUR_MS, HOUR_MS, -2 * HOUR_MS, 0, HOUR_MS, -HOUR_MS)


class Wall:
    """The machine's clock, off by so much."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.off_ms = 0
        real = time.time_ns
        monkeypatch.setattr(time, "time_ns", lambda: real() + self.off_ms * 1_000_000)


async def test_timers_under_leaps_of_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set back, the log's clock goes on, so that nothing waits for an hour; set ahead, what is due by it is due."""
    wall, rng = Wall(monkeypatch), random.Random(4)
    folder = tmp_path / "log"
    naps: list[str] = []
    longs: list[str] = []
    for life in range(2):
        shop = Shop()
        async with shop.engine(folder) as engine:
            for leap in LEAPS:
                naps += [(await shop.nap.enqueue(rng.randint(1, 300))).id for _ in range(5)]
                await engine.send("noted", {})
                wall.off_ms = leap
                await asyncio.sleep(rng.random() / 10)
            longs.append((await shop.nap.enqueue(HOUR_MS * 2)).id)
            if life:  # the others are woken by the next process
                for nap in naps:
                    assert (await shop.nap.handle(nap).result(timeout="60s")).startswith("nap.")
                for long in longs:
                    assert await shop.nap.handle(long).status() == "suspended"
                wall.off_ms = 6 * HOUR_MS
                for long in longs:
                    assert (await shop.nap.handle(long).result(timeout="60s")).startswith("nap.")
    await check_stores(folder)
    _neither_early_nor_twice(folder, len(naps) + len(longs))


def _neither_early_nor_twice(folder: Path, naps: int) -> None:
    acted: Counter[tuple[str, int]] = Counter()
    for entries in read_journal(folder).values():
        at = 0
        for entry in entries:
            assert entry.ms >= at, "log time went back"
            at = entry.ms
            if entry.kind == "timer.fired":
                setter = entries[entry.record["setter"]]
                due = setter.at + setter.record["opening"]["for_ms"]
                # One that came early is refused, and comes again.
                acted[entry.record["entity"], entry.record["setter"]] += entry.at >= due
    assert len(acted) == naps
    assert min(acted.values()) >= 1
