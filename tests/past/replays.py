"""Every finished run of an engine, replayed on its app's code."""

import json
from collections import defaultdict
from collections.abc import Mapping

from perdure.flow.view import View
from perdure.past.moments import Records, ends_of, stand_before
from perdure.past.replay import Replayed, Replayer
from perdure.testing import TestEngine
from tests.evidence.folding import records

Ops = dict[str, dict[str, str]]
"""Run → op → digest."""


async def check_replays(engine: TestEngine) -> list[Replayed]:
    """Done as it was: the recorded ops with the recorded arguments, the recorded end, and nothing written."""
    journal = {partition: list(records(engine.log, partition)) for partition in range(engine.log.partitions)}
    replayer = Replayer(engine.app)
    replayed = [one for partition in journal for one in await _of_partition(replayer, partition, journal)]
    await replayer.close()
    ops = _ops_of(journal)
    for one in replayed:
        assert one.verdict == "as_recorded", one
        asked = {each.op: each.digest for each in one.asked}
        recorded = ops[one.run]
        assert {op: digest for op, digest in asked.items() if op in recorded} == recorded
        # What was on its way when the process died, or when others ended the run, is not in the log.
        by_itself = one.end is not None and one.end.finished is not None
        assert asked.keys() == recorded.keys() or engine.crashes or not by_itself, asked.keys() - recorded.keys()
    assert journal == {partition: list(records(engine.log, partition)) for partition in journal}
    return replayed


async def _of_partition(replayer: Replayer, partition: int, journal: Mapping[int, Records]) -> list[Replayed]:
    everything = journal[partition]
    ends = ends_of(View(partition, len(journal)), everything)
    by_offset = {end.offset: run for run, end in ends.items()}
    view = View(partition, len(journal))
    found: list[Replayed] = []
    for offset in stand_before(view, everything, by_offset):
        run = by_offset[offset]
        if view.live(run) is not None:  # else it was cancelled before it was requested
            found.append(await replayer.replay(view, run, end=ends[run]))
    return found


def _ops_of(journal: Mapping[int, Records]) -> Ops:
    found: Ops = defaultdict(dict)
    for everything in journal.values():
        for _, _, raw in everything:
            record = json.loads(raw)
            if record["kind"] in ("step.completed", "step.failed", "op.opened"):
                found[record["run"]].setdefault(record["op"], record["digest"])
    return found
