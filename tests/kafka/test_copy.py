"""`perdure topics copy`: the engine goes on with the copy as if it were the log that it was copied from."""

import asyncio
import json
import signal
import sys
from asyncio.subprocess import PIPE
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from click.testing import CliRunner, Result

from perdure import App, Context, Engine, Event
from perdure.cli import main
from perdure.cli.sharing import opened_any
from perdure.cli.topics.targets import new_log
from perdure.errors import LogError
from perdure.flow import decode, fold
from perdure.flow.view import View
from perdure.log.embedded import EmbeddedLog
from perdure.log.kafka import parse
from perdure.log.kafka.client import Client
from perdure.log.kafka.topics import Topics, half_of
from perdure.log.protocol import Log
from perdure.partition import snapshots, transfer
from perdure.partition.snapshots import state_of
from perdure.sdk.port import RunSummary
from perdure_schemas.records import TimerFired, V
from tests.kafka.keeping import keep_events
from tests.kafka.test_topics_commands import produce
from tests.system.engine_process import environment

PARTITIONS = 2
LARGE = "x" * 20_000
SLEEP = timedelta(seconds=12)

Perdure = Callable[..., Awaitable[Result]]
Place = Callable[[str], str]


async def draw_picture(order: str, size: str) -> str:
    return f"{order} drawn {len(size)}"


async def counted(ctx: Context, event: Event[Any]) -> str:
    await ctx.step("count", len, LARGE)
    await ctx.wait_for_event("checked", match="data.order", timeout="10d")
    return "strange"


async def weighed(ctx: Context, event: Event[Any]) -> str:
    """Cannot go on where the other one began."""
    await ctx.step("weigh", len, LARGE)
    await ctx.wait_for_event("checked", match="data.order", timeout="10d")
    return "strange"


def shop(*, second: bool = False) -> App:
    """Runs that are over, sleep, wait for an event, for a pool, or for code that fits."""
    app = App("shop")

    @app.step
    async def pack(order: str) -> str:
        return f"{order} {LARGE}"

    draw = app.step(queue="gpu")(draw_picture)

    @app.function(on="quick")
    async def quick(ctx: Context, event: Event[Any]) -> str:
        await ctx.report(packed=1)
        return await pack(event.data["order"])

    @app.function(on="sleepy")
    async def sleepy(ctx: Context, event: Event[Any]) -> list[Any]:
        packed = await pack(event.data["order"])
        begun = ctx.now()
        await ctx.sleep(SLEEP)
        return [len(packed), (ctx.now() - begun).total_seconds()]

    @app.function(on="waiting")
    async def waiting(ctx: Context, event: Event[Any]) -> list[Any]:
        first = await ctx.wait_for_event("paid", match="data.order", timeout="10d")
        second = await ctx.wait_for_event("paid", match="data.order", timeout="10d")
        return [one.data["n"] if one is not None else None for one in (first, second)]

    @app.function(on="drawn")
    async def drawn(ctx: Context, event: Event[Any]) -> str:
        return await draw(event.data["order"], LARGE)

    app.function(on="strange", id="strange")(weighed if second else counted)
    return app


class Shop(Engine):
    """As a pod, or as a process on its own, that takes nothing from the queue."""

    def __init__(self, url: str, *, second: bool = False, draws: bool = False) -> None:
        super().__init__(
            shop(second=second), log=url, partitions=PARTITIONS, queues={"gpu": 1} if draws else dict[str, int]()
        )

    async def until(self, wanted: Callable[[dict[str, str]], bool]) -> dict[str, str]:
        """Function → status of its run, once it is as `wanted`."""
        found: dict[str, str] = {}
        with suppress(TimeoutError):
            async with asyncio.timeout(60):
                while not wanted(found := {one.function: str(one.status) for one in await self.all()}):
                    await asyncio.sleep(0.05)
        assert wanted(found), found
        return found

    async def all(self) -> list[RunSummary]:
        """Those of partitions that are ours by now."""
        with suppress(LogError):
            return (await self.port.runs())[0]
        return []

    async def result(self, function: str) -> Any:
        (run,) = [one for one in await self.all() if one.function == function]
        outcome = await self.port.result(run.id, 60_000)
        assert outcome.status == "completed", outcome
        return json.loads(bytes(outcome.result))  # type: ignore[arg-type]


