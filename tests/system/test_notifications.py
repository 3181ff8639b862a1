"""A message for what failed: across SIGKILLs of the engine, and in a storm, to a receiver on loopback."""

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.system.engine_process import EngineProcess, wait_until

APP = """
from perdure import App, Context, Event

app = App("shop")


@app.function(on="order", retries=0)
async def fulfil(ctx: Context, event: Event) -> None:
    raise ValueError("<!channel> no such order")
"""
NUMBER = re.compile(r"failed ([\d,]+) times")
STORM = 1_000


class Slack:
    """Keeps what is posted. `on_post` is called before it answers."""

    def __init__(self) -> None:
        self.got: list[tuple[str, str]] = []
        self.on_post: Callable[[], None] = lambda: None
        self.url = ""

    @property
    def counted(self) -> int:
        found = [NUMBER.search(text) for _, text in self.got]
        return sum(int(one[1].replace(",", "")) if one else 1 for one in found)


@contextmanager
def slack_on_loopback() -> Iterator[Slack]:
    slack = Slack()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            slack.got.append((self.headers["idempotency-key"], body["text"]))
            slack.on_post()
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            """The client was killed meanwhile."""

    server = Server(("127.0.0.1", 0), Handler)
    slack.url = f"http://127.0.0.1:{server.server_address[1]}/services/T/B/x"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield slack
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def slack(tmp_path: Path) -> Iterator[Slack]:
    with slack_on_loopback() as slack:
        (tmp_path / "shop.py").write_text(APP)
        (tmp_path / "url").write_text(slack.url)
        (tmp_path / "perdure.toml").write_text('[notify]\non = ["failed"]\n[notify.slack]\n')
        yield slack


@pytest.fixture
def engine(tmp_path: Path, slack: Slack, monkeypatch: pytest.MonkeyPatch) -> Iterator[EngineProcess]:
    monkeypatch.setattr("tests.system.engine_process.environment", _with(tmp_path / "url"))
    engine = EngineProcess(tmp_path, "serve", "shop:app", "--log", "log")
    try:
        engine.start()
        yield engine
    finally:
        engine.end()


def _with(url_file: Path) -> Callable[[], dict[str, str]]:
    from tests.system.engine_process import environment

    clean = environment()
    return lambda: clean | {"PERDURE_NOTIFY_SLACK_URL_FILE": str(url_file)}


def fail(engine: EngineProcess, number: int = 1) -> None:
    events = [{"name": "order", "data": {}, "id": f"e{n}"} for n in range(number)]
    assert len(engine.ask("/e/key", events)["ids"]) == number
    wait_until(lambda: _last(engine, number) == "failed", "to fail", engine)


def _last(engine: EngineProcess, number: int) -> str:
    runs = engine.ask(f"/v1/events/e{number - 1}/runs").get("data", [])
    return runs[0]["status"] if runs else ""


def told(engine: EngineProcess) -> bool:
    """Whether every message that is on its way is known to have arrived."""
    tellers = engine.ask("/v1/runs?function=perdure/tell")["data"]
    notices = engine.ask("/v1/runs?function=perdure/notice&limit=500")["data"]
    posts = [
        op["status"]
        for run in tellers
        for op in engine.ask(f"/v1/runs/{run['id']}")["ops"]
        if op["name"] == "post to slack"
    ]
    return bool(posts) and set(posts) == {"completed"} and {run["status"] for run in notices} == {"cancelled"}


def test_a_kill_before_the_post_loses_nothing(engine: EngineProcess, slack: Slack) -> None:
    fail(engine)
    engine.kill()
    assert slack.got == [], "killed while the message waited for more of the same"
    engine.start()
    wait_until(lambda: told(engine), "to post", engine)
    ((_, text),) = slack.got
    run = engine.ask("/v1/events/e0/runs")["data"][0]["id"]
    assert text.splitlines() == [
        "*shop: fulfil failed*",
        "```ValueError: &lt;!channel&gt; no such order```",
        f"first run: <http://127.0.0.1:{engine.port}/v1/runs/{run}|{run}>",
    ]


def test_a_kill_after_the_post_posts_once_more_with_the_same_key(engine: EngineProcess, slack: Slack) -> None:
    slack.on_post = engine.kill
    fail(engine)
    wait_until(lambda: slack.got and engine.ended(), "to be killed", engine)
    slack.on_post = lambda: None
    engine.start()
    wait_until(lambda: told(engine), "to post", engine)
    assert len(slack.got) == 2
    assert slack.got[0] == slack.got[1]


def test_a_storm_is_few_messages_that_say_how_many(
    engine: EngineProcess, slack: Slack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One, if the failures come within three seconds; on a busy machine some may be in the next minute's."""
    monkeypatch.setattr("tests.system.engine_process.PATIENCE_S", 150.0)
    fail(engine, STORM)
    wait_until(lambda: slack.counted >= STORM and told(engine), "to post", engine)
    assert slack.counted == STORM
    assert len(slack.got) <= 3
