"""Snapshots and trimming on pods that come with empty and stale disks (model/snapshots.py).

The model's variants are here too: each rule is left out once, to see that its loss is noticed.

    PERDURE_SEEDS=500 python -m pytest tests/partition/test_snapshots.py -k storm
    PERDURE_SLEEPERS=10000 python -m pytest -s tests/partition/test_snapshots.py -k sleep
"""

import asyncio
import os
import time
from collections.abc import Callable
from contextlib import suppress
from random import Random
from typing import Any

import msgspec
import pytest
from msgspec import Raw

from perdure import App, Context, Event
from perdure.errors import LogCorrupt, LogError, LogMismatch
from perdure.flow.routing import partition_of
from perdure.log.memory import MemoryLog, MemoryStore
from perdure.partition import snapshots
from perdure.partition.checkpoint import CHANGED_PREFIX, POSITION_KEY, Checkpointer, Position, read_position
from perdure.partition.snapshots import Keeper, offset_at, take_up
from perdure_schemas.event import EventBody
from perdure_schemas.records import EventReceived, V
from tests.flow.storm import seeds
from tests.partition.cluster import Cluster, Pod, RoundWriter, SharedLog
from tests.simulation.bugs import keeping
from tests.simulation.topics import SnapshotTopic

SLEEPERS = int(os.environ.get("PERDURE_SLEEPERS", "300"))
_ENCODE = msgspec.json.Encoder().encode