@pytest.fixture
def place(kafka: str, tmp_path: Path) -> Place:
    """A new log of a kind."""

    def new(kind: str) -> str:
        name = f"test-{uuid4().hex[:12]}"
        return f"kafka://{kafka}/{name}?session=1s&data={tmp_path}/data" if kind == "kafka" else f"{tmp_path}/{name}"

    return new


@pytest.fixture
def perdure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Perdure:
    monkeypatch.chdir(tmp_path)

    async def call(*args: str) -> Result:
        return await asyncio.to_thread(CliRunner().invoke, main, list(args))

    return call


def url_of(log: str) -> str:
    return log if "://" in log else f"embedded://{log}"


BEFORE = {
    "quick": "completed",
    "sleepy": "suspended",
    "waiting": "suspended",
    "drawn": "suspended",
    "strange": "parked",
}


async def story(url: str, trimmed: Callable[[Log], Awaitable[None]]) -> None:
    """What there is to copy: see `shop`. `strange` has met code that does not fit."""
    async with Shop(url) as engine:
        for name in ("quick", "sleepy", "waiting", "drawn", "strange"):
            await engine.send(name, {"order": f"o-{name}"}, id=f"e-{name}")
        await engine.send("paid", {"order": "o-waiting", "n": 1}, id="e-paid-1")
        await engine.until(lambda found: found == {**BEFORE, "strange": "suspended"})
    async with Shop(url, second=True) as engine:
        await engine.until(lambda found: len(found) == 5)
        await engine.send("checked", {"order": "o-strange"}, id="e-checked")
        await engine.until(lambda found: found == BEFORE)
        await trimmed(engine.nodes[0].log)


async def go_on(url: str, *, trimmed: bool) -> None:
    """Everything comes to its end as it would have without the copy."""
    async with Shop(url, second=True) as engine:
        await engine.until(lambda found: len(found) == 5 and found["strange"] == "parked")
        assert len(await engine.result("quick")) > len(LARGE)
    async with Shop(url, draws=True) as engine:
        await engine.until(lambda found: len(found) == 5 and found["drawn"] == "completed")
        await engine.send("paid", {"order": "o-waiting", "n": 1}, id="e-paid-1")  # known already
        await engine.send("paid", {"order": "o-waiting", "n": 2}, id="e-paid-2")
        await engine.send("quick", {"order": "again"}, id="e-quick")  # known already
        assert await engine.result("waiting") == [1, 2]
        assert await engine.result("drawn") == f"o-drawn drawn {len(LARGE)}"
        length, slept = await engine.result("sleepy")
        assert length > len(LARGE)
        assert slept >= SLEEP.total_seconds()
        assert await engine.result("strange") == "strange"
        runs = await engine.all()
        assert sorted(run.function for run in runs) == sorted(BEFORE)
        (sleeper,) = [run.id for run in runs if run.function == "sleepy"]
        detail = await engine.port.run(sleeper)
        assert [op.type for op in detail.ops] == ([] if detail.trimmed else ["step", "sleep"])
        assert detail.trimmed == trimmed
        assert all(op.ended_at is not None and op.ended_at >= detail.run.requested_at for op in detail.ops)


async def views(log: str) -> list[dict[str, bytes]]:
    """What folds make of each partition, but for what only a copy has."""
    found: list[dict[str, bytes]] = []
    async with opened_any(url_of(log), "shop") as opened:
        for partition in range(PARTITIONS):
            state = await state_of(opened, partition)
            view = View(partition, PARTITIONS, transfer.Rows(state.rows) if state is not None else None)
            offset = 0
            if state is not None:
                view.at, view.stamp, offset = state.position.at, state.position.stamp, state.position.offset
            for at, stamp_ms, raw in await records_in(opened, partition, offset):
                fold(view, decode(raw), raw, at, stamp_ms)
            view.meta.moved, view.meta.imported = 0, -1
            found.append(view.logical())
    return found


async def records_in(log: Log, partition: int, offset: int) -> list[tuple[int, int, bytes]]:
    found: list[tuple[int, int, bytes]] = []
    end = await log.latest(partition)
    while offset < end:
        for batch in await log.fetch(partition, offset):
            found += [(batch.offset + n, batch.timestamp_ms, bytes(raw)) for n, raw in enumerate(batch.values)]
            offset = batch.offset + len(batch.values)
    return found


async def starts(log: str) -> list[int]:
    async with opened_any(url_of(log), "shop") as opened:
        return [opened.start(partition) for partition in range(PARTITIONS)]


