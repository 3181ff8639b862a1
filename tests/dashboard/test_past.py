"""The slider on a run's page: the run as it was after each of its records."""

import re

import pytest
from playwright.async_api import Page, expect

from tests.dashboard.test_steering import send, status
from tests.system.engine_process import EngineProcess

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_a_run_is_looked_at_after_each_of_its_records(page: Page, url: str, engine: EngineProcess) -> None:
    await send(page, url, '{"order": "o-20"}')
    await status(page, "waiting")
    engine.ask("/e/key", {"name": "order/collected", "data": {"order": "o-20"}})
    await status(page, "completed")
    await page.get_by_role("button", name="Step through its records").click()
    past = page.get_by_role("region", name="Its records")
    slider = past.get_by_role("slider")
    step, call, wait = (
        page.get_by_role("button", name=re.compile(name)) for name in ("step charge", "call label", "wait order")
    )
    await expect(past).to_contain_text(re.compile(r"Record 9 of 9\s*it completed"))
    await expect(page).not_to_have_url(re.compile("at="))

    await slider.focus()
    await page.keyboard.press("Home")
    await expect(past).to_contain_text(re.compile(r"Record 1 of 9\s*the run was asked for"))
    await expect(page.locator(".line")).to_have_count(1)
    await page.keyboard.press("ArrowRight")
    await expect(past).to_contain_text("step charge failed, and is tried again")
    await expect(page.get_by_text("At this moment")).to_be_visible()
    await expect(page.get_by_text("its step charge failed, and is tried again").last).to_be_visible()
    side = page.get_by_role("region", name="Selected")
    await step.click()
    await expect(side).to_contain_text("retrying")
    await expect(side).not_to_contain_text("ch-o-20")
    await expect(page).to_have_url(re.compile(r"at=\d+"))

    later = past.get_by_role("button", name="One record later")
    await later.click()
    await later.click()
    await expect(past).to_contain_text("step charge completed")
    await expect(side).to_contain_text('"ch-o-20"')
    await expect(call).to_have_count(0)

    await slider.focus()
    for _ in range(3):
        await page.keyboard.press("ArrowRight")
    await expect(past).to_contain_text(re.compile(r"wait order/collected began\W*waiting"))
    await expect(page.get_by_text('it waits for an event: order/collected where data.order is "o-20"')).to_be_visible()
    await expect(wait.locator(".took")).to_contain_text("…")
    offset = re.search(r"offset (\d+)", await past.inner_text())
    assert offset is not None
    await expect(page).to_have_url(re.compile(rf"at={offset[1]}\b"))
    await page.reload()
    await expect(past).to_contain_text("Record 7 of 9")
    await expect(page.locator(".line")).to_have_count(4)

    box = await slider.bounding_box()
    assert box is not None
    await page.mouse.move(box["x"] + box["width"] * 0.7, box["y"] + box["height"] / 2)
    await page.mouse.down()
    await page.mouse.move(box["x"] + box["width"] + 20, box["y"] + box["height"] / 2)
    await page.mouse.up()
    await expect(past).to_contain_text("Record 9 of 9")
    await expect(page).not_to_have_url(re.compile("at="))
    await past.get_by_role("button", name="Back to now").click()
    await expect(past).to_have_count(0)
