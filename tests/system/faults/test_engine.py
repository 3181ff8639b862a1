"""A whole engine amid imports, whose machine loses its power again and again: no promise of it is broken.

The child, its orders and all checks are those of tests/system/kill; only how it ends differs. What its steps write, a
table and a file, is on another machine.
"""

import asyncio
import os
import random
from pathlib import Path

from tests.copies import remove_log
from tests.system.faults import shim
from tests.system.faults.machine import Machine, lay
from tests.system.faults.stories import same_as_seen
from tests.system.kill.checks import Story, check_all
from tests.system.kill.driver import Child, Driver
from tests.system.kill.reader import read_journal, read_steps
from tests.system.kill.test_kill import (
    check_left_behind,
    check_store_and_counts,
    dropping_the_stores_changes_nothing,
    report,
    rows_are_stored_once,
)

LOSSES = int(os.environ.get("PERDURE_FAULT_ENGINES", "4"))
SEED = int(os.environ.get("PERDURE_SEED", "1"))


class Blackouts(Driver):
    """Each life ends with the power."""

    def __init__(self, folder: Path, seed: int, losses: int, library: Path) -> None:
        super().__init__(folder, seed, losses)
        self._library = library
        self._root = folder / "log"
        self._root.mkdir()
        self._record = folder / "record"
        self._losing = random.Random(seed)
        self._machine: Machine
        self.torn = 0

    def begin(self, life: int) -> Child:
        self._record.unlink(missing_ok=True)
        self._record.touch()
        self._machine = Machine(self._root)
        settings = {
            "LD_PRELOAD": str(self._library),
            "FAULTS_ROOT": str(self._root),
            "FAULTS_LOG": str(self._record),
            "FAULTS_SYNC_US": str(self._losing.choice((0, 500, 5_000))),
        }
        return Child(self.folder, life, settings)

    def killed(self) -> None:
        self._machine.happen(shim.entries(self._record))
        same_as_seen(self._machine, self._root)
        image = self._machine.lose_power(self._losing)
        self.torn += any(image.get(path) != whole for path, whole in self._machine.contents().items())
        remove_log(self._root)
        lay(image, self._root, self._root)
        asyncio.run(check_left_behind(self.folder))
        self.figures.checked_stores += 1


def test_an_engine_survives_power_failures(tmp_path: Path) -> None:
    driver = Blackouts(tmp_path, SEED, LOSSES, shim.build(tmp_path))
    life = 0
    while driver.live(life):
        life += 1
        assert life <= LOSSES * 2 + 20, f"too few power failures find steps in flight: {driver.figures}"
    assert driver.figures.kills >= LOSSES
    assert driver.torn
    story = Story(read_journal(tmp_path / "log"), read_steps(tmp_path / "steps.txt"), driver.sent)
    check_all(story, driver.states)
    rows_are_stored_once(story, tmp_path)
    asyncio.run(check_store_and_counts(driver, story))
    dropping_the_stores_changes_nothing(driver)
    report(driver, story)
