"""Forks: a run begins with another one's history, once all of it has come."""

import msgspec
import pytest
from msgspec import Raw

from perdure.flow.effects import Deliver, Ended, Recalled, Start
from perdure.flow.lines import StoredLine
from perdure.flow.routing import run_id
from perdure.flow.run import RECALL_MS
from perdure_schemas.definition import FunctionDefined
from perdure_schemas.records import (
    Fork,
    FunctionPaused,
    OpClosed,
    OpOpened,
    PauseRequested,
    Record,
    RunCancelRequested,
    RunRecalled,
    RunRequested,
    Send,
    StepCompleted,
    TimerFired,
    V,
)
from tests.flow.world import World, called, completed, event, of_kind, on, payload, refold, slept

SOURCE = run_id("source")


def forked(world: World, lines: int, **fields: object) -> str:
    run = run_id("fork")
    fork = Fork(SOURCE, 1_000, lines)
    world.to_run(run, RunRequested(run, "work", "fork", rerun_of=SOURCE, fork=fork, v=V))
    return run


def recalled(run: str, n: int, line: Record, at: int = 2_000) -> RunRecalled:
    return RunRecalled(run, n, at, Raw(msgspec.json.encode(line)), v=V)


def step(run: str, op: str, result: object = 1) -> StepCompleted:
    return StepCompleted(run, op, 1, "", payload(result), v=V)


def lines_of(world: World, run: str) -> list[StoredLine]:
    return world.view_of(run).lines.load(run)


def test_a_fork_starts_with_the_last_line_of_its_history(world: World) -> None:
    run = forked(world, 2)
    assert (world.run(run).status, world.run(run).cause, world.run(run).rerun_of) == ("queued", "fork", SOURCE)
    first, second = step(run, "0/a#1"), step(run, "0/b#1")
    assert world.to_run(run, recalled(run, 0, first, 2_000)) == [Recalled(run, "0/a#1", first, 2_000)]
    assert world.to_run(run, recalled(run, 1, second, 3_000)) == [Recalled(run, "0/b#1", second, 3_000), Start(run)]
    state = world.run(run)
    assert (state.status, state.timers, state.seed, state.began) == ("running", {}, SOURCE, 1_000)
    assert state.started_at == world.now
    assert [(line.at, line.op, line.record) for line in lines_of(world, run)] == [
        (2_000, "0/a#1", first),
        (3_000, "0/b#1", second),
    ]
    assert of_kind(world.to_run(run, completed(run, "0/a#1", 2), completed(run, "0/c#1")), Deliver)[0].op == "0/c#1"


def test_without_a_line_it_starts_at_once(world: World) -> None:
    run = forked(world, 0)
    assert world.run(run).status == "running"
    assert world.to_run(run, recalled(run, 0, step(run, "0/a#1"))) == []


def test_lines_count_once_and_in_order(world: World) -> None:
    run = forked(world, 3)
    lines = [recalled(run, n, step(run, f"0/a#{n + 1}")) for n in range(3)]
    assert world.to_run(run, lines[1], lines[2]) == []
    assert len(of_kind(world.to_run(run, lines[0], lines[0], lines[1], lines[0], lines[1]), Recalled)) == 2
    assert world.run(run).status == "queued"
    assert Start(run) in world.to_run(run, lines[2], lines[2], lines[0])
    assert [line.op for line in lines_of(world, run)] == ["0/a#1", "0/a#2", "0/a#3"]
    assert world.to_run(run, *lines) == []


def test_lines_of_a_run_that_is_no_fork_or_not_known_change_nothing(world: World) -> None:
    plain, unknown = world.request("plain"), run_id("unknown")
    for run in (plain, unknown):
        assert world.to_run(run, recalled(run, 0, step(run, "0/a#1"))) == []
        assert lines_of(world, run) == []


def test_what_is_open_already_is_not_recalled(world: World) -> None:
    """Nobody opens ops before the run begins; whoever did would have two outcomes of one."""
    run = forked(world, 1)
    world.to_run(run, slept(run, "0/sleep#1", 5_000))
    fired = TimerFired(run, "0/sleep#1", 7, v=V)
    assert of_kind(world.to_run(run, recalled(run, 0, fired)), Recalled) == []
    assert (world.run(run).status, set(world.run(run).open)) == ("running", {"0/sleep#1"})


