"""Where the dashboard is, who may look, and what it says when there is nothing to see."""

import asyncio
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
import uvicorn
from playwright.async_api import Browser, Page, expect
from starlette.applications import Starlette
from starlette.routing import Mount

from perdure.errors import KeepsNothing
from perdure.sdk.keys import Keyring, new_key
from perdure_connectors.http import gateway
from tests.dashboard.conftest import Visit
from tests.http.fake_port import FakePort
from tests.http.serving import served

pytestmark = pytest.mark.asyncio(loop_scope="session")


@asynccontextmanager
async def mounted(port: FakePort, root: str) -> AsyncGenerator[str]:
    """The gateway below a path of somebody else's app; the URL of that."""
    app = Starlette(routes=[Mount(root, gateway(port, "shop"))])
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, lifespan="off", timeout_graceful_shutdown=1))
    server.config.load()
    server.lifespan = server.config.lifespan_class(server.config)
    await server.startup()
    serving = asyncio.create_task(server.main_loop())
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving
        await server.shutdown()


async def test_below_a_path_of_its_own(page: Page) -> None:
    port = FakePort()
    port.add("r1", "mail")
    async with mounted(port, "/jobs") as url:
        # The way there leads by the path without its slash.
        await page.goto(f"{url}/jobs")
        await expect(page).to_have_url(re.compile("/jobs/"))
        await expect(page.locator("#app")).to_have_text("shop")
        await page.get_by_role("navigation", name="Pages").get_by_role("link", name="Runs").click()
        await page.get_by_role("link", name=re.compile("mail")).click()
        await expect(page.get_by_role("heading", level=1)).to_contain_text("mail")
        await page.get_by_role("button", name="Cancel", exact=True).click()
        await page.get_by_role("button", name="Cancel the run").click()
        await expect(page.get_by_text("it will not complete")).to_be_visible()
    assert port.cancelled == [("r1", "")]


async def test_no_runs_yet_says_how_to_begin(page: Page) -> None:
    async with served(FakePort()) as url:
        await page.goto(f"{url}/#/runs")
        await expect(page.get_by_role("heading", name="No runs yet")).to_be_visible()
        await expect(page.get_by_text("perdure send shop/order.placed --data '{}'")).to_be_visible()


async def test_a_process_that_keeps_no_runs_says_where_they_are(page: Page) -> None:
    port = FakePort()
    port.fail = KeepsNothing("this process keeps no runs")
    async with served(port) as url:
        await page.goto(f"{url}/#/runs")
        await expect(page.get_by_role("heading", name="This process keeps no runs")).to_be_visible()


async def test_an_unknown_run_leads_back_to_all(page: Page) -> None:
    async with served(FakePort()) as url:
        await page.goto(f"{url}/#/runs/nope")
        await expect(page.get_by_text("no run 'nope' is known")).to_be_visible()
        await page.get_by_role("link", name="See all runs").click()
        await expect(page.get_by_role("heading", name="Runs", exact=True)).to_be_visible()


async def test_it_goes_on_when_the_engine_is_back(page: Page) -> None:
    port = FakePort()
    async with served(port) as url:
        await page.goto(f"{url}/#/runs")
        await expect(page.get_by_text("live", exact=True)).to_be_visible()
        await page.route("**/v1/**", lambda route: route.abort())
        await expect(page.get_by_text("no answer: trying again")).to_be_visible()
        await page.reload()
        await expect(page.get_by_role("heading", name="The engine does not answer")).to_be_visible()
        port.add("r1", "mail")
        await page.unroute("**/v1/**")
        await expect(page.get_by_text("live", exact=True)).to_be_visible()
        await expect(page.get_by_role("link", name=re.compile("mail"))).to_be_visible()


