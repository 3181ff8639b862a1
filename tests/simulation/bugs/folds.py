"""Bugs of the folds: what is decided."""

from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

import perdure.flow as flow
from perdure.flow import FOLDS, ending, intake, matcher, ops, queues
from perdure.flow import run as run_fold
from perdure.flow.due import DueIndex
from perdure.flow.lines import Lines
from perdure.flow.routes import Routes, Trigger
from perdure.flow.routing import run_id
from perdure.flow.states import KeptEvent, RunState, Subscription
from perdure.flow.view import DEFAULT_LOOKBACK_MS, View
from perdure.partition import Processor
from perdure_schemas import records as r
from perdure_schemas.event import EventBody
from tests.simulation.bugs.planting import Fold, Patch, bug, refold


@bug("a record that a fold sent is applied if its n is the last one + 1, and else ignored")
def from_is_not_checked(patch: Patch) -> None:
    patch.setattr(flow, "fold", lambda *asked: _fold(*asked, refuses=lambda last, n: False))


@bug("n is dense: after a hole nothing is applied until the hole is filled")
def n_may_have_holes(patch: Patch) -> None:
    patch.setattr(flow, "fold", lambda *asked: _fold(*asked, refuses=lambda last, n: n <= last))


def _fold(view: View, record: Any, raw: bytes, offset: int, stamp_ms: int, *, refuses: Any) -> bool:
    view.offset, view.raw = offset, raw
    at = view.advance(stamp_ms)
    if record.from_ is not None:
        source, n = record.from_
        if refuses(view.meta.inseq.get(source, 0), n):
            return False
        view.meta.inseq[source] = n
    FOLDS[type(record)](view, record, at)
    return True


@bug("an owner's opinion counts only while it is current: parked")
def a_zombies_parked_counts(patch: Patch) -> None:
    refold(patch, r.RunParked, _as_if_current)


@bug("an owner's opinion counts only while it is current: attempted")
def a_zombies_attempted_counts(patch: Patch) -> None:
    refold(patch, r.StepAttempted, _as_if_current)


def _as_if_current(right: Fold, view: View, record: Any, at: int) -> None:
    right(view, replace(record, owner=view.meta.owner), at)


@bug("folds read the definitions in the log, never the code in memory")
def folds_read_the_code(patch: Patch) -> None:
    made, own = Processor.__init__, View.routes

    def init(self: Processor, *asked: Any, **more: Any) -> None:
        made(self, *asked, **more)
        setattr(self.view, "_code", getattr(asked[2], "_listener").definition)  # noqa: B009, B010

    def routes(view: View) -> Routes | None:
        code = getattr(view, "_code", None)
        return own(view) if code is None or not view.meta.current else Routes(view.meta.current, code)

    patch.setattr(Processor, "__init__", init)
    patch.setattr(View, "routes", routes)


@bug("code becomes active in two phases: every partition copies for its paths before any of them starts runs by it")
def definitions_in_one_phase(patch: Patch) -> None:
    def defined(right: Fold, view: View, record: r.AppDefined, at: int) -> None:
        before = view.meta.last_number
        right(view, record, at)
        if view.meta.last_number != before:
            for partition in range(view.partitions):
                view.send(partition, r.AppActivated(v=r.V, number=view.meta.last_number))

    refold(patch, r.AppDefined, defined)
    refold(patch, r.AppReady, _nothing)


def _nothing(right: Fold, view: View, record: Any, at: int) -> None:
    pass


@bug("a subscription says what the run has consumed")
def subscription_without_cursor(patch: Patch) -> None:
    patch.setattr(ops, "_mark", lambda cursor, position, hole: None)


@bug("a wait also matches what came after its run's trigger and before it was opened")
def wait_without_lookback(patch: Patch) -> None:
    patch.setattr(matcher, "_answer", lambda view, key, sub, at: False)


@bug("a run ignores an offer that is not the answer to its latest subscription")
def offers_without_number(patch: Patch) -> None:
    def offered(right: Fold, view: View, record: r.MatchOffered, at: int) -> None:
        run = view.live(record.run)
        cursor = run.keys.get(record.key) if run is not None else None
        if run is None or record.rule >= 0 or cursor is None or record.op not in run.open:
            if run is None or record.rule >= 0:
                right(view, record, at)
            return
        right(view, replace(record, g=cursor.g), at)

    refold(patch, r.MatchOffered, offered)


@bug("a wait that is closed before its event was delivered gives the event back")
def a_closed_wait_keeps_its_event(patch: Patch) -> None:
    patch.setattr(ops, "_give_back", lambda view, run, op: False)


@bug("the run registers its cancel rules itself, after it was requested")
def cancel_rule_registered_by_intake(patch: Patch) -> None:
    right = intake._start_triggered  # pyright: ignore[reportPrivateUsage]

    def start_triggered(
        view: View,
        routes: Routes,
        triggered: list[Trigger],
        record: r.EventReceived,
        seen: Mapping[str, Any],
        copies: dict[str, int],
    ) -> None:
        event = record.event
        for function, where in triggered:
            if where is None or where.matches(seen, None):
                run = run_id(routes.definition.app, function.id, event.id)
                for index, rule in enumerate(intake.cancel_rules(function, seen)):
                    view.send(view.partition_of(rule.key), _subscription(view, run, index, rule, event, copies))
        right(view, routes, triggered, record, seen, copies)

    patch.setattr(intake, "_start_triggered", start_triggered)
    known = flow.run._subscribe_rule  # pyright: ignore[reportPrivateUsage]

    def by_the_run(view: View, run: RunState, index: int, rule: r.CancelRule) -> None:
        if run.cause != "event":
            known(view, run, index, rule)

    patch.setattr(flow.run, "_subscribe_rule", by_the_run)


