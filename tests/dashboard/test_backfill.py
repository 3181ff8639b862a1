"""Past events start a function that is new: counted, started, watched."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.async_api import Page, expect

from tests.system.engine_process import EngineProcess

pytestmark = pytest.mark.asyncio(loop_scope="session")

FIRST = """
from perdure import App, Context, Event

app = App("desk")
"""
SECOND = f"""{FIRST}

@app.function(on="asked")
async def answer(ctx: Context, event: Event) -> int:
    return event.data["n"]
"""


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[EngineProcess]:
    """With events that came before the function that they would have started."""
    code = tmp_path / "desk.py"
    code.write_text(FIRST)
    engine = EngineProcess(tmp_path, "serve", "desk:app", "--log", "log")
    engine.start()
    engine.ask("/e/key", [{"name": "asked", "data": {"n": n}} for n in range(5)])
    engine.stop()
    code.write_text(SECOND)
    engine.start()
    yield engine
    engine.end()


async def test_past_events_start_a_new_function(page: Page, desk: EngineProcess) -> None:
    await page.goto(f"http://127.0.0.1:{desk.port}/#/functions")
    await page.get_by_role("button", name="Backfill answer").click()
    dialog = page.get_by_role("dialog")
    await dialog.get_by_label("Condition").fill("event.data.n > 1")
    await dialog.get_by_role("button", name="Count them").click()
    await expect(dialog).to_contain_text("3 runs with function answer")
    await expect(dialog).to_contain_text("where event.data.n > 1, rate 50")
    await dialog.get_by_role("button", name="Start them").click()
    await expect(dialog).to_contain_text("3 of 3 runs started. Done.")
    await page.keyboard.press("Escape")
    await page.get_by_role("button", name="Backfill answer").click()
    await dialog.get_by_label("Runs a second").fill("")
    await dialog.get_by_role("button", name="Count them").click()
    await expect(dialog).to_contain_text("2 runs")
    await expect(dialog).not_to_contain_text("rate")
