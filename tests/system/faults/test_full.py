"""Kills while the disk is full, and starts on one that still is: reads are served, and work resumes by itself."""

import os
import random
import time
from pathlib import Path

from tests.copies import remove_log
from tests.evidence.small_disk import SmallDisk, disk
from tests.system.faults.life import Order
from tests.system.faults.promises import Promises
from tests.system.faults.stories import PATIENCE_S, Nursery, look

ROUNDS = int(os.environ.get("PERDURE_FAULT_FULL", "1"))
SEED = int(os.environ.get("PERDURE_SEED", "1"))

__all__ = ["disk"]


class Story:
    """Lives on a disk that fills up; what they say goes elsewhere."""

    def __init__(self, disk: SmallDisk, folder: Path, nursery: Nursery, seed: int) -> None:
        self.disk = disk
        self.promises = Promises()
        self.root = disk.path / "root"
        self._folder = folder
        folder.mkdir()
        self._nursery = nursery
        self._random = random.Random(seed)
        self._life = 0

    def live(self, until: bytes, *, fill: bool = False) -> None:
        """Until it says this; then it is killed, and everything is looked at."""
        said = self._folder / f"said-{self._life}"
        root = self.root
        root.mkdir(exist_ok=True)
        order = Order(str(root), self._life, self._random.getrandbits(32), 256 << 10, said=str(said))

        def wait() -> None:
            if fill:
                self.disk.fill(leave=self._random.choice((0, 100_000, 1 << 20)))
            deadline = time.monotonic() + PATIENCE_S
            while until not in said.read_bytes():
                assert time.monotonic() < deadline, f"life {order.life} never says {until!r}"
                time.sleep(0.005)
            time.sleep(self._random.random() / 20)

        self._nursery.live(order, wait, opened=True)
        self.promises.hear(self._life, said.read_bytes())
        self._life += 1
        look(root / "log", self._folder / "copy", self.promises)


def test_kills_while_the_disk_is_full(disk: SmallDisk, tmp_path: Path) -> None:
    with Nursery() as nursery:
        for number in range(ROUNDS):
            story = Story(disk, tmp_path / str(number), nursery, SEED + number)
            story.live(b"told")
            story.live(b"troubled LogFull", fill=True)
            story.live(b"given")  # opened on the full disk, it serves what there is
            story.live(b"troubled LogFull", fill=True)
            before = story.promises.copy()
            disk.free()
            story.live(b"told")
            assert story.promises.known != before.known
            remove_log(story.root)  # or what the lives wrote would fill the disk by itself
