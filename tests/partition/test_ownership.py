"""The life of a partition on its pods: taken up, paused, warm again, gone; runs go on where they were."""

import asyncio
from contextlib import suppress

import msgspec
import pytest

from perdure import App, Context, Event, current_step
from perdure.errors import NotOwned, PartitionHalted, UnknownRun
from perdure.flow.routing import partition_of_run, run_id
from perdure.partition.ownership import Ownership
from perdure.worker.payloads import digest
from perdure_schemas.payload import ErrorInfo, Payload
from perdure_schemas.records import Owner, OwnerReleased, OwnerStarted, StepAttempted, StepCompleted, StepFailed, V
from tests.partition.cluster import Cluster, Pod, SharedSnapshots
from tests.partition.shop import Shop, place, two_pods

EVERYTHING = range(4)


def run_and_partition(cluster: Cluster) -> tuple[str, int]:
    """The only run there is."""
    (run,) = cluster.runs()
    return run.id, partition_of_run(run.id, cluster.partitions)


def statuses(cluster: Cluster) -> list[str]:
    return [run.status for run in cluster.runs()]


async def test_pods_share_the_work() -> None:
    shop = Shop()
    cluster, one, other = await two_pods(shop)
    cluster.deal({"one": (0, 1), "other": (2, 3)})
    await cluster.settle()
    assert (one.owned(), other.owned()) == ([0, 1], [2, 3])
    shop.gate.set()
    await place(cluster, one, *(f"e{n}" for n in range(20)))
    assert statuses(cluster) == ["completed"] * 20
    assert set(shop.began) == {"one", "other"}
    assert len(shop.began) == len(shop.shipped) == 20
    cluster.check()


async def test_a_pod_without_partitions_opens_and_waits() -> None:
    shop = Shop()
    cluster, one, other = await two_pods(shop)
    assert (one.owned(), other.owned()) == ([0, 1, 2, 3], [])
    shop.gate.set()
    await place(cluster, other, "e")
    assert statuses(cluster) == ["completed"]
    assert shop.began == ["one"]


async def test_what_comes_back_goes_on_warm() -> None:
    """An eager rebalance that changes nothing stops no step, and runs none twice."""
    shop = Shop()
    cluster, _, _ = await two_pods(shop)
    await place(cluster, cluster.pods["other"], "a", "b", "c")
    cluster.deal({"one": EVERYTHING})
    await cluster.settle()
    shop.gate.set()
    await cluster.settle()
    assert statuses(cluster) == ["completed"] * 3
    assert (shop.began, shop.stopped, shop.shipped) == (["one"] * 3, [], ["one"] * 3)
    assert len(cluster.all(OwnerStarted)) == 8
    assert len(cluster.all(OwnerReleased)) == 4
    assert not cluster.all(StepAttempted)
    cluster.check()


async def test_a_paused_pod_says_nothing_until_it_is_its_turn_again() -> None:
    """What its steps give meanwhile is set aside, and told when the partition is its own again."""
    shop = Shop()
    cluster, one, _ = await two_pods(shop)
    await place(cluster, one, "e")
    cluster.deal({})
    shop.gate.set()
    ends = [cluster.end(partition) for partition in EVERYTHING]
    await cluster.settle()
    assert [cluster.end(partition) - 1 for partition in EVERYTHING] == ends, "only that it is released"
    assert len(cluster.all(StepCompleted)) == 1, "the one before"
    cluster.deal({"one": EVERYTHING})
    await cluster.settle()
    assert statuses(cluster) == ["completed"]
    assert shop.began == ["one"]


async def test_who_waits_for_what_is_not_folded_hears_that_the_partition_is_given_away() -> None:
    cluster, one, _ = await two_pods(Shop())
    await place(cluster, one, "e")
    _, partition = run_and_partition(cluster)
    processor = one.node.processor(partition)
    near, far = (asyncio.ensure_future(processor.folded(processor.offset + more)) for more in (1, 1_000))
    cluster.deal({})
    await cluster.settle()
    await near
    await far
    with pytest.raises(NotOwned):
        one.node.processor(partition)


