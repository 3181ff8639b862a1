"""What the owner of a schedule appends after nobody was there for a while."""

import pytest

from perdure.flow.definitions import CRON
from perdure.flow.routing import partition_of
from perdure.partition.timers import TimerDriver
from perdure_schemas.definition import CronDefined, FunctionDefined
from perdure_schemas.records import CronScheduled, Record, TimerFired, V
from tests.flow.world import World

HOUR_MS = 3_600_000


@pytest.mark.parametrize(
    ("hours", "catchup", "scheduled", "following"),
    [
        pytest.param(1, False, None, 2, id="in time"),
        pytest.param(1.5, False, None, 2, id="late"),
        pytest.param(3.5, False, 3, 4, id="the latest of three"),
        pytest.param(3.5, True, None, 2, id="each of three"),
    ],
)
def test_missed_fires(hours: float, catchup: bool, scheduled: int | None, following: int) -> None:
    """Times are in hours since the world began."""
    world = World(1)
    begun = world.now - world.now % HOUR_MS
    world.define(FunctionDefined("tick", "cron", cron=CronDefined("0 * * * *", catchup=catchup)))
    partition = partition_of(CRON + "tick", 1)
    world.append(partition, CronScheduled("tick", "0 * * * *", "UTC", begun + HOUR_MS, v=V))
    world.settle()
    appended: list[Record] = []

    def append(record: Record) -> int:
        appended.append(record)
        return len(appended)

    now = begun + int(hours * HOUR_MS)
    TimerDriver(world.owners[partition].view, append, lambda: now).tick()
    (fired,) = appended
    assert isinstance(fired, TimerFired)
    assert fired.scheduled == (None if scheduled is None else begun + scheduled * HOUR_MS)
    assert fired.next == begun + following * HOUR_MS
