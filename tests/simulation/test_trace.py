"""I15: the same seed is the same world, in any process, whatever the hash seed, and under another Python.

`PERDURE_OTHER_PYTHON` names interpreters that have the engine's dependencies, with `:` between them.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SEEDS = 12
PROGRAM = """
import sys
from tests.simulation import shop
from tests.simulation.world import World

for seed in range(int(sys.argv[1])):
    with World(seed, {"v1": shop.made(1), "v2": shop.made(2)}) as here:
        here.play(shop.story)
    print(seed, here.trace.digest, here.loop.handles)
"""


def hashes(python: str, hash_seed: str) -> list[str]:
    path = os.pathsep.join(str(ROOT / part) for part in (".", "engine", "connectors", "schemas"))
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": hash_seed}
    done = subprocess.run(
        [python, "-W", "error", "-c", PROGRAM, str(SEEDS)],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


OTHERS = [python for python in os.environ.get("PERDURE_OTHER_PYTHON", "").split(":") if python]


@pytest.mark.parametrize("python", [sys.executable, *OTHERS])
def test_i15_the_same_seeds_are_the_same_worlds_in_fresh_processes(python: str) -> None:
    expected = hashes(sys.executable, "0")
    assert len(expected) == SEEDS
    assert len(set(expected)) == SEEDS
    assert hashes(python, "1") == expected
