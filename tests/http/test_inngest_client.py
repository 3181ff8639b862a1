"""Inngest's own Python client, pointed at our port."""

import asyncio
import http.server
import threading
from collections.abc import Iterator

import inngest
import pytest
from inngest._internal.errors import SendEventsError

from tests.http.fake_port import FakePort
from tests.http.serving import served


@pytest.fixture(autouse=True)
def dev(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("INNGEST_EVENT_KEY", "INNGEST_BASE_URL", "INNGEST_EVENT_API_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("INNGEST_DEV", "1")


async def test_it_sends_one_event_and_many(port: FakePort) -> None:
    async with served(port) as url:
        client = inngest.Inngest(app_id="shop", event_api_base_url=url)
        ids = await client.send(inngest.Event(name="cart/added", data={"cart_id": "c1"}))
        more = await client.send(
            [inngest.Event(name="cart/added", id="mine", data={"n": n}, ts=1_700_000_000_000) for n in range(2)]
        )
        await client._http_client._http_client.aclose()
        client._http_client._http_client_sync.close()
    assert ids == [port.events[0].id]
    assert bytes(port.events[0].data) == b'{"cart_id":"c1"}'
    assert more == ["mine", "mine"]
    assert port.events[1].ts == 1_700_000_000_000


async def test_it_sends_from_threads_and_finds_us_by_its_environment(
    port: FakePort, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served(port) as url:
        monkeypatch.setenv("INNGEST_DEV", url)
        client = inngest.Inngest(app_id="shop")
        ids = await asyncio.to_thread(client.send_sync, inngest.Event(name="cart/added"))
        client._http_client._http_client_sync.close()
    assert ids == [port.events[0].id]


async def test_it_raises_for_what_was_refused_and_knows_what_was_taken(port: FakePort) -> None:
    async with served(port) as url:
        client = inngest.Inngest(app_id="shop", event_api_base_url=url)
        with pytest.raises(SendEventsError) as caught:
            await client.send([inngest.Event(name="a", id="1"), inngest.Event(name="perdure/mine")])
        with pytest.raises(SendEventsError, match="the engine's own"):
            await client.send(inngest.Event(name="perdure/mine"))
        await client._http_client._http_client.aclose()
        client._http_client._http_client_sync.close()
    assert caught.value.ids == ["1"]
    assert [event.id for event in port.events] == ["1"]


class Cutter(http.server.BaseHTTPRequestHandler):
    """Passes the first request on and loses the answer, as a crash between fsync and answer does."""

    target = ""
    cut = 1

    def do_POST(self) -> None:
        import urllib.request

        body = self.rfile.read(int(self.headers["content-length"]))
        seed = self.headers["x-inngest-event-id-seed"]
        request = urllib.request.Request(self.target + self.path, body, {"x-inngest-event-id-seed": seed})
        with urllib.request.urlopen(request) as answer:
            content = answer.read()
        if Cutter.cut:
            Cutter.cut -= 1
            self.close_connection = True
            return
        self.send_response(200)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def cutter() -> Iterator[str]:
    Cutter.cut = 1
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Cutter) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


async def test_its_retries_make_no_second_event(port: FakePort, cutter: str) -> None:
    async with served(port) as url:
        Cutter.target = url
        client = inngest.Inngest(app_id="shop", event_api_base_url=cutter)
        ids = await client.send([inngest.Event(name="a"), inngest.Event(name="b")])
        await client._http_client._http_client.aclose()
        client._http_client._http_client_sync.close()
    assert [event.id for event in port.events] == [*ids, *ids]
    assert len(set(ids)) == 2
