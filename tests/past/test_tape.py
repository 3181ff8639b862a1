"""A tape of some runs folds to what the whole log folds to, of whatever log it was read.

For generated programs, with crashes and repetitions: tests/simulation/checks/tapes.py.
"""

import asyncio
import random
from pathlib import Path

import pytest

import examples.order_saga as orders
from examples.order_saga import PLACED, Order, fulfil
from perdure import Engine, Event
from perdure.cli.sharing import opened_any
from perdure.errors import PastGone, UnknownRun
from perdure.flow.states import TERMINAL
from perdure.log.memory import MemoryLog
from perdure.log.protocol import Log
from perdure.partition import snapshots
from perdure.past.reading import Wanted, read_tape
from perdure.past.tape import view_of, whole_view_of
from perdure.sdk.local_port import LocalPort
from perdure.sdk.node import Node
from perdure.testing import TestEngine
from tests.evidence.entries import Journal, entries_of
from tests.evidence.folding import fold_records, records
from tests.partition.test_trimming import LARGE, begin, body, rest
from tests.past.shop import shop
from tests.simulation.checks.tapes import check_tapes, what_is_known


async def journal_of(log: Log) -> Journal:
    found: Journal = {}
    for partition in range(log.partitions):
        offset, read = log.start(partition), list[tuple[int, int, bytes]]()
        while offset < await log.latest(partition):
            for batch in await log.fetch(partition, offset):
                read += [(batch.offset + n, batch.timestamp_ms, bytes(raw)) for n, raw in enumerate(batch.values)]
                offset = batch.offset + len(batch.values)
        found[partition] = entries_of(partition, read)
    return found


async def test_of_the_saga_each_run_is_what_it_was_after_each_of_its_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORDERS_DB", str(tmp_path / "orders.db"))
    async with TestEngine(orders.app) as engine:
        await engine.send(PLACED(Order("o1", 900)))
        await engine.send(PLACED(Order("o2", 900_000)))
        orders.warehouse.closed = True
        event_id = await engine.send(PLACED(Order("o3", 900)))
        await engine.advance("10m")
        (handle,) = await engine.runs(fulfil, event_id=event_id)
        await handle.cancel()
        orders.warehouse.closed = False
        await engine.finish()
        journal = {p: entries_of(p, records(engine.log, p)) for p in range(engine.log.partitions)}
        assert await check_tapes(journal, random.Random(1)) >= 20
        tape = await read_tape(engine.log)
        assert {run.id for run in engine.all_runs(fulfil)} <= set(tape.runs())
        assert tape.app == orders.app.name


async def some_runs(url: str) -> None:
    app = shop()
    async with Engine(app, log=url, partitions=3) as engine:
        for n in range(4):
            await engine.send("placed", {"cart": n, "text": "x"}, id=f"e{n}")
        while len(handles := await engine.runs(app.functions["order"])) < 4:
            await asyncio.sleep(0.01)
        await engine.send_many([Event(name="paid", data={"cart": n}) for n in range(1, 4)])
        ended = 0
        while ended < 3:
            statuses = [await handle.status() for handle in handles]
            ended = statuses.count("completed")
            await asyncio.sleep(0.01)


async def test_a_log_that_no_engine_has_open_is_read(durable_url: str) -> None:
    await some_runs(durable_url)
    async with opened_any(durable_url, "shop") as log:
        journal = await journal_of(log)
        assert await check_tapes(journal, random.Random(1)) >= 20
        tape = await read_tape(log)
        folded = {
            p: fold_records([(one.offset, one.ms, one.raw) for one in entries], p, 3).view
            for p, entries in journal.items()
        }
        statuses = []
        for run in tape.runs():
            one = await read_tape(log, Wanted(frozenset([run])))
            (partition,) = one.parts
            whole = folded[partition]
            assert what_is_known(view_of(one, run), run) == what_is_known(whole, run)
            assert what_is_known(whole_view_of(tape, partition), run) == what_is_known(whole, run)
            statuses.append(whole.runs.get(run).status)  # type: ignore[union-attr]
        assert sorted(statuses) == ["completed"] * 3 + ["running"]


