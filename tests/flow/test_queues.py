"""Queues: who may run a step is decided by the order of the log; commands, claims and members come late or never."""

from collections import deque

import pytest

from perdure.flow import decode, fold_batch
from perdure.flow.effects import Answer, Deliver, Faltered
from perdure.flow.queues import LONGEST_WAIT_MS, key_of, waits
from perdure.flow.routing import run_id
from perdure.flow.states import QueuedState
from perdure_schemas.payload import INLINE_LIMIT_BYTES, Ref
from perdure_schemas.records import (
    OpClosed,
    Queued,
    Record,
    RetryRule,
    RunCancelRequested,
    RunFinished,
    StepAnswered,
    StepClaimed,
    StepFailed,
    StepReleased,
    TimerFired,
    V,
)
from tests.flow.world import ERROR, LEASE_MS, World, completed, of_kind, payload, put_in_queue

OP = "0/embed#1"


def claimed(run: str, claim: str = "a", attempt: int = 1, beat: int = 0, *, alone: bool = False) -> StepClaimed:
    return StepClaimed(run, OP, attempt, claim, f"member {claim}", alone, beat, v=V)


def failed(run: str, claim: str = "a", attempt: int = 1, retry_in_ms: int | None = None) -> StepFailed:
    return StepFailed(run, OP, attempt, "d", ERROR, retry_in_ms, claim=claim, v=V)


def queued(world: World, run: str, op: str = OP) -> QueuedState:
    state = world.view_of(run).queued.get(key_of(run, op))
    assert state is not None
    return state


def commands(world: World) -> list[tuple[str, str]]:
    """What was put since the last question."""
    found = [step for owner in world.owners for step in owner.commands]
    for owner in world.owners:
        owner.commands.clear()
    return found


def answers(world: World, run: str, *records: Record) -> list[tuple[str, bool, str]]:
    return [(act.claim, act.granted, act.why) for act in of_kind(world.to_run(run, *records), Answer)]


@pytest.fixture
def run(world: World) -> str:
    """A run with a step that waits in its queue."""
    run = world.request()
    world.to_run(run, put_in_queue(run))
    assert commands(world) == [(run, OP)]
    return run


# From the queue to the outcome


def test_a_step_is_claimed_once_and_completed(world: World, run: str) -> None:
    assert world.run(run).open[OP].type == "queued"
    assert answers(world, run, claimed(run)) == [("a", True, "")]
    assert (queued(world, run).claim, queued(world, run).member) == ("a", "member a")
    assert answers(world, run, claimed(run, "b")) == [("b", False, "member a has it")]
    done = completed(run, OP, 7)
    acts = world.to_run(run, done)
    assert [act.outcome for act in of_kind(acts, Deliver)] == [done]
    assert of_kind(acts, Answer) == [], "who wrote it knows"
    assert (world.run(run).open, commands(world)) == ({}, [])
    assert world.view_of(run).queued.get(key_of(run, OP)) is None
    assert [line.record for line in world.view_of(run).lines.load(run)] == [done], "replay needs no more"
    assert answers(world, run, claimed(run, "b")) == [("b", False, "it is not open any more")]


def test_opening_it_again_changes_nothing(world: World, run: str) -> None:
    world.to_run(run, claimed(run))
    assert world.to_run(run, put_in_queue(run)) == []
    assert (commands(world), queued(world, run).claim) == ([], "a")


def test_whoever_asks_again_is_told_again(world: World, run: str) -> None:
    """The answer may be lost: asking is how a member hears it. Nothing else changes (I3)."""
    for _ in range(2):
        assert answers(world, run, claimed(run)) == [("a", True, "")]
    before = world.view_of(run).logical()
    assert answers(world, run, claimed(run), claimed(run, "b")) == [("a", True, ""), ("b", False, "member a has it")]
    assert world.view_of(run).logical() == before


def test_an_outcome_counts_without_a_claim(world: World, run: str) -> None:
    """Whoever did it: the first outcome in the log is the step's."""
    assert of_kind(world.to_run(run, completed(run, OP)), Deliver)


