"""What becomes of a data directory: copied hot, in use, of another partition count, of other code."""

import asyncio
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from perdure import Engine, Event
from perdure.errors import LogCorrupt, LogInUse, LogMismatch, PartitionHalted
from perdure.log.embedded import EmbeddedLog
from perdure.partition.checkpoint import POSITION_KEY
from tests.copies import copy_log
from tests.system.engine_process import ROOT, environment
from tests.system.shop import Shop, check_stores, fill, same_as_before

HOLDER = """
import asyncio, sys
from perdure import App, Engine
app = App("shop")
async def main():
    async with Engine(app, log=sys.argv[1]):
        print("open", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
asyncio.run(main())
"""


async def test_a_hot_copy_goes_on_where_it_was(tmp_path: Path) -> None:
    """What a copy holds is what SIGKILL would leave: whatever was acknowledged by then, and runs half-way."""
    shop = Shop()
    copies: list[tuple[Path, list[str]]] = []
    rng = random.Random(1)
    async with shop.engine(tmp_path / "log") as engine:
        runs = [await shop.order.enqueue(f"o{n}", 40) for n in range(10)]
        nap = await shop.nap.enqueue(1_500)
        waiting = await shop.payment.enqueue("ada")
        acknowledged: list[str] = []
        for n in range(4):
            events = [Event("noted", {"n": n}, id=f"note-{n}-{k}") for k in range(rng.randint(1, 8))]
            acknowledged += [await engine.send(event) for event in events]
            # On the loop's own thread: nothing is written meanwhile, as when a process has just died.
            copy = tmp_path / f"copy{n}"
            copy_log(tmp_path / "log", copy)
            copies.append((copy, list(acknowledged)))
        assert "running" in [await run.status() for run in runs]
    for copy, sent in copies:
        again = Shop()
        async with again.engine(copy) as engine:
            for run in runs:
                assert await again.order.handle(run.id).result(timeout="20s") == 40
            assert (await again.nap.handle(nap.id).result(timeout="20s")).startswith("nap.")
            await engine.send("paid", {"name": "ada", "by": "card"})
            assert await again.payment.handle(waiting.id).result(timeout="20s") == "card"
            for event in sent:
                assert await engine.port.knows_event(event)
        await check_stores(copy)


async def test_in_use_by_another_process(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, f"embedded://{folder}"],
        cwd=ROOT, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"open\n"
        with pytest.raises(LogInUse, match=rf"in use by process {holder.pid}\b.*stop that one, or talk to it"):
            await Shop().engine(folder).__aenter__()
        # The other one is not disturbed: it drains, and then the directory is free.
        holder.communicate(timeout=20)
        assert holder.returncode == 0
    finally:
        holder.kill()
        holder.communicate()
    async with Shop().engine(folder) as engine:
        await engine.send("noted", {"n": 1})


async def test_another_partition_count(tmp_path: Path) -> None:
    shop = Shop()
    async with shop.engine(tmp_path) as engine:
        results = await fill(shop, engine)
    with pytest.raises(LogMismatch, match=r"has 4 partitions, and 2 were asked for.*partitions=4"):
        await shop.engine(tmp_path, partitions=2).__aenter__()
    await same_as_before(shop, tmp_path, results)


async def test_a_directory_of_a_newer_version(tmp_path: Path) -> None:
    shop = Shop()
    async with shop.engine(tmp_path) as engine:
        results = await fill(shop, engine)
    path = tmp_path / "perdure.json"
    described = path.read_text()
    path.write_text(json.dumps({**json.loads(described), "format": 99}))
    with pytest.raises(LogMismatch, match=r"format 99.*install the version that wrote it"):
        await shop.engine(tmp_path).__aenter__()
    path.write_text(described)
    await same_as_before(shop, tmp_path, results)


@pytest.mark.parametrize(
    ("record", "why"),
    [
        (b'{"kind":"event.received","event":{"id":"x","name":"x","data":{}},"v":99}', "version 99"),
        (b'{"kind":"moon.landed","v":1}', "moon.landed"),
        (b'{"kind":"event.received","v":1}', "event"),
        (b"\xff\xfe", "utf|JSON|invalid"),
    ],
    ids=["newer version", "unknown kind", "missing field", "no JSON"],
)
async def test_a_record_that_this_code_cannot_read_halts_and_is_never_skipped(
    tmp_path: Path, record: bytes, why: str
) -> None:
    shop = Shop()
    async with shop.engine(tmp_path) as engine:
        await fill(shop, engine)
    log = EmbeddedLog(tmp_path)
    await log.open()
    await log.acknowledge(log.append(2, record))
    end = log.end(2)
    await log.close()
    for _ in range(2):
        with pytest.raises(PartitionHalted, match=rf"(?s)partition 2 halted at offset {end - 1}: .*({why})"):
            await shop.engine(tmp_path).__aenter__()


async def test_an_unreadable_record_under_a_running_engine_halts_its_partition_alone(durable_url: str) -> None:
    shop = Shop()
    async with Engine(shop.app, log=durable_url) as engine:
        async with asyncio.timeout(60):
            while engine.port.ready():
                await asyncio.sleep(0.01)
            log = engine.nodes[0].log
            await log.acknowledge(log.append(2, b'{"kind":"moon.landed","v":1}'))
            while "moon.landed" not in engine.port.ready().get("partition 2", ""):
                await asyncio.sleep(0.01)
        assert list(engine.port.ready()) == ["partition 2"]
        done, halted = 0, list[str]()
        for n in range(40):
            try:
                run = await shop.order.enqueue(f"o{n}", 2)
                assert await run.result(timeout="60s") == 2
                done += 1
            except PartitionHalted as error:
                halted.append(str(error))
        assert done > 15
        assert len(halted) > 2
        assert all("moon.landed" in why for why in halted)


async def test_state_of_another_fold_version_is_folded_again(tmp_path: Path) -> None:
    shop = Shop()
    async with shop.engine(tmp_path) as engine:
        results = await fill(shop, engine)
    log = EmbeddedLog(tmp_path)
    await log.open()
    for partition in range(4):
        store = log.store(partition)
        stored = store.get(POSITION_KEY)
        assert stored is not None
        position = {**json.loads(stored), "folds": 0}
        store.write([(POSITION_KEY, json.dumps(position).encode()), (b"r/nonsense", b"{}")], [])
    await log.close()
    await same_as_before(shop, tmp_path, results)
    await check_stores(tmp_path)


async def test_a_store_ahead_of_its_log_is_refused(tmp_path: Path) -> None:
    """I7: records that were folded are missing, or are others now."""
    shop = Shop()
    async with shop.engine(tmp_path) as engine:
        await fill(shop, engine)
    log = EmbeddedLog(tmp_path)
    await log.open()
    stored = log.store(1).get(POSITION_KEY)
    assert stored is not None
    position: dict[str, Any] = json.loads(stored)
    for change, why in (({"offset": position["offset"] + 7}, "are missing"), ({"anchor": "x" * 16}, "is not the one")):
        log.store(1).write([(POSITION_KEY, json.dumps({**position, **change}).encode())], [])
        await log.close()
        with pytest.raises(LogCorrupt, match=f"I7: partition 1.*{why}"):
            await shop.engine(tmp_path).__aenter__()
        await log.open()
    await log.close()
