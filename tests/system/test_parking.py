"""Other code under runs that are half-way: what differs is parked with both ops named, and goes on when it fits again.

Every version of the app is a module of its own, every restart opens the log anew: after a clean stop, or as SIGKILL
would leave it.
"""

import asyncio
import importlib.util
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest

from perdure import Engine, UnknownRun
from perdure.errors import NotParked
from perdure.flow import decode
from perdure.log.kafka.log import KafkaLog
from perdure.sdk.port import FunctionView, RunDetail
from perdure_schemas.records import RunParked
from tests.copies import copy_log
from tests.log.tools import fetch_all
from tests.system.shop import check_stores

HEAD = """
import asyncio
from perdure import App, Context, Event

app = App("shop")
ran = []

@app.step
async def first(n: int) -> int:
    ran.append(f"first {n}")
    return n + 1

@app.step
async def other(n: int) -> int:
    ran.append(f"other {n}")
    return n + 2

@app.step
async def last(n: int) -> int:
    ran.append(f"last {n}")
    return n * 10

@app.background
async def child(n: int) -> int:
    return n

@app.background
async def short(n: int) -> int:
    return await last(n)

"""
FLOW = """
@app.background(waits=["go", "stop"])
async def flow(ctx: Context, n: int) -> int:
    a = await first(n)
    await ctx.wait_for_event("go")
    return await last(a)
"""
NOTHING = ""


class Versions:
    """One log, and the code that runs on it at present."""

    def __init__(self, folder: Path, log: str) -> None:
        self._folder = folder
        self._names = count()
        self._log = log

    def load(self, source: str) -> ModuleType:
        """A module of its own: two versions never share one."""
        path = self._folder / f"version_{next(self._names)}.py"
        path.write_text(HEAD + source, encoding="utf-8")
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    @asynccontextmanager
    async def running(self, source: str, *, dies: bool = False) -> AsyncIterator["Life"]:
        """The engine with this code. `dies`: the next life begins on what SIGKILL would have left of this one."""
        module = self.load(source)
        async with Engine(module.app, log=self._log, partitions=2) as engine:
            async with asyncio.timeout(60):
                while engine.port.ready():
                    await asyncio.sleep(0.01)
            yield Life(engine, module)
            if dies:
                await self._die(engine)

    async def _die(self, engine: Engine) -> None:
        (node,) = engine.nodes
        if isinstance(node.log, KafkaLog):
            await node.kill()
            await node.log.leave()  # as if the session were over: the next life need not wait for its end
            await node.log.abandon()
        else:
            now = self.directory
            self._log += "+"
            copy_log(now, self.directory)

    @property
    def embedded(self) -> bool:
        return self._log.startswith("embedded:")

    @property
    def directory(self) -> Path:
        """Of the embedded log."""
        return Path(self._log.removeprefix("embedded://"))


class Life:
    def __init__(self, engine: Engine, module: ModuleType) -> None:
        self.engine = engine
        self.module = module

    async def begin(self, function: str = "flow", n: int = 1) -> str:
        run = await getattr(self.module, function).enqueue(n)
        return str(run.id)

    async def until(self, run: str, status: str) -> RunDetail:
        """The run, once it has this status."""
        async with asyncio.timeout(20):
            while (now := await self.engine.port.status(run)) != status:
                assert now not in ("completed", "failed", "cancelled", "parked"), f"{now}, not {status}"
                await asyncio.sleep(0.01)
        return await self.engine.port.run(run)

    async def result(self, run: str) -> Any:
        outcome = await self.engine.port.result(run, 20_000)
        assert outcome.status == "completed", outcome
        assert outcome.result is not msgspec.UNSET
        return msgspec.json.decode(outcome.result)

    async def go(self, name: str = "go") -> None:
        await self.engine.send(name, {})

    async def parked(self) -> list[RunParked]:
        """Every word on parking that the log holds."""
        log = self.engine.nodes[0].log
        everything = [decode(raw) for partition in range(log.partitions) for _, raw in await fetch_all(log, partition)]
        return [record for record in everything if isinstance(record, RunParked)]

    async def function(self, name: str) -> FunctionView:
        return next(view for view in await self.engine.port.functions() if view.id == name)


@pytest.fixture
def versions(tmp_path: Path, durable_url: str) -> Versions:
    return Versions(tmp_path, durable_url)


def changed(old: str, new: str, source: str = FLOW) -> str:
    assert old in source
    return source.replace(old, new)


