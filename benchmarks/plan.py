"""Which measurements there are, how big they are, what is derived from them, and what is aimed at."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.children import measured, measured_in
from benchmarks.measure import Result, say


@dataclass(frozen=True)
class Sizes:
    """How much of everything. `quick` is for looking whether it runs, not for figures."""

    pairs: int = 9
    runs: int = 6_000
    in_flight: int = 300
    lone_runs: int = 500
    waiters: tuple[int, ...] = (1_000, 10_000)
    children: tuple[tuple[int, int], ...] = ((500, 20), (10_000, 3))
    fanouts: int = 3
    sleepers: int = 100_000
    long_steps: int = 20_000
    longs: int = 3
    events: int = 50_000
    pinned_pairs: int = 5
    history_pairs: int = 9
    history_runs: int = 3_000
    burning_runs: int = 500
    log: str = ""
    """A broker; without it logs are embedded."""


QUICK = Sizes(2, 1_000, 300, 100, (200, 1_000), ((100, 3), (1_000, 1)), 1, 5_000, 3_000, 1, 5_000, 1, 2, 500, 50)


def steps10(sizes: Sizes) -> Result:
    """The engine and the floor in alternating pairs, with the same runs in flight."""
    pairs: list[tuple[Result, Result]] = []
    for number in range(sizes.pairs):
        one: dict[str, Result] = {}
        # Who goes first changes, so that a machine that gets slower favours neither.
        for name in ("steps10", "floor") if number % 2 else ("floor", "steps10"):
            one[name] = measured(name, runs=sizes.runs, in_flight=sizes.in_flight, log=sizes.log)
        pairs.append((one["steps10"], one["floor"]))
        ours, bare = pairs[-1]
        say(f"  pair {number + 1}: {ours['steps_s']:,} steps/s of {bare['steps_s']:,}, {_ratio(ours, bare):.2f}")
    ratios = sorted(_ratio(ours, bare) for ours, bare in pairs)
    return {
        "in_flight": sizes.in_flight,
        **_median([ours for ours, _ in pairs]),
        "floor": _median([bare for _, bare in pairs]),
        "of_floor": round(statistics.median(ratios), 3),
        "of_floor_pairs": [round(ratio, 3) for ratio in ratios],
        "of_floor_cpu": round(statistics.median(bare["cpu_us_step"] / ours["cpu_us_step"] for ours, bare in pairs), 3),
    }


def floor(sizes: Sizes) -> Result:
    return measured("floor", runs=sizes.runs, in_flight=sizes.in_flight, log=sizes.log)


def latency(sizes: Sizes) -> Result:
    return measured("latency", runs=sizes.lone_runs, log=sizes.log)


def wait(sizes: Sizes) -> Result:
    few, many = [[measured("wait", runs=runs, in_flight=sizes.in_flight)] for runs in sizes.waiters]
    return {"few": few[0], "many": many[0], "many_over_few_cpu": _over(many, few, "cpu_us_event")}


def fanout(sizes: Sizes) -> Result:
    (few, few_rounds), (many, many_rounds) = sizes.children
    small: list[Result] = []
    large: list[Result] = []
    for _ in range(sizes.fanouts):
        small.append(measured("fanout", children=few, rounds=few_rounds))
        large.append(measured("fanout", children=many, rounds=many_rounds))
    return {
        "few": _median(small),
        "many": _median(large),
        "many_over_few": _over(large, small, "us_child"),
        "many_over_few_cpu": _over(large, small, "cpu_us_child"),
    }


def suspended(sizes: Sizes) -> Result:
    """Also counts that every acknowledged run is there after the kill."""
    with TemporaryDirectory(prefix="perdure-bench-") as folder:
        filled = measured_in(folder, "fill", runs=sizes.sleepers, in_flight=sizes.in_flight)
        return {**filled, "after_sigkill": measured_in(folder, "restart", runs=sizes.sleepers)}


def long(sizes: Sizes) -> Result:
    return _median([measured("long", steps_of_run=sizes.long_steps) for _ in range(sizes.longs)])


def events(sizes: Sizes) -> Result:
    return measured("events", count=sizes.events, in_flight=sizes.in_flight)


def pinned(sizes: Sizes) -> Result:
    """One worker and two in turns, each worker on a core of its own."""
    rounds: dict[int, list[Result]] = {1: [], 2: []}
    for number in range(sizes.pinned_pairs):
        for workers in (1, 2) if number % 2 else (2, 1):
            rounds[workers].append(measured("pinned", runs=sizes.burning_runs, workers=workers, log=sizes.log))
        one, two = rounds[1][-1], rounds[2][-1]
        say(f"  pair {number + 1}: {two['steps_s']:,} steps/s by two of {one['steps_s']:,}, {_ratio(two, one):.2f}")
    pairs = list(zip(rounds[1], rounds[2], strict=True))
    ratios = sorted(_ratio(two, one) for one, two in pairs)
    return {
        "one": rounds[1],
        "two": rounds[2],
        "two_over_one": round(statistics.median(ratios), 3),
        "two_over_one_pairs": [round(ratio, 3) for ratio in ratios],
        "two_over_one_cpu": round(
            2 * statistics.median(one["cpu_ms_step"] / two["cpu_ms_step"] for one, two in pairs), 3
        ),
    }


def history(sizes: Sizes) -> Result:
    return measured("history", runs=sizes.history_runs, in_flight=sizes.in_flight, pairs=sizes.history_pairs)


WORKLOADS: dict[str, Callable[[Sizes], Result]] = {
    "steps10": steps10,
    "floor": floor,
    "latency": latency,
    "wait": wait,
    "fanout": fanout,
    "suspended": suspended,
    "long": long,
    "events": events,
    "pinned": pinned,
    "history": history,
}

ON_KAFKA = ("steps10", "floor", "latency", "pinned")
EMBEDDED = tuple(name for name in WORKLOADS if name != "pinned")

TARGETS_ON_KAFKA: tuple[tuple[str, Callable[[Result], float], str, float], ...] = (
    ("steps10", lambda r: r["of_floor"], ">=", 0.65),
    ("latency", lambda r: r["over_floor"], "<=", 1.5),
    ("pinned", lambda r: r["two_over_one"], ">=", 1.7),
)

TARGETS: tuple[tuple[str, Callable[[Result], float], str, float], ...] = (
    ("steps10", lambda r: r["of_floor"], ">=", 0.5),
    ("fanout", lambda r: r["many_over_few"], "<=", 1.5),
    ("suspended", lambda r: r["pss_bytes_run"], "<=", 2048),
    ("suspended", lambda r: r["after_sigkill"]["ready_s"], "<=", 5),
    ("long", lambda r: r["last_over_first_cpu"], "<=", 1.2),
    ("history", lambda r: r["beside_over_alone"], ">=", 0.85),
)


def judged(results: dict[str, Result], log: str) -> list[dict[str, Any]]:
    """The targets of what was measured, met or not."""
    found: list[dict[str, Any]] = []
    for name, value_of, sign, limit in TARGETS_ON_KAFKA if log else TARGETS:
        if name in results:
            value = value_of(results[name])
            met = value >= limit if sign == ">=" else value <= limit
            found.append({"workload": name, "value": value, "target": f"{sign} {limit}", "met": met})
    return found


def _ratio(ours: Result, bare: Result) -> float:
    rate: float = ours["steps_s"] / bare["steps_s"]
    return rate


def _median(results: list[Result]) -> Result:
    """Each number's own median."""
    return {key: round(statistics.median(result[key] for result in results), 3) for key in results[0]}


def _over(many: list[Result], few: list[Result], key: str) -> float:
    ratio: float = _median(many)[key] / _median(few)[key]
    return round(ratio, 3)
