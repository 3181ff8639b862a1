"""With keys: every operation takes one of its scope, and nothing shows what a key is."""

import json
import logging

import httpx
import pytest
from starlette.routing import Route

from perdure.sdk.keys import SCOPES, Keyring, Scope, new_key
from perdure_connectors.http import gateway, health_checks
from perdure_connectors.http.app import OPERATIONS
from perdure_connectors.http.routing import Operation
from tests.http.contract import PAGES
from tests.http.fake_port import FakePort
from tests.http.serving import client_of

KEYS = {scope: new_key([scope], f"may-{scope}") for scope in SCOPES}
KEYRING = Keyring([grant for _, grant in KEYS.values()])


def bearer(scope: Scope) -> dict[str, str]:
    return {"authorization": f"Bearer {KEYS[scope][0]}"}


def path_of(template: str) -> str:
    names = {"{event_id:path}": "e1", "{run_id}": "r1", "{function_id:path}": "mail", "{key}": "perdure"}
    for name, value in names.items():
        template = template.replace(name, value)
    return template


@pytest.fixture
def port(port: FakePort) -> FakePort:
    port.add("r1", event_id="e1")
    return port


BODIES = {
    "/e/{key}": b'{"name":"a"}',
    "/v1/cancellations": b'{"function":"order"}',
    "/v1/runs/{run_id}/fork": b'{"at":"pay"}',
    "/v1/forks": b'{"function":"order","key":"k","of":"r1","seed":"r1","began":0,"total":0,"lines":[]}',
}


@pytest.mark.parametrize("one", OPERATIONS, ids=lambda one: f"{one.method} {one.path}")
async def test_each_operation_takes_its_scope_alone(port: FakePort, one: Operation) -> None:
    body = BODIES.get(one.path, b"{}")
    async with client_of(port, host="shop.example", peer="10.0.0.7", keys=KEYRING) as client:

        async def ask(headers: dict[str, str]) -> httpx.Response:
            path = path_of(one.path) + ("?timeout=0s" if one.path.endswith("/result") else "")
            return await client.request(
                one.method, path, content=None if one.method == "GET" else body, headers=headers
            )

        without = await ask({})
        by_scope = {scope: await ask(bearer(scope)) for scope in SCOPES}
    if one.scope is None:
        assert {without.status_code, *(answer.status_code for answer in by_scope.values())} == {200}
        return
    assert (without.status_code, without.json()["type"]) == (401, "urn:perdure:error:KeyRefused")
    assert without.headers["www-authenticate"] == 'Bearer realm="perdure"'
    assert without.headers["content-type"] == "application/problem+json"
    for scope, answer in by_scope.items():
        if scope == one.scope:
            # What is asked of history is let through, and this engine has none; nor has it a tape of a run.
            let_through = answer.status_code < 300 or answer.json()["type"].endswith(
                ("NotParked", "KeepsNothing", "LogCorrupt")
            )
            assert let_through, answer.text
        else:
            assert (answer.status_code, answer.json()["type"]) == (403, "urn:perdure:error:ScopeMissing")
            assert f"`perdure keys new --scope {one.scope}`" in answer.json()["detail"]


async def test_every_route_says_who_may_ask(port: FakePort) -> None:
    """One that was not made of an operation would ask for no key."""
    made = {operation.path for operation in OPERATIONS} | PAGES
    for route in gateway(port, "shop", keys=KEYRING).routes:
        assert isinstance(route, Route)
        assert route.path in made


async def test_events_come_with_the_key_in_the_path(port: FakePort) -> None:
    async with client_of(port, host="shop.example", keys=KEYRING) as client:
        taken = await client.post(f"/e/{KEYS['send'][0]}", content=b'{"name":"a"}')
        wrong = await client.post(f"/e/{KEYS['read'][0]}", content=b'{"name":"a"}')
        unknown = await client.post("/e/perdure_nope", content=b'{"name":"a"}')
    assert (taken.status_code, wrong.status_code, unknown.status_code) == (200, 403, 401)
    assert len(port.events) == 1


