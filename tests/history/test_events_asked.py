"""`/v1/events`, and why an event did what it did."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw

from perdure import App, Context, Engine, Event, Trigger
from perdure.sdk.hindsight.explaining import decisions_of, why_nothing
from perdure_schemas.definition import Definition, FunctionDefined, TriggerDefined
from perdure_schemas.event import EventBody
from tests.history.beside import Beside, beside
from tests.http.serving import client_of


def shop() -> App:
    app = App("shop")

    @app.function(on=Trigger("order/placed", where="event.data.total > 100"))
    async def big(ctx: Context, event: Event) -> None: ...

    @app.function(on="order/placed")
    async def order(ctx: Context, event: Event) -> None:
        await ctx.wait_for_event("order/paid", match="data.order", timeout="1d")

    return app


@pytest.fixture
async def running(tmp_path: Path) -> AsyncGenerator[Beside]:
    async with beside(shop(), tmp_path) as running:
        yield running


async def _event(running: Beside, event: str) -> dict[str, Any]:
    answer = await running.api.get(f"/v1/events/{event}")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_what_came_of_an_event(running: Beside) -> None:
    send = running.engine.send
    await send("order/placed", {"order": "o1", "total": 7}, id="e1")
    await send("order/placed", {"order": "o2", "total": 700}, id="e2")
    told = await _event(running, "e1")
    assert (told["event"]["data"], "nothing" in told, told.get("behind", 0)) == ({"order": "o1", "total": 7}, False, 0)
    (run,) = told["runs"]
    assert [(one["function"], one["decision"], one.get("run")) for one in told["decisions"]] == [
        ("order", "started", run["id"]),
        ("big", "where_false", None),
    ]
    assert "where='event.data.total > 100' is not true of it" in told["decisions"][1]["why"]
    assert {one["function"] for one in (await _event(running, "e2"))["decisions"]} == {"order", "big"}
    await send("order/paid", {"order": "o1"}, id="e3")
    while not (paid := await _event(running, "e3")).get("uses"):
        await asyncio.sleep(0.01)
    (use,) = paid["uses"]
    assert (use["run"], use["function"], use["what"]) == (run["id"], "order", "matched")
    assert "decisions" not in paid
    await send("order/paid", {"order": "nobody's"}, id="e4")
    (unread,) = (await _event(running, "e4"))["decisions"]
    assert (unread["decision"], "no run waited" in unread["why"]) == ("not_awaited", True)
    await send("order/plced", {}, id="shop/5")
    assert (await _event(running, "shop%2F5"))["nothing"].endswith("did you mean 'order/placed'?")
    assert (await running.api.get("/v1/events/e9")).status_code == 404


async def test_events_are_listed_newest_first(running: Beside) -> None:
    for number in range(3):
        await running.engine.send("order/placed", {"order": f"o{number}", "total": number}, id=f"e{number}")
    await running.engine.send("other", {"note": "x" * 3_000}, id="e3")

    async def ids(**query: Any) -> list[str]:
        return sorted(one["id"] for one in (await running.api.get("/v1/events", params=query)).json()["data"])

    assert await ids() == ["e0", "e1", "e2", "e3"]
    assert await ids(name="order/placed", where="event.data.total > 0") == ["e1", "e2"]
    assert await ids(until="1h") == []
    (large,) = (await running.api.get("/v1/events", params={"name": "other"})).json()["data"]
    assert ("data" in large, large["bytes"] > 3_000) == (False, True)
    seen: list[str] = []
    cursor = ""
    while True:
        page = (await running.api.get("/v1/events", params={"limit": 3, "cursor": cursor})).json()
        seen += [one["id"] for one in page["data"]]
        cursor = page["cursor"]
        if not cursor:
            break
    assert sorted(seen) == ["e0", "e1", "e2", "e3"]
    assert (await running.api.get("/v1/events", params={"cursor": "nonsense"})).status_code == 400


async def test_without_history_there_are_no_events() -> None:
    async with Engine(shop(), log="memory://") as engine, client_of(engine.port) as api:
        for path in ("/v1/events", "/v1/events/e1"):
            answer = await api.get(path)
            assert (answer.status_code, "perdure serve" in answer.json()["detail"]) == (501, True)


EVENT = EventBody("e1", "order/placed", Raw(b'{"total":7}'))


def _code(*functions: FunctionDefined) -> Definition:
    return Definition("shop", "d", functions)


def _on(event: str, where: str = "", **more: Any) -> FunctionDefined:
    return FunctionDefined("f", "event", (TriggerDefined(event, where),), **more)


@pytest.mark.parametrize(
    ("function", "behind", "decision", "says"),
    [
        (_on("order/placed"), False, "added_later", "it was not there"),
        (_on("order/*"), False, "added_later", "it was not there"),
        (_on("order/placed"), True, "not_read_yet", "history has not read"),
        (_on("order/placed", "event.data.total > 9"), False, "where_false", "where='event.data.total > 9'"),
        (_on("order/placed", "event.data.nothing == 1"), True, "where_false", "is not true of it"),
        (_on("x", paths=(("order/placed", "data.id"),)), False, "not_awaited", "has no value there"),
        (_on("x", paths=(("order/placed", "data.total"),)), False, "not_awaited", "no run waited for this one"),
        (_on("x", paths=(("order/placed", ""),)), False, "not_awaited", "no run waited for this one"),
    ],
)
def test_decisions(function: FunctionDefined, behind: bool, decision: str, says: str) -> None:
    (told,) = decisions_of(EVENT, _code(function), {}, set(), behind=behind)
    assert (told.decision, says in told.why) == (decision, True)


def test_one_of_two_triggers_is_enough() -> None:
    both = FunctionDefined(
        "f", "event", (TriggerDefined("order/placed", "event.data.total > 9"), TriggerDefined("order/*"))
    )
    (told,) = decisions_of(EVENT, _code(both), {"f": "r1"}, set())
    assert (told.decision, told.run) == ("started", "r1")
    assert decisions_of(EVENT, _code(_on("x", paths=(("order/placed", ""),))), {}, {"f"}) == ()


def test_why_it_did_nothing_at_all() -> None:
    assert "start the app" in why_nothing(EVENT, None, ())
    assert "they are for none" in why_nothing(EVENT, _code(), ())
    assert "did you mean 'order/place'?" in why_nothing(EVENT, _code(_on("order/place")), ())
    own = FunctionDefined("perdure/notice", "event", (TriggerDefined("order/*"),))
    assert decisions_of(EVENT, _code(own), {}, set()) == ()