@pytest.fixture(autouse=True)
def rounds_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A round whenever time passes and there is something new."""
    monkeypatch.setattr(snapshots, "ROUND_MS", 1)
    monkeypatch.setattr(snapshots, "TRIM_MS", 1)


def shop() -> App:
    """Runs that sleep, wait for what others do, and remember much or little."""
    app = App("shop")

    @app.step
    async def pack(n: int) -> str:
        return "x" * (5_000 if n % 3 == 0 else 5)

    @app.function(on="placed", id="order")
    async def order(ctx: Context, event: Event[Any]) -> int:
        packed = await pack(event.data["n"])
        paid = await ctx.wait_for_event("paid", match="data.cart", timeout="2h")
        return len(packed) + (paid is not None)

    @app.function(on="slept", id="sleeper")
    async def sleeper(ctx: Context, event: Event[Any]) -> int:
        packed = await pack(event.data["n"])
        await ctx.sleep("30d")
        return len(packed)

    return app


def write_event(cluster: Cluster, name: str, id_: str, **data: object) -> None:
    """As another service would: straight to the log."""
    event = EventBody(id_, name, Raw(_ENCODE(data)))
    cluster.write(partition_of(id_, cluster.partitions), [_ENCODE(EventReceived(event, v=V))])


async def pod_with(cluster: Cluster, name: str) -> Pod:
    pod = await cluster.pod(name, shop()).start()
    cluster.deal({name: range(cluster.partitions)})
    await cluster.settle()
    assert pod.owned() == list(range(cluster.partitions))
    return pod


async def rounds(cluster: Cluster) -> None:
    """Everything that can happen, and a round of it."""
    for _ in range(2):
        await cluster.settle()
        cluster.now += 1
    await cluster.settle()


# What is to hold


async def test_a_pod_with_an_empty_disk_restores_runs_that_sleep_while_their_journal_is_trimmed() -> None:
    cluster = Cluster(snapshots=True)
    one = await pod_with(cluster, "one")
    for n in range(SLEEPERS):
        write_event(cluster, "slept", f"e{n}", n=n)
        if n % 500 == 499:
            await rounds(cluster)
    await rounds(cluster)
    cluster.now += 3 * 86_400_000
    for partition in range(cluster.partitions):
        # Nothing but time: the ids of the events expire, and the round has that, too.
        cluster.write(partition, [b'{"kind":"step.released","v":1,"run":"none","op":"none","claim":"none"}'] * 2_000)
    await rounds(cluster)
    kept = [cluster.end(partition) - cluster.starts[partition] for partition in range(cluster.partitions)]
    assert all(left < 10 for left in kept), "all but the end is trimmed"
    await one.kill()
    begun = time.perf_counter()
    other = await pod_with(cluster, "other")
    took = time.perf_counter() - begun
    states = [state for processor in other.node.processors for state in processor.view.runs.values()]
    assert [state.status for state in states] == ["running"] * SLEEPERS
    assert other.node.worker.executions == {}, "none of them was touched"
    cluster.check()
    replayed = sum(processor.records["read"] for processor in other.node.processors)
    trimmed = sum(cluster.starts)
    print(f"\n{SLEEPERS} sleeping runs restored in {took:.2f} s; {trimmed} records trimmed, {replayed} folded")
    # The pod that lived on would be the same: its disk is.
    again = one.disks
    del cluster.pods["other"]
    for partition, disk in enumerate(again):
        lived = dict(disk.scan(b""))
        restored = dict(other.disks[partition].scan(b""))
        same = {key for key in {*lived, *restored} if not key.startswith((b"!", b"#", b"a/"))}
        assert {key for key in same if lived.get(key) != restored.get(key)} == set()
    cluster.pods["other"] = other
    await cluster.advance(31 * 86_400_000)
    assert {run.status for run in cluster.runs()} <= {"completed"}
    cluster.check()
    await other.stop()


async def test_own_disk_is_used_where_it_stands_high_enough() -> None:
    cluster = Cluster(snapshots=True)
    one = await pod_with(cluster, "one")
    write_event(cluster, "slept", "e", n=1)
    await rounds(cluster)
    stood = [read_position(disk.get(POSITION_KEY)) for disk in one.disks]
    stale = [_copy(disk) for disk in one.disks]
    await one.kill()
    assert cluster.snapshots is not None
    seen: list[int] = []
    for partition in range(cluster.partitions):
        position, keeper = await take_up(_log(cluster, one.disks), partition)
        assert position == stood[partition], "the disk is at the watermark or above"
        seen.append(keeper.watermark if isinstance(keeper, snapshots.Rounds) else -1)
    assert max(seen) > 0
    other = await pod_with(cluster, "other")
    for n in range(8):
        write_event(cluster, "slept", f"f{n}", n=n)
    await rounds(cluster)
    await other.kill()
    for partition, disk in enumerate(stale):
        position, _ = await take_up(_log(cluster, stale), partition)
        was = stood[partition]
        assert was is not None
        assert position.offset > was.offset, "the snapshot is ahead of this disk"
        assert dict(disk.scan(b"r/")) == dict(other.disks[partition].scan(b"r/"))


def _log(cluster: Cluster, disks: list[MemoryStore]) -> SharedLog:
    return SharedLog(cluster, disks, "reader")


def _copy(disk: MemoryStore) -> MemoryStore:
    copy = MemoryStore(MemoryLog())
    copy.write(disk.scan(b""), ())
    return copy


async def test_who_cannot_restore_says_so_and_halts() -> None:
    cluster = Cluster(snapshots=True)
    one = await pod_with(cluster, "one")
    write_event(cluster, "slept", "e", n=1)
    await rounds(cluster)
    await one.kill()
    assert cluster.snapshots is not None
    topic = cluster.snapshots[0]
    rows, kept = topic.read(), cluster.starts[0]
    empty = [MemoryStore(MemoryLog()) for _ in range(4)]
    cluster.write(0, [b"of a pod that is gone, too"])
    cluster.starts[0] = cluster.end(0)
    with pytest.raises(LogCorrupt, match="its snapshot ends at"):
        await take_up(_log(cluster, empty), 0)
    cluster.snapshots[0] = SnapshotTopic()
    with pytest.raises(LogCorrupt, match="there is no state"):
        await take_up(_log(cluster, empty), 0)
    cluster.starts[0] = kept
    with pytest.raises(LogCorrupt, match="there is no state"):
        await take_up(_log(cluster, empty), 0)
    # Of another version of the folds, on the disk or in the snapshot.
    position = read_position(one.disks[0].get(POSITION_KEY))
    assert position is not None
    other = msgspec.json.encode(msgspec.structs.replace(position, folds=1))
    one.disks[0].write([(POSITION_KEY, other)], ())
    with pytest.raises(LogMismatch, match="Run the version of perdure that wrote it"):
        await take_up(_log(cluster, one.disks), 0)
    cluster.snapshots[0] = topic
    epoch = topic.fence()
    topic.write(epoch, 1, [(POSITION_KEY, other)])
    topic.commit(epoch, 1)
    with pytest.raises(LogMismatch, match="version 1 of the folds"):
        await take_up(_log(cluster, empty), 0)
    assert dict(topic.read()).keys() == dict(rows).keys()
    # The pod says it aloud, and goes on with the other partitions.
    pod = await cluster.pod("other", shop()).start()
    cluster.deal({"other": range(4)})
    await rounds(cluster)
    assert "version 1 of the folds" in pod.node.halted[0]
    assert pod.owned() == [1, 2, 3]


async def _passed_by(cluster: Cluster, slow: Pod) -> Pod:
    """While `slow` is frozen another pod takes all, goes on, and trims what `slow` has not read."""
    slow.log.freeze()
    other = await cluster.pod("other", shop()).start()
    cluster.deal({"other": range(cluster.partitions)})
    for n in range(8):
        write_event(cluster, "slept", f"f{n}", n=n)
    await rounds(cluster)
    for processor in slow.node.processors:
        assert cluster.starts[processor.partition] > processor.offset
    return other


async def test_an_owner_that_fell_below_the_journals_start_restores_once_it_is_confirmed() -> None:
    cluster = Cluster(snapshots=True)
    one = await pod_with(cluster, "one")
    write_event(cluster, "slept", "e", n=1)
    await rounds(cluster)
    other = await _passed_by(cluster, one)
    one.log.thaw()
    await rounds(cluster)
    assert (one.node.halted, one.node.processors) == ({}, []), "the other one is not fenced by what was left of this"
    assert other.owned() == list(range(4))
    cluster.deal({"one": range(4)})
    await rounds(cluster)
    assert (one.node.halted, one.owned()) == ({}, list(range(4)))
    cluster.check()
    await cluster.advance(31 * 86_400_000)
    assert [run.status for run in cluster.runs()] == ["completed"] * 9


async def test_what_is_kept_warm_and_fell_below_the_journals_start_is_dropped() -> None:
    cluster = Cluster(snapshots=True)
    one = await pod_with(cluster, "one")
    await rounds(cluster)
    cluster.deal({})
    await cluster.settle()
    assert [processor.assigned for processor in one.node.processors] == [False] * 4
    await _passed_by(cluster, one)
    one.log.thaw()
    await rounds(cluster)
    assert (one.node.halted, one.node.processors) == ({}, [])
    cluster.deal({"one": range(4)})
    await rounds(cluster)
    assert one.owned() == list(range(4))
    cluster.check()


async def test_what_is_trimmed_while_it_is_taken_up_is_taken_up_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perdure.partition.ownership.RETRY_SECONDS", 0.0)
    cluster = Cluster(snapshots=True)
    one = await pod_with(cluster, "one")
    await rounds(cluster)
    await one.kill()
    await one.start()
    latest, asked, trimmed = one.log.latest, 0, asyncio.Event()

    async def slow(partition: int) -> int:
        nonlocal asked
        asked += 1
        if asked == 2:
            # The anchor was compared, and nothing is followed yet.
            await trimmed.wait()
        return await latest(partition)

    monkeypatch.setattr(one.log, "latest", slow)
    cluster.deal({"one": (0,)})
    while asked < 2:
        await asyncio.sleep(0)
    one.log.cut_off = True
    other = await _passed_by(cluster, one)
    one.log.thaw()
    await other.kill()
    one.log.cut_off = False
    cluster.hands = {"one": (0,)}
    trimmed.set()
    while one.owned() != [0]:
        await rounds(cluster)
    assert one.node.halted == {}
    cluster.check()


async def test_while_the_journal_is_whole_a_snapshot_of_other_folds_is_replaced() -> None:
    cluster = Cluster(snapshots=True)
    cluster.retention_ms = None
    assert cluster.snapshots is not None
    for topic in cluster.snapshots:
        epoch = topic.fence()
        old = msgspec.json.encode(Position(1, 0, 0, "", 1))
        topic.write(epoch, 1, [(POSITION_KEY, old), (b"r/old", b"{}")])
        topic.commit(epoch, 1)
    one = await pod_with(cluster, "one")
    write_event(cluster, "slept", "e", n=1)
    await rounds(cluster)
    assert cluster.starts == [0] * 4
    for partition, topic in enumerate(cluster.snapshots):
        local = (b"!a", b"!c", b"!s", b"a/")
        disk = {key: value for key, value in one.disks[partition].scan(b"") if key[:2] not in local}
        assert {key: value for key, value in topic.read() if key[:2] not in local} == disk


async def test_a_checkpoint_across_another_owners_watermark_is_followed_by_a_whole_round() -> None:
    """What that owner's snapshot has, and was over before the checkpoint, stands in no list of what it changed."""
    cluster = Cluster(snapshots=True)
    cluster.retention_ms = None
    one = await pod_with(cluster, "one")
    await rounds(cluster)
    one.log.cut_off = True
    one.log.freeze()
    other = await pod_with(cluster, "other")
    write_event(cluster, "placed", "order", n=1, cart=7)
    await rounds(cluster)
    other.log.commits = lambda: "failed"
    write_event(cluster, "paid", "payment", cart=7)
    await cluster.settle()
    await other.kill()
    assert [run.status for run in cluster.runs()] == ["completed"]
    # The group had given the partitions to the one that was silent: it reads all of that at once.
    cluster.hands = {"one": range(4)}
    one.log.cut_off = False
    one.log.thaw()
    await rounds(cluster)
    assert one.owned() == list(range(4))
    assert cluster.snapshots is not None
    for topic, disk in zip(cluster.snapshots, one.disks, strict=True):
        local = (b"!a", b"!c", b"!s", b"a/")
        rows = {key for key, _ in topic.read() if key[:2] not in local}
        assert rows == {key for key, _ in disk.scan(b"") if key[:2] not in local}


