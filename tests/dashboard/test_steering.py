"""What a person does: sends an event, watches the run, opens a step, reads a failure, cancels, runs again."""

import re

import pytest
from playwright.async_api import Page, expect

from tests.system.engine_process import EngineProcess

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def send(page: Page, url: str, data: str) -> None:
    """From the page of functions; ends on the page of the run."""
    await page.goto(f"{url}#/functions")
    await page.get_by_role("button", name="Send an event for fulfil").click()
    await page.get_by_label("Data").fill(data)
    await page.get_by_label("User").fill('{"email": "ada@example.com"}')
    await page.get_by_role("button", name="Send", exact=True).click()
    await page.wait_for_url(re.compile(r"#/runs/\w+$"))


def status(page: Page, word: str):
    return expect(page.locator("h1 .chip")).to_have_text(re.compile(word))


async def test_an_event_is_sent_and_its_run_watched_to_its_end(page: Page, url: str, engine: EngineProcess) -> None:
    await send(page, url, '{"order": "o-1"}')
    await expect(page.get_by_text('it waits for an event: order/collected where data.order is "o-1"')).to_be_visible()
    await status(page, "waiting")
    step = page.get_by_role("button", name=re.compile("step charge"))
    await step.click()
    side = page.get_by_role("region", name="Selected")
    await expect(side.locator(".attempts li")).to_have_count(2)
    await expect(side).to_contain_text("ConnectionError: the bank does not answer")
    await expect(side).to_contain_text('"ch-o-1"')
    await expect(side.locator(".logs")).to_contain_text("charging 100")
    await page.get_by_role("button", name=re.compile("call label")).click()
    await expect(side).to_contain_text('"2 × o-1"')
    engine.ask("/e/key", {"name": "order/collected", "data": {"order": "o-1"}})
    await status(page, "completed")
    await page.keyboard.press("Escape")
    await expect(side).to_contain_text('"paid": "ch-o-1"')
    await expect(side.locator(".logs")).to_contain_text("an order of ada@example.com")


async def test_a_failure_is_read_and_the_run_goes_again_with_another_event(page: Page, url: str) -> None:
    await send(page, url, '{"order": "o-2", "cents": -5}')
    await status(page, "failed")
    side = page.get_by_role("region", name="Selected")
    await expect(side.locator(".failure")).to_contain_text("CardDeclined: order o-2: -5 cents")
    await expect(side.locator(".failure pre")).to_contain_text("raise CardDeclined")
    failed = page.url
    await page.get_by_role("button", name="Edit and re-run").click()
    data = page.get_by_label("Data")
    await expect(data).to_have_value(re.compile('"cents": -5'))
    await data.fill('{"order": "o-2", "cents": 5')
    await page.get_by_role("button", name="Run", exact=True).click()
    await expect(page.get_by_role("alert").first).to_contain_text("no JSON")
    await data.fill('{"order": "o-2", "cents": 5}')
    await page.get_by_role("button", name="Run", exact=True).click()
    await page.wait_for_url(lambda url: url != failed)
    await status(page, "waiting")
    await expect(page.get_by_role("region", name="Selected")).to_contain_text('"cents": 5')
    await page.get_by_role("link", name=re.compile(failed[-6:])).click()
    await status(page, "failed")


