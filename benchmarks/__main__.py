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
from benchmarks.measure import GC_THRESHOLDS, Result, say
from benchmarks.plan import QUICK, WORKLOADS, Sizes, judged


def main() -> int:
    """Exit code 0 if everything was measured, whether or not the targets are met."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", default=",".join(WORKLOADS), help="workloads, with commas between: %(default)s")
    parser.add_argument("--quick", action="store_true", help="small sizes: to see that it runs, not for figures")
    parser.add_argument("--pairs", type=int, help="pairs of steps10 and floor (9)")
    given = parser.parse_args()
    names = [name for name in given.only.split(",") if name]
    unknown = [name for name in names if name not in WORKLOADS]
    if unknown:
        parser.error(f"no workload {unknown[0]!r} (there are {', '.join(WORKLOADS)})")
    sizes = QUICK if given.quick else Sizes()
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
    report = {"machine": _machine(), "sizes": sizes, "results": results, "targets": judged(results)}
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