async def test_since_a_time_there_is_all_of_what_goes_on_from_there() -> None:
    async with TestEngine(shop()) as engine:
        await engine.send("placed", {"cart": 1, "text": "x"})
        await engine.send("placed", {"cart": 2, "text": "x"})
        await engine.send("paid", {"cart": 1})
        await engine.advance("10m")
        since = int(engine.now.timestamp() * 1000)
        await engine.send("paid", {"cart": 2})
        await engine.send("placed", {"cart": 3, "text": "x"})
        tape = await read_tape(engine.log, Wanted(since=since))
        first, second, third = engine.all_runs(engine.app.functions["order"])
        assert tape.runs() == [second.id, third.id]
        assert view_of(tape, second.id).runs.get(second.id).status == "completed"  # type: ignore[union-attr]
        with pytest.raises(UnknownRun):
            view_of(tape, first.id)
        kinds = {one.kind for part in tape.parts.values() for one in part.entries if one.at >= since}
        assert {"event.received", "event.keyed", "run.requested", "match.offered"} <= kinds


async def test_a_run_that_was_forgotten_is_what_it_was_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perdure.testing.engine.KEPT_MS", 86_400_000)
    async with TestEngine(shop()) as engine:
        await engine.send("placed", {"cart": 1, "text": "x"})
        await engine.advance("2h")
        (run,) = engine.all_runs(engine.app.functions["order"])
        await engine.advance("2d")
        while engine.all_runs(engine.app.functions["order"]):
            await engine.send("late", {})  # time passes in a partition with its records
        state = view_of(await read_tape(engine.log), run.id).runs.get(run.id)
        assert state is not None
        assert (state.status, state.result is not None) == ("completed", True)


async def test_what_is_no_run_is_said() -> None:
    async with TestEngine(shop()) as engine:
        await engine.send("placed", {"cart": 1, "text": "x"})
        (run,) = engine.all_runs(engine.app.functions["order"])
        with pytest.raises(UnknownRun):
            await read_tape(engine.log, Wanted(frozenset(["no-run"])))
        other = run.id[:4] + "0" * 32
        tape = await read_tape(engine.log, Wanted(frozenset([run.id, other])))
        with pytest.raises(UnknownRun):
            view_of(tape, other)
        (asked,) = [one for one in tape.entries_of(run.id) if one.kind == "run.requested"]
        with pytest.raises(PastGone, match=f"requested at offset {asked.offset}"):
            view_of(tape, run.id, asked.offset - 1)
        assert tape.raw_at(asked.partition, asked.offset) == asked.raw


async def test_of_a_trimmed_log_there_is_what_the_state_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "TRIM_MS", 0)
    log = MemoryLog(3, retention_ms=0)
    node, port = await begin(log)
    for n in range(3):
        await port.send([body("placed", f"e{n}", b'{"cart":%d,"fails":false,"text":"%b"}' % (n, LARGE.encode()))])
        await rest(node)
    for what in ("paid", "shipped"):
        await port.send([body(what, f"{what}", b'{"cart":0,"text":"x"}')])
        await rest(node)
    assert all(log.start(partition) for partition in range(3))
    found, _ = await port.runs(function="order")
    assert sorted(run.status in TERMINAL for run in found) == [False, False, True]
    for run in found:
        tape = await read_tape(log, Wanted(frozenset([run.id])))
        (partition,) = tape.parts
        live = node.processors[partition].view
        assert what_is_known(view_of(tape, run.id), run.id) == what_is_known(live, run.id)
        with pytest.raises(PastGone, match="were trimmed by their owner"):
            view_of(tape, run.id, 0)
    await check_whole_runs_of_a_trimmed_log(log, port, node)
    await node.close()


async def check_whole_runs_of_a_trimmed_log(log: MemoryLog, port: LocalPort, node: Node) -> None:
    """A run whose records are all there, above what was trimmed: its definitions are in the state alone."""
    await port.send([body("placed", "last", b'{"cart":9,"fails":false,"text":"x"}')])
    for _ in range(20):
        await asyncio.sleep(0)
    (run,) = [one for one in (await port.runs(function="order"))[0] if one.event_id == "last"]
    tape = await read_tape(log, Wanted(frozenset([run.id])))
    (partition,) = tape.parts
    assert what_is_known(view_of(tape, run.id), run.id) == what_is_known(node.processors[partition].view, run.id)