def test_large_arguments_are_kept_whole_while_the_step_is_open(world: World) -> None:
    run = world.request()
    world.to_run(run, put_in_queue(run, argument="x" * INLINE_LIMIT_BYTES))
    place = Ref(world.of_run(run), len(world.journals[world.of_run(run)]) - 1)
    assert queued(world, run).opening.arguments.ref == place
    assert world.view_of(run).wholes.get(place.offset)
    world.to_run(run, completed(run, OP))
    assert not world.view_of(run).wholes.get(place.offset)


def test_unknown_runs_and_ops(world: World, run: str) -> None:
    gone = run_id("never was")
    assert answers(world, gone, claimed(gone)) == [("a", False, "it is not open any more")]
    assert world.to_run(gone, StepReleased(gone, OP, "a", v=V)) == []
    other = StepClaimed(run, "0/other#1", 1, "a", v=V)
    assert answers(world, run, other) == [("a", False, "it is not open any more")]
    assert world.to_run(run, StepReleased(run, "0/other#1", "a", v=V)) == []
    assert world.to_run(run, StepAnswered(run, OP, "a", True, v=V)) == []


# Nobody comes


def test_a_command_that_nobody_takes_is_put_again_and_again_more_rarely(world: World, run: str) -> None:
    """It may be lost. A long queue must not grow by its own waiting, so the pauses double."""
    pause = LEASE_MS
    for _ in range(8):
        world.advance(min(pause, LONGEST_WAIT_MS) - 1)
        assert commands(world) == []
        world.advance(1)
        assert commands(world) == [(run, OP)]
        pause *= 2
    assert queued(world, run).deaths == 0, "nobody died of it"
    world.to_run(run, claimed(run), StepReleased(run, OP, "a", v=V))
    commands(world)
    world.advance(LEASE_MS)
    assert commands(world) == [(run, OP)], "somebody came meanwhile"


def test_an_old_command_is_as_good_as_a_new_one(world: World, run: str) -> None:
    """Who waits at the end of a long queue must not lose its place to its own copies."""
    world.advance(LEASE_MS)
    assert answers(world, run, claimed(run)) == [("a", True, "")]


# Members that die, or are slow


def test_a_lease_without_a_sign_of_life_ends(world: World, run: str) -> None:
    world.advance(30_000)
    world.to_run(run, claimed(run))
    world.advance(LEASE_MS - 1)
    assert commands(world) == []
    (answer,) = of_kind(world.advance(1), Answer)
    assert (answer.claim, answer.granted, answer.why) == ("a", False, "its lease ended")
    assert commands(world) == [(run, OP)]
    assert (queued(world, run).deaths, queued(world, run).alone_deaths, queued(world, run).attempt) == (1, 0, 1)
    assert answers(world, run, claimed(run, "b")) == [("b", True, "")]


def test_signs_of_life_prolong_it_once_each(world: World, run: str) -> None:
    world.to_run(run, claimed(run))
    for beat in (1, 2, 3):
        world.advance(LEASE_MS - 1)
        assert world.to_run(run, claimed(run, beat=beat)) == []
    world.advance(LEASE_MS - 1)
    assert world.to_run(run, claimed(run, beat=3), claimed(run, beat=2)) == [], "copies prolong nothing (I3)"
    world.advance(1)
    assert commands(world) == [(run, OP)]


def test_who_lost_the_lease_learns_it_from_its_next_sign_of_life(world: World, run: str) -> None:
    world.to_run(run, claimed(run))
    world.advance(LEASE_MS)
    assert answers(world, run, claimed(run, beat=1)) == [("a", False, "its lease ended")]
    assert answers(world, run, claimed(run, "b")) == [("b", True, "")]
    assert answers(world, run, claimed(run, beat=2)) == [("a", False, "its lease ended")]
    assert answers(world, run, completed(run, OP)) == [("b", False, "it has its outcome")]
    assert answers(world, run, claimed(run, "b", beat=1)) == [("b", False, "it is not open any more")]


