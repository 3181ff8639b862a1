"""Which way fickle code went, by the log: its ops bear the names of their places, and the way is the argument."""

import json
import re
from collections.abc import Iterable
from typing import Any

from tests.simulation.checks.tales import Tale

_FICKLE = re.compile(r".*/(?P<place>0(\.\w+)*)( (?P<way>[01]))?#1")


def place_of(op: str) -> str:
    """The place in its program of an op that fickle code asked for; empty for others."""
    found = _FICKLE.fullmatch(op)
    return found["place"] if found else ""


def way_of(record: dict[str, Any]) -> int:
    """The way that an outcome of fickle code went."""
    (job,), _ = record["input"]
    return int(job.get("value", 0))


def ways_of(run: str, journal: Iterable[bytes]) -> set[int]:
    """All that the log has of a run."""
    found: set[int] = set()
    for raw in journal:
        record = json.loads(raw)
        if record.get("run") == run and record["kind"] in ("step.completed", "step.failed") and place_of(record["op"]):
            found.add(way_of(record))
    return found


def ways_at(tale: Tale, place: str) -> set[int]:
    """The ways that a run went at a place, whether or not its code saw what came of it."""
    outcomes = [op.outcome for op in tale.ops.values() if place_of(op.name) == place]
    return {way_of(outcome.record) for outcome in outcomes if outcome is not None}


def went_both_ways(tale: Tale) -> bool:
    """At one place: two owners who did not know of each other may have taken it there, one this way and one that."""
    return any(len(ways_at(tale, place)) > 1 for place in {place_of(name) for name in tale.ops} if place)


def other_way(op: str) -> str:
    """The op that fickle code would have asked for there had it gone the other way; empty if it is the same one."""
    found = _FICKLE.fullmatch(op)
    if found is None or found["way"] is None:
        return ""
    return f"{op[: found.start('way')]}{1 - int(found['way'])}#1"
