"""`POST /w/{source}`: what is signed becomes an event once, and nothing else does."""

import asyncio
import gzip
import json
import time
from collections.abc import Mapping
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from perdure import App, Context, Engine, Event
from perdure.errors import DefinitionError, LogError
from perdure.sdk.json_guard import EVENT_LIMIT_BYTES
from perdure.sdk.port import Port
from perdure_connectors.http import gateway
from perdure_connectors.webhook import Source, github, standard, stripe
from perdure_connectors.webhook.source import sources_from
from tests.http.fake_port import FakePort

SECRET = b"a secret that nobody guesses"
SOURCES = [
    Source("github", "github", [b"the new one, not used yet", SECRET]),
    Source("pay", "stripe", [SECRET], event="payment"),
    Source("crm", "standard", [SECRET], event={"contact.created": "crm/new", "*": "crm/other"}),
    Source("some", "github", [SECRET], event={"push": "repo/pushed"}),
]
BODY = json.dumps({"id": "evt_1", "type": "invoice.paid", "n": [1, 2]}, indent=1).encode()

LATER = b'{"id": "evt_2", "type": "invoice.paid"}'


def signed(source: str, body: bytes = BODY, *, id: str = "d1", type: str = "push", age: int = 0) -> dict[str, str]:
    """Headers as that sender makes them."""
    now = int(time.time()) - age
    if source == "pay":
        return {"stripe-signature": stripe.sign(now, body, [SECRET])}
    if source == "crm":
        return standard.sign(id, now, body, [SECRET])
    return {"x-hub-signature-256": github.sign(body, SECRET), "x-github-delivery": id, "x-github-event": type}


def client_of(port: Port, *, peer: str = "203.0.113.7", root: str = "") -> httpx.AsyncClient:
    """From another machine, by the public name of a proxy."""
    app = Starlette(routes=[Mount(root, gateway(port, "shop", webhooks=SOURCES))])
    transport = httpx.ASGITransport(app, client=(peer, 50_000), raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url=f"https://hooks.example{root}")


async def post(
    port: Port, source: str, body: bytes = BODY, headers: Mapping[str, str] | None = None
) -> tuple[int, dict[str, Any]]:
    async with client_of(port) as client:
        given = signed(source, body) if headers is None else headers
        answer = await client.post(f"/w/{source}", content=body, headers=given)
    return answer.status_code, answer.json()


@pytest.mark.parametrize(
    ("source", "id", "name"),
    [("github", "github:d1", "github/push"), ("pay", "pay:evt_1", "payment"), ("crm", "crm:d1", "crm/other")],
)
async def test_a_delivery_is_an_event(port: FakePort, source: str, id: str, name: str) -> None:
    assert await post(port, source) == (200, {"ids": [id], "status": 200})
    (event,) = port.events
    assert (event.id, event.name, json.loads(bytes(event.data))) == (id, name, json.loads(BODY))
    assert b"\n" not in bytes(event.data)


async def test_types_have_names_or_are_dropped(port: FakePort) -> None:
    body = b'{"type": "contact.created"}'
    assert (await post(port, "crm", body))[0] == 200
    assert await post(port, "some", BODY, signed("some", type="ping")) == (200, {"ids": [], "status": 200})
    assert (await post(port, "some"))[1]["ids"] == ["some:d1"]
    assert [event.name for event in port.events] == ["crm/new", "repo/pushed"]


async def test_a_replay_is_the_same_event(log_url: str) -> None:
    """Also when it is signed anew, as senders do when they try again."""
    app = App("hooks")
    ran: list[str] = []

    @app.function(on="payment")
    async def paid(ctx: Context, event: Event[Any]) -> None:
        ran.append(event.id)

    async with Engine(app, log=log_url, partitions=2) as engine:
        for age in (0, 100, 200):
            assert (await post(engine.port, "pay", BODY, signed("pay", age=age)))[0] == 200
        assert (await post(engine.port, "pay", LATER))[0] == 200
        for id in ("pay:evt_1", "pay:evt_2"):
            # On Kafka events are taken in after they were acknowledged.
            while not (runs := await engine.runs(paid, event_id=id)):
                await asyncio.sleep(0.05)
            (run,) = runs
            await run.result()
    assert sorted(ran) == ["pay:evt_1", "pay:evt_2"]


@pytest.mark.parametrize("source", ["github", "pay", "crm"])
async def test_what_is_not_signed_is_refused(port: FakePort, source: str) -> None:
    good = signed(source)
    names = {"github": "x-hub-signature-256", "pay": "stripe-signature", "crm": "webhook-signature"}
    name = names[source]
    bad: list[dict[str, str]] = [{}, good | {name: ""}, good | {name: good[name][:-4] + "0000"}, good | {name: "v1,"}]
    for headers in bad:
        status, answer = await post(port, source, BODY, headers)
        assert (status, answer["type"].rpartition(":")[2].rpartition("/")[2]) == (401, "SignatureRefused")
    assert (await post(port, source, json.dumps(json.loads(BODY)).encode(), good))[0] == 401
    assert port.events == []


