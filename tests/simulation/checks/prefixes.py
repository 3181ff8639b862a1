"""I13: whatever was read so far, the folds say of its owner and of its runs what a second reading of the log says.

At the end of a world much is over and forgotten: a run that a zombie parked was tried again, a step that was granted to
two has its outcome. So each record is folded alone, and what it may have changed is compared at once.
"""

from typing import Any

from perdure.flow import decode, fold
from perdure.flow.queues import key_of
from perdure.flow.states import TERMINAL
from perdure.flow.view import View
from tests.simulation.checks.evidence import Evidence
from tests.simulation.checks.tales import Tale, Teller


def check_prefixes(evidence: Evidence) -> None:
    """All partitions, from their beginning to their end."""
    for partition, entries in evidence.journal.items():
        view, teller = View(partition, len(evidence.journal)), Teller()
        counts = {entry.offset for entry in evidence.effective[partition]}
        for entry in entries:
            fold(view, decode(entry.raw), entry.raw, entry.offset, entry.ms)
            view.effects.acts.clear()
            view.effects.sends.clear()
            view.effects.commands.clear()
            if entry.offset not in counts:
                continue
            teller.tell(entry)
            where = f"I13: partition {partition}, after {entry.raw!r}:"
            owner = view.meta.owner
            mine = (0, "") if owner is None else (owner.number, owner.token)
            assert mine == teller.owner, f"{where} its owner is {mine}, and by the log {teller.owner}"
            run = str(entry.record.get("run") or entry.record.get("entity", ""))
            tale = teller.tales.get(run)
            if tale is not None:
                folded, told = _of_the_fold(view, run), _of_the_log(tale)
                assert folded == told, f"{where} the run is {folded}, and by the log {told}"


def _of_the_fold(view: View, run: str) -> dict[str, Any]:
    state = view.runs.get(run)
    if state is None or state.status in TERMINAL:
        return {"status": None if state is None else state.status}
    queued = {op: view.queued.get(key_of(run, op)) for op in state.open}
    return {
        "status": state.status,
        "attempt": state.attempt,
        "open": sorted(state.open),
        "crashes": {op: crashes.count for op, crashes in state.crashes.items()},
        "queued": {op: (one.claim, one.attempt, one.deaths) for op, one in queued.items() if one is not None},
    }


def _of_the_log(tale: Tale) -> dict[str, Any]:
    if not tale.live:
        return {"status": tale.status}
    waiting = {op.name: op for op in tale.ops.values() if op.is_open or (op.attempt > 1 and op.decided is None)}
    return {
        "status": tale.status,
        "attempt": tale.attempt,
        "open": sorted(waiting),
        "crashes": {name: count for name, count in tale.crashes.items() if not _decided(tale, name)},
        "queued": {op.name: (op.claim, op.attempt, op.deaths) for op in waiting.values() if op.type == "queued"},
    }


def _decided(tale: Tale, name: str) -> bool:
    return name in tale.ops and tale.ops[name].decided is not None