async def test_a_run_goes_again_from_a_step_on_with_another_result(page: Page, url: str) -> None:
    await send(page, url, '{"order": "o-7"}')
    # It waits before each retry, too.
    await expect(page.get_by_text("it waits for an event")).to_be_visible()
    first = page.url
    side = page.get_by_role("region", name="Selected")
    await page.get_by_role("button", name=re.compile("step charge")).click()
    await side.get_by_role("button", name="Re-run from here").click()
    await page.get_by_label("It", exact=True).select_option("brings this result")
    result = page.get_by_label("Result")
    await expect(result).to_have_value('"ch-o-7"')
    await expect(page.get_by_label("Error", exact=True)).to_be_hidden()
    await result.fill('"by hand')
    await page.get_by_role("button", name="Run", exact=True).click()
    await expect(page.get_by_role("alert").first).to_contain_text("no JSON")
    await result.fill('"by hand"')
    await page.get_by_role("button", name="Run", exact=True).click()
    await page.wait_for_url(lambda url: url.partition("?")[0] != first)
    await status(page, "waiting")
    await expect(page.get_by_text("Fork of")).to_be_visible()
    await page.get_by_role("button", name=re.compile("wait order.collected")).click()
    await side.get_by_role("button", name="Re-run from here").click()
    await page.get_by_label("It", exact=True).select_option("times out")
    await page.get_by_role("button", name="Run", exact=True).click()
    await status(page, "completed")
    await expect(side).to_contain_text('"paid": "by hand"')


async def test_a_run_is_cancelled_and_goes_again(page: Page, url: str) -> None:
    await send(page, url, '{"order": "o-3"}')
    await page.get_by_role("button", name="Cancel", exact=True).click()
    await page.get_by_label("Reason").fill("wrong address")
    await page.get_by_role("button", name="Cancel the run").click()
    await status(page, "cancelled")
    cancelled = page.url
    await page.get_by_role("button", name="Re-run", exact=True).click()
    await page.wait_for_url(lambda url: url != cancelled)
    await status(page, "waiting")
    await page.get_by_role("link", name=re.compile(cancelled[-6:])).click()
    await status(page, "cancelled")


async def test_a_function_is_called_with_arguments(page: Page, url: str) -> None:
    await page.goto(f"{url}#/functions")
    await page.get_by_role("button", name="Call label").click()
    await page.get_by_label("Arguments in order").fill('["box"]')
    await page.get_by_label("Arguments by name").fill('{"copies": 12345678901234567}')
    await page.get_by_role("button", name="Start").click()
    await status(page, "completed")
    # Numbers of 64 bits come through as they are.
    await expect(page.get_by_role("region", name="Selected")).to_contain_text('"12345678901234567 × box"')
    await expect(page.get_by_role("region", name="Selected")).to_contain_text('"copies": 12345678901234567')


async def test_a_run_goes_again_for_one_that_is_there(engine: EngineProcess) -> None:
    first = engine.ask("/v1/functions/label/runs", {"args": ["x"]})["run_id"]
    second = engine.ask("/v1/functions/label/runs", {"args": ["y"], "rerun_of": first})["run_id"]
    assert engine.ask(f"/v1/runs/{second}")["run"]["rerun_of"] == first
    refused = engine.ask("/v1/functions/label/runs", {"args": ["y"], "rerun_of": "nope"})
    assert (refused["status"], refused["type"]) == (404, "urn:perdure:error:UnknownRun")


async def test_runs_are_filtered_by_what_stands_in_the_url(page: Page, url: str, engine: EngineProcess) -> None:
    engine.ask("/v1/functions/label/runs", {"args": ["x"]})
    rows = page.get_by_role("list", name="Runs").get_by_role("listitem")
    await page.goto(f"{url}#/runs?function=label")
    await expect(rows.first).to_contain_text("label")
    await page.get_by_role("button", name="completed").click()
    await expect(page).to_have_url(re.compile("function=label&status=completed"))
    await page.get_by_role("combobox", name="Function").select_option("sweep")
    await expect(page.get_by_text("No run fits these filters")).to_be_visible()
    await page.go_back()
    await expect(rows.first).to_contain_text("label")
    await page.get_by_role("combobox", name="Function").select_option("sweep")
    await page.get_by_role("button", name="Show all runs").click()
    await expect(rows.first).to_be_visible()