def test_what_was_recalled_is_not_done_again(world: World) -> None:
    """No timer, no child, no event, no subscription: the other run had them."""
    run, child = forked(world, 6), run_id("child")
    sent = OpOpened(run, "0/send#1", "", Send((event("again"),)), v=V)
    fired = TimerFired(run, "0/sleep#1", 7, v=V)
    lines: list[Record] = [slept(run, "0/sleep#1", 5_000), fired, called(run, "0/work#1", child, function="work")]
    lines += [OpClosed(run, "0/work#1", v=V), sent, step(run, "0/a#1")]
    written = sum(map(len, world.journals))
    acts = world.to_run(run, *(recalled(run, n, line) for n, line in enumerate(lines)))
    assert [act.op for act in of_kind(acts, Recalled)] == [
        "0/sleep#1", "0/sleep#1", "0/work#1", "0/work#1", "0/send#1", "0/a#1",
    ]  # fmt: skip
    assert sum(map(len, world.journals)) == written + len(lines)
    state = world.run(run)
    assert (state.status, state.open, state.timers) == ("running", {}, {})
    assert world.view_of(run).lines.done(run) == {"0/sleep#1", "0/work#1", "0/send#1", "0/a#1"}
    assert world.view_of(child).runs.get(child) is None


def test_a_history_that_does_not_come_whole_ends_the_fork(world: World) -> None:
    run = forked(world, 2)
    timer = world.run(run).timers["recall"]
    assert timer.due == world.now + RECALL_MS
    world.to_run(run, recalled(run, 0, step(run, "0/a#1")))
    world.now = timer.due
    assert world.to_run(run, TimerFired(run, "recall", timer.setter, v=V)) == [Ended(run, "discarded")]
    error = world.run(run).error
    assert error is not None
    assert error.message.startswith("of its history 1 of 2 lines came")
    assert lines_of(world, run) == []
    assert world.to_run(run, recalled(run, 1, step(run, "0/b#1"))) == []


def test_a_fork_is_cancelled_while_its_history_comes(world: World) -> None:
    run = forked(world, 2)
    world.to_run(run, recalled(run, 0, step(run, "0/a#1")))
    assert world.to_run(run, RunCancelRequested(run, v=V)) == [Ended(run, "cancelled")]
    assert world.to_run(run, recalled(run, 1, step(run, "0/b#1"))) == []


def test_a_fork_of_a_paused_function_waits_with_its_history(world: World) -> None:
    world.define(on("paid", "work"))
    world.put(0, PauseRequested("work", True, "c1", v=V))
    run = forked(world, 1)
    world.to_run(run, recalled(run, 0, step(run, "0/a#1")))
    assert (world.run(run).status, world.run(run).paused) == ("queued", True)
    world.put(0, PauseRequested("work", False, "c2", v=V))
    assert world.run(run).status == "running"
    assert len(lines_of(world, run)) == 1
    assert of_kind(world.to_run(run, FunctionPaused("work", False, v=V)), Start) == []


@pytest.mark.parametrize("large", [False, True])
def test_the_state_is_that_of_a_fold_from_the_beginning(world: World, large: bool) -> None:
    run = forked(world, 2)
    value = "x" * 9_000 if large else "x"
    world.to_run(run, recalled(run, 0, step(run, "0/a#1", value)), recalled(run, 1, step(run, "0/b#1")))
    world.checkpoint()
    partition = world.of_run(run)
    view = world.view_of(run)
    again, _ = refold(world.journals[partition], partition, world.partitions)
    assert view.logical() == again.logical()
    whole = view.lines.whole(run, view.lines.load(run)[0])
    assert isinstance(whole, StepCompleted)
    assert whole.result == payload(value)


def test_which_code_took_its_first_step_is_that_of_the_other_run(world: World) -> None:
    code = world.define(FunctionDefined("work", "background")).digest
    for partition in range(world.partitions):
        world.start_owner(partition, code=code)
    for number, expected in ((7, 7), (0, 1)):
        run = run_id("fork", str(number))
        fork = Fork(SOURCE, 1_000, 1, number)
        world.to_run(run, RunRequested(run, "work", "fork", fork=fork, v=V), recalled(run, 0, step(run, "0/a#1")))
        assert world.view_of(run).begun_by(world.run(run), lines_of(world, run)) == expected
