"""What strangers wrote is text: in every field that a user controls, on every page, and in every dialog."""

import msgspec
import pytest
from msgspec import Raw
from playwright.async_api import Page, expect

from perdure.sdk.port import Attempt, FunctionView, OpDetail, RunDetail, RunStatus, RunSummary
from perdure_schemas.payload import ErrorInfo
from perdure_schemas.records import LogLevel, RunLogged, V
from tests.http.fake_port import FakePort
from tests.http.serving import served
from tests.system.engine_process import EngineProcess

pytestmark = pytest.mark.asyncio(loop_scope="session")

EVIL = (
    "<script>alert(1)</script><img src=x onerror=alert(2)><svg/onload=alert(3)>"
    "<a href='javascript:alert(4)'>x</a>\"'`--></title>{{7*7}}javascript:alert(5)"
    "\u202egnp.exe\u2066\u200f\x1b[31mred\x1b]8;;http://evil.example\x07\x9b\r\x00\ufeff"
)
AT = 1_700_000_000_000
ERROR = ErrorInfo(EVIL, EVIL, EVIL, step=EVIL, run=EVIL)
RAW = Raw(msgspec.json.encode({EVIL: [EVIL, {"__proto__": EVIL, "constructor": EVIL}]}))
IDS = ["r1", EVIL.replace("/", "").replace("\r", "").replace("\x00", ""), "r?x#y%25&z=1"]


class EvilPort(FakePort):
    """Runs of all kinds, in which all texts are evil."""

    def __init__(self) -> None:
        super().__init__()
        levels: list[LogLevel] = ["info", "error"]
        for n, run in enumerate(IDS):
            parked: RunStatus = "parked" if n == 1 else "failed"
            summary = RunSummary(run, EVIL, parked, EVIL, EVIL, AT, AT + 5000, EVIL, EVIL, {EVIL: EVIL})
            event = Raw(msgspec.json.encode({"name": EVIL, "data": {EVIL: EVIL}, "user": {EVIL: EVIL}, "id": EVIL}))
            progress: dict[str, str | int | float | bool | None] = {EVIL: EVIL}
            self.details[run] = RunDetail(summary, event, RAW, RAW, ERROR, tuple(_ops()), progress, EVIL)
            self.logged += [RunLogged(V, run, AT, level, EVIL, EVIL, error=EVIL) for level in levels]

    async def functions(self) -> list[FunctionView]:
        """Names and triggers are a developer's, but who reviews them?"""
        view = FunctionView(EVIL, "event", (EVIL,), EVIL, AT, (EVIL,))
        return [view, msgspec.structs.replace(view, id=EVIL + "2", kind="background")]


def _ops() -> list[OpDetail]:
    attempts = (Attempt(1, AT + 50, 50_000, ERROR, 100), Attempt(2, AT + 250, 50_000, ERROR))
    kinds = ["step", "sleep", "wait", "call", "enqueue", "send", "watch", EVIL]
    return [
        OpDetail(EVIL + kind, EVIL, kind, "failed", AT, AT + 300, attempts, RAW, RAW, ERROR, EVIL, EVIL, 3, EVIL)
        for kind in kinds
    ]


async def nothing_came_of_it(page: Page) -> None:
    """No element and no link that is not ours, and nothing of it invisible."""
    found = await page.evaluate(
        """() => ({
            scripts: document.scripts.length,
            images: [...document.images].filter((one) => !one.src.endsWith("/dashboard/icon.svg")).length,
            links: [...document.querySelectorAll("a, area, form")]
                .map((one) => one.getAttribute("href") ?? one.getAttribute("action") ?? "#")
                .filter((href) => !href.startsWith("#")),
            handlers: [...document.querySelectorAll("*")].flatMap((one) => [...one.attributes])
                .filter((one) => one.name.startsWith("on") || one.name === "srcdoc").length,
            foreign: document.querySelectorAll("svg, iframe, object, embed, base, title + title").length,
            text: document.body.innerText + [...document.querySelectorAll("[title]")].map((one) => one.title).join(),
        })"""
    )
    text = found.pop("text")
    assert found == {"scripts": 1, "images": 0, "links": [], "handlers": 0, "foreign": 0}
    assert not set(text) & set("\u202e\u2066\u200f\x1b\x07\x9b\x00\ufeff")


