"""What runs in a fresh process: `python -m benchmarks.child NAME FOLDER PARAMETERS`, its result as JSON on stdout."""

import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec

from benchmarks import alone, beside, floor, measure, pinned, saturated, suspended, waiting

MEASUREMENTS: dict[str, Callable[..., Coroutine[Any, Any, measure.Result]]] = {
    "steps10": saturated.steps10,
    "floor": floor.floor,
    "latency": alone.latency,
    "wait": waiting.wait,
    "fanout": waiting.fanout,
    "fill": suspended.fill,
    "restart": suspended.restart,
    "long": alone.long,
    "events": saturated.events,
    "pinned": pinned.pinned,
    "history": beside.history,
}


def main(name: str, folder: str, parameters: str) -> None:
    result = measure.run(MEASUREMENTS[name](Path(folder), **msgspec.json.decode(parameters)))
    print(msgspec.json.encode(result).decode())


if __name__ == "__main__":
    main(*sys.argv[1:])
