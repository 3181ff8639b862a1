"""Lines of one run among those of its whole partition: found by time, in pages, by level."""

import logging

import msgspec
import pytest

from perdure import App, Context, PayloadError
from perdure.errors import UnknownRun
from perdure.log.memory import MemoryLog
from perdure.sdk import run_lines
from perdure.sdk.run_lines import SLACK_MS, page_of
from perdure.testing import TestEngine
from perdure_schemas.records import RunLogged, V
from tests.worker.test_run_logs import arrived


def app_that_logs() -> App:
    app = App("shop")

    @app.background
    async def flow(ctx: Context, n: int) -> None:
        for level in (logging.INFO, logging.WARNING, logging.ERROR):
            ctx.logger.log(level, "%s of %d", logging.getLevelName(level), n)

    return app


async def test_lines_of_one_run_in_pages_and_by_level() -> None:
    app = app_that_logs()
    async with TestEngine(app) as engine:
        runs = [(await app.functions["flow"].enqueue(n)).id for n in range(5)]
        await engine.finish()
        await arrived(engine.log, 15)
        page = await engine.port.lines(runs[3])
        assert [line.message for line in page.data] == ["INFO of 3", "WARNING of 3", "ERROR of 3"]
        assert page.end
        first = await engine.port.lines(runs[3], limit=2)
        assert ([line.level for line in first.data], first.end) == (["info", "warning"], False)
        rest = await engine.port.lines(runs[3], limit=2, cursor=first.cursor)
        assert ([line.level for line in rest.data], rest.end) == (["error"], True)
        assert (await engine.port.lines(runs[3], cursor=rest.cursor)).data == []
        severe = await engine.port.lines(runs[3], level="error")
        assert [line.message for line in severe.data] == ["ERROR of 3"]
        with pytest.raises(UnknownRun):
            await engine.port.lines(runs[3][:-1] + ("a" if runs[3][-1] != "a" else "b"))
        for cursor in ("x", "-1", "9" * 19, "١"):
            with pytest.raises(PayloadError, match="an earlier page of lines gave"):
                await engine.port.lines(runs[3], cursor=cursor)


class Clocked:
    """A log with lines at chosen times."""

    def __init__(self) -> None:
        self.now = 0
        self.log = MemoryLog(partitions=1, clock=lambda: self.now)
        self.read = 0

    async def put(self, at: int, run: str) -> None:
        self.now = at
        record = RunLogged(V, run, at, "info", "shop", f"{run} at {at}")
        self.log.side("logs", 0, msgspec.json.encode(record))
        await self.log.acknowledge(self.log.append(0, b"{}"))


RUN = "0000-run"


async def test_where_to_begin_is_found_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a topic with the lines of days, those of a run's own time are looked through."""
    clocked = Clocked()
    await clocked.log.open()
    step = SLACK_MS // 10
    for n in range(1_000):
        await clocked.put(n * step, RUN if n in (300, 302, 700) else "other")
    monkeypatch.setattr(run_lines, "partition_of_run", lambda run, partitions: 0)
    page = await page_of(clocked.log, RUN, "debug", None, 10, 300 * step, 302 * step)
    assert [line.at // step for line in page.data] == [300, 302]
    assert page.end
    assert int(page.cursor) < 320
    everything = await page_of(clocked.log, RUN, "debug", None, 10, 0, None)
    assert [line.at // step for line in everything.data] == [300, 302, 700]
    assert (await page_of(clocked.log, RUN, "debug", None, 10, 2_000 * step, None)).data == []
    await clocked.log.close()


async def test_a_page_ends_where_others_lines_fill_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request looks through so much and no more; who asks goes on from the cursor."""
    monkeypatch.setattr(run_lines, "SCAN_BYTES", 500)
    monkeypatch.setattr(run_lines, "partition_of_run", lambda run, partitions: 0)
    clocked = Clocked()
    await clocked.log.open()
    for n in range(40):
        await clocked.put(n, RUN if n == 39 else "other")
    clocked.log.side("logs", 0, b'{"kind":"run.of_tomorrow","run":"%s"}' % RUN.encode())
    await clocked.log.acknowledge(clocked.log.append(0, b"{}"))
    found, cursor, pages = [], None, 0
    while True:
        page = await page_of(clocked.log, RUN, "debug", cursor, 10, 0, None)
        found += page.data
        cursor, pages = int(page.cursor), pages + 1
        if page.end:
            break
    assert [line.at for line in found] == [39]
    assert pages > 1
    await clocked.log.close()