CHANGES = {
    "another step": ("await first(n)", "await other(n)", "0/first#1", "0/other#1"),
    "another argument": ("await first(n)", "await first(n + 1)", "0/first#1", "0/first#1"),
    "a step before it": ("a = await", "await other(n)\n    a = await", "0/first#1", "0/other#1"),
    "the step left out": ("await first(n)", "n", "0/first#1", "0/wait:go#1"),
    "another event": ('wait_for_event("go")', 'wait_for_event("stop")', "0/wait:go#1", "0/wait:stop#1"),
    "another condition": ('("go")', '("go", where="async.data.n == 1")', "0/wait:go#1", "0/wait:go#1"),
    "a time limit": ('("go")', '("go", timeout="9d")', "0/wait:go#1", "0/wait:go#1"),
    "a sleep for the wait": ('wait_for_event("go")', 'sleep("1d")', "0/wait:go#1", "0/sleep#1"),
    "a child for the step": ("await first(n)", "await child.call(n)", "0/first#1", "0/child#1"),
    "an early end": ("a = await first(n)", "return n", "0/first#1", ""),
}


READS = """
import os

@app.background(waits=["go"])
async def flow(ctx: Context, n: int) -> int:
    a = await (other if "SHOP_OTHER" in os.environ else first)(n)
    await ctx.wait_for_event("go")
    return await last(a)
"""


