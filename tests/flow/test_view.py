"""The view: log time, what expires by it, and what stays in memory."""

from collections import defaultdict

import pytest

from perdure.flow import decode
from perdure.flow import view as views
from perdure.flow.routing import partition_of, run_id
from perdure.flow.view import View
from perdure_schemas.records import AppPaths, PauseRequested, RunFinished, RunRequested, V
from tests.flow.world import World, completed, definition_of, event, key_of, on, refold, run_of, slept, waited


def test_log_time_never_goes_back() -> None:
    view = View(0, 1)
    assert view.advance(1_000) == 1_000
    assert view.advance(900) == 1_000
    assert view.stamp == 900, "a record's own timestamp"
    assert view.advance(1_001) == 1_001


def test_ids_of_events_and_stubs_of_runs_go_after_the_window(world: World) -> None:
    world.define(on("added"), window_ms=10_000)
    world.send(event("e1"))
    run = run_of("e1")
    world.now += 5_000
    world.to_run(run, RunFinished(run, "completed", v=V))
    world.now += 9_999
    world.touch()
    assert world.run(run).status == "completed"
    assert not any(owner.view.seen.get("e1") for owner in world.owners)
    world.now += 1
    world.touch()
    assert world.view_of(run).runs.get(run) is None
    assert all(not owner.view.expiries.rows() for owner in world.owners)


@pytest.mark.parametrize("restarts", [False, True])
def test_what_expires_does_so_a_bounded_number_a_record_whoever_folds(
    world: World, restarts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I2: also if an owner starts where more than one record's share was due."""
    monkeypatch.setattr(views, "EXPIRIES_A_RECORD", 2)
    world = World(1)
    world.define(window_ms=1_000)
    for n in range(7):
        world.send(event(str(n)))
    world.now += 1_000
    left: list[int] = []
    for _ in range(4):
        world.touch()
        left.append(len(world.owners[0].view.expiries.rows()))
        world.checkpoint()
        if restarts:
            world.restart()
        world.check()
    assert left == [5, 3, 1, 0]


def test_after_a_checkpoint_only_resident_runs_stay_in_memory(world: World) -> None:
    key = key_of("paid", "data.cart", "c")
    world.define(on("added", paths=(("paid", "data.cart"), ("added", "data.cart"))))
    world.send(event("e1", cart="c"))
    world.send(event("e2", cart="d"))
    world.send(event("e2", cart="d"))
    one, two = run_of("e1"), run_of("e2")
    world.to_run(one, completed(one, "0/a#0"), waited(one, "0/w#0", key))
    world.to_run(two, completed(two, "0/a#0"))
    world.checkpoint(resident=frozenset({one}))
    for owner in world.owners:
        assert set(owner.view.runs.cache) <= {one}
        for table in owner.view.tables():
            assert table in (owner.view.runs, owner.view.metas) or not table.cache
    assert set(world.run(two).open) == set()
    assert world.view_of(two).lines.done(two) == {"0/a#0"}


def test_what_is_known_of_an_ended_run_is_not_kept_in_memory_for_late_copies() -> None:
    world = World(1)
    run = world.request()
    world.to_run(run, RunFinished(run, "completed", v=V))
    world.checkpoint()
    world.to_run(run, completed(run, "0/late#0"))
    assert world.owners[0].view.runs.cache
    world.checkpoint()
    assert not world.owners[0].view.runs.cache


def test_a_run_of_newer_code_than_is_active_here_goes_by_that_code(world: World) -> None:
    """Its event's partition may activate before this one: the run's own timeout must not get lost."""
    world.define(on("added"))
    newer = definition_of(on("added", timeout_ms=5_000, lookback_ms=7_000), on("new", "fresh", timeout_ms=6_000))
    run, other = run_id("early"), run_id("also early")
    for owner in world.owners:
        world.append(owner.partition, AppPaths(2, newer, v=V))
    world.settle()
    world.to_run(run, RunRequested(run, "work", "event", number=2, v=V))
    world.to_run(other, RunRequested(other, "fresh", "event", number=2, v=V))
    assert world.run(run).timers["timeout"].due == world.now + 5_000
    assert world.run(other).timers["timeout"].due == world.now + 6_000
    assert world.view_of(run).lookback_ms(world.run(run)) == 7_000
    world.to_run(run, RunRequested(run_id("gone"), "no such function", "event", number=2, v=V))
    unknown = RunRequested(run_id("unheard of"), "work", "event", number=9, v=V)
    world.to_run(unknown.run, unknown)
    assert world.run(unknown.run).timers == {}


def test_before_the_first_definition_events_are_remembered_and_start_nothing(world: World) -> None:
    world.send(event("e1"))
    assert world.records(RunRequested) == []
    view = world.owners[partition_of("e1", world.partitions)].view
    assert view.seen.get("e1") == 1
    assert view.routes() is None
    assert view.window_ms() == views.DEFAULT_WINDOW_MS


def test_sends_to_each_partition_are_numbered_without_a_gap(world: World) -> None:
    world.define(on("*"))
    for n in range(20):
        world.send(event(f"e{n}"))
    for journal in world.journals:
        numbers: dict[int, list[int]] = defaultdict(list)
        for _, raw in journal.records:
            origin = decode(raw).from_
            if origin is not None:
                numbers[origin[0]].append(origin[1])
        assert numbers
        assert all(sent == list(range(1, len(sent) + 1)) for sent in numbers.values())


def test_a_logical_view_tells_states_apart(world: World) -> None:
    run = world.request()
    before = world.view_of(run).logical()
    partition = world.of_run(run)
    world.to_run(run, slept(run, "0/s#0", 5))
    after = world.view_of(run).logical()
    changed = {key for key in {*before, *after} if before.get(key) != after.get(key)}
    timer = next(key for key in changed if "b't/" in key or 'b"t/' in key)
    assert changed == {f"r/{run}", f"o/{run}", timer}
    assert after == refold(world.journals[partition], partition, world.partitions)[0].logical()


def test_a_state_from_before_runs_were_counted_is_counted_when_it_is_opened(world: World) -> None:
    world = World(1)
    world.define(on("added"))
    for n in range(3):
        world.send(event(str(n)))
    world.put(0, PauseRequested("work", True, "c1", v=V))
    world.send(event("3"))
    world.to_run(run_of("0"), RunFinished(run_of("0"), "completed", v=V))
    owner = world.owners[0]
    meta = owner.view.meta
    counted = meta.live, meta.waiting
    assert counted == ({"work": 3}, {"work": 1})
    meta.live, meta.waiting, meta.counted = {}, {}, False
    world.checkpoint()
    world.restart()
    meta = world.owners[0].view.meta
    assert (meta.live, meta.waiting) == counted
    world.check()
