"""The pytest fixture, found by the `pytest11` entry point. Imports nothing of ours until it is asked for."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from perdure.testing import TestEngine


@pytest.fixture
def perdure_engine() -> "Iterator[Callable[..., TestEngine]]":
    """Makes test engines: `async with perdure_engine(app) as engine:`. One left open fails the test."""
    from perdure.testing import TestEngine

    made: list[TestEngine] = []

    def make(app: Any, **options: Any) -> TestEngine:
        made.append(TestEngine(app, **options))
        return made[-1]

    yield make
    left = [engine for engine in made if engine.is_open]
    assert not left, "a TestEngine was left open: use it in `async with perdure_engine(app) as engine:`"