async def test_changes_are_listed_until_a_round_has_them() -> None:
    cluster = Cluster(snapshots=True)
    one = await pod_with(cluster, "one")
    one.log.commits = lambda: "failed"
    for n in range(10):
        write_event(cluster, "slept", f"e{n}", n=n)
        await rounds(cluster)
    assert sum(len(disk.scan(CHANGED_PREFIX)) for disk in one.disks) > 8
    one.log.commits = lambda: ""
    write_event(cluster, "slept", "last", n=0)
    for _ in range(3):
        cluster.now += 1
        await rounds(cluster)
    assert max(len(disk.scan(CHANGED_PREFIX)) for disk in one.disks) <= 3
    await one.stop()


async def test_the_last_records_stay_for_people() -> None:
    cluster = Cluster(snapshots=True)
    cluster.retention_ms = 3_600_000
    await pod_with(cluster, "one")
    for n in range(20):
        cluster.now += 600_000
        write_event(cluster, "slept", f"e{n}", n=n)
        await rounds(cluster)
    for partition in range(cluster.partitions):
        before = [one for one in cluster.journals[partition] if one.offset < cluster.starts[partition]]
        assert all(batch.timestamp_ms < cluster.now - 3_600_000 for batch in before)
    assert sum(cluster.starts) > 20


