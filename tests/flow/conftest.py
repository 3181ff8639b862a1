"""A calm world for each test, checked at its end for what holds always (I2, no timer left over)."""

from collections.abc import Iterator

import pytest

from tests.flow.world import World


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.check()
    made.restart()
    made.check()