async def test_on_every_page_and_in_every_dialog(page: Page) -> None:
    port = EvilPort()
    async with served(port) as url:
        await page.goto(f"{url}/#/runs")
        await expect(page.get_by_role("list", name="Runs").get_by_role("listitem")).to_have_count(len(IDS))
        await expect(page.locator(".row").first).to_contain_text("<script>alert(1)</script>")
        await expect(page.locator(".row").first).to_contain_text("‹U+202E›gnp.exe")
        await expect(page.locator(".row").first).to_contain_text("␛[31mred")
        await nothing_came_of_it(page)
        for n in range(len(IDS)):
            await page.goto(f"{url}/#/runs")
            await page.locator(".row .open").nth(n).click()
            lines = page.locator("button.line")
            await expect(lines).to_have_count(9)
            for line in range(9):
                await lines.nth(line).click()
                await expect(lines.nth(line)).to_have_attribute("aria-current", "true")
                await expect(page.get_by_role("region", name="Selected")).to_contain_text("onerror=alert(2)")
                await nothing_came_of_it(page)
        for name in ("Edit and re-run", "Copy as CLI"):
            await page.get_by_role("button", name=name).click()
            await expect(page.get_by_role("dialog")).to_be_visible()
            await nothing_came_of_it(page)
            await page.keyboard.press("Escape")
        await page.goto(f"{url}/#/functions")
        for start in ("Send an event for", "Call"):
            await page.get_by_role("button", name=start).first.click()
            await expect(page.get_by_role("dialog")).to_be_visible()
            await nothing_came_of_it(page)
            await page.keyboard.press("Escape")


async def test_from_events_to_errors_in_a_real_engine(page: Page, url: str, engine: EngineProcess) -> None:
    """What came in by HTTP, from the list of events to what fails most."""
    data = {"order": EVIL, "cents": -1, EVIL: EVIL}
    (event,) = engine.ask("/e/key", {"name": "order/placed", "data": data, "user": {"email": EVIL}})["ids"]
    # Names are printable, and without a star.
    name = "evil/" + EVIL.partition("\u202e")[0].replace("*", "")
    assert engine.ask("/e/key", {"name": name, "data": data})["status"] == 200
    await page.goto(f"{url}#/events")
    await expect(page.get_by_role("list", name="Events").get_by_role("link", name="evil/<script>")).to_be_visible()
    await nothing_came_of_it(page)
    await page.get_by_role("list", name="Events").get_by_role("link", name="evil/<script>").click()
    await expect(page.get_by_role("heading", name="It did nothing")).to_be_visible()
    await nothing_came_of_it(page)
    await page.goto(f"{url}#/events/{event}")
    await page.get_by_role("region", name="What it did").get_by_role("link", name="fulfil").first.click()
    await expect(page.locator(".failure").first).to_contain_text("CardDeclined: order <script>alert(1)</script>")
    await nothing_came_of_it(page)
    await page.goto(f"{url}#/")
    await expect(page.get_by_role("region", name="What fails most")).to_contain_text("<script>alert(1)</script>")
    await nothing_came_of_it(page)


async def test_what_stands_in_the_url_is_text_too(page: Page) -> None:
    port = EvilPort()
    async with served(port) as url:
        for place in ("#/runs?function=%s&event_id=%s&cursor=%s", "#/runs/%s?step=%s", "#/%s", "#/events/%s"):
            await page.goto("about:blank")
            await page.goto(f"{url}/" + place.replace("%s", "<img src=x onerror=alert(1)>%E2%80%AEjavascript:alert(1)"))
            await expect(page.locator("main")).not_to_be_empty()
            await nothing_came_of_it(page)


async def test_an_edited_event_comes_back_as_it_was_written(page: Page) -> None:
    """What cannot be seen is an escape in the field, and the same character when it is sent."""
    port = FakePort()
    port.add("r1", "mail", "failed")
    event = {"name": "a", "data": {"text": "\u202e\u200b\x1b é", "large": 2**63 - 1, "float": 1.0}, "user": {}}
    port.details["r1"] = msgspec.structs.replace(port.details["r1"], event=Raw(msgspec.json.encode(event)))
    async with served(port) as url:
        await page.goto(f"{url}/#/runs/r1")
        await page.get_by_role("button", name="Edit and re-run").click()
        assert "\u202e" not in await page.get_by_label("Data").input_value()
        await page.get_by_role("button", name="Run", exact=True).click()
        await expect(page.get_by_role("dialog")).to_have_count(0)
    (asked,) = port.enqueued
    assert msgspec.json.decode(asked.arguments) == [[event], {}]
    assert b"9223372036854775807" in bytes(asked.arguments)
    assert asked.rerun_of == "r1"