async def test_a_new_run_appears_by_itself_and_the_keyboard_leads_to_it(
    page: Page, url: str, engine: EngineProcess
) -> None:
    await page.goto(f"{url}#/runs?function=label")
    await expect(page.locator("[data-loaded]")).to_be_visible()
    made = engine.ask("/v1/functions/label/runs", {"args": ["new"]})["run_id"]
    await expect(page.locator(f'a[href="#/runs/{made}"]')).to_be_visible()
    await page.keyboard.press("/")
    await expect(page.get_by_role("searchbox")).to_be_focused()
    await page.keyboard.press("Escape")
    await page.keyboard.press("j")
    await expect(page.locator(f'a[href="#/runs/{made}"]')).to_be_focused()
    await page.keyboard.press("j")
    await page.keyboard.press("k")
    await page.keyboard.press("Enter")
    await expect(page).to_have_url(re.compile(made))
    await status(page, "completed")
    await page.keyboard.press("Escape")
    await expect(page).to_have_url(re.compile("#/runs$"))
    await page.keyboard.press("/")
    await page.keyboard.type(made)
    await page.keyboard.press("Enter")
    await expect(page).to_have_url(re.compile(made))


async def test_an_event_says_what_it_did(page: Page, url: str, engine: EngineProcess) -> None:
    (placed,) = engine.ask("/e/key", {"name": "order/placed", "data": {"order": "o-9"}})["ids"]
    await page.goto(f"{url}#/events/{placed}")
    did = page.get_by_role("region", name="What it did")
    await did.get_by_role("link", name=re.compile("fulfil")).first.click()
    await status(page, "waiting")
    (cancelled,) = engine.ask("/e/key", {"name": "order/cancelled", "data": {"order": "o-9"}})["ids"]
    await status(page, "cancelled")
    await page.goto(f"{url}#/events")
    await page.get_by_role("searchbox").fill("order/cancelled")
    await page.keyboard.press("Enter")
    await expect(page).to_have_url(re.compile("name=order%2Fcancelled"))
    await page.locator(f'a[href="#/events/{cancelled}"]').click()
    await expect(did).to_contain_text("cancelled it")
    engine.ask("/e/key", {"name": "order/forgotten", "id": "forgotten"})
    await page.goto(f"{url}#/events/forgotten")
    await expect(page.get_by_text("no function has a trigger")).to_be_visible()


async def test_the_overview_counts_what_ran(page: Page, url: str, engine: EngineProcess) -> None:
    engine.ask("/v1/functions/label/runs", {"args": ["x"]})
    await page.goto(f"{url}#/")
    functions = page.get_by_role("region", name="Functions")
    await expect(functions.get_by_role("listitem").filter(has_text="label")).to_contain_text("succeeded")
    await expect(page.get_by_role("region", name="Runs over time").get_by_role("img")).to_have_attribute(
        "aria-label", re.compile("[1-9][0-9]* started")
    )
    legend = page.get_by_role("region", name="Runs over time").locator(".legend")
    await expect(legend).to_have_text("startedfinishedfailed")
    await page.goto(f"{url}#/functions")
    label = page.get_by_role("listitem").filter(has=page.get_by_role("button", name="Call label"))
    await expect(label).to_contain_text("Succeeded, 24 h100 %")
    await page.goto(f"{url}#/")
    await page.get_by_role("link", name=re.compile("^Completed")).click()
    await expect(page).to_have_url(re.compile("status=completed"))
    await expect(page.get_by_role("list", name="Runs").get_by_role("listitem").first).to_contain_text("completed")


async def test_the_overview_says_what_waits(page: Page, url: str, engine: EngineProcess) -> None:
    engine.ask("/v1/functions/mail/pause", method="POST")
    later = engine.ask("/v1/functions/label/runs", {"args": ["x"], "delay": "1h"})["run_id"]
    made = until_one_waits(engine)
    await page.goto(f"{url}#/")
    waits = page.get_by_role("region", name="What waits")
    rows = waits.get_by_role("listitem")
    await expect(rows.filter(has_text="mail")).to_have_text("mailis paused1 run waits")
    await expect(rows.filter(has_text="Delayed")).to_have_text("Delayedstart at a later time1 run")
    await expect(rows.filter(has_text="studio")).to_have_text("studioqueue of a worker pool0 steps wait0 under way")
    await expect(page.get_by_role("region", name="Lag by partition")).to_contain_text("4 partitions, read to the end.")
    engine.ask(f"/v1/runs/{later}", method="DELETE")
    engine.ask("/v1/functions/mail/resume", method="POST")
    engine.ask(f"/v1/runs/{made}/result")
    await expect(rows).to_have_count(1)


