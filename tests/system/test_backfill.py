"""A backfill whose engine is killed in the middle: nothing twice, nothing lost."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from tests.system.engine_process import EngineProcess, wait_until

OLD = """
from perdure import App, Context, Event

app = App("shop")


@app.function(on="shop/order.placed")
async def ship(ctx: Context, event: Event) -> str:
    return "shipped"
"""
NEW = """

@app.function(on="shop/order.*", id="thank")
async def thank(ctx: Context, event: Event) -> str:
    return await ctx.step("write", write, event.id)


async def write(event: str) -> str:
    return f"thanks for {event}"
"""
EVENTS = 120


def test_it_goes_on_after_a_kill_and_starts_each_run_once(tmp_path: Path) -> None:
    module = tmp_path / "shop.py"
    module.write_text(OLD)
    engine = EngineProcess(tmp_path, "serve", "shop:app", "--log", "log")
    try:
        engine.start()
        ids = [f"e{number}" for number in range(EVENTS)]
        engine.ask("/e/key", [{"name": "shop/order.placed", "id": one, "data": {}} for one in ids])
        wait_until(lambda: len(started(engine, "ship")) == EVENTS, "to ship them", engine)
        engine.stop()

        module.write_text(OLD + NEW)
        engine.start()
        counted = engine.ask("/v1/jobs", {**asked(), "dry_run": True})
        assert counted["count"] == EVENTS
        engine.ask("/v1/jobs", {**asked(), "id": "thanks", "rate": 60})
        wait_until(lambda: engine.ask("/v1/jobs/thanks").get("done", 0) >= EVENTS // 4, "to begin", engine)
        engine.kill()
        engine.start()
        assert engine.ask("/v1/jobs/thanks")["state"] == "running"
        # Meanwhile somebody asks for the same again, in haste.
        again = engine.perdure("backfill", "thank", "--since", "1h", "--yes", "--json")
        assert again.returncode == 0, again.stderr
        wait_until(lambda: engine.ask("/v1/jobs/thanks")["state"] == "finished", "to finish", engine)

        job = engine.ask("/v1/jobs/thanks")
        assert (job["done"], job.get("failed", 0), job["function"]) == (EVENTS, 0, "thank")
        wait_until(lambda: all(run["status"] == "completed" for run in started(engine, "thank")), "to thank", engine)
        assert Counter(run["event_id"] for run in started(engine, "thank")) == Counter(ids)
        assert {run["cause"] for run in started(engine, "thank")} == {"backfill"}
        rest = json.loads(engine.perdure("backfill", "thank", "--since", "1h", "--yes", "--json").stdout)
        assert (rest["count"], rest["state"]) == (0, "finished")
    finally:
        engine.end()


def asked() -> dict[str, Any]:
    return {"action": "backfill", "function": "thank", "since": 0}


def started(engine: EngineProcess, function: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    cursor = ""
    while True:
        page = engine.ask(f"/v1/runs?function={function}&limit=100&cursor={cursor}")
        found += page["data"]
        cursor = page.get("cursor", "")
        if not cursor:
            return found
