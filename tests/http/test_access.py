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


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
async def test_changes_from_other_sites_are_refused_also_without_their_origin(port: FakePort, site: str) -> None:
    port.add("r1")
    headers = {"sec-fetch-site": site}
    async with client_of(port) as client:
        refused = [
            await client.post("/e/key", content=b'{"name":"a"}', headers=headers),
            await client.post("/v1/runs/r1/rerun", headers=headers),
            await client.delete("/v1/runs/r1", headers=headers),
            await client.post("/v1/functions/mail/runs", content=b"{}", headers=headers),
        ]
        # A link to a run, in a mail or in Slack.
        followed = await client.get("/", headers=headers | {"sec-fetch-mode": "navigate"})
    assert {answer.status_code for answer in refused} == {403}
    assert (port.events, port.cancelled, port.enqueued, list(port.details)) == ([], [], [], ["r1"])
    assert followed.status_code == 200


@pytest.mark.parametrize("site", ["same-origin", "none"])
async def test_changes_from_our_own_pages_and_by_hand_are_taken(port: FakePort, site: str) -> None:
    async with client_of(port) as client:
        answer = await client.post("/e/key", content=b'{"name":"a"}', headers={"sec-fetch-site": site})
    assert answer.status_code == 200


async def test_a_page_of_our_own_may(port: FakePort) -> None:
    async with client_of(port) as client:
        answer = await client.post("/e/key", content=b'{"name":"a"}', headers={"origin": "http://127.0.0.1:8288"})
    assert answer.status_code == 200