async def test_no_step_begins_while_it_is_paused() -> None:
    """User code that was on the move when the partition was taken away waits before its next step."""
    shop, gate, app = Shop(), asyncio.Event(), App("shop")
    began: list[str] = []

    @app.step
    async def pack() -> None:
        began.append("pack")

    @app.function(on="placed")
    async def order(ctx: Context, event: Event) -> None:
        await gate.wait()
        await pack()

    cluster = Cluster()
    one = await cluster.pod("one", app).start()
    other = await cluster.pod("other", shop.app("other")).start()
    cluster.deal({"one": EVERYTHING})
    await cluster.settle()
    await place(cluster, one, "e")
    cluster.deal({})
    gate.set()
    await cluster.settle()
    assert began == []
    cluster.deal({"one": EVERYTHING})
    await cluster.settle()
    assert began == ["pack"]
    assert statuses(cluster) == ["completed"]
    await other.stop()
    cluster.check()


async def test_another_owners_word_lets_no_step_begin_here() -> None:
    """A zombie reads that its successor announces a step, which it did itself and has not read back yet."""
    shop = Shop()
    cluster, one, _ = await two_pods(shop)
    await place(cluster, one, "e")
    run, partition = run_and_partition(cluster)
    owner = Owner(99, "another")
    records = (OwnerStarted(owner, "code", 1, v=V), StepAttempted(run, "0/pack#1", owner, v=V))
    cluster.write(partition, [msgspec.json.encode(record) for record in records])
    shop.gate.set()
    await cluster.settle()
    assert shop.began == ["one"]
    assert statuses(cluster) == ["completed"]
    cluster.check()


async def test_what_comes_while_it_is_paused_is_done_when_it_comes_back() -> None:
    shop = Shop()
    cluster, _, other = await two_pods(shop)
    shop.gate.set()
    cluster.deal({})
    await place(cluster, other, "e")
    assert shop.began == []
    cluster.deal({"one": EVERYTHING})
    await cluster.settle()
    assert statuses(cluster) == ["completed"]
    cluster.check()


async def test_steps_are_stopped_when_another_pod_owns_their_partition() -> None:
    shop = Shop()
    cluster, one, other = await two_pods(shop)
    await place(cluster, one, "e")
    _, partition = run_and_partition(cluster)
    cluster.deal({"one": [p for p in EVERYTHING if p != partition], "other": [partition]})
    assert shop.stopped == [], "the other one may never come"
    await cluster.settle()
    assert shop.stopped == ["one"]
    assert shop.began == ["one", "other"]
    assert not cluster.all(StepAttempted), "a partition that was given away is no crash"
    assert [one.owned(), other.owned()] == [[p for p in EVERYTHING if p != partition], [partition]]
    shop.gate.set()
    await cluster.settle()
    assert statuses(cluster) == ["completed"]
    assert shop.shipped == ["other"]
    cluster.check()


async def test_steps_are_stopped_when_the_grace_period_is_over() -> None:
    shop = Shop()
    cluster, one, _ = await two_pods(shop)
    await place(cluster, one, "e")
    one.node.ownership.grace_seconds = 0.0
    cluster.deal({})
    while not shop.stopped:
        await cluster.settle()
    assert one.node.processors == []
    cluster.deal({"one": EVERYTHING})
    await cluster.settle()
    shop.gate.set()
    await cluster.settle()
    assert statuses(cluster) == ["completed"]
    assert shop.began == ["one", "one"]
    assert not cluster.all(StepAttempted)
    cluster.check()


async def test_a_partition_that_comes_back_after_another_had_it_begins_cold() -> None:
    """The other one may have ended, parked or done again what is in memory here."""
    shop = Shop()
    cluster, one, other = await two_pods(shop)
    await place(cluster, one, "e")
    one.log.freeze()
    cluster.deal({"other": EVERYTHING})
    await cluster.settle()
    assert shop.began == ["one", "other"]
    one.log.thaw()
    one.log.cut_off = True
    # It learns of its loss and of its new turn at once, and reads what was between only then.
    one.node.ownership.revoked(EVERYTHING)
    other.log.lose()
    one.log.cut_off = False
    cluster.hands = {"one": EVERYTHING}
    one.log.gain(EVERYTHING)
    await cluster.settle()
    assert shop.stopped == ["one", "other"]
    assert shop.began == ["one", "other", "one"]
    shop.gate.set()
    await cluster.settle()
    assert statuses(cluster) == ["completed"]
    cluster.check()


