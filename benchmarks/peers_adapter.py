"""Perdure in the harness that measures other engines: the same no-op workloads, for one table of all.

    python -m benchmarks.peers_adapter --harness ../shared/peers [--results DIR] [--workloads latency,steps10,…]

Client, engine and worker are one process, as with DBOS; the log is embedded, with fsync. Every other option is the
harness's own. Rows go to `DIR/perdure.jsonl` (a fresh folder if none is named), and never into the harness's results.
"""

import argparse
import gc
import importlib
import importlib.metadata
import importlib.util
import os
import sys
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from benchmarks.programs import app, parent, sleeper, steps, waiter
from perdure import Engine
from perdure.worker.collector import GC_THRESHOLDS


class Processes:
    """What the harness stops when a start fails: nothing here, all is one process."""

    def stop(self) -> None: ...


class Peer:
    """See `common/harness.py`."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.name = "perdure"
        self.procs = Processes()
        self.data = mkdtemp(prefix="perdure-peer-")
        self._engine = Engine(app, log=f"embedded://{self.data}/log")
        self._waiters: dict[str, Any] = {}

    def info(self) -> dict[str, Any]:
        return {
            "rocksdict": importlib.metadata.version("rocksdict"),
            "durability": "embedded RocksDB log, fsync before each acknowledgement",
            "layout": "client+engine+worker one process",
        }

    async def start(self) -> dict[str, int]:
        gc.set_threshold(*GC_THRESHOLDS)
        await self._engine.__aenter__()
        return {}

    async def stop(self) -> None:
        await self._engine.__aexit__(None, None, None)

    async def steps(self, id: str, n: int) -> str:
        return await steps.call(n)

    async def start_waiter(self, id: str) -> None:
        self._waiters[id] = await waiter.enqueue(id)

    async def signal(self, id: str) -> None:
        await self._engine.send("bench/go", {"key": id})

    async def waiter_result(self, id: str) -> str:
        result: str = await self._waiters.pop(id).result()
        return result

    async def fanout(self, id: str, n: int) -> int:
        return await parent.call(n)

    async def start_sleeper(self, id: str) -> None:
        await sleeper.enqueue(0)


def main() -> None:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--harness", default="../shared/peers")
    parser.add_argument("--results", default="")
    own, rest = parser.parse_known_args()
    sys.path.insert(0, str(Path(own.harness).resolve()))
    harness: Any = importlib.import_module("common.harness")
    harness.RESULTS = own.results or mkdtemp(prefix="perdure-peers-results-")
    os.makedirs(harness.RESULTS, exist_ok=True)
    sys.argv[1:] = rest
    if importlib.util.find_spec("uvloop") is not None:
        importlib.import_module("uvloop").install()
    harness.main(Peer)
    print(f"results in {harness.RESULTS}", file=sys.stderr)


if __name__ == "__main__":
    main()