async def test_keys_are_rotated(port: FakePort) -> None:
    old, old_grant = new_key(["read"], "web")
    new, new_grant = new_key(["read"], "web")
    both = Keyring.parse(f"{old_grant.line()}\n{new_grant.line()}\n")

    async def asks(keyring: Keyring, key: str) -> int:
        async with client_of(port, keys=keyring) as client:
            return (await client.get("/v1/runs", headers={"authorization": f"bearer {key}"})).status_code

    assert [await asks(both, old), await asks(both, new)] == [200, 200]
    after = Keyring.parse(new_grant.line())
    assert [await asks(after, old), await asks(after, new)] == [401, 200]


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("Basic cGVyZHVyZTpwZXJkdXJl", "Authorization: Bearer KEY"),
        ("Bearer", "Authorization: Bearer KEY"),
        ("Bearer  ", "Authorization: Bearer KEY"),
        ("Bearer perdure_nope", "does not know this API key"),
        ("", "Authorization: Bearer KEY"),
    ],
)
async def test_headers_that_bring_no_key(port: FakePort, header: str, words: str) -> None:
    async with client_of(port, keys=KEYRING) as client:
        answer = await client.get("/v1/runs", headers={"authorization": header})
    assert answer.status_code == 401
    assert words in answer.json()["detail"]


async def test_two_keys_are_none(port: FakePort) -> None:
    headers = [("authorization", f"Bearer {KEYS[scope][0]}") for scope in SCOPES]
    async with client_of(port, keys=KEYRING) as client:
        answer = await client.get("/v1/runs", headers=headers)
    assert answer.status_code == 401


async def test_pages_of_other_origins_may_not_even_with_a_key(port: FakePort) -> None:
    async with client_of(port, host="shop.example", keys=KEYRING) as client:
        foreign = await client.delete("/v1/runs/r1", headers={**bearer("operate"), "origin": "https://evil.example"})
        own = await client.delete("/v1/runs/r1", headers={**bearer("operate"), "origin": "https://shop.example"})
    assert (foreign.status_code, own.status_code) == (403, 202)
    assert len(port.cancelled) == 1


async def test_health_checks_want_a_key_for_metrics_alone(port: FakePort) -> None:
    transport = httpx.ASGITransport(health_checks(port, "shop", KEYRING), client=("10.0.0.7", 5))
    async with httpx.AsyncClient(transport=transport, base_url="http://10.0.0.1:8289") as client:
        assert (await client.get("/livez")).status_code == 200
        assert (await client.get("/readyz")).status_code == 200
        assert (await client.get("/metrics")).status_code == 401
        assert (await client.get("/metrics", headers=bearer("read"))).status_code == 200


@pytest.mark.parametrize("fail", [None, ZeroDivisionError("x"), NotImplementedError("x")])
async def test_a_key_is_never_shown(port: FakePort, fail: Exception | None, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)  # httpx, the client here, logs what it asks for itself.
    port.fail = fail
    key = KEYS["send"][0]
    shown = ""
    async with client_of(port, keys=KEYRING) as client:
        for method, path in [
            ("POST", f"/e/{key}"),
            ("GET", f"/e/{key}"),
            ("POST", f"//e/{key}"),
            ("POST", f"/e/{key}/more"),
            ("DELETE", f"/e/{key}"),
        ]:
            for headers in ({}, bearer("send"), bearer("read")):
                answer = await client.request(method, path, headers=headers, content=b'{"name":"a"}')
                shown += json.dumps(dict(answer.headers)) + answer.text
    ours = "".join(record.getMessage() for record in caplog.records if not record.name.startswith("http"))
    assert all(one not in shown + ours for one, _ in KEYS.values())


@pytest.mark.parametrize("keys", [None, KEYRING], ids=["without keys", "with keys"])
@pytest.mark.parametrize(
    ("headers", "path", "status"),
    [
        ({b"x-name": "Zoë".encode()}, "/v1/runs", 400),
        ({b"x-name": "Zoë".encode("latin-1")}, "/v1/runs", 400),
        ({b"authorization": b"Bearer \xff\xfe"}, "/v1/runs", 400),
        ({b"origin": b"http://\xc3\xa9"}, "/v1/runs", 400),
        ({b"x-name": b"x" * 40_000}, "/v1/runs", 431),
        ({b"x-%d" % n: b"x" for n in range(101)}, "/v1/runs", 431),
        ({}, "/v1/runs/" + "x" * 9_000, 414),
        ({}, "/v1/runs?cursor=" + "x" * 9_000, 414),
    ],
)
async def test_heads_that_are_not_plain(
    port: FakePort, keys: Keyring | None, headers: dict[bytes, bytes], path: str, status: int
) -> None:
    async with client_of(port, keys=keys) as client:
        answer = await client.get(path, headers=list(headers.items()))
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
