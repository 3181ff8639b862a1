"""Testing: the real engine on a memory log and a virtual clock. Time passes when the test says so."""

from perdure.testing.crashing import crash_everywhere
from perdure.testing.engine import TestEngine
from perdure.testing.runs import Run, StepRecord

__all__ = ["Run", "StepRecord", "TestEngine", "crash_everywhere"]
