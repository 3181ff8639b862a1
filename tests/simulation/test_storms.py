"""A few worlds of generated programs, with whatever faults their seeds have: the short form of `make sim`.

`regressions/` has worlds that once failed: seeds, and the least form of some, by the name of what was wrong.
"""

from pathlib import Path

import pytest

from tests.simulation.runner import kept
from tests.simulation.storms import storm
from tests.simulation.swarm import WHOLE_FROM

SEEDS = 12
"""Of each kind: as the recorded ones are drawn, and with all that the simulator knows."""
FOLDER = Path(__file__).parent / "regressions"
ONCE_FAILED = [int(line.split()[0]) for line in (FOLDER / "seeds.txt").read_text().splitlines() if line[0] != "#"]


@pytest.mark.parametrize("seed", [*range(SEEDS), *range(WHOLE_FROM, WHOLE_FROM + SEEDS), *ONCE_FAILED])
def test_whatever_can_fail_does(seed: int) -> None:
    storm(seed)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.json")), ids=lambda path: path.stem)
def test_what_once_failed(path: Path) -> None:
    storm(*kept(path))
