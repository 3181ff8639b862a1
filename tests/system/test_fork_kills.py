"""A fork whose engine is killed between parts of its history, and while it runs: one run, and nothing done twice."""

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from perdure.past import fork
from perdure.past.file import tape_of
from perdure.past.fork import before_its_end, parts_of
from perdure.past.tape import state_of_run
from perdure.sdk.http_sync import SyncHttpPort
from tests.system.engine_process import EngineProcess, wait_until

ROWS, CUT = 120, 80
SHOP = f"""
import asyncio
from pathlib import Path
from perdure import App

app = App("shop")


@app.step
async def row(n: int) -> str:
    with Path("rows.txt").open("a") as file:
        file.write(f"{{n}}\\n")
    await asyncio.sleep(0.005)
    return "x" * 300


@app.background
async def rows() -> int:
    return sum([len(await row(n)) for n in range({ROWS})])
"""


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[EngineProcess]:
    (tmp_path / "shop.py").write_text(SHOP, encoding="utf-8")
    process = EngineProcess(tmp_path, "serve", "shop:app")
    process.start()
    yield process
    process.end()


def rows_done(folder: Path) -> Counter[int]:
    path = folder / "rows.txt"
    return Counter(int(line) for line in path.read_text(encoding="utf-8").split()) if path.exists() else Counter()


@pytest.mark.parametrize("seed", range(2))
def test_a_fork_whose_engine_is_killed(
    seed: int, engine: EngineProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(seed)
    run = engine.ask("/v1/functions/rows/runs", {})["run_id"]
    wait_until(lambda: engine.ask(f"/v1/runs/{run}")["run"]["status"] == "completed", "for the run", engine)
    (tmp_path / "rows.txt").unlink()
    monkeypatch.setattr(fork, "PART_BYTES", 4_000)
    port = SyncHttpPort(f"http://127.0.0.1:{engine.port}")
    view = before_its_end(tape_of(port.tape(run).splitlines(keepends=True), "the run"), run)
    parts = parts_of(view, state_of_run(view, run), f"0/row#{CUT}", "one key")
    assert len(parts) > 5
    killed_after = rng.randrange(1, len(parts))
    for part in parts[:killed_after]:
        port.fork(part)
    engine.kill()
    engine.start()
    # Whoever asks again begins from the first part.
    new = {port.fork(part) for part in parts}
    wait_until(lambda: len(rows_done(tmp_path)) > 10, "to get on", engine)
    engine.kill()
    engine.start()
    (new_run,) = new
    wait_until(lambda: engine.ask(f"/v1/runs/{new_run}")["run"]["status"] == "completed", "for the fork", engine)
    assert {port.fork(part) for part in parts} == new
    done = rows_done(tmp_path)
    assert set(done) == set(range(CUT - 1, ROWS))
    # One step was running when the engine died, and its result was not recorded.
    assert sum(done.values()) - len(done) <= 1
    shown = engine.ask(f"/v1/runs/{new_run}")
    ops = [op["op"] for op in shown["ops"]]
    assert ops == [f"0/row#{n + 1}" for n in range(ROWS)]
    assert shown["result"] == ROWS * 300
    runs = engine.ask("/v1/runs?function=rows")["data"]
    assert [one["id"] for one in runs if one.get("rerun_of") == run] == [new_run]
    port.close()