def test_two_that_did_it_give_one_outcome(world: World, run: str) -> None:
    world.to_run(run, claimed(run))
    world.advance(LEASE_MS)
    world.to_run(run, claimed(run, "b"))
    late = completed(run, OP, "of a")
    assert [act.outcome for act in of_kind(world.to_run(run, late), Deliver)] == [late]
    assert world.to_run(run, completed(run, OP, "of b")) == []


def test_a_failure_counts_only_under_the_present_claim(world: World, run: str) -> None:
    """Else a slow member's failure would begin the next attempt beside the one that runs."""
    world.to_run(run, claimed(run))
    world.advance(LEASE_MS)
    assert world.to_run(run, failed(run), failed(run, retry_in_ms=1_000)) == []
    world.to_run(run, claimed(run, "b"))
    assert world.to_run(run, failed(run), failed(run, "", retry_in_ms=1_000)) == []
    assert (queued(world, run).claim, queued(world, run).attempt) == ("b", 1)
    last = failed(run, "b")
    assert [act.outcome for act in of_kind(world.to_run(run, last), Deliver)] == [last]


def test_deaths_alone_are_counted_apart(world: World, run: str) -> None:
    for claim, alone in (("a", False), ("b", True)):
        world.to_run(run, claimed(run, claim, alone=alone))
        world.advance(LEASE_MS)
    assert (queued(world, run).deaths, queued(world, run).alone_deaths) == (2, 1)
    why = "it is to run alone: its latest command says so"
    assert answers(world, run, claimed(run, "c")) == [("c", False, why)], "by an old command"
    (answer,) = of_kind(world.to_run(run, claimed(run, "d", alone=True)), Answer)
    assert (answer.granted, answer.deaths, answer.alone) == (True, 2, 1)
    world.advance(LEASE_MS)
    assert (queued(world, run).deaths, queued(world, run).alone_deaths) == (3, 2)


@pytest.mark.parametrize("died", [False, True])
def test_a_step_that_is_given_back_waits_again_at_once(world: World, run: str, died: bool) -> None:
    world.to_run(run, claimed(run, alone=True))
    back = StepReleased(run, OP, "a", died, v=V)
    assert world.to_run(run, back) == []
    assert commands(world) == [(run, OP)]
    assert (queued(world, run).deaths, queued(world, run).alone_deaths) == (died, died)
    assert world.to_run(run, back) == [], "once"
    world.to_run(run, claimed(run, "b"))
    assert world.to_run(run, back) == [], "it is another's now"
    assert (commands(world), queued(world, run).claim) == ([], "b")


# Failures


def test_a_failed_attempt_rests_and_waits_again(world: World, run: str) -> None:
    world.to_run(run, claimed(run))
    first = failed(run, retry_in_ms=5_000)
    assert world.to_run(run, first, failed(run, retry_in_ms=9_000)) == [Faltered(run, first, world.now)]
    assert (queued(world, run).attempt, world.run(run).open[OP].attempt) == (2, 2)
    for attempt in (1, 2):
        assert answers(world, run, claimed(run, "b", attempt)) == [("b", False, "its attempt is 2 now")]
    world.advance(4_999)
    assert commands(world) == []
    world.advance(1)
    assert commands(world) == [(run, OP)]
    assert answers(world, run, claimed(run, "b", 1), claimed(run, "b", 2)) == [
        ("b", False, "its attempt is 2 now"),
        ("b", True, ""),
    ]
    assert of_kind(world.to_run(run, failed(run, "b", 2)), Deliver)


def test_it_may_be_done_while_it_rests(world: World, run: str) -> None:
    """By a member that had it before: an outcome wins as long as the op is open."""
    world.to_run(run, claimed(run), failed(run, retry_in_ms=5_000))
    assert of_kind(world.to_run(run, completed(run, OP)), Deliver)
    assert world.advance(9_000) == []


# Not wanted any more


