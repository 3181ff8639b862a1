"""The files of the dashboard, as they are served: each with the policy, and nothing from elsewhere."""

import re

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount, Route

from perdure_connectors import dashboard
from perdure_connectors.dashboard.pages import POLICY
from perdure_connectors.http import gateway
from tests.http.fake_port import FakePort

PATHS = [route.path for route in dashboard.routes()]


def client(root: str = "") -> httpx.AsyncClient:
    app = gateway(FakePort(), "shop")
    inner = Starlette(routes=[Mount(root, app)]) if root else app
    return httpx.AsyncClient(transport=httpx.ASGITransport(inner), base_url=f"http://localhost{root}/")


@pytest.mark.parametrize("path", PATHS)
async def test_every_file_has_the_policy(path: str) -> None:
    async with client() as asking:
        answer = await asking.get(path)
        again = await asking.get(path, headers={"if-none-match": answer.headers["etag"]})
    assert answer.status_code == 200
    assert again.status_code == 304
    for one in (answer, again):
        assert one.headers["content-security-policy"] == POLICY
        assert one.headers["x-content-type-options"] == "nosniff"
        assert one.headers["x-frame-options"] == "DENY"


def test_the_policy_allows_no_more_than_own_files() -> None:
    parts = {name: allowed for name, _, allowed in (part.partition(" ") for part in POLICY.split("; "))}
    assert parts["default-src"] == "'none'"
    assert {parts[name] for name in ("script-src", "style-src", "connect-src")} == {"'self'"}
    assert {parts[name] for name in ("base-uri", "form-action", "frame-ancestors")} == {"'none'"}
    assert "unsafe" not in POLICY


@pytest.mark.parametrize("path", PATHS)
async def test_files_name_nothing_outside_and_make_no_markup_of_strings(path: str) -> None:
    async with client() as asking:
        text = (await asking.get(path)).text.replace("http://www.w3.org/2000/svg", "")
    own = text.replace('here.origin === "http://127.0.0.1:8288"', "")
    assert not re.search(r"https?://|(?<!:)//\w[\w.]+/", own)
    assert not re.search(r"(inner|outer)HTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text)
    assert not re.search(r"<style| style=", text)
    # One script and one style, both of their own files.
    assert re.findall(r"<script(?! type=\"module\" src=\"dashboard/main.js\"></script>)", text) == []


async def test_it_is_at_the_root_of_any_path() -> None:
    async with client("/jobs") as asking:
        page = await asking.get("")
        for found in re.findall(r'(?:src|href)="(dashboard/[^"]+)"', page.text):
            assert (await asking.get(found)).status_code == 200
        assert (await asking.get("v1")).json()["app"] == "shop"


@pytest.mark.parametrize("path", ["pages.py", "../pages.py", "", "index.html", "%2e%2e/pages.py"])
async def test_other_files_are_not_there(path: str) -> None:
    async with client() as asking:
        assert (await asking.get(f"/dashboard/{path}")).status_code == 404


async def test_pages_take_no_changes() -> None:
    async with client() as asking:
        assert [(await asking.post(path)).status_code for path in PATHS] == [405] * len(PATHS)


def test_each_route_is_of_the_dashboard() -> None:
    assert all(isinstance(route, Route) for route in dashboard.routes())
    assert PATHS[0] == "/"