@pytest.mark.parametrize("source", ["pay", "crm"])
@pytest.mark.parametrize("age", [300, -310])
async def test_stale_ones_are_refused(port: FakePort, source: str, age: int) -> None:
    status, answer = await post(port, source, BODY, signed(source, age=age))
    assert (status, port.events) == (401, [])
    assert "5 minutes" in answer["detail"]


async def test_headers_that_are_not_ascii_or_come_twice(port: FakePort) -> None:
    good = signed("github")
    async with client_of(port) as client:
        for name in good:
            odd = [(key.encode(), value.encode()) for key, value in good.items() if key != name]
            for values in ([b"sha256=\xe9\xff"], ["é".encode()], [good[name].encode()] * 2):
                headers = [*odd, *((name.encode(), value) for value in values)]
                answer = await client.post("/w/github", content=BODY, headers=headers)
                assert answer.status_code == 401
                assert answer.headers["content-type"] == "application/problem+json"
                assert answer.headers["www-authenticate"] == "Signature"
    assert port.events == []


async def test_bodies_that_are_signed_and_no_good(port: FakePort) -> None:
    for body in (b"", b"{", b"[]", b"5", b"payload=%7B%7D", b'{"a":1,"a":2}', b"{" * 100):
        assert (await post(port, "github", body))[0] == 400
    assert (await post(port, "github", BODY, signed("github", id="")))[0] == 400
    assert (await post(port, "github", BODY, signed("github", type="")))[0] == 400
    assert (await post(port, "github", BODY, signed("github", id="d" * 300)))[0] == 400
    assert (await post(port, "pay", b'{"type": "no id"}'))[0] == 400
    assert (await post(port, "pay", b'{"id": 5}'))[0] == 400
    assert port.events == []


async def test_large_and_packed_ones_are_refused_before_they_are_looked_at(port: FakePort) -> None:
    body = b'{"a": "' + b"x" * EVENT_LIMIT_BYTES + b'"}'
    assert (await post(port, "github", body, {}))[0] == 413
    assert (await post(port, "github", gzip.compress(BODY), signed("github") | {"content-encoding": "gzip"}))[0] == 415


async def test_acknowledged_only_when_it_is_durable(port: FakePort) -> None:
    port.fail = LogError("the brokers do not answer")
    async with client_of(port) as client:
        answer = await client.post("/w/github", content=BODY, headers=signed("github"))
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


async def test_sources_and_methods_that_are_not_there(port: FakePort) -> None:
    async with client_of(port, peer="127.0.0.1") as client:
        assert (await client.post("/w/gitlab", content=BODY)).status_code == 404
        assert (await client.post("/w/", content=BODY)).status_code == 404
        assert (await client.get("/w/github")).headers["allow"] == "POST"


async def test_the_rest_is_still_for_this_machine_alone(port: FakePort) -> None:
    """Nor does a path that begins alike let anybody in."""
    async with client_of(port) as client:
        for path in ("/", "/v1/runs", "/w", "/webhooks", "/w%2Fgithub/../../v1/runs", "//w/github"):
            assert (await client.get(path)).status_code in (403, 404, 405)
        assert (await client.post("/e/key", content=b'{"name": "a"}')).status_code == 403
    assert port.events == []


async def test_below_a_path_of_its_own(port: FakePort) -> None:
    async with client_of(port, root="/perdure") as client:
        answer = await client.post("/w/github", content=BODY, headers=signed("github"))
        assert answer.status_code == 200
        assert (await client.get("/v1/runs")).status_code == 403


def test_sources_of_a_settings_file() -> None:
    table = {"github": {}, "our-crm": {"kind": "standard", "event": {"a": "crm/a"}}}
    secrets = {"github": "old\nnew\n", "our-crm": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}
    hub, crm = sources_from(table, secrets.__getitem__)
    assert (hub.kind, hub.secrets, hub.event) == ("github", [b"old", b"new"], "")
    assert (crm.kind, len(crm.secrets[0]), crm.event) == ("standard", 24, {"a": "crm/a"})


@pytest.mark.parametrize(
    ("table", "secret", "words"),
    [
        ([], "s", "a table for each source"),
        ({"x": 1}, "s", "a table is needed"),
        ({"x": {}}, "s", "kind 'x' is none of github"),
        ({"x": {"kind": "github"}}, " ", "PERDURE_WEBHOOKS_X_SECRET"),
        ({"x": {"kind": "github", "secret": "s"}}, "s", "by the environment"),
        ({"x": {"kind": "github", "events": "a"}}, "s", "there is no 'events'"),
        ({"x": {"kind": "github", "event": 5}}, "s", "event is a name"),
        ({"x": {"kind": "github", "event": {"a": 5}}}, "s", "event is a name"),
        ({"x": {"kind": "github", "event": "perdure/function.failed"}}, "s", "the engine's own"),
        ({"x": {"kind": "standard"}}, "plain", "whsec_"),
        ({"a/b": {"kind": "github"}}, "s", "stands in the URL"),
        ({"perdure": {"kind": "github"}}, "s", "stands in the URL"),
    ],
)
def test_settings_that_cannot_be_right(table: object, secret: str, words: str) -> None:
    with pytest.raises(DefinitionError, match=words):
        sources_from(table, lambda _: secret)