async def test_with_keys_the_page_asks_for_one_and_keeps_it_in_its_tab(visit: Visit) -> None:
    page, port = visit.page, FakePort()
    port.add("r1", "mail")
    key, grant = new_key(["read"], "looks")
    async with served(port, keys=Keyring([grant])) as url:
        await page.goto(f"{url}/#/runs")
        field = page.get_by_label("API key", exact=True)
        await field.fill("pk_wrong")
        await page.get_by_role("button", name="Go on").click()
        await expect(page.get_by_text("does not know this API key")).to_be_visible()
        await field.fill(key)
        await page.get_by_role("button", name="Go on").click()
        await expect(page.get_by_role("link", name=re.compile("mail"))).to_be_visible()
        await page.reload()
        await page.get_by_role("link", name=re.compile("mail")).click()
        # This key may look, and the page says who may do more.
        await page.get_by_role("button", name="Re-run", exact=True).click()
        await expect(page.get_by_text("this takes one that may operate")).to_be_visible()
        stored = await page.evaluate("[JSON.stringify(localStorage), document.cookie, Object.values(sessionStorage)]")
        assert stored == ["{}", "", [key]]
        other = await page.context.new_page()
        await other.goto(f"{url}/#/runs")
        await expect(other.get_by_role("heading", name="This engine asks for an API key")).to_be_visible()
    assert list(port.details) == ["r1"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_a_narrow_window_shows_it_all(browser: Browser, url: str, scheme: str) -> None:
    """Nothing stands out at the side, and what is written can be told from what is behind it."""
    context = await browser.new_context(
        viewport={"width": 390, "height": 844}, color_scheme="dark" if scheme == "dark" else "light"
    )
    page = await context.new_page()
    await page.goto(f"{url}#/functions")
    await page.get_by_role("button", name="Call label").click()
    await page.get_by_label("Arguments in order").fill('["a very long one ' + "x" * 200 + '"]')
    await page.get_by_role("button", name="Start").click()
    await expect(page.get_by_role("region", name="Selected")).to_contain_text("xxx")
    for place in (page.url, f"{url}#/", f"{url}#/runs?function=label", f"{url}#/events", f"{url}#/functions"):
        await page.goto(place)
        await expect(page.locator("[data-loaded]").first).to_be_visible()
        wide = await page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide == 0, place
        assert await page.evaluate(CONTRASTS) == [], place
    await context.close()


OVERFLOWING = """() => [...document.querySelectorAll(".numbers > li, .lags li, .waits li")]
    .filter((one) => one.scrollWidth > one.clientWidth).map((one) => one.textContent)"""
"""Boxes that do not hold what is in them."""

MUCH = {
    "since": 0, "until": 3_600_000, "bucket_ms": 300_000, "functions": [], "failing": [], "behind": 0,
    "live": {"queued": 99_999, "running": 3, "parked": 0},
    "waits": {
        "paused": {"send_invoice": 12, "a/function/with_a_name_" + "as_long_as_can_be_" * 5: 10_000},
        "delayed": 3, "held": 2,
        "queues": [
            {"queue": "gpu", "waiting": 10_000, "taken": 8, "resting": 2},
            {"queue": "<b>mail</b>", "waiting": 1, "taken": 0, "resting": 0},
        ],
    },
    "lag": {str(partition): partition * 1_000 for partition in range(60)},
}  # fmt: skip
"""An overview in which everything waits."""


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_much_that_waits_can_be_read(browser: Browser, url: str, width: int, scheme: str) -> None:
    context = await browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme="dark" if scheme == "dark" else "light"
    )
    page = await context.new_page()
    await page.route("**/v1/overview*", lambda route: route.fulfill(json=MUCH))
    await page.goto(f"{url}#/")
    rows = page.get_by_role("region", name="What waits").get_by_role("listitem")
    await expect(rows.filter(has_text="gpu")).to_contain_text("10,000 steps wait8 under way2 to be tried again")
    await expect(rows.filter(has_text="<b>mail</b>")).to_contain_text("1 step waits")
    lag = page.get_by_role("region", name="Lag by partition")
    # Those that are farthest behind, in the order of their numbers.
    await expect(lag.get_by_role("listitem")).to_have_count(48)
    await expect(lag.get_by_role("listitem").first).to_have_text("1212,000")
    await expect(lag).to_contain_text("The 48 farthest behind, of 60.")
    wide = await page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide == 0
    assert await page.evaluate(OVERFLOWING) == []
    assert await page.evaluate(CONTRASTS) == []
    await context.close()


CONTRASTS = """() => {
    const light = (text) => {
        const [r, g, b] = text.match(/[\\d.]+/g).map((one) => one / 255)
            .map((one) => (one <= 0.03928 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const behind = (one) => {
        for (; one; one = one.parentElement) {
            const color = getComputedStyle(one).backgroundColor;
            if (!color.endsWith(", 0)")) return color;
        }
        return "rgb(255, 255, 255)";
    };
    return [...document.querySelectorAll("main *, .side *")]
        .filter((one) => [...one.childNodes].some((child) => child.nodeType === 3 && child.data.trim()))
        .map((one) => {
            const [a, b] = [light(getComputedStyle(one).color), light(behind(one))].sort((x, y) => y - x);
            return [one.textContent, (a + 0.05) / (b + 0.05)];
        })
        .filter(([, contrast]) => contrast < 4.5);
}"""
