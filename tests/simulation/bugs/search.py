"""Whether each planted bug is caught: `make sim-bugs`.

python -m tests.simulation.bugs [--seeds 500] [NAME …]     looks for the first seed that catches each, on all cores
                                                           and records it in `seeds.json`
python -m tests.simulation.bugs --table                    what is recorded, for docs/reliability.md

A seed catches a bug if its world fails with the bug and holds without it.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import nullcontext
from multiprocessing import get_context
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from tests.simulation.bugs import BUGS
from tests.simulation.bugs.planting import planted
from tests.simulation.storms import storm
from tests.simulation.swarm import WHOLE_FROM

RECORDED = Path(__file__).parent / "seeds.json"
"""Bug → the seed that catches it."""
WITHIN = 500
SHOWN_CHARS = 90


class Found(msgspec.Struct):
    """`seed` is -1 if none of those tried caught the bug; `words`: what the world said."""

    name: str
    seed: int
    words: str
    seconds: float


def recorded() -> dict[str, int]:
    return msgspec.json.decode(RECORDED.read_bytes(), type=dict[str, int])


def caught(name: str, seed: int) -> str:
    """What the seed's world says of the bug; nothing if it does not notice."""
    words = fails(seed, name)
    by_itself = fails(seed) if words else ""
    if by_itself:
        raise AssertionError(f"seed {seed} fails by itself: {by_itself}")
    return words


def fails(seed: int, name: str = "") -> str:
    """What does not hold in the seed's world, with the bug planted if one is named; nothing if all does."""
    with planted(BUGS[name]) if name else nullcontext():
        try:
            storm(seed)
        except Exception as error:
            return str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
    return ""


def look_for(name: str, before: int | None, first: int, seeds: int) -> Found:
    """The first seed that catches it, the one recorded before tried before all others."""
    began = time.monotonic()
    for seed in [*([before] if before is not None else []), *range(first, first + seeds)]:
        words = fails(seed, name)
        if words and not fails(seed):
            return Found(name, seed, words, time.monotonic() - began)
    return Found(name, -1, f"not within {seeds} seeds", time.monotonic() - began)


def run(names: Sequence[str], first: int, seeds: int, console: Console) -> int:
    """The number of bugs that were not caught."""
    table = Table("bug", "rule that it breaks", "seed", "what the world said", box=None)
    missed = 0
    seen = recorded()
    with ProcessPoolExecutor(os.cpu_count() or 1, mp_context=get_context("spawn")) as pool:
        for done in as_completed([pool.submit(look_for, name, seen.get(name), first, seeds) for name in names]):
            found = done.result()
            missed += found.seed < 0
            if found.seed >= 0:
                seen[found.name] = found.seed
                RECORDED.write_bytes(msgspec.json.format(msgspec.json.encode(seen, order="sorted"), indent=1) + b"\n")
            console.print(f"{found.name}: {found.seed} ({found.seconds:.0f} s)", highlight=False)
            words = " ".join(found.words.split())[:SHOWN_CHARS]
            table.add_row(found.name, BUGS[found.name].rule, str(found.seed) if found.seed >= 0 else "missed", words)
    console.print(table)
    return missed


def table() -> str:
    """What is recorded, in Markdown."""
    seeds = recorded()
    rows = [f"| {one.rule} | `{name}` | {seeds.get(name, '–')} |" for name, one in BUGS.items()]
    return "\n".join(["| rule that is left out | bug | seed |", "| --- | --- | --- |", *rows])


def main() -> None:
    options = argparse.ArgumentParser(prog="python -m tests.simulation.bugs")
    options.add_argument("names", nargs="*", metavar="NAME")
    options.add_argument("--seeds", type=int, default=WITHIN)
    options.add_argument("--first", type=int, default=WHOLE_FROM)
    options.add_argument("--table", action="store_true")
    given = options.parse_args()
    if given.table:
        print(table())
        return
    unknown = sorted(set(given.names) - set(BUGS))
    if unknown:
        sys.exit(f"no such bug: {', '.join(unknown)}; there are {', '.join(BUGS)}")
    sys.exit(1 if run(given.names or list(BUGS), given.first, given.seeds, Console(soft_wrap=True)) else 0)
