"""Thousands of worlds: `make sim SEEDS=2000`.

python -m tests.simulation --seeds 2000 [--first 20000] as many processes as there are cores
python -m tests.simulation --seed 17                    one of them, with the end of its trace if it fails
python -m tests.simulation --file FILE                  a shrunk failure, as the runner kept it
"""

import argparse
import os
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from tests.simulation.programs.plan import Plan, as_json, from_json
from tests.simulation.shrinking import shrunk
from tests.simulation.storms import Outcome, plan_of, storm, swarm_of
from tests.simulation.swarm import WHOLE_FROM, Swarm

KEPT = Path(".simulation")
"""Shrunk failures are written here."""
SHRINKING_SECONDS = 60.0
MOST_SHOWN = 5
STRUCK = (
    "crash", "died", "power", "frozen", "slow", "cut", "rebalance", "deploy", "leapt", "leader", "full", "compact",
    "empty", "flipped", "lost", "abandon", "late", "again", "severed", "ghost", "parted",
)  # fmt: skip
"""Kinds of the trace that are faults."""
Failed = tuple[int, str]


class Block(NamedTuple):
    """What some seeds came to."""

    outcomes: list[Outcome]
    failures: list[Failed]


def play(seeds: range) -> Block:
    """In a process of its own."""
    block = Block([], [])
    for seed in seeds:
        try:
            block.outcomes.append(storm(seed))
        except Exception as error:
            block.failures.append((seed, _words(error)))
    return block


def _words(error: Exception) -> str:
    words = str(error) or type(error).__name__
    return words if isinstance(error, AssertionError) else f"{type(error).__name__}: {words}"


def failure_of(seed: int, plan: Plan, swarm: Swarm) -> str:
    try:
        storm(seed, plan, swarm)
    except Exception as error:
        return _words(error)
    return ""


def run(first: int, count: int, console: Console) -> int:
    """All of them; the number that failed."""
    began = time.monotonic()
    cores = os.cpu_count() or 1
    size = max(1, min(20, count // (4 * cores)))
    blocks = [range(at, min(at + size, first + count)) for at in range(first, first + count, size)]
    outcomes: list[Outcome] = []
    failures: list[Failed] = []
    stopped = False
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with (
        Progress(*columns, TimeRemainingColumn(), console=console) as progress,
        ProcessPoolExecutor(cores, mp_context=get_context("spawn")) as pool,
    ):
        bar = progress.add_task("worlds", total=count)
        try:
            for done in as_completed([pool.submit(play, block) for block in blocks]):
                block = done.result()
                outcomes += block.outcomes
                failures += block.failures
                progress.advance(bar, len(block.outcomes) + len(block.failures))
                for seed, words in block.failures:
                    console.print(f"seed {seed}: {words[:400]}", style="red", highlight=False, markup=False)
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
            console.print(f"stopped: {count - len(outcomes) - len(failures):,} of {count:,} worlds were not played")
            stopped = True
    _report(console, outcomes, failures, time.monotonic() - began)
    if stopped:
        sys.exit(130)
    for seed, words in sorted(failures)[:MOST_SHOWN]:
        _explain(console, seed, words)
    return len(failures)


def _report(console: Console, outcomes: list[Outcome], failures: list[Failed], seconds: float) -> None:
    struck: Counter[str] = Counter()
    for outcome in outcomes:
        struck.update({kind: outcome.faults.get(kind, 0) for kind in STRUCK})
    table = Table(show_header=False, box=None)
    table.add_row("worlds", f"{len(outcomes) + len(failures):,} in {seconds:,.0f} s, {len(failures)} failed")
    lived, leapt = sum(one.seconds for one in outcomes), sum(one.leapt for one in outcomes)
    table.add_row("virtual time", f"{lived / 3600:,.1f} h lived through, {leapt / 86_400:,.0f} days leapt over")
    table.add_row("records", f"{sum(one.records for one in outcomes):,}")
    table.add_row("faults", ", ".join(f"{kind} {number:,}" for kind, number in struck.most_common() if number))
    console.print(table)


def _explain(console: Console, seed: int, words: str) -> None:
    """Shrink it, keep what is left, and say how to see it again."""
    console.rule(f"seed {seed}")
    plan, swarm, words = shrunk(
        plan_of(seed), swarm_of(seed), words, lambda plan, swarm: failure_of(seed, plan, swarm), SHRINKING_SECONDS
    )
    KEPT.mkdir(exist_ok=True)
    path = KEPT / f"seed-{seed}.json"
    swarm_json = msgspec.json.encode(asdict(swarm)).decode()
    path.write_text(f'{{"seed": {seed}, "swarm": {swarm_json},\n"plan": {as_json(plan)}}}\n')
    console.print(words[:2_000], style="red", highlight=False, markup=False)
    on = {name: value for name, value in asdict(swarm).items() if value != getattr(Swarm(), name)}
    console.print(f"swarm {on}", highlight=False, markup=False)
    console.print(as_json(plan), highlight=False, markup=False)
    console.print(f"whole:  python -m tests.simulation --seed {seed}", highlight=False)
    console.print(f"shrunk: python -m tests.simulation --file {path}", highlight=False)


def kept(path: Path) -> tuple[int, Plan, Swarm]:
    """A world that the runner kept: its seed, what comes from outside, and its faults."""
    found: dict[str, Any] = msgspec.json.decode(path.read_bytes())
    return found["seed"], from_json(msgspec.json.encode(found["plan"])), Swarm(**found["swarm"])


def repeat(seed: int, plan: Plan, swarm: Swarm, console: Console) -> int:
    """One world; its trace, if it fails."""
    lines: list[str] = []
    try:
        outcome = storm(seed, plan, swarm, trace=lines)
    except Exception as error:
        for line in lines[-400:]:
            console.print(line, highlight=False, markup=False)
        console.print(_words(error), style="red", highlight=False, markup=False)
        return 1
    console.print(f"seed {seed}: {outcome.records} records, {outcome.seconds:.1f} s, trace {outcome.trace}")
    return 0


def main() -> None:
    options = argparse.ArgumentParser(prog="python -m tests.simulation")
    options.add_argument("--seeds", type=int, default=200)
    options.add_argument("--first", type=int, default=WHOLE_FROM)
    options.add_argument("--seed", type=int)
    options.add_argument("--file", type=Path)
    given = options.parse_args()
    console = Console(soft_wrap=True)
    if given.file is not None:
        sys.exit(repeat(*kept(given.file), console))
    if given.seed is not None:
        sys.exit(repeat(given.seed, plan_of(given.seed), swarm_of(given.seed), console))
    sys.exit(1 if run(given.first, given.seeds, console) else 0)
