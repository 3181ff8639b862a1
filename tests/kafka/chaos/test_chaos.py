"""Workers on a real Kafka die, stand still, lose their disks and their broker: nothing is lost, nothing counts twice.

The normal run is short. The full one is `make chaos`.
"""

import asyncio
import gc
import os
import sys
import time
from pathlib import Path

import pytest

from tests.kafka.chaos.checks import Story, check_all, read_steps
from tests.kafka.chaos.driver import Chaos, Size

SIZE = Size(
    runs=int(os.environ.get("PERDURE_CHAOS_RUNS", "150")),
    kills=int(os.environ.get("PERDURE_CHAOS_KILLS", "5")),
    stops=int(os.environ.get("PERDURE_CHAOS_STOPS", "1")),
    brokers=int(os.environ.get("PERDURE_CHAOS_BROKERS", "1")),
)
SEED = int(os.environ.get("PERDURE_SEED", "3"))


# A broker dies with aiokafka's connections to it, and not all of them are closed by who made them.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
@pytest.mark.usefixtures("kafka")
def test_nothing_is_lost_and_nothing_counts_twice(tmp_path: Path) -> None:
    chaos = Chaos(tmp_path, SEED, SIZE)
    try:
        tail = asyncio.run(chaos.play())
    finally:
        gc.collect()  # here, where what it says is expected
    story = Story(tail.journal, read_steps(tmp_path / "steps.txt"), chaos.events, chaos.figures.born)
    check_all(story, chaos.states)
    report(chaos, story)


def report(chaos: Chaos, story: Story) -> None:
    """For the closing note: seen with -s."""
    figures = chaos.figures
    lines = {
        "seed": SEED,
        "SIGKILLs": figures.done["kill"],
        "SIGSTOPs past the session": figures.done["stop"],
        "broker kills": figures.done["broker"],
        "processes": figures.lives,
        "found no broker at the start": figures.begun_again,
        "disks wiped": figures.wiped,
        "events acknowledged": len(story.events),
        "runs completed": len(story.tales),
        "steps recorded": story.steps,
        "step bodies begun": len(story.bodies),
        "results that came too late": story.too_late,
        "records": sum(map(len, story.journal.values())),
        "records sent twice": story.repeated,
        "seconds": round(time.monotonic() - figures.began, 1),
    }
    for name, value in lines.items():
        print(f"{name:32} {value}", file=sys.stderr)