async def test_a_killed_pods_work_is_done_by_others() -> None:
    shop = Shop()
    cluster, one, _ = await two_pods(shop)
    await place(cluster, one, "a", "b")
    await one.kill()
    cluster.deal({"other": EVERYTHING})
    await cluster.settle()
    assert len(cluster.all(StepAttempted)) == 2
    assert shop.began == ["one", "one", "other", "other"]
    shop.gate.set()
    await cluster.settle()
    assert statuses(cluster) == ["completed"] * 2
    cluster.check()


async def test_a_pod_that_stops_cleanly_hands_over() -> None:
    shop = Shop()
    cluster, one, _ = await two_pods(shop)
    await place(cluster, one, "a", "b")
    stopping = asyncio.ensure_future(one.stop())
    await cluster.settle()
    await stopping
    cluster.deal({"other": EVERYTHING})
    await cluster.settle()
    assert not cluster.all(StepAttempted)
    shop.gate.set()
    await cluster.settle()
    assert statuses(cluster) == ["completed"] * 2
    cluster.check()


async def test_a_zombies_results_and_ends_count_once() -> None:
    """A frozen pod wakes up as owner of what others have finished, and finishes it once more."""
    shop = Shop()
    cluster, one, other = await two_pods(shop)
    await place(cluster, one, *(f"e{n}" for n in range(8)))
    one.log.freeze()
    cluster.deal({"other": EVERYTHING})
    await cluster.settle()
    shop.gate.set()
    await cluster.settle()
    one.log.thaw()
    await cluster.settle()
    assert statuses(cluster) == ["completed"] * 8
    assert one.owned() == [], "it read who the owner is, and the group does not confirm it"
    assert other.owned() == list(EVERYTHING)
    one.log.cut_off = False
    cluster.deal({"one": (0,), "other": (1, 2, 3)})
    await cluster.settle()
    assert (one.owned(), other.owned()) == ([0], [1, 2, 3])
    cluster.check()


async def test_the_first_owner_of_a_number_is_the_owner_and_the_other_starts_again() -> None:
    """Both read the same, both take the next number: the one whom the group confirms ends up as the owner."""
    shop = Shop()
    cluster, one, _ = await two_pods(shop)
    one.log.freeze()
    cluster.deal({})
    before = [owner.number for owner in [one.node.processors[p].owner for p in EVERYTHING]]
    for partition in EVERYTHING:
        # Of somebody else, who died right after.
        cluster.write(
            partition, [b'{"kind":"owner.started","owner":{"number":2,"token":"x"},"code":"c","folds":1,"v":1}']
        )
    assert before == [1, 1, 1, 1]
    one.log.thaw()
    cluster.deal({"one": EVERYTHING})
    await cluster.settle()
    assert one.owned() == list(EVERYTHING)
    assert [one.node.processors[p].owner.number for p in EVERYTHING] == [3, 3, 3, 3]
    assert all(one.node.processors[p].current for p in EVERYTHING)


async def test_an_owner_that_is_not_confirmed_keeps_silent_until_it_is() -> None:
    shop = Shop()
    cluster, one, other = await two_pods(shop)
    await place(cluster, one, "e")
    _, partition = run_and_partition(cluster)
    one.log.cut_off = True
    stranger = OwnerStarted(Owner(7, "stranger"), "c", 1, v=V)
    other.node.append(partition, stranger)
    await cluster.settle()
    assert partition not in one.owned()
    assert shop.stopped == []
    one.log.cut_off = False
    await cluster.settle()
    assert one.owned() == list(EVERYTHING)
    assert one.node.processors[partition].owner.number == 8
    shop.gate.set()
    await cluster.settle()
    assert statuses(cluster) == ["completed"]
    cluster.check()


async def test_any_pod_knows_how_any_run_ends() -> None:
    """Where it is not owned, it is asked through the log; also by who waited while the partition went away."""
    shop = Shop()
    cluster, one, other = await two_pods(shop)
    await place(cluster, one, "e")
    run, _ = run_and_partition(cluster)
    waiting = [asyncio.ensure_future(port.result(run)) for port in (one.port, other.port, other.port)]
    asking = asyncio.ensure_future(other.port.status(run))
    await cluster.settle()
    assert await asking == "running"
    cluster.deal({"other": EVERYTHING})
    await cluster.settle()
    assert await other.port.status(run) == "running"
    shop.gate.set()
    await cluster.settle()
    for one_waiting in waiting:
        outcome = await one_waiting
        assert isinstance(outcome.result, msgspec.Raw)
        assert (outcome.status, bytes(outcome.result)) == ("completed", b"1")
    asking = asyncio.ensure_future(one.port.status(run))
    await cluster.settle()
    assert await asking == "completed"
    cluster.check()