def _subscription(
    view: View, run: str, index: int, rule: r.CancelRule, event: EventBody, copies: dict[str, int]
) -> r.MatchSubscribed:
    return r.MatchSubscribed(
        run,
        rule.key,
        1,
        waits=(r.ListedWait(f"!{index}", rule.where),),
        rule=index,
        event_id=event.id,
        since=view.stamp,
        own=copies.get(rule.key),
        source=view.partition,
        until=None if rule.timeout_ms is None else view.stamp + rule.timeout_ms,
        lookback_ms=DEFAULT_LOOKBACK_MS,
        v=r.V,
    )


@bug("a fire that comes before its timer is due by log time is refused")
def early_fires_count(patch: Patch) -> None:
    def fired(right: Fold, view: View, record: r.TimerFired, at: int) -> None:
        run = view.live(record.entity)
        timer = (run.timers.get(record.timer) or run.open.get(record.timer)) if run is not None else None
        due = timer.due if timer is not None else None
        right(view, record, at if due is None else max(at, due))

    refold(patch, r.TimerFired, fired)


@bug("a timer goes when what it was set for is over")
def timers_are_never_removed(patch: Patch) -> None:
    patch.setattr(DueIndex, "remove", lambda index, due, key: None)


@bug("an op has one outcome, the first in log order")
def two_outcomes_of_one_op(patch: Patch) -> None:
    patch.setattr(Lines, "settle", lambda lines, line: lines.add(line) or True)


@bug("a failure counts only for the current attempt")
def an_old_attempts_failure_counts(patch: Patch) -> None:
    def failed(right: Fold, view: View, record: r.StepFailed, at: int) -> None:
        run = view.live(record.run)
        opened = run.open.get(record.op) if run is not None else None
        right(view, replace(record, attempt=opened.attempt if opened else 1), at)

    refold(patch, r.StepFailed, failed)


@bug("an event is taken in once")
def events_are_taken_in_again(patch: Patch) -> None:
    def received(right: Fold, view: View, record: r.EventReceived, at: int) -> None:
        if view.seen.get(record.event.id) is not None:
            view.seen.delete(record.event.id)
        right(view, record, at)

    refold(patch, r.EventReceived, received)


@bug("where and when an event came to its topic goes with its copies")
def events_come_when_they_are_taken_in(patch: Patch) -> None:
    def received(right: Fold, view: View, record: r.EventReceived, at: int) -> None:
        right(view, replace(record, came=None), at)

    refold(patch, r.EventReceived, received)


@bug("what came after the trigger is told by the topic of events")
def taken_in_later_is_after(patch: Patch) -> None:
    def is_after(sub: Subscription, kept: KeptEvent, trigger: int) -> bool:
        return kept.position > trigger if sub.own is not None else kept.at >= sub.since

    patch.setattr(matcher, "_is_after", is_after)


@bug("a cancel for an unknown run is kept as an ended run")
def cancel_of_an_unknown_run_is_ignored(patch: Patch) -> None:
    def cancel(right: Fold, view: View, record: r.RunCancelRequested, at: int) -> None:
        if view.runs.get(record.run) is not None:
            right(view, record, at)

    refold(patch, r.RunCancelRequested, cancel)


@bug("an ended run leaves its id and status for the window")
def ended_runs_are_forgotten(patch: Patch) -> None:
    patch.setattr(ending, "forget_later", lambda view, run, at: view.runs.delete(run.id))


@bug("nothing changes a terminal")
def an_ended_run_ends_again(patch: Patch) -> None:
    def finished(right: Fold, view: View, record: r.RunFinished, at: int) -> None:
        run = view.runs.get(record.run)
        if run is not None and run.status == "cancelled":
            run.status = "running"
        right(view, record, at)

    refold(patch, r.RunFinished, finished)


@bug("runs awaited by .call are cancelled with their parent")
def children_outlive_their_parents(patch: Patch) -> None:
    patch.setattr(ending, "_cancel_child", lambda view, run, op: None)


@bug("the first owner.started of a number wins")
def the_last_of_a_number_is_the_owner(patch: Patch) -> None:
    def started(right: Fold, view: View, record: r.OwnerStarted, at: int) -> None:
        current = view.meta.owner
        if current is not None and current.number == record.owner.number:
            view.meta.owner = replace(current, number=current.number - 1)
        right(view, record, at)

    refold(patch, r.OwnerStarted, started)


@bug("a step in a queue is granted to one member")
def a_claim_is_granted_to_two(patch: Patch) -> None:
    def claimed(right: Fold, view: View, record: r.StepClaimed, at: int) -> None:
        run = view.live(record.run)
        queued = view.queued.get(queues.key_of(record.run, record.op)) if run is not None else None
        if queued is not None and not record.beat:
            queued.claim = ""
        right(view, record, at)

    refold(patch, r.StepClaimed, claimed)


@bug("no run of a paused function starts")
def paused_functions_start_runs(patch: Patch) -> None:
    refold(patch, r.FunctionPaused, _nothing)


@bug("what waits for a paused function starts when that goes on")
def some_of_a_paused_function_wait_on(patch: Patch) -> None:
    starts = run_fold.start

    def start(view: View, run: RunState, at: int) -> None:
        if run.requested_offset % 3:
            starts(view, run, at)

    patch.setattr("perdure.flow.pausing.start", start)


@bug("a command to pause that comes again changes nothing")
def pauses_that_come_again_count(patch: Patch) -> None:
    def requested(right: Fold, view: View, record: r.PauseRequested, at: int) -> None:
        view.meta.pauses = ()
        right(view, record, at)

    refold(patch, r.PauseRequested, requested)