async def test_the_first_record_of_a_time_is_found() -> None:
    log = MemoryLog(1, clock=lambda: now)
    await log.open()
    now = 0
    for index in range(200):
        now = index // 7 * 10
        for _ in range(index % 4 + 1):
            log.append(0, b"x")
        await log.acknowledge(log.append(0, b"x"))
    stamps = [batch.timestamp_ms for batch in log.read(0, 0) for _ in batch.values]
    for at in (*range(-5, 300, 3), 10**9):
        expected = next((offset for offset, stamp in enumerate(stamps) if stamp >= at), len(stamps))
        assert await offset_at(log, 0, at, 0, len(stamps)) == expected
        assert await offset_at(log, 0, at, 40, 90) == min(max(expected, 40), 90)


# Storms


class Storm:
    """Pods come, die, freeze and are thawed; disks are kept, lost and old; rounds fail and go unheard."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.cluster = Cluster(2, snapshots=True)
        self.shelf: list[list[MemoryStore]] = []
        """Disks of pods that are gone, some of them old."""
        self.pods = 0
        self.events = 0

    async def play(self, turns: int = 90) -> None:
        """Raises `AssertionError` for what must not be."""
        random, cluster = self.random, self.cluster
        await self.born()
        for _ in range(turns):
            draw = random.random()
            if draw < 0.45:
                self.event()
            elif draw < 0.55:
                cluster.now += random.choice([1, 1_000, 3_600_000])
            elif draw < 0.70:
                await self.turnover()
            elif draw < 0.78:
                self.deal()
            elif draw < 0.86:
                pod = random.choice(cluster.alive())
                pod.log.thaw() if pod.log.frozen else pod.log.freeze()
            elif draw < 0.93:
                pod = random.choice(cluster.alive())
                pod.log.held_back = lambda partition, value: True
                asyncio.get_running_loop().call_soon(pod.log.thaw)
            else:
                self.compact()
            for _ in range(random.choice([0, 1, 3, 10, 40])):
                for pod in cluster.alive():
                    pod.turn()
                await asyncio.sleep(0)
        await self.calm()

    async def born(self, disks: list[MemoryStore] | None = None) -> None:
        self.pods += 1
        pod = self.cluster.pod(f"pod{self.pods}", shop())
        if disks is not None:
            pod.disks = disks
        await pod.start()
        random = self.random
        pod.log.commits = lambda: random.choice(["", "", "", "failed", "unheard"])
        self.deal()

    def deal(self) -> None:
        alive = self.cluster.alive()
        hands: dict[str, list[int]] = {}
        for partition in range(self.cluster.partitions):
            hands.setdefault(self.random.choice(alive).name, []).append(partition)
        self.cluster.deal(hands)

    async def turnover(self) -> None:
        """One dies, or its disk is copied while it lives on as it was; another comes."""
        random, cluster = self.random, self.cluster
        pod = random.choice(cluster.alive())
        self.shelf.append([_copy(disk) for disk in pod.disks])
        if random.random() < 0.7 or len(cluster.alive()) > 3:
            await pod.kill()
        else:
            pod.log.cut_off = True
        await self.born(random.choice([None, self.shelf.pop(random.randrange(len(self.shelf)))]))

    def event(self) -> None:
        self.events += 1
        name = self.random.choice(["placed", "placed", "slept", "paid"])
        write_event(self.cluster, name, f"e{self.events}", n=self.events, cart=self.random.randrange(3))

    def compact(self) -> None:
        assert self.cluster.snapshots is not None
        self.random.choice(self.cluster.snapshots).compact(self.random)

    async def calm(self) -> None:
        """Faults stop. One pod that was there has everything, then one with an empty disk: and both are the same."""
        cluster = self.cluster
        for pod in cluster.alive():
            pod.log.thaw()
            pod.log.cut_off = False
            pod.log.commits = lambda: ""
        survivor = self.random.choice(cluster.alive())
        self._all_to(survivor)
        await self._whole(survivor)
        fresh = await cluster.pod("fresh", shop()).start()
        self._all_to(fresh)
        await self._whole(fresh)
        await cluster.advance(40 * 86_400_000)
        await self._whole(fresh)
        unfinished = [run for run in cluster.runs() if run.status != "completed"]
        assert not unfinished, f"effect lost: {unfinished[:1]}"
        for partition in range(cluster.partitions):
            view = cluster.fold(partition)
            for to, n in view.meta.outseq.items():
                assert cluster.fold(to).meta.inseq.get(partition, 0) == n, "effect lost on its way"
        for pod in cluster.alive():
            await pod.kill()

    def _all_to(self, pod: Pod) -> None:
        self.cluster.deal({pod.name: range(self.cluster.partitions)})

    async def _whole(self, pod: Pod) -> None:
        for _ in range(3):
            self.cluster.now += 1_000
            await self.cluster.settle()
        assert pod.node.halted == {}, pod.node.halted
        assert pod.owned() == list(range(self.cluster.partitions))
        for processor in pod.node.processors:
            assert processor.offset == self.cluster.end(processor.partition)
        self.cluster.check()


async def outcome(seed: int) -> str:
    """What went wrong in a storm, or nothing."""
    storm = Storm(seed)
    try:
        await storm.play()
    except (AssertionError, LogError, KeyError, IndexError) as error:
        return f"{type(error).__name__}: {error}"[:200]
    finally:
        for pod in storm.cluster.alive():
            with suppress(Exception):
                await pod.kill()
    return ""


@pytest.mark.parametrize("seed", seeds(8))
async def test_storms_of_pods_and_disks(seed: int) -> None:
    await Storm(seed).play()


# The rules, each left out once


def _several_transactions(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(RoundWriter, "chunked", True)


def _changes_in_memory_only(patch: pytest.MonkeyPatch) -> None:
    begin = Checkpointer.__init__

    def forgetful(self: Checkpointer, log: Any, store: Any, *args: Any) -> None:
        store.write((), [row for row, _ in store.scan(CHANGED_PREFIX)])
        begin(self, log, store, *args)

    patch.setattr(Checkpointer, "__init__", forgetful)


def _trim_above_the_watermark(patch: pytest.MonkeyPatch) -> None:
    trim = Keeper._trim  # pyright: ignore[reportPrivateUsage]
    patch.setattr(Keeper, "_trim", lambda keeper, below: trim(keeper, below + 40))


def _stale_disk(patch: pytest.MonkeyPatch) -> None:
    """A disk below the journal's start goes on from there, as if nothing were missing."""

    def own_disk(log: Any, partition: int, watermark: int) -> Position | None:
        own = read_position(log.store(partition).get(POSITION_KEY))
        if own is None:
            return None
        start = log.start(partition)
        return own if own.offset >= start else msgspec.structs.replace(own, offset=start, anchor="")

    patch.setattr(snapshots, "_own_disk", own_disk)