async def test_a_run_that_never_was_is_unknown_to_every_pod() -> None:
    cluster, _, other = await two_pods(Shop())
    for asking in (other.port.status(run_id("nobody")), other.port.result(run_id("nobody"))):
        asked = asyncio.ensure_future(asking)
        await cluster.settle()
        with pytest.raises(UnknownRun):
            await asked


async def test_details_of_a_run_are_known_where_it_is_owned() -> None:
    shop = Shop()
    cluster, one, other = await two_pods(shop)
    await place(cluster, one, "e")
    run, partition = run_and_partition(cluster)
    with pytest.raises(NotOwned, match=f"partition {partition} belongs to another pod"):
        await other.port.run(run)


async def test_any_pod_cancels_any_run() -> None:
    shop = Shop()
    cluster, one, other = await two_pods(shop)
    await place(cluster, one, "e")
    run, _ = run_and_partition(cluster)
    cancelling = asyncio.ensure_future(other.port.cancel(run))
    await cluster.settle()
    await cancelling
    assert statuses(cluster) == ["cancelled"]
    assert shop.stopped == ["one"]


async def test_a_partition_that_halts_here_leaves_the_others_alone(caplog: pytest.LogCaptureFixture) -> None:
    shop = Shop()
    cluster, one, other = await two_pods(shop)
    cluster.write(1, [b'{"kind":"moon.landed","v":1}'])
    await cluster.settle()
    assert one.owned() == [0, 2, 3]
    assert list(one.port.ready()) == ["partition 1"]
    cluster.deal({"one": (0, 2), "other": (1, 3)})
    await cluster.settle()
    assert (one.owned(), other.owned()) == ([0, 2], [3])
    assert (list(one.port.ready()), list(other.port.ready())) == ([], ["partition 1"])
    assert "moon.landed" in caplog.text


async def test_runs_of_a_partition_that_halts_stop_where_they_are() -> None:
    """Their user code would take an op that cannot be written for one that failed, and would compensate for it."""
    app, gate = App("shop"), asyncio.Event()
    undone: list[str] = []

    @app.step
    async def undo() -> None:
        undone.append("as a step")

    @app.step
    async def charge() -> None:
        await gate.wait()

    @app.function(on="placed")
    async def order(ctx: Context, event: Event) -> None:
        try:
            await charge()
        except Exception:
            undone.append("at once")
            await undo()

    cluster = Cluster()
    one = await cluster.pod("one", app).start()
    cluster.deal({"one": EVERYTHING})
    await cluster.settle()
    await place(cluster, one, "e")
    run, partition = run_and_partition(cluster)
    waiting = asyncio.ensure_future(one.port.result(run))
    await cluster.settle()
    cluster.write(partition, [b'{"kind":"moon.landed","v":1}'])
    await cluster.settle()
    gate.set()
    await cluster.settle()
    assert undone == []
    with pytest.raises(PartitionHalted, match=r"moon\.landed"):
        await waiting
    cluster.deal({"one": [p for p in EVERYTHING if p != partition]})
    await cluster.settle()
    assert list(one.port.ready()) == []


async def test_who_asks_and_falls_below_the_journals_start_asks_again() -> None:
    shop = Shop()
    cluster, one, other = await two_pods(shop)
    await place(cluster, one, "e")
    run, _ = run_and_partition(cluster)
    waiting = asyncio.ensure_future(other.port.result(run))
    await cluster.settle()
    other.log.freeze()
    shop.gate.set()
    await cluster.settle()
    assert statuses(cluster) == ["completed"]
    for partition in EVERYTHING:
        cluster.write(partition, [b'{"kind":"step.released","v":1,"run":"none","op":"none","claim":"none"}'])
    await cluster.settle()
    cluster.starts = [cluster.end(partition) for partition in EVERYTHING]
    other.log.thaw()
    await cluster.settle()
    assert (await waiting).status == "completed"


async def test_a_log_that_cannot_be_asked_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perdure.partition.ownership.RETRY_SECONDS", 0.0)
    shop = Shop()
    cluster, one, _ = await two_pods(shop)
    one.log.dead_ends = 3
    cluster.deal({"one": EVERYTHING})
    while one.owned() != list(EVERYTHING):
        await cluster.settle()
    assert isinstance(one.node.ownership, Ownership)
    assert one.log.dead_ends == 0


