"""A few worlds of generated programs, with whatever faults their seeds have: the short form of `make sim`.

`regressions/` has worlds that once failed, each by the name of what was wrong and in the least form that showed it.
"""

from pathlib import Path

import pytest

from tests.simulation.runner import kept
from tests.simulation.storms import storm

SEEDS = 24
REGRESSIONS = sorted((Path(__file__).parent / "regressions").glob("*.json"))


@pytest.mark.parametrize("seed", range(SEEDS))
def test_whatever_can_fail_does(seed: int) -> None:
    storm(seed)


@pytest.mark.parametrize("path", REGRESSIONS, ids=lambda path: path.stem)
def test_what_once_failed(path: Path) -> None:
    storm(*kept(path))
