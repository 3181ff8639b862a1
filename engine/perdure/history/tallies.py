"""Numbers of runs by function and time, kept as rows, so that an overview of a million runs reads a few thousand. Pure.

    (5 minutes, an hour or six, their beginning, function, what) → how many

`what` is `started`, how runs ended, or `took12`: ended runs by their length, in classes that are a fifth wide.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping
from math import ceil, log2

from perdure.history.rows import Tally

HOUR_MS = 3_600_000
SIZES_MS = (HOUR_MS // 12, HOUR_MS, 6 * HOUR_MS)
"""Of what is counted together."""
UPTO_MS = (6 * HOUR_MS, 48 * HOUR_MS)
"""How long an overview may be that is made of the first, of the second."""
LENGTHS_MS = {SIZES_MS[0]: SIZES_MS[1], SIZES_MS[1]: SIZES_MS[2], SIZES_MS[2]: SIZES_MS[2]}
"""Where the lengths are counted that belong to a size: there are many classes of them."""
TOOK = "took"
_CLASSES = 4
"""For each doubling."""


def tally_start(tallies: Counter[Tally], function: str, at: int) -> None:
    """A run was requested."""
    _count(tallies, at, function, "started")


def tally_end(tallies: Counter[Tally], function: str, status: str, at: int, length_ms: int) -> None:
    """A run has ended."""
    _count(tallies, at, function, status)
    _count(tallies, at, function, f"{TOOK}{class_of(length_ms)}", LENGTHS_MS.values())


def size_of(length_ms: int) -> int:
    """What an overview of this length is made of."""
    return SIZES_MS[bisect_left(UPTO_MS, length_ms)]


def class_of(length_ms: int) -> int:
    """Its upper end is `length_of`."""
    return ceil(_CLASSES * log2(length_ms)) if length_ms > 1 else 0


def length_of(number: int) -> int:
    """The longest of a class, in milliseconds."""
    return round(2 ** (number / _CLASSES))


def quantile_of(classes: Mapping[int, int], part: float) -> int | None:
    """The length that `part` of the runs do not exceed; a fifth too long at most."""
    wanted = part * sum(classes.values())
    seen = 0
    for number, count in sorted(classes.items()):
        seen += count
        if seen >= wanted > 0:
            return length_of(number)
    return None


def lengths(counts: Iterable[tuple[str, int]]) -> dict[int, int]:
    """Class → how many, of (what, how many) that may be anything."""
    return {int(what.removeprefix(TOOK)): count for what, count in counts if what.startswith(TOOK)}


def _count(tallies: Counter[Tally], at: int, function: str, what: str, sizes: Iterable[int] = SIZES_MS) -> None:
    tallies.update({Tally(size, at - at % size, function, what) for size in sizes})
