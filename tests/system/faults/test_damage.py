"""Damage to what a killed process left, by the sector and the page: refused, or nothing that was promised is missing.

Single bits are for tests/log/test_embedded_damage.py, and with a whole engine for tests/system/test_damage.py.
"""

import asyncio
import os
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from perdure.errors import LogCorrupt
from tests.copies import copy_log, remove_log
from tests.system.faults.life import Order
from tests.system.faults.machine import PAGE, SECTOR
from tests.system.faults.promises import Promises
from tests.system.faults.stories import Nursery, take_said

DAMAGES = int(os.environ.get("PERDURE_FAULT_DAMAGES", "5"))
SEED = int(os.environ.get("PERDURE_SEED", "1"))

Damage = Callable[[bytearray, random.Random], None]


def flipped_bytes(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.randint(1, 4)):
        data[rng.randrange(len(data))] ^= rng.randint(1, 255)


def an_empty_sector(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data)) // SECTOR * SECTOR
    data[at : at + SECTOR] = b"\0" * len(data[at : at + SECTOR])


def a_page_of_elsewhere(data: bytearray, rng: random.Random) -> None:
    one, other = (rng.randrange(len(data)) // PAGE * PAGE for _ in range(2))
    data[one : one + PAGE] = data[other : other + len(data[one : one + PAGE])].ljust(len(data[one : one + PAGE]), b"\0")


def a_missing_end(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data)) :]


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Promises]:
    """With tables and WALs of two lives."""
    root = tmp_path_factory.mktemp("victim") / "root"
    root.mkdir()
    promises = Promises()
    with Nursery() as nursery:
        for life in range(2):
            nursery.live(Order(str(root), life, SEED + life, 64 << 10), 0.5, opened=True)
            promises.hear(life, take_said(root))
    return root / "log", promises


@pytest.mark.parametrize("damage", [flipped_bytes, an_empty_sector, a_page_of_elsewhere, a_missing_end])
def test_damage_is_refused_or_means_nothing(victim: tuple[Path, Promises], tmp_path: Path, damage: Damage) -> None:
    log, promises = victim
    rng = random.Random(damage.__name__)
    outcomes: Counter[str] = Counter()
    for trial in range(DAMAGES):
        for pattern in ("*.log", "*.sst"):
            # A place for each: what was raised holds on to handles, and they to the lock.
            copy = tmp_path / f"{trial} {pattern[2:]}"
            copy_log(log, copy)
            file = rng.choice([path for path in sorted(copy.glob(f"db/{pattern}")) if path.stat().st_size])
            data = bytearray(file.read_bytes())
            damage(data, rng)
            file.write_bytes(data)
            try:
                asyncio.run(promises.check(copy))
                outcomes["means nothing"] += 1
            except LogCorrupt as error:
                outcomes["refused, and what to do" if "restore the directory" in str(error) else str(error)] += 1
            remove_log(copy)
    assert outcomes["refused, and what to do"], outcomes
    assert set(outcomes) <= {"refused, and what to do", "means nothing"}