@pytest.mark.parametrize("trimmed", [False, True], ids=["whole", "trimmed"])
@pytest.mark.parametrize(("source", "target"), [("embedded", "kafka"), ("kafka", "embedded")])
async def test_the_engine_goes_on_with_a_copy(
    place: Place, perdure: Perdure, monkeypatch: pytest.MonkeyPatch, source: str, target: str, trimmed: bool
) -> None:
    first, second = place(source), place(target)
    url = url_of(first)
    if trimmed:
        monkeypatch.setattr(snapshots, "ROUND_MS", 1)
        monkeypatch.setattr(snapshots, "TRIM_MS", 1)
        url += f"{'&' if '?' in url else '?'}retention=1ms"
        if source == "kafka":
            await keep_events(url, PARTITIONS)

    async def until_trimmed(log: Log) -> None:
        async with asyncio.timeout(60):
            while trimmed and not all(log.start(partition) > 5 for partition in range(PARTITIONS)):
                await asyncio.sleep(0.05)

    await story(url, until_trimmed)
    if target == "kafka":
        # Made by somebody else, and events of others are there already.
        assert (await perdure("topics", "create", "shop", "--partitions", "2", "--log", second)).exit_code == 0
        await produce(second, b'{"name": "quick", "data": {"order": "of others"}}')
    before = await views(first)
    done = await perdure("topics", "copy", first, second, "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["app"] == "shop"
    if not (trimmed and source == "kafka"):  # whose retention holds for lines of logs, too
        assert sum(one["records"] for one in told["sides"]) == 1
    assert await views(first) == before
    assert await views(second) == before
    assert await starts(second) == [min(start, 1) for start in await starts(first)]
    assert any(start > 0 for start in await starts(first)) == trimmed
    await go_on(url_of(second), trimmed=trimmed)


async def small(url: str, events: int = 3) -> None:
    async with Shop(url) as engine:
        for number in range(events):
            await engine.send("quick", {"order": f"o-{number}"}, id=f"e-{number}")
        await engine.until(lambda found: found == {"quick": "completed"})


async def test_a_copy_of_a_copy(place: Place, perdure: Perdure) -> None:
    places = [place("embedded"), place("kafka"), place("kafka"), place("embedded"), place("embedded")]
    await small(url_of(places[0]))
    sums: list[Any] = []
    for first, second in pairwise(places):
        done = await perdure("topics", "copy", first, second, "--json")
        assert done.exit_code == 0, done.output
        sums.append(json.loads(done.stdout)["journal"])
    assert all(one == sums[0] for one in sums)
    told = [
        [
            json.loads(line)
            for line in (await perdure("topics", "tail", "shop", "--log", log, "--json")).stdout.splitlines()
        ]
        for log in (places[0], places[-1])
    ]
    assert [line["at"] for line in told[1]] == [line["at"] for line in told[0]]
    assert [line["record"]["orig"]["at"] for line in told[1]] == [line["at"] for line in told[0]]
    assert await views(places[-1]) == await views(places[0])


async def test_what_is_no_place_for_a_copy(place: Place, perdure: Perdure, tmp_path: Path) -> None:
    folder, topics, other = place("embedded"), place("kafka"), place("kafka")
    await small(url_of(folder))
    tmp_path.joinpath("full").mkdir()
    tmp_path.joinpath("full", "mine.txt").touch()
    assert (await perdure("topics", "copy", folder, topics)).exit_code == 0
    assert (await perdure("topics", "create", "shop", "--partitions", "3", "--log", other)).exit_code == 0
    for target, words in (
        ("full", "full is not empty: a copy needs a folder of its own"),
        ("full/mine.txt", "mine.txt is not empty"),
        (folder, "is not empty"),
        (topics, "has records already: a copy needs a namespace in which app 'shop' has never been"),
        (other, "has 3 partitions, and what is to be copied has 2"),
    ):
        done = await perdure("topics", "copy", folder, target)
        assert (done.exit_code, words in done.output.replace("\n", " ")) == (5, True), done.output
    assert half_of(parse(topics), "shop") not in await Topics(Client(parse(topics))).names()


async def test_what_cannot_be_copied(place: Place, perdure: Perdure) -> None:
    folder, topics = place("embedded"), place("kafka")
    async with Shop(url_of(folder)):
        done = await perdure("topics", "copy", folder, topics)
        assert (done.exit_code, "is in use by process" in done.output) == (5, True)
    done = await perdure("topics", "copy", "nowhere", topics)
    assert (done.exit_code, "there is no log in" in done.output) == (5, True)
    done = await perdure("topics", "copy", topics, "there")
    assert (done.exit_code, "there is none" in done.output) == (2, True)
    done = await perdure("topics", "copy", folder, topics, "--app", "stock")
    assert (done.exit_code, "this is the log of app 'shop'" in done.output) == (2, True)
    for app in ("shop", "stock"):
        assert (await perdure("topics", "create", app, "--partitions", "1", "--log", topics)).exit_code == 0
    done = await perdure("topics", "copy", topics, "there")
    assert (done.exit_code, "there are shop, stock" in done.output) == (2, True)
    done = await perdure("topics", "copy", topics, "there", "--app", "stock")
    assert (done.exit_code, await asyncio.to_thread(Path("there").exists)) == (0, True)


@pytest.mark.parametrize("target", ["kafka", "embedded"])
async def test_a_copy_that_is_stopped_is_refused_and_begun_anew(
    place: Place, tmp_path: Path, perdure: Perdure, target: str
) -> None:
    first, second = place("embedded"), place(target)
    await small(url_of(first))
    await lengthen(first, 150_000)
    command = [sys.executable, "-m", "perdure", "topics", "copy", first, second]
    copying = await asyncio.create_subprocess_exec(*command, cwd=tmp_path, env=environment(), stdout=PIPE)
    async with asyncio.timeout(60):
        while not await half_there(second):
            await asyncio.sleep(0.01)
    copying.send_signal(signal.SIGINT)
    said, _ = await copying.communicate()
    assert copying.returncode == 130, said
    assert b"which engines refuse; the same command begins anew" in b" ".join(said.split())
    if target == "kafka":
        with pytest.raises(LogError, match="half of a copy, which is under way or was stopped"):
            async with Shop(second):
                pass
    else:
        assert not await asyncio.to_thread(Path(second).exists)
    done = await perdure("topics", "copy", first, second, "--json")
    assert done.exit_code == 0, done.output
    assert sum(one["records"] for one in json.loads(done.stdout)["journal"]) > 150_000
    async with opened_any(url_of(second), "shop"):
        pass


@pytest.mark.parametrize("target", ["kafka", "embedded"])
async def test_two_copies_into_one_target_at_a_time(place: Place, perdure: Perdure, target: str) -> None:
    first, second = place("embedded"), place(target)
    await small(url_of(first))
    begun = asyncio.Event()

    async def copying() -> None:
        async with new_log(second, "shop", PARTITIONS):
            begun.set()
            await asyncio.Event().wait()

    other = asyncio.ensure_future(copying())
    await asyncio.wait({other, asyncio.ensure_future(begun.wait())}, return_when=asyncio.FIRST_COMPLETED)
    done = await perdure("topics", "copy", first, second)
    other.cancel()
    await asyncio.wait({other})
    assert other.cancelled()
    words = "is under way already" if target == "kafka" else "is in use by process"
    assert (done.exit_code, words in " ".join(done.output.split())) == (5, True), done.output
    assert (await perdure("topics", "copy", first, second)).exit_code == 0


async def lengthen(folder: str, records: int) -> None:
    """Add what folds ignore."""
    log = EmbeddedLog(folder, PARTITIONS)
    await log.open()
    raw = msgspec.json.encode(TimerFired("cron:none", "", 0, v=V))
    for number in range(records):
        log.append(number % PARTITIONS, raw)
    await log.close()


async def half_there(target: str) -> bool:
    """Something of it."""
    if not target.startswith("kafka://"):
        return await asyncio.to_thread(Path(f"{target}.copying", "acknowledged").exists)
    address = parse(target)
    journal = address.topic("shop", "journal")
    bounds = await Topics(Client(address)).bounds_of([journal])
    return any(end > 1 for _, end in bounds.get(journal, {}).values())


async def test_a_log_that_is_written_to_all_the_time() -> None:
    class Busy:
        partitions = 1

        def __init__(self, writes: int) -> None:
            self.end, self.left = 0, writes

        async def latest(self, partition: int) -> int:
            self.left -= 1
            self.end += self.left > 0
            return self.end

    instant: Any = transfer.__dict__["_instant"]
    assert await instant(Busy(5)) == [4]
    with pytest.raises(LogError, match="is written to all the time: stop its workers"):
        await instant(Busy(1_000))