async def fill_and_move(cluster: Cluster, shop: Shop, pods: list[Pod]) -> None:
    """Every partition goes round, while orders come in."""
    for turn in range(8):
        names = [pod.name for pod in pods]
        hands = {name: [p for p in EVERYTHING if (p + turn) % len(names) == index] for index, name in enumerate(names)}
        cluster.deal(hands)
        await place(cluster, pods[turn % len(pods)], f"t{turn}a", f"t{turn}b")
        if turn == 4:
            shop.gate.set()
    await cluster.settle()


async def test_runs_finish_while_their_partitions_go_round() -> None:
    shop = Shop()
    cluster, one, other = await two_pods(shop)
    third = await cluster.pod("third", shop.app("third")).start()
    await fill_and_move(cluster, shop, [one, other, third])
    assert statuses(cluster) == ["completed"] * 16
    assert not cluster.all(StepAttempted)
    cluster.check()


async def test_who_waits_for_its_turn_after_crashes_is_not_forgotten_by_the_next() -> None:
    """From the second death on, suspects run one at a time; those that wait are not idle: a restart must touch them."""
    shop = Shop()
    cluster, one, _ = await two_pods(shop)
    await place(cluster, one, "a", "b", "c")
    for _ in range(3):
        await one.kill()
        await one.start()
        cluster.deal({"one": EVERYTHING})
        await cluster.settle()
    assert [record.alone for record in cluster.all(StepAttempted)].count(True) == 2
    shop.gate.set()
    await cluster.settle()
    assert statuses(cluster) == ["completed"] * 3
    cluster.check()


@pytest.mark.parametrize("retries", [0, 3])
async def test_a_step_whose_failure_comes_after_another_owners_and_its_retry_is_tried_again(retries: int) -> None:
    """What began its next attempt found this one running; its own failure is of an attempt that is over."""
    gate, app = asyncio.Event(), App("shop")
    attempts: list[int] = []

    @app.step(retries=retries)
    async def work() -> str:
        attempts.append(current_step().attempt)
        await gate.wait()
        if len(attempts) == 1:
            raise OSError("down")
        return "up"

    @app.function(on="placed")
    async def order(ctx: Context, event: Event) -> str:
        return await work()

    cluster = Cluster(1)
    pod = await cluster.pod("one", app).start()
    cluster.deal({"one": [0]})
    await cluster.settle()
    await place(cluster, pod, "e")
    run, _ = run_and_partition(cluster)
    asked, _ = digest("work", (), {})
    theirs = StepFailed(run, "0/work#1", 1, asked, ErrorInfo("builtins.OSError", "down"), 1_000, v=V)
    cluster.write(0, [msgspec.json.encode(theirs)])
    await cluster.advance(2_000)
    gate.set()
    await cluster.settle()
    assert statuses(cluster) == ["completed"]
    assert attempts == [1, 2]
    cluster.check()


class AfterACrash:
    """A pod died with a run and has it again. What it has to say of the step `first` stays with it until it thaws."""

    def __init__(self) -> None:
        self.began: list[str] = []
        self.gate = asyncio.Event()
        self.cluster = Cluster(1)

    def app(self, *, together: bool) -> App:
        """`first` and `second` side by side, or one after the other."""
        app = App("shop")

        @app.step
        async def first() -> None:
            self.began.append("first")
            await self.gate.wait()

        @app.step
        async def second() -> None:
            self.began.append("second")
            await self.gate.wait()

        @app.function(on="placed")
        async def order(ctx: Context, event: Event) -> None:
            if together:
                await asyncio.gather(first(), second())
            else:
                await first()
                await second()

        return app

    async def begin(self, *, together: bool) -> Pod:
        pod = await self.cluster.pod("one", self.app(together=together)).start()
        self.cluster.deal({"one": [0]})
        await self.cluster.settle()
        await place(self.cluster, pod, "e")
        await pod.kill()
        self.began.clear()
        await pod.start()
        pod.log.held_back = lambda _, value: b"step.attempted" in value and b"first" in value
        self.cluster.deal({"one": [0]})
        await self.cluster.settle()
        return pod

    async def another_is_the_owner(self) -> None:
        """For a moment: the group confirms who has the partition."""
        self.cluster.write(0, [msgspec.json.encode(OwnerStarted(Owner(50, "x"), "c", 1, v=V))])
        await self.cluster.settle()


