"""A log of one process: its owner trims it to its own checkpoint, and nothing that runs need is lost by it."""

import asyncio
from typing import Any

import pytest
from msgspec import UNSET, Raw

from perdure import App, Context, Ended, Event
from perdure.errors import LogCorrupt, LogMismatch
from perdure.log.memory import MemoryLog
from perdure.partition import snapshots
from perdure.partition.checkpoint import POSITION_KEY, read_position
from perdure.sdk.local_port import LocalPort
from perdure.sdk.node import Node
from perdure_schemas.event import EventBody
from tests.evidence.folding import records

LARGE = "x" * 9_000


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "TRIM_MS", 0)


def shop() -> App:
    async def rescue(ctx: Context, ended: Ended) -> str:
        return str(ended.result(pack))

    app = App("shop", on_failure=rescue)

    @app.step
    async def pack(text: str) -> str:
        return text

    @app.background
    async def child(text: str) -> str:
        return await pack(text)

    @app.function(on="placed", id="order", retries=0)
    async def order(ctx: Context, event: Event[Any]) -> int:
        packed = await pack(event.data["text"])
        paid = await ctx.wait_for_event("paid", match="data.cart")
        assert paid is not None
        called = await child.call(paid.data["text"])
        await ctx.wait_for_event("shipped", match="data.cart")
        if event.data["fails"]:
            raise ValueError("no")
        return len(packed) + len(called)

    return app


async def begin(log: MemoryLog) -> tuple[Node, LocalPort]:
    node = Node(shop(), log, ticking=False)
    await node.open()
    return node, LocalPort(node)


async def rest(node: Node) -> None:
    """Everything that can happen, then checkpoints, and the trimming that follows."""
    for _ in range(30):
        for _ in range(20):
            await asyncio.sleep(0)
        node.tick()
        for processor in node.processors:
            await processor.keeper.settled()


def body(name: str, id_: str, data: bytes) -> EventBody:
    return EventBody(id_, name, Raw(data))


@pytest.mark.parametrize("fails", [False, True])
async def test_runs_with_large_payloads_go_on_after_each_restart_upon_a_trimmed_log(fails: bool) -> None:
    log = MemoryLog(3, retention_ms=0)
    told = [
        body("placed", "e1", b'{"cart":1,"fails":%s,"text":"%b"}' % (str(fails).lower().encode(), LARGE.encode())),
        body("paid", "e2", b'{"cart":1,"text":"%b"}' % LARGE.encode()),
        body("shipped", "e3", b'{"cart":1}'),
    ]
    node, port = await begin(log)
    for event in told:
        await port.send([event])
        await rest(node)
        kept = [len(list(records(log, partition))) for partition in range(3)]
        assert max(kept) <= 3, "the owner keeps a record to compare with, and what came since"
        if event.id == "e2":
            found, _ = await port.runs(function="order")
            shown = await port.run(found[0].id)
            assert shown.trimmed
            assert [op.name for op in shown.ops if op.result is not UNSET] == ["pack", "wait:paid", "child"]
        await node.kill()
        log.crash()
        node, port = await begin(log)
    await rest(node)
    (run,), _ = await port.runs(function="order")
    outcome = await port.result(run.id)
    assert (outcome.status, outcome.result) == (("failed", UNSET) if fails else ("completed", Raw(b"18000")))
    if fails:
        everything, _ = await port.runs()
        (handler,) = (one for one in everything if one.cause == "handler")
        assert (await port.result(handler.id)).result == Raw(b'"%b"' % LARGE.encode())
    again = await port.rerun(run.id)
    await rest(node)
    trigger = (await port.run(again)).event
    assert trigger == Raw(b'{"id":"e1","name":"placed","data":%b,"user":{}}' % bytes(told[0].data))
    ended = await port.run(run.id)
    assert (ended.trimmed, ended.ops) == (True, ())
    await node.close()


async def test_a_trimmed_log_without_its_state_is_refused() -> None:
    log = MemoryLog(1, retention_ms=0)
    node, port = await begin(log)
    for n in range(5):
        await port.send([body("placed", f"e{n}", b'{"cart":1,"fails":false,"text":""}')])
        await rest(node)
    await node.close()
    await log.open()
    assert log.start(0) > 0
    raw = log.store(0).get(POSITION_KEY)
    position = read_position(raw)
    assert raw is not None
    assert position is not None
    log.store(0).write([(POSITION_KEY, raw.replace(b'"folds":2', b'"folds":1'))], ())
    with pytest.raises(LogMismatch, match="Run the version of perdure that wrote it"):
        await begin(log)
    await log.open()
    log.drop_store(0)
    with pytest.raises(LogCorrupt, match="there is no state"):
        await begin(log)
