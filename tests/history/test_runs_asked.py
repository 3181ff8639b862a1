"""`/v1/runs` of an engine with a history, and of one without."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from perdure import App, Context, Engine, Event
from perdure.history.projector import Projector
from perdure.history.rows import Mark, OpRow, RunData, RunRow
from perdure.history.store import HistoryDown, RunPage
from perdure.sdk.hindsight.pages import detail_of
from perdure.sdk.hindsight.waiting import why_waiting
from perdure.sdk.port import OpDetail, RunDetail, RunStatus, RunSummary
from perdure_schemas.payload import Payload
from tests.history.beside import Beside, beside
from tests.http.serving import client_of

FAR = 10_000_000_000_000


def shop() -> App:
    app = App("shop")

    @app.step(retries=2)
    async def charge(order: str) -> str:
        raise ConnectionError(f"no card for {order}")

    @app.background
    async def mail(to: str) -> str:
        return f"to {to}"

    @app.function(on="order/placed", retries=0)
    async def order(ctx: Context, event: Event) -> Any:
        if event.data["kind"] == "waits":
            return await ctx.wait_for_event("order/paid", match="data.order", timeout="1d")
        if event.data["kind"] == "fails":
            return await charge(event.data["order"])
        return await mail.call(event.data["order"])

    return app


@pytest.fixture
async def running(tmp_path: Path) -> AsyncGenerator[Beside]:
    async with beside(shop(), tmp_path) as running:
        yield running


async def _placed(running: Beside, number: int, kind: str, total: int = 0) -> None:
    await running.engine.send("order/placed", {"order": f"o{number}", "kind": kind, "total": total}, id=f"e{number}")


async def _page(running: Beside, **query: Any) -> dict[str, Any]:
    answer = await running.api.get("/v1/runs", params=query)
    assert answer.status_code == 200, answer.text
    page: dict[str, Any] = answer.json()
    return page


async def _events(running: Beside, **query: Any) -> list[str]:
    """In an order of their own: of the same millisecond none is newer."""
    return sorted(run.get("event_id", "") for run in (await _page(running, **query))["data"])


async def _ended(running: Beside, event: str) -> dict[str, Any]:
    while True:
        (run,) = (await _page(running, event_id=event))["data"]
        if "ended_at" in run:
            found: dict[str, Any] = run
            return found
        await asyncio.sleep(0.01)


async def test_what_was_acknowledged_is_in_the_first_page(running: Beside) -> None:
    """Though a projector reads it, and pauses between two looks."""
    for number in range(20):
        await _placed(running, number, "waits")
        page = await _page(running, limit=1)
        assert page["behind"] == 0
        assert [run["event_id"] for run in page["data"]] == [f"e{number}"]


async def test_what_others_keep_up_is_not_waited_for(running: Beside) -> None:
    await _placed(running, 1, "waits")
    log = running.engine.nodes[0].log
    assert await Projector(log, running.store).reach(0.0) > 0
    assert await Projector(log, running.store, owned=lambda partition: False).reach(60.0) == 0


async def test_filters(running: Beside) -> None:
    for number in range(3):
        await _placed(running, number, "mails", total=number)
    await _placed(running, 3, "waits")
    for number in range(3):
        await _ended(running, f"e{number}")
    mailed = await running.api.post("/v1/functions/mail/runs", json={"args": ["ada"], "metadata": {"a": "1", "b": "2"}})
    orders = await _events(running, function="order")
    assert orders == ["e0", "e1", "e2", "e3"]
    assert await _events(running, function="order", status="completed") == ["e0", "e1", "e2"]
    assert await _events(running, where="event.data.total >= 1") == ["e1", "e2"]
    assert await _events(running, function="order", since="1h", until=str(FAR)) == orders
    assert await _events(running, since=str(FAR)) == []
    assert await _events(running, until="2020-01-01T00:00") == []
    both = (await _page(running, metadata=["a=1", "b=2"]))["data"]
    assert [run["id"] for run in both] == [mailed.json()["run_id"]]
    assert await _events(running, metadata=["a=1", "b=3"]) == []
    cursor, seen = "", []
    while True:
        page = await _page(running, function="order", limit=3, cursor=cursor)
        seen += [run["event_id"] for run in page["data"]]
        cursor = page["cursor"]
        if not cursor:
            break
    assert sorted(seen) == orders


async def test_running_and_suspended_are_told_apart_as_they_are_now(running: Beside) -> None:
    for number in range(5):
        await _placed(running, number, "waits")
    while len(await _events(running, status="suspended")) < 5:
        await asyncio.sleep(0.01)
    assert len(await _events(running, status="suspended", limit=3)) == 3
    assert await _events(running, status="running") == []


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ({"metadata": "tenant"}, "metadata=KEY=VALUE"),
        ({"where": "event.data.total >"}, "the expression ends"),
        ({"since": "yesterday"}, "say 1h, 7d"),
        ({"cursor": "9" * 25 + "-1"}, "is not one that a page gave"),
        ({"cursor": "0/x"}, "is not one that a page gave"),
        ({"status": "gone"}, "is none of"),
    ],
)
async def test_what_cannot_be_right_is_refused(running: Beside, query: dict[str, str], says: str) -> None:
    answer = await running.api.get("/v1/runs", params=query)
    assert answer.status_code == 400
    assert says in answer.json()["detail"]


async def test_without_history_it_says_what_needs_one() -> None:
    async with Engine(shop(), log="memory://") as engine, client_of(engine.port) as api:
        await engine.send("order/placed", {"order": "o1", "kind": "waits"}, id="e1")
        assert [run["event_id"] for run in (await api.get("/v1/runs")).json()["data"]] == ["e1"]
        for name, value in (("since", "1h"), ("until", "1h"), ("metadata", "a=b"), ("where", "event.id == 'x'")):
            answer = await api.get("/v1/runs", params={name: value})
            assert answer.status_code == 501
            assert "perdure serve" in answer.json()["detail"]


async def test_a_history_that_does_not_answer_is_asked_later(running: Beside, monkeypatch: pytest.MonkeyPatch) -> None:
    def down(query: object) -> None:
        raise HistoryDown("the database is away")

    monkeypatch.setattr(running.store, "runs", down)
    answer = await running.api.get("/v1/runs")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


async def _run(running: Beside, event: str) -> dict[str, Any]:
    run = (await _page(running, event_id=event))["data"][-1]
    answer = await running.api.get(f"/v1/runs/{run['id']}")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_a_page_has_what_a_waterfall_needs(running: Beside) -> None:
    await _placed(running, 1, "fails")
    failing = await _run(running, "e1")
    while len(failing["ops"]) == 0 or "due" not in failing["ops"][0]:
        await asyncio.sleep(0.01)
        failing = await _run(running, "e1")
    (charge,) = failing["ops"]
    assert charge["attempts"][0]["error"]["message"] == "no card for o1"
    assert charge["due"] == charge["attempts"][0]["at"] + charge["attempts"][0]["retry_in_ms"]
    assert charge["moments"][0]["kind"] == "failed"
    assert failing["waiting"] == [
        {"why": "its step 'charge' failed once, and is tried again", "op": "0/charge#1", "until": charge["due"]}
    ]
    assert failing["event"]["data"]["order"] == "o1"
    await _placed(running, 2, "mails")
    parent = await _ended(running, "e2")
    again = (await running.api.post(f"/v1/runs/{parent['id']}/rerun")).json()["run_id"]
    mailing = await _run(running, "e2")
    (called,) = mailing["ops"]
    (child,) = mailing["children"]
    assert (called["type"], called["run"], called["result"]) == ("call", child["id"], "to o2")
    assert [run["id"] for run in mailing["reruns"]] == [again]
    assert "waiting" not in mailing
    shown = (await running.api.get(f"/v1/runs/{child['id']}")).json()
    assert (shown["run"]["parent"], shown["arguments"]) == (parent["id"], [["o2"], {}])


async def test_a_step_that_runs_now_is_shown(tmp_path: Path) -> None:
    """From the memory of this process: the log hears of it when it has ended."""
    app, go = App("shop"), asyncio.Event()

    @app.step
    async def think() -> str:
        await go.wait()
        return "thought"

    @app.background
    async def thinker() -> str:
        return await think()

    async with beside(app, tmp_path) as running:
        run = (await running.api.post("/v1/functions/thinker/runs", json={})).json()["run_id"]
        while not (shown := (await running.api.get(f"/v1/runs/{run}")).json()).get("ops"):
            await asyncio.sleep(0.01)
        (op,) = shown["ops"]
        assert (op["op"], op["status"], op["running"]) == ("0/think#1", "open", True)
        assert shown["run"]["status"] == "running"
        go.set()
        await running.api.get(f"/v1/runs/{run}/result")
        (op,) = (await running.api.get(f"/v1/runs/{run}")).json()["ops"]
        assert (op["status"], op["result"], "running" in op) == ("completed", "thought", False)


async def test_a_run_that_the_folds_have_forgotten_is_still_shown(running: Beside) -> None:
    run = RunRow("old-run", 0, "order", "failed", "event", 5, 6, 9, None, 1, "e0", "", "", "", None, {})
    op = OpRow("old-run", "0/charge#1", 2, "step", 6, "failed", 9, error=b'{"type":"E","message":"no"}', about=None)
    detail = {"attempt": 1, "took_us": 2_000, "error": {"type": "E", "message": "no"}, "due": None}
    marks = [Mark("old-run", "0/charge#1", 3, 8, "failed", msgspec.json.encode(detail))]
    data = RunData(event=b'{"inline":{"id":"e0"}}', result=b'{"ref":{"partition":0,"offset":7}}')
    page = RunPage(run, data, True, [op], marks, [], [])
    shown = detail_of(page, lambda payload: running.port.readable(payload))
    assert (shown.run.status, shown.trimmed) == ("failed", True)
    assert shown.ops[0].attempts[0].error is not None
    assert shown.result == msgspec.Raw(b'{"ref":{"partition":0,"offset":7}}')
    gone = await running.api.get("/v1/runs/no-such-run")
    assert gone.status_code == 404


def _detail(status: RunStatus, *ops: OpDetail, due: int | None = None, started_at: int | None = 1) -> RunDetail:
    return RunDetail(RunSummary("r", "f", status, due=due, started_at=started_at), ops=ops)


@pytest.mark.parametrize(
    ("detail", "held", "says"),
    [
        (_detail("completed", OpDetail("0/a#1", "a", "step", "open")), False, []),
        (_detail("parked"), False, ["it is parked"]),
        (_detail("running"), True, ["this process has not its function"]),
        (_detail("queued", due=5, started_at=None), False, ["its start is delayed"]),
        (_detail("running", due=5), False, ["it failed, and is tried again as a whole"]),
        (_detail("queued", started_at=None), False, ["it has not begun yet"]),
        (_detail("running", OpDetail("0/a#1", "a", "step", "open", running=True)), False, []),
        (
            _detail(
                "suspended",
                OpDetail("0/s#1", "s", "sleep", "open", due=9),
                OpDetail("0/w#1", "w", "wait", "open", about="order/paid"),
                OpDetail("0/c#1", "c", "call", "open", about="mail r2"),
                OpDetail("0/d#1", "d", "call", "completed"),
                OpDetail("0/q#1", "q", "step", "open", queue="gpu"),
                OpDetail("0/q#2", "q", "step", "open", queue="gpu", member="pod-1"),
            ),
            False,
            ["it sleeps", "an event: order/paid", "that it called: mail r2", "nobody has it", "pod-1 of queue 'gpu'"],
        ),
    ],
)
def test_why_it_waits(detail: RunDetail, held: bool, says: list[str]) -> None:
    waiting = why_waiting(detail, held=held)
    assert len(waiting) == len(says)
    for one, words in zip(waiting, says, strict=True):
        assert words in one.why


def test_a_payload_of_a_codec_is_shown_as_its_app_reads_it(tmp_path: Path) -> None:
    """Whoever shows it decides: pages pass payloads on as they are kept."""
    seen: list[Payload] = []
    run = RunRow("r", 0, "order", "completed", "enqueue", 5, 6, 9, None, 1, "", "", "", "", None, {})
    data = RunData(arguments=b'{"inline":"c2VjcmV0","encoded":true}')

    def readable(payload: Payload) -> msgspec.Raw:
        seen.append(payload)
        return msgspec.Raw(b"[[],{}]")

    assert detail_of(RunPage(run, data, False, [], [], [], []), readable).arguments == msgspec.Raw(b"[[],{}]")
    assert [one.encoded for one in seen] == [True]