async def test_a_step_in_flight_goes_on_though_another_has_to_be_announced_again() -> None:
    """Its run is not begun again: the step would be, too, by the same owner."""
    world = AfterACrash()
    pod = await world.begin(together=True)
    assert world.began == ["second"]
    await world.another_is_the_owner()
    pod.log.thaw()
    await world.cluster.settle()
    assert sorted((one.op, one.owner.number) for one in world.cluster.all(StepAttempted)) == [
        ("0/first#1", 2), ("0/first#1", 51), ("0/second#1", 2),
    ]  # fmt: skip
    assert world.began == ["second", "first"]
    world.gate.set()
    await world.cluster.settle()
    assert statuses(world.cluster) == ["completed"]
    world.cluster.check()


async def test_a_step_that_went_on_before_its_announcement_was_read_does_not_begin_by_that() -> None:
    """The process before was alive after all: its failure has a retry, whose result is on its way to the log."""
    world = AfterACrash()
    pod = await world.begin(together=False)
    world.gate.set()
    pod.log.held_back = lambda _, value: b"step." in value and b"first" in value
    run, _ = run_and_partition(world.cluster)
    asked, _ = digest("first", (), {})
    theirs = StepFailed(run, "0/first#1", 1, asked, ErrorInfo("builtins.OSError", "down"), 1_000, v=V)
    world.cluster.write(0, [msgspec.json.encode(theirs)])
    await world.cluster.advance(2_000)
    assert world.began == ["first"]
    pod.log.thaw()
    pod.log.held_back = lambda _, value: b"step.completed" in value
    await world.cluster.settle()
    assert world.began == ["first"]
    pod.log.thaw()
    await world.cluster.settle()
    assert (world.began, statuses(world.cluster)) == (["first", "second"], ["completed"])
    world.cluster.check()


async def test_what_was_said_of_a_step_that_is_decided_begins_nothing_again() -> None:
    """The process before was alive after all: its outcome comes before what its successor says of it."""
    world = AfterACrash()
    pod = await world.begin(together=False)
    run, _ = run_and_partition(world.cluster)
    asked, _ = digest("first", (), {})
    theirs = StepCompleted(run, "0/first#1", 1, asked, Payload(msgspec.Raw(b"null")), v=V)
    world.cluster.write(0, [msgspec.json.encode(theirs)])
    await world.cluster.settle()
    pod.log.thaw()
    await world.another_is_the_owner()
    assert world.began == ["second"]
    world.gate.set()
    await world.cluster.settle()
    assert statuses(world.cluster) == ["completed"]
    world.cluster.check()


async def test_a_pod_opens_once_the_app_is_active_everywhere() -> None:
    """An event that comes before would trigger nothing; a journal that begins later was active long ago."""
    shop = Shop()
    cluster = Cluster()
    one = await cluster.pod("one", shop.app("one")).start()
    cluster.deal({"one": (0, 1, 2)})
    await cluster.settle()
    assert not one.opening.done(), "nobody owns partition 3"
    cluster.deal({"one": EVERYTHING})
    await cluster.settle()
    await one.opening
    other = await cluster.pod("other", shop.app("other")).start()
    other.log.freeze()
    for partition in EVERYTHING:
        await one.log.trim(partition, cluster.end(partition))
    other.log.thaw()
    await cluster.settle()
    await other.opening
    third = await cluster.pod("third", shop.app("third")).start()
    await third.opening


async def test_a_cancel_that_the_log_swallows_leaves_one_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """aiokafka does, while its consumers stop: a partition that came, went and came again was taken up twice."""
    read = SharedSnapshots.read

    async def deaf(self: SharedSnapshots, partition: int) -> list[tuple[bytes, bytes]]:
        rows = await read(self, partition)
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(0.05)
        return rows

    monkeypatch.setattr(SharedSnapshots, "read", deaf)
    shop = Shop()
    shop.gate.set()
    cluster = Cluster(snapshots=True)
    one = await cluster.pod("one", shop.app("one")).start()
    cluster.deal({"one": EVERYTHING})
    await asyncio.sleep(0.01)
    cluster.deal({})
    cluster.deal({"one": EVERYTHING})
    await asyncio.sleep(0.3)
    await cluster.settle()
    await place(cluster, one, "e")
    assert len(cluster.all(OwnerStarted)) == cluster.partitions
    assert statuses(cluster) == ["completed"]
    cluster.check()