async def test_by_command_it_goes_on_under_the_code_that_parked_it(
    versions: Versions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The code is the same; what it reads is not, and then is again."""
    async with versions.running(READS) as life:
        run = await life.begin()
        await life.until(run, "suspended")
        with pytest.raises(NotParked, match="is not parked: it is suspended"):
            await life.engine.port.unpark(run)
    monkeypatch.setenv("SHOP_OTHER", "yes")
    async with versions.running(READS) as life:
        await life.go()
        await life.until(run, "parked")
        await life.engine.port.unpark(run)
        async with asyncio.timeout(20):
            while len(await life.parked()) < 2:
                await asyncio.sleep(0.01)
    monkeypatch.delenv("SHOP_OTHER")
    async with versions.running(READS, dies=True) as life:
        assert await life.engine.port.status(run) == "parked"
        await life.engine.port.unpark(run)
    async with versions.running(READS) as life:
        assert await life.result(run) == 20
        with pytest.raises(NotParked, match="is not parked: it is completed"):
            await life.engine.port.unpark(run)
        with pytest.raises(UnknownRun):
            await life.engine.port.unpark(run[:-4] + "0000")


@pytest.mark.parametrize("dies", [False, True], ids=["stopped", "killed"])
@pytest.mark.parametrize(("old", "new", "recorded", "requested"), CHANGES.values(), ids=CHANGES)
async def test_changed_code_parks_the_run_and_changing_it_back_lets_it_finish(
    versions: Versions, old: str, new: str, recorded: str, requested: str, dies: bool
) -> None:
    async with versions.running(FLOW, dies=dies) as life:
        run = await life.begin()
        await life.until(run, "suspended")
        assert life.module.ran == ["first 1"]

    async with versions.running(changed(old, new), dies=dies) as life:
        await life.go()
        detail = await life.until(run, "parked")
        (word,) = await life.parked()
        assert word.run == run
        assert word.recorded is not None
        assert word.recorded.op == recorded
        assert (word.requested.op if word.requested else "") == requested
        assert detail.parked == word.message
        assert repr(recorded) in detail.parked
        assert not requested or repr(requested) in detail.parked or requested == recorded
        assert "Deploy the code that began this run" in detail.parked
        if requested == recorded:
            assert word.requested is not None
            assert word.recorded.digest != word.requested.digest
            assert word.recorded.digest in detail.parked
            assert word.requested.digest in detail.parked
        assert life.module.ran in ([], ["other 1"]), "a parked run goes no further"
        # Others are not held up.
        assert await life.result(await life.begin("short", 3)) == 30

    # The same code again does not try again: it would park again.
    async with versions.running(changed(old, new), dies=dies) as life:
        await life.until(run, "parked")
        assert await life.result(await life.begin("short", 4)) == 40
        assert len(await life.parked()) == 1
        assert "last 4" in life.module.ran

    async with versions.running(FLOW, dies=dies) as life:
        assert await life.result(run) == 20
        assert life.module.ran == ["last 2"], "what is recorded is not run again"
        assert (await life.engine.port.run(run)).parked == ""
    if not dies and versions.embedded:
        await check_stores(versions.directory)


async def test_each_version_that_does_not_fit_parks_it_anew(versions: Versions) -> None:
    async with versions.running(FLOW) as life:
        run = await life.begin()
        await life.until(run, "suspended")
        await life.go()
        assert await life.result(run) == 20
        run = await life.begin()
        await life.until(run, "suspended")
    for number, new in enumerate(("await other(n)", "await first(n + 1)", "await first(n + 2)"), start=1):
        async with versions.running(changed("await first(n)", new)) as life:
            await life.go()
            async with asyncio.timeout(20):
                while len(await life.parked()) < number:
                    await asyncio.sleep(0.01)
            await life.until(run, "parked")
    async with versions.running(FLOW) as life:
        assert await life.result(run) == 20


async def test_a_change_after_what_is_recorded_is_no_difference(versions: Versions) -> None:
    """Only what the log holds binds the code; and a moved line is no change."""
    async with versions.running(FLOW) as life:
        run = await life.begin()
        await life.until(run, "suspended")
    async with versions.running("\n\n# moved\n" + changed("await last(a)", "1 + await last(await other(a))")) as life:
        await life.go()
        assert await life.result(run) == 41
        assert await life.parked() == []


GATHER = """
@app.background(waits=["go"])
async def flow(ctx: Context, n: int) -> int:
    async def branch(k: int) -> int:
        a = await first(k)
        await ctx.wait_for_event("go")
        return await last(a)
    return sum(await asyncio.gather(*(branch(k) for k in range(3))))
"""


async def test_in_one_of_several_branches(versions: Versions) -> None:
    async with versions.running(GATHER) as life:
        run = await life.begin()
        await life.until(run, "suspended")
        assert sorted(life.module.ran) == ["first 0", "first 1", "first 2"]
    async with versions.running(changed("first(k)", "first(k if k < 2 else 9)", GATHER)) as life:
        await life.go()
        detail = await life.until(run, "parked")
        assert "first" in detail.parked
        assert life.module.ran == []
    async with versions.running(GATHER) as life:
        await life.go()
        await life.go()
        assert await life.result(run) == 60
        assert sorted(life.module.ran) == ["last 1", "last 2", "last 3"]


async def test_a_parked_run_can_be_cancelled_and_run_again(versions: Versions) -> None:
    async with versions.running(FLOW) as life:
        run = await life.begin()
        await life.until(run, "suspended")
    async with versions.running(changed("first(n)", "other(n)")) as life:
        await life.go()
        await life.until(run, "parked")
        again = await life.engine.port.rerun(run)
        await life.engine.port.cancel(run)
        assert (await life.engine.port.result(run, 20_000)).status == "cancelled"
        await life.until(again, "suspended")
        await life.go()
        assert await life.result(again) == 30
    async with versions.running(FLOW) as life:
        assert (await life.engine.port.result(run, 20_000)).status == "cancelled"
        assert life.module.ran == []


# A function that is not there


@pytest.mark.parametrize("dies", [False, True], ids=["stopped", "killed"])
async def test_runs_of_a_function_that_is_gone_are_held_until_it_is_back(versions: Versions, dies: bool) -> None:
    async with versions.running(FLOW, dies=dies) as life:
        runs = [await life.begin(n=n) for n in range(3)]
        for run in runs:
            await life.until(run, "suspended")
        assert (await life.function("flow")).running == 3

    for _ in range(2):
        async with versions.running(NOTHING, dies=dies) as life:
            missing = await life.function("flow")
            assert (missing.kind, missing.held) == ("missing", 3)
            await life.go()
            assert await life.result(await life.begin("short", 3)) == 30
            assert await life.parked() == []
            assert {await life.engine.port.status(run) for run in runs} <= {"suspended", "running"}
            assert (await life.function("flow")).held == 3
    async with versions.running(NOTHING, dies=dies) as life:
        await life.engine.port.cancel(runs[2])
        assert (await life.engine.port.result(runs[2], 20_000)).status == "cancelled"
        assert (await life.function("flow")).held == 2

    async with versions.running(FLOW, dies=dies) as life:
        assert [await life.result(run) for run in runs[:2]] == [10, 20]
        assert sorted(life.module.ran) == ["last 1", "last 2"]
        assert {view.kind for view in await life.engine.port.functions()} == {"background"}


async def test_a_run_that_was_in_the_middle_of_a_step_is_held(versions: Versions) -> None:
    slow = changed("a = await first(n)", "a = await ctx.step('slow', asyncio.sleep, 30)")
    async with versions.running(slow, dies=True) as life:
        run = await life.begin()
        await life.until(run, "running")
        await asyncio.sleep(0.2)
    async with versions.running(NOTHING) as life:
        assert (await life.function("flow")).held == 1
        assert await life.engine.port.status(run) == "running"
        assert await life.parked() == []
