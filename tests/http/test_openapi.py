"""The OpenAPI says what the routes do: it is made of the same table, and other tests hold their answers against it."""

from collections.abc import Iterator

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount, Route

from perdure import errors
from perdure.history.store import HistoryDown, NoHistory
from perdure_connectors.http import gateway
from perdure_connectors.http.app import OPERATIONS
from perdure_connectors.http.openapi import refusals_of
from perdure_connectors.http.problems import status_of
from perdure_connectors.http.webhooks import OPERATION as WEBHOOK
from tests.http.contract import DOCUMENT, PAGES, check_answer, jsonschema
from tests.http.fake_port import FakePort
from tests.http.serving import client_of

ALL = [*OPERATIONS, WEBHOOK]
PLAIN = {"HttpError": {400, 403, 404, 405, 414, 415, 431}, "SignatureRefused": {401}}
"""Names that stand for no class of errors.py, and what they come with."""


def told(path: str) -> dict[str, dict[str, object]]:
    found: dict[str, dict[str, object]] = DOCUMENT["paths"][path.replace(":path", "")]
    return found


def test_each_route_and_method_is_told(port: FakePort) -> None:
    routes = [route for route in gateway(port, "shop").routes if isinstance(route, Route) and route.path not in PAGES]
    served = {(route.path, method) for route in routes for method in route.methods or () if method != "HEAD"}
    assert served | {("/w/{source}", "POST")} == {(one.path, one.method) for one in ALL}
    described = {(path, method.upper()) for path, methods in DOCUMENT["paths"].items() for method in methods}
    assert described == {(path.replace(":path", ""), method) for path, method in served | {("/w/{source}", "POST")}}


KINDS = {**vars(errors), "HistoryDown": HistoryDown, "NoHistory": NoHistory}


@pytest.mark.parametrize("one", ALL, ids=lambda one: f"{one.method} {one.path}")
def test_each_status_and_problem_is_told(one: object) -> None:
    (operation,) = [operation for operation in ALL if operation is one]
    found = told(operation.path)[operation.method.lower()]["responses"]
    assert isinstance(found, dict)
    expected = refusals_of(operation)
    assert {int(status) for status in found} == {500, *expected, *operation.answers}
    for status, names in expected.items():
        schema = found[str(status)]["content"]["application/problem+json"]["schema"]
        assert schema["properties"]["type"]["enum"] == [f"urn:perdure:error:{name}" for name in names]
        for name in names:
            assert status in (PLAIN.get(name) or {status_of(KINDS[name])}), f"{name} is not a {status}"
    assert ("401" in found and "403" in found) or operation.scope is None
    assert found["500"]


def _references(node: object) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield from [value] if key == "$ref" else _references(value)
    elif isinstance(node, list):
        for item in node:
            yield from _references(item)


def test_it_is_whole() -> None:
    assert {ref.removeprefix("#/components/schemas/") for ref in _references(DOCUMENT)} == set(
        DOCUMENT["components"]["schemas"]
    )
    for schema in DOCUMENT["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)
    ids = [one["operationId"] for methods in DOCUMENT["paths"].values() for one in methods.values()]
    assert len(ids) == len(set(ids)) == len(ALL)
    assert all(one["summary"] for methods in DOCUMENT["paths"].values() for one in methods.values())


async def test_it_is_served_to_anybody_under_any_path(port: FakePort) -> None:
    async with client_of(port) as client:
        assert (await client.get("/openapi.json")).json() == DOCUMENT
    transport = httpx.ASGITransport(Starlette(routes=[Mount("/jobs", gateway(port, "shop"))]))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost/jobs") as client:
        assert (await client.get("/openapi.json")).json()["servers"] == [{"url": "/jobs"}]


@pytest.mark.parametrize(
    ("status", "content"),
    [
        (200, {"data": []}),
        (200, {"data": [{"id": 1}], "cursor": ""}),
        (201, {"data": [], "cursor": ""}),
        (400, {"type": "x", "title": "x", "status": 400, "detail": "x", "error": "x"}),
    ],
)
def test_an_answer_that_does_not_fit_is_noticed(status: int, content: object) -> None:
    media = "application/json" if status < 400 else "application/problem+json"
    request = httpx.Request("GET", "http://localhost/v1/runs")
    answer = httpx.Response(status, json=content, headers={"content-type": media}, request=request)
    with pytest.raises((AssertionError, jsonschema.ValidationError)):
        check_answer(answer)
