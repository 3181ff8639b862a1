"""`functions`: what it says of them, and that it reads no runs for that: a dashboard asks each second."""

import pytest

from perdure import App, Context, Event
from perdure.flow.tables import Table
from perdure.sdk.port import FunctionView
from perdure.testing import TestEngine
from tests.worker.helpers import deploy


def shop() -> App:
    app = App("shop")

    @app.background
    async def mail(to: str) -> str:
        return to

    @app.function(on="order/placed")
    async def order(ctx: Context, event: Event) -> None:
        await ctx.sleep("1d")

    return app


class Reading:
    """What is read of the tables of runs, whether from memory or from the store."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.rows = 0
        whole, one = Table._rows, Table.get

        def rows(table: Table[object]) -> dict[str, bytes]:
            found = whole(table)
            self.rows += len(found)
            return found

        def get(table: Table[object], key: str) -> object:
            self.rows += table.prefix == b"r/"
            return one(table, key)

        patch.setattr(Table, "_rows", rows)
        patch.setattr(Table, "get", get)


async def listed(engine: TestEngine) -> dict[str, FunctionView]:
    return {view.id: view for view in await engine.port.functions()}


async def test_it_reads_no_runs_however_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    async with TestEngine(shop()) as engine:
        for n in range(40):
            await engine.send("order/placed", {}, id=f"e{n}")
        await engine.advance("2d")
        await engine.port.pause("order")
        for n in range(5):
            await engine.send("order/placed", {}, id=f"later{n}")
        reading = Reading(monkeypatch)
        for _ in range(2):
            before = reading.rows
            views = await listed(engine)
            assert reading.rows == before
            assert (views["order"].running, views["order"].waiting, views["mail"].running) == (5, 5, 0)
            await engine.crash()
        await engine.port.runs()
        assert reading.rows >= 45, "it would have been noticed"


async def test_all_runs_of_a_function_that_is_missing_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    other = App("shop")

    @other.background
    async def mail(to: str) -> str:
        return to

    async with TestEngine(shop()) as engine:
        for n in range(3):
            await engine.send("order/placed", {}, id=f"e{n}")
        await deploy(engine, other)
        reading = Reading(monkeypatch)
        views = await listed(engine)
        assert (views["order"].kind, views["order"].held, reading.rows) == ("missing", 3, 0)
        await deploy(engine, shop())
        await engine.finish()
        assert (await listed(engine))["order"].running == 0