async def test_the_history_is_searched_by_metadata_and_condition(page: Page, url: str, engine: EngineProcess) -> None:
    body = {"args": ["x"], "metadata": {"tenant": "acme"}}
    made = engine.ask("/v1/functions/label/runs", body)["run_id"]
    await page.goto(f"{url}#/runs")
    await page.get_by_role("button", name="Search", exact=False).click()
    await page.get_by_label("Metadata").fill("tenant=acme")
    await page.get_by_role("button", name="Search", exact=True).click()
    rows = page.get_by_role("list", name="Runs").get_by_role("listitem")
    await expect(rows).to_have_count(1)
    await expect(page.locator(f'a[href="#/runs/{made}"]')).to_be_visible()
    await page.goto(f"{url}#/runs?where=event.data.(")
    await expect(page.get_by_role("heading", name="This search cannot be read")).to_be_visible()
    await page.get_by_role("button", name="Show all runs").click()
    await expect(rows.first).to_be_visible()


async def test_all_that_fit_are_cancelled_and_run_again(page: Page, url: str, engine: EngineProcess) -> None:
    body = {"metadata": {"batch": "b1"}}
    event = {"name": "order/placed", "data": {"order": "many"}}
    for _ in range(3):
        engine.ask("/v1/functions/fulfil/runs", {"args": [event], **body})
    await page.goto(f"{url}#/runs?metadata=batch%3Db1")
    rows = page.get_by_role("list", name="Runs").get_by_role("listitem")
    await expect(rows).to_have_count(3)
    await page.get_by_role("button", name="Cancel all").click()
    dialog = page.get_by_role("dialog")
    await expect(dialog).to_contain_text("3 runs")
    await dialog.get_by_role("button", name="Cancel them").click()
    await expect(dialog).to_contain_text("3 of 3 runs cancelled. Done.")
    await page.keyboard.press("Escape")
    await expect(rows.filter(has_text="cancelled")).to_have_count(3)
    await page.get_by_role("button", name="Re-run all").click()
    await dialog.get_by_role("button", name="Re-run them").click()
    await expect(dialog).to_contain_text("3 of 3 runs begun again. Done.")
    await page.keyboard.press("Escape")
    await expect(rows.filter(has_text="re-run of")).to_have_count(3)


def until_one_waits(engine: EngineProcess) -> str:
    """Some partitions hear of a pause a moment later than others."""
    while True:
        made = str(engine.ask("/v1/functions/mail/runs", {"args": ["ada"]})["run_id"])
        if engine.ask(f"/v1/runs/{made}/result?timeout=1s")["status"] == "queued":
            return made


async def test_a_function_is_paused_and_what_came_meanwhile_runs_later(
    page: Page, url: str, engine: EngineProcess
) -> None:
    await page.goto(f"{url}#/functions")
    card = page.get_by_role("listitem").filter(has=page.get_by_role("button", name=re.compile("(Pause|Resume) mail")))
    await card.get_by_role("button", name="Pause mail").click()
    await page.get_by_role("button", name="Pause it").click()
    await expect(card.locator(".chip")).to_contain_text("paused")
    made = until_one_waits(engine)
    await expect(card).to_contain_text("Waiting to start1 run")
    await page.goto(f"{url}#/runs/{made}")
    await status(page, "queued")
    await page.goto(f"{url}#/functions")
    await card.get_by_role("button", name="Resume mail").click()
    await expect(card.get_by_role("button", name="Pause mail")).to_be_visible()
    await page.goto(f"{url}#/runs/{made}")
    await status(page, "completed")
