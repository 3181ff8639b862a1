"""`python -m benchmarks`: one JSON result on stdout, progress on stderr."""

import argparse
import importlib.util
import os
import platform
import sys
import time
from dataclasses import replace
from tempfile import gettempdir

import msgspec

from benchmarks.children import MeasurementFailed
from benchmarks.measure import Result, say
from benchmarks.plan import EMBEDDED, ON_KAFKA, QUICK, WORKLOADS, Sizes, judged
from perdure.worker.collector import GC_THRESHOLDS


def main() -> int:
    """Exit code 0 if everything was measured, whether or not the targets are met."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", help=f"workloads, with commas between: {','.join(WORKLOADS)}")
    parser.add_argument("--quick", action="store_true", help="small sizes: to see that it runs, not for figures")
    parser.add_argument("--pairs", type=int, help="pairs of steps10 and floor (9)")
    parser.add_argument(
        "--log", default="", help=f"kafka://broker:9092, instead of embedded logs: {','.join(ON_KAFKA)}"
    )
    given = parser.parse_args()
    there = ON_KAFKA if given.log else EMBEDDED
    names = given.only.split(",") if given.only else list(there)
    unknown = [name for name in names if name not in there]
    if unknown:
        parser.error(f"no workload {unknown[0]!r} (there are {', '.join(there)})")
    sizes = replace(QUICK if given.quick else Sizes(), log=given.log)
    if given.pairs:
        sizes = replace(sizes, pairs=given.pairs)
    if "steps10" in names and "floor" in names:
        names.remove("floor")  # measured in pairs with steps10
    results: dict[str, Result] = {}
    failures: list[str] = []
    for name in names:
        say(f"{name} …")
        began = time.perf_counter()
        try:
            results[name] = WORKLOADS[name](sizes)
        except MeasurementFailed as error:
            failures.append(str(error))
            say(f"  failed: {error}")
            continue
        say(f"  {time.perf_counter() - began:.0f} s: {msgspec.json.encode(results[name]).decode()}")
    if "steps10" in results:
        results["floor"] = results["steps10"].pop("floor")
    report = {"machine": _machine(), "sizes": sizes, "results": results, "targets": judged(results, given.log)}
    if failures:
        report["failures"] = failures
    print(msgspec.json.format(msgspec.json.encode(report).decode()))
    return 1 if failures else 0


def _machine() -> Result:
    return {
        "cores": os.cpu_count(),
        "load": os.getloadavg(),
        "python": platform.python_version(),
        "system": platform.platform(),
        "uvloop": importlib.util.find_spec("uvloop") is not None,
        "gc_thresholds": GC_THRESHOLDS,
        "folder": gettempdir(),
    }


if __name__ == "__main__":
    sys.exit(main())
