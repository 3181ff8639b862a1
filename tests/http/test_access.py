"""Without keys, only this machine may ask, and no web page of another origin."""

import pytest

from tests.http.fake_port import FakePort
from tests.http.serving import client_of


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8288", "localhost", "LOCALHOST:1", "shop.localhost:8288", "[::1]:8288", "127.1.2.3"]
)
async def test_loopback_hosts_may_ask(port: FakePort, host: str) -> None:
    async with client_of(port, host=host) as client:
        assert (await client.get("/livez")).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "0.0.0.0:8288",
        "10.0.0.1",
        "2130706433",
        "[::]",
    ],
)
async def test_other_hosts_may_not(port: FakePort, host: str) -> None:
    async with client_of(port) as client:
        answer = await client.post("/e/key", content=b'{"name":"a"}', headers={"host": host})
    assert answer.status_code == 403
    assert "http://localhost" in answer.json()["detail"]
    assert port.events == []


@pytest.mark.parametrize("peer", ["10.0.0.7", "::ffff:10.0.0.7", "2001:db8::1"])
async def test_other_machines_may_not_though_they_say_localhost(port: FakePort, peer: str) -> None:
    async with client_of(port, peer=peer) as client:
        assert (await client.get("/v1/runs")).status_code == 403


@pytest.mark.parametrize("peer", ["127.0.0.1", "::1", "::ffff:127.0.0.1"])
async def test_this_machine_may(port: FakePort, peer: str) -> None:
    async with client_of(port, peer=peer) as client:
        assert (await client.get("/v1/runs")).status_code == 200


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "null",
        "http://localhost:3000",
        "http://127.0.0.1",
        "file://",
        "http://127.0.0.1:8288.evil.example",
    ],
)
async def test_pages_of_other_origins_may_not(port: FakePort, origin: str) -> None:
    async with client_of(port) as client:
        answer = await client.post("/e/key", content=b'{"name":"a"}', headers={"origin": origin})
    assert answer.status_code == 403
    assert port.events == []


async def test_a_page_of_our_own_may(port: FakePort) -> None:
    async with client_of(port) as client:
        answer = await client.post("/e/key", content=b'{"name":"a"}', headers={"origin": "http://127.0.0.1:8288"})
    assert answer.status_code == 200
