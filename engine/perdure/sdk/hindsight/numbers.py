"""How functions do, of what was tallied. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Mapping

from perdure.flow.patterns import is_own
from perdure.history.store import Tallied
from perdure.history.tallies import lengths, quantile_of
from perdure.sdk.port import Bucket, FunctionNumbers

ENDS = ("completed", "failed", "cancelled", "discarded")
_DIGITS = 4


def numbers_of(tallied: Iterable[Tallied]) -> list[FunctionNumbers]:
    """By function, those with most runs first; the engine's own are left out."""
    found: dict[str, list[Tallied]] = defaultdict(list)
    for one in tallied:
        if not is_own(one.function):
            found[one.function].append(one)
    return sorted((_numbers(*one) for one in found.items()), key=lambda one: (-one.started, one.function))


def _numbers(function: str, tallied: list[Tallied]) -> FunctionNumbers:
    times: dict[int, dict[str, int]] = defaultdict(dict)
    for one in tallied:
        if one.at:
            times[one.at][one.what] = one.runs
    all_of = {what: sum(one.get(what, 0) for one in times.values()) for what in ("started", *ENDS)}
    classes = lengths((one.what, one.runs) for one in tallied)
    decided = all_of["completed"] + all_of["failed"]
    return FunctionNumbers(
        function,
        all_of["started"],
        _finished(all_of),
        all_of["completed"],
        all_of["failed"],
        round(all_of["completed"] / decided, _DIGITS) if decided else None,
        quantile_of(classes, 0.5),
        quantile_of(classes, 0.95),
        tuple(
            Bucket(at, counts.get("started", 0), _finished(counts), counts.get("failed", 0))
            for at, counts in sorted(times.items())
        ),
    )


def _finished(counts: Mapping[str, int]) -> int:
    return sum(counts.get(end, 0) for end in ENDS)
