"""Planted bugs: each must be caught by the simulator within 500 seeds (`make sim-bugs`)."""

from tests.simulation.bugs import folds, keeping, running
from tests.simulation.bugs.planting import Bug, planted

BUGS: dict[str, Bug] = {
    one.name: one for module in (folds, running, keeping) for one in vars(module).values() if isinstance(one, Bug)
}

__all__ = ["BUGS", "Bug", "planted"]
