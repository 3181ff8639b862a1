"""An embedded log under kills and power failures: nothing is lost that was acknowledged, or that a reader was given.

The normal run takes seconds. The long one, a thousand kills and five hundred power failures:

    make faults
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from perdure.errors import LogCorrupt
from tests.system.faults import shim
from tests.system.faults.stories import LIVES, POINTS, Figures, Nursery, kills, power_losses

KILLS = int(os.environ.get("PERDURE_FAULT_KILLS", "12"))
LOSSES = int(os.environ.get("PERDURE_FAULT_LOSSES", "30"))
SEED = int(os.environ.get("PERDURE_SEED", "1"))


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shim.build(tmp_path_factory.mktemp("shim"))


def stories(what: str, total: int, each: int, tell: Callable[[int, int], Figures]) -> Figures:
    """Stories of `each`, with seeds of their own, until there are `total`; says how far it is."""
    figures = Figures()
    for number, begin in enumerate(range(0, total, each)):
        figures.add(tell(SEED + number, min(each, total - begin)))
        print(f"{what} {min(begin + each, total)} of {total}: {figures.report()}", file=sys.stderr)
    return figures


def test_kills_at_random_moments(tmp_path: Path) -> None:
    with Nursery() as nursery:
        each = LIVES * 3
        figures = stories("kills", KILLS, each, lambda seed, count: kills(tmp_path / str(seed), nursery, seed, count))
    assert figures.kills == KILLS
    assert figures.acknowledged > 10 * KILLS
    assert figures.opening


@pytest.mark.parametrize(
    ("share", "troubles"),
    [
        pytest.param(0.4, {}, id="alone"),
        pytest.param(0.2, {"full": True}, id="amid a full disk"),
        pytest.param(0.2, {"failing": True}, id="amid failing syncs"),
        pytest.param(0.2, {"clock": True}, id="amid leaps of the clock"),
    ],
)
def test_power_failures(tmp_path: Path, library: Path, share: float, troubles: dict[str, bool | str]) -> None:
    total = round(LOSSES * share)
    each = LIVES * POINTS
    with Nursery(library) as nursery:
        figures = stories(
            f"power failures {troubles}",
            total,
            each,
            lambda seed, count: power_losses(tmp_path / str(seed), nursery, seed, count, **troubles),
        )
    assert figures.losses >= total
    assert figures.torn > total / 2
    assert figures.acknowledged


@pytest.mark.parametrize(
    ("lie", "noticed"),
    [
        # The log's mark, or a later batch, may say what was acknowledged: then it finds itself out.
        ("acknowledge unsynced", "I1|shorter than what was acknowledged|is damaged"),
        ("names unsynced", "I1|is damaged"),
        ("checkpoint in two", "I2: partition"),
    ],
)
def test_a_log_that_lies_is_found_out(tmp_path: Path, library: Path, lie: str, noticed: str) -> None:
    with pytest.raises((AssertionError, LogCorrupt), match=noticed):
        some_power_failures(tmp_path, library, lie=lie)


def test_holes_that_are_not_cut_off_are_refused(tmp_path: Path, library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What RocksDB makes by itself of the remains of a power failure."""
    monkeypatch.setattr("perdure.log.disk.find_cut", lambda folder, mark: None)
    with pytest.raises((AssertionError, LogCorrupt)):
        some_power_failures(tmp_path, library)


def some_power_failures(folder: Path, library: Path, **troubles: str) -> None:
    with Nursery(library) as nursery:
        for seed in range(SEED, SEED + 8):
            power_losses(folder / str(seed), nursery, seed, 25, **troubles)
