"""The least that still fails: moves, parts of programs, faults and pods are left out while it fails in the same way."""

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from typing import Any

from tests.simulation.programs.plan import Plan, smaller_plans
from tests.simulation.swarm import FAULTS, Swarm

Fails = Callable[[Plan, Swarm], str]
"""What is wrong with a plan in a swarm, or nothing."""


def way_of(failure: str) -> str:
    """What two failures must have in common to be the same one: the invariant, or the first words."""
    found = re.match(r"I\d+", failure)
    return found[0] if found else re.sub(r"[^A-Za-z ]", "", failure)[:20]


def shrunk(plan: Plan, swarm: Swarm, failure: str, fails: Fails, seconds: float) -> tuple[Plan, Swarm, str]:
    """The least found in the time given, and how it fails."""
    until = time.monotonic() + seconds
    way = way_of(failure)
    again = True
    while again:
        again = False
        for less_plan, less_swarm in _smaller(plan, swarm):
            if time.monotonic() > until:
                return plan, swarm, failure
            found = fails(less_plan, replace(less_swarm))
            if found and way_of(found) == way:
                plan, swarm, failure, again = less_plan, less_swarm, found, True
                break
    return plan, swarm, failure


def _smaller(plan: Plan, swarm: Swarm) -> Iterator[tuple[Plan, Swarm]]:
    plain = Swarm()
    options = [field.name for field in fields(swarm) if field.name in FAULTS]
    for name in (*options, "skew_ms", "tail", "evict", "most_records", "latency"):
        if getattr(swarm, name) != getattr(plain, name):
            less: dict[str, Any] = {name: getattr(plain, name)}
            yield plan, replace(swarm, **less)
    if swarm.pods > 1:
        yield plan, replace(swarm, pods=swarm.pods - 1)
    if swarm.partitions > 1:
        yield plan, replace(swarm, partitions=swarm.partitions - 1)
    for fewer in smaller_plans(plan):
        yield fewer, swarm