@pytest.mark.parametrize("how", ["closed", "cancelled", "finished"])
@pytest.mark.parametrize("held", [False, True], ids=["waiting", "held"])
def test_a_step_that_nobody_wants_is_withdrawn(world: World, run: str, how: str, held: bool) -> None:
    if held:
        world.to_run(run, claimed(run))
    end: Record = {
        "closed": OpClosed(run, OP, v=V),
        "cancelled": RunCancelRequested(run, v=V),
        "finished": RunFinished(run, "completed", payload(1), v=V),
    }[how]
    why = "its run does not want it any more" if how == "closed" else f"its run ended: {world_status(how)}"
    assert answers(world, run, end) == ([("a", False, why)] if held else [])
    assert answers(world, run, claimed(run, "b")) == [("b", False, "it is not open any more")]
    assert of_kind(world.to_run(run, completed(run, OP)), Deliver) == [], "I4, I5"
    commands(world)
    world.advance(LONGEST_WAIT_MS)
    assert commands(world) == [], "no timer is left over"


def world_status(how: str) -> str:
    return "completed" if how == "finished" else how


def test_a_parked_or_queued_runs_step_goes_on(world: World) -> None:
    """What a run has asked for is done, whatever becomes of its code."""
    run = world.request()
    world.to_run(run, put_in_queue(run))
    world.run(run).status = "parked"
    assert answers(world, run, claimed(run)) == [("a", True, "")]
    world.run(run).status = "running"


# Timers and restarts


def test_an_early_fire_is_refused_and_an_old_one_does_nothing(world: World, run: str) -> None:
    """I9: each lease ends once, and never early."""
    setter = queued(world, run).setter
    partition = world.of_run(run)
    world.put(partition, TimerFired(run, OP, setter, v=V))
    assert commands(world) == []
    world.to_run(run, claimed(run))
    world.now += LEASE_MS // 2
    world.put(partition, TimerFired(run, OP, setter, v=V))
    assert (commands(world), queued(world, run).claim) == ([], "a")


def test_a_restart_puts_the_tails_commands_again(world: World) -> None:
    run = world.request()
    world.checkpoint()
    world.to_run(run, put_in_queue(run))
    commands(world)
    world.restart()
    assert commands(world) == [(run, OP)]
    world.to_run(run, claimed(run))
    world.checkpoint()
    world.restart()
    assert (commands(world), queued(world, run).claim) == ([], "a"), "the store knows who has it"
    world.advance(LEASE_MS)
    assert commands(world) == [(run, OP)]


def test_duplicates_of_everything_change_nothing(world: World, run: str) -> None:
    """I3: each record once more, right after itself."""
    partition = world.of_run(run)
    story = [
        claimed(run),
        claimed(run, beat=1),
        failed(run, retry_in_ms=1),
        claimed(run, "b"),
        StepReleased(run, OP, "b", v=V),
        completed(run, OP),
    ]
    for record in story:
        world.to_run(run, record)
        before = world.view_of(run).logical()
        raw = world.journals[partition].records[-1][1]
        world.append_raw(partition, raw)
        world.settle()
        after = world.view_of(run).logical()
        assert before == after, record


@pytest.mark.parametrize("known", [False, True], ids=["decoded", "known"])
def test_batches_fold_as_records_do(world: World, run: str, known: bool) -> None:
    world.to_run(run, claimed(run), claimed(run, beat=1), completed(run, OP))
    partition = world.of_run(run)
    other = World().owners[partition].view
    records = world.journals[partition].records
    own = deque((raw, decode(raw)) for _, raw in records if known and decode(raw).from_ is None)
    fold_batch(other, [raw for _, raw in records], 0, records[0][0], own)
    assert not own, "taken out as it is met"
    assert other.logical() == world.view_of(run).logical()


def test_a_step_waits_for_a_member_until_somebody_has_it_or_it_rests() -> None:
    opening = Queued("gpu", "render", payload([[], {}]), RetryRule(4, 1_000, 2.0, 60_000), 1_000)
    assert waits(QueuedState(opening, "d"))
    assert not waits(QueuedState(opening, "d", claim="c"))
    assert not waits(QueuedState(opening, "d", resting=True))
