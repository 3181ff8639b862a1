"""Each planted bug is caught by the seed that `make sim-bugs` recorded for it."""

from pathlib import Path

import pytest

from tests.simulation.bugs import BUGS
from tests.simulation.bugs.search import caught, recorded, table

RELIABILITY = Path(__file__).parents[2] / "docs" / "reliability.md"


NEAR = 10
"""The engine goes on, and with it what a seed's world is: so many seeds from the recorded one on may do it."""


@pytest.mark.parametrize(("name", "seed"), sorted(recorded().items()))
def test_planted_bugs_are_caught(name: str, seed: int) -> None:
    words = (caught(name, near) for near in range(seed, seed + NEAR))
    assert any(words), f"{BUGS[name].rule}: no world near seed {seed} notices; run `make sim-bugs`"


def test_enough_are_caught_and_the_book_says_which() -> None:
    assert set(recorded()) <= set(BUGS)
    assert len(recorded()) >= 20
    assert table() in RELIABILITY.read_text(), "python -m tests.simulation.bugs --table"
