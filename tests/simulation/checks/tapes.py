"""A fold of a run's own records says of the run what the fold of all records says, after each of them."""

from collections.abc import Sequence
from random import Random

import msgspec

from perdure.errors import PastGone, UnknownRun
from perdure.flow import decode, fold
from perdure.flow.routing import partition_of_run
from perdure.flow.view import View
from perdure.log.protocol import Batch
from perdure.past.reading import Wanted, read_tape
from perdure.past.tape import Tape, view_of
from tests.evidence.entries import Entry, Journal

RUNS = 16
"""In each partition."""


class Journals:
    """The records of all partitions, as a log to read from."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.partitions = len(journal)

    def start(self, partition: int) -> int:
        return 0

    async def latest(self, partition: int) -> int:
        return len(self._journal[partition])

    async def fetch(self, partition: int, offset: int) -> Sequence[Batch]:
        return [Batch(partition, one.offset, one.ms, [one.raw]) for one in self._journal[partition][offset:][:50]]


async def check_tapes(journal: Journal, rng: Random) -> int:
    """Of some runs of each partition. How many moments were compared."""
    compared = 0
    for partition, entries in journal.items():
        of_runs = {_named(entry) for entry in entries}
        # Orders for a run of elsewhere may come by.
        here = [run for run in sorted(of_runs) if run and partition_of_run(run, len(journal)) == partition]
        chosen = rng.sample(here, min(RUNS, len(here)))
        log = Journals(journal)
        tapes = {run: await read_tape(log, Wanted(frozenset([run]))) for run in chosen}  # type: ignore[arg-type]
        compared += _compare(View(partition, len(journal)), entries, tapes)
    return compared


def _compare(whole: View, entries: Sequence[Entry], tapes: dict[str, Tape]) -> int:
    compared = 0
    for entry in entries:
        fold(whole, decode(entry.raw), entry.raw, entry.offset, entry.ms)
        whole.effects.acts.clear()
        whole.effects.sends.clear()
        whole.effects.commands.clear()
        run = _named(entry)
        if run in tapes:
            compared += 1
            known, folded = _of_tape(tapes[run], run, entry.offset), what_is_known(whole, run)
            # Of a run that is forgotten a tape still tells what it was.
            assert known == folded or folded == [None], f"run {run} of a tape, after offset {entry.offset}"
    for run, tape in tapes.items():
        if whole.runs.get(run) is not None:
            mine, all_rows = view_of(tape, run).logical(), whole.logical()
            assert _about(mine, run) == _about(all_rows, run), f"run {run} of a tape, at its end"
    return compared


def _named(entry: Entry) -> str:
    timed = entry.record.get("entity", "")
    return str(entry.record.get("run") or ("" if timed.startswith("cron:") else timed))


def _of_tape(tape: Tape, run: str, until: int) -> list[object]:
    try:
        return what_is_known(view_of(tape, run, until), run)
    except (PastGone, UnknownRun):
        return [None]  # a number that came before its turn, or a question after what never was


def what_is_known(view: View, run: str) -> list[object]:
    state = view.runs.get(run)
    if state is None:
        return [None]
    large = [view.wholes.get(offset) for offset in state.wholes]
    kept = view.paused.get(run), view.parked.get(run)
    return [msgspec.json.encode(state), view.lines.load(run), msgspec.json.encode(kept), large]


def _about(rows: dict[str, bytes], run: str) -> dict[str, bytes]:
    """Not what is known of events that the run sent of itself: their ids begin with its own."""
    return {key: row for key, row in rows.items() if run in key and f"e/{run}" not in key}
