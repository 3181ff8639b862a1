"""One browser and one engine for all tests of the dashboard that run in this process.

Playwright's blocking API would hold the thread's loop, and every other test's with it: these use the other one, in a
loop that lives as long as the browser (`pytestmark` of each module).
"""

import shutil
from collections.abc import AsyncGenerator, Iterator
from os import geteuid
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, async_playwright, expect

from tests.system.engine_process import EngineProcess

PATIENCE_MS = 60_000
SHOP = Path(__file__).parent / "shop.py"
expect.set_options(timeout=PATIENCE_MS)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncGenerator[Browser]:
    """The system's chromium: playwright's own comes from a host that not everybody reaches."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("the dashboard's tests need chromium: apt install chromium (macOS: brew install chromium)")
    async with async_playwright() as playwright:
        # Its sandbox refuses to work for root.
        args = ["--no-sandbox"] if geteuid() == 0 else []
        browser = await playwright.chromium.launch(executable_path=path, args=args)
        yield browser
        await browser.close()


class Visit:
    """A page, with all that went wrong in it: dialogs of the browser, errors, breaches of the policy."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.wrong: list[str] = []
        page.on("pageerror", lambda error: self.wrong.append(f"error: {error}"))
        page.on("console", lambda said: self._heard(said.type, said.text))
        page.on("popup", lambda popup: self.wrong.append(f"popup: {popup.url}"))
        page.on("dialog", lambda dialog: self.wrong.append(f"dialog: {dialog.message}"))

    def _heard(self, kind: str, text: str) -> None:
        # The browser notes every refusal of the API as an error; pages show those themselves.
        if kind in ("error", "warning") and not text.startswith("Failed to load resource"):
            self.wrong.append(f"{kind}: {text}")


@pytest_asyncio.fixture(loop_scope="session")
async def visit(browser: Browser) -> AsyncGenerator[Visit]:
    context = await browser.new_context(viewport={"width": 1280, "height": 800}, locale="en-GB")
    context.set_default_timeout(PATIENCE_MS)
    visit = Visit(await context.new_page())
    yield visit
    await context.close()
    assert visit.wrong == []


@pytest.fixture
def page(visit: Visit) -> Page:
    """Nothing may have gone wrong in it when the test is over."""
    return visit.page


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    """`perdure serve` with the shop."""
    folder = tmp_path_factory.mktemp("dashboard")
    shutil.copy(SHOP, folder)
    engine = EngineProcess(folder, "serve", "shop:app", "--log", "log")
    engine.start()
    yield engine
    engine.end()


@pytest.fixture
def url(engine: EngineProcess) -> str:
    return f"http://127.0.0.1:{engine.port}/"