VARIANTS: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], int]] = {
    "several transactions a round": (_several_transactions, 0),
    "changes in memory only": (_changes_in_memory_only, 1),
    "trim above the watermark": (_trim_above_the_watermark, 0),
    "a stale disk goes on": (_stale_disk, 3),
    "no fence": (keeping.a_zombie_writes_snapshots.plant, 0),
    "no tombstones": (keeping.rounds_without_tombstones.plant, 0),
    "rows are missing": (keeping.a_round_misses_rows.plant, 0),
    "the watermark before its rows": (keeping.rounds_in_two_transactions.plant, 0),
}
"""With the first seed that noticed."""


@pytest.mark.parametrize("variant", VARIANTS)
async def test_a_rule_left_out_is_noticed(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    leave_out, first = VARIANTS[variant]
    leave_out(monkeypatch)
    for seed in range(first, first + 6):
        if await outcome(seed):
            return
    pytest.fail("nobody noticed")


@pytest.mark.parametrize("seed", seeds(2))
async def test_a_disk_below_the_watermark_would_do_no_harm(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as the journal goes on from there. It would only take longer: the model says so, too."""
    own_disk = snapshots._own_disk  # pyright: ignore[reportPrivateUsage]
    monkeypatch.setattr(snapshots, "_own_disk", lambda log, partition, watermark: own_disk(log, partition, 0))
    await Storm(seed).play()
