"""Matcher: the keyed join of waits and cancel rules with events (model/waits.py states the protocol).

A run has one numbered subscription per key. It is answered once, by the earliest kept event after the trigger that
was not consumed and that a listed wait accepts. Positions are journal offsets of this partition.
"""

from collections.abc import Mapping
from typing import Any

from perdure.flow.expressions import compile_where
from perdure.flow.intake import event_view, payload_of
from perdure.flow.states import KeptEvent, MatchState, Subscription
from perdure.flow.view import DEFAULT_LOOKBACK_MS, View
from perdure_schemas.records import EventKeyed, MatchOffered, MatchSubscribed, V


class _Copy:
    """A kept event, decoded at most once however many conditions ask."""

    __slots__ = ("kept", "seen")

    def __init__(self, kept: KeptEvent) -> None:
        self.kept = kept
        self.seen: Mapping[str, Any] | None = None

    def takes(self, where: str) -> bool:
        if self.seen is None:
            self.seen = event_view(self.kept.event)
        return compile_where(where).matches(None, self.seen)


def event_keyed(view: View, record: EventKeyed, at: int) -> None:
    """A copy arrives: kept for the look-back, and offered to who subscribed."""
    meta = view.meta
    kept = KeptEvent(view.offset, record.event, record.at, meta.high, record.came)
    kept.high = meta.high = max(meta.high, kept.moment)
    row = view.kept.add(record.key, kept)
    lookback_ms = max(meta.paths.get(record.event.name, {}).values(), default=DEFAULT_LOOKBACK_MS)
    view.expiries.add(at + lookback_ms + 1, row)
    state = view.matches.get(record.key)
    if state is None:
        return
    copy = _Copy(kept)
    for sub_id in list(state.subs):
        sub = state.subs[sub_id]
        answered = _answer(view, record.key, sub, at) if sub.blind else _offer_if(view, record.key, sub, copy, at)
        if answered:
            del state.subs[sub_id]
    _keep_or_drop(view, record.key, state)


def match_subscribed(view: View, record: MatchSubscribed, at: int) -> None:
    """A newer subscription replaces the run's earlier one on this key; an empty list ends it."""
    known = view.matches.get(record.key)
    state = known or MatchState()
    sub_id = record.run if record.rule < 0 else f"{record.run}!{record.rule}"
    state.subs.pop(sub_id, None)
    if record.waits:
        sub = Subscription(
            run=record.run,
            g=record.g,
            waits=record.waits,
            rule=record.rule,
            upto=record.upto,
            also=record.also,
            but=record.but,
            event_id=record.event_id,
            since=record.since,
            came=record.came,
            own=record.own,
            source=record.source,
            until=record.until,
            lookback_ms=record.lookback_ms,
        )
        if not _answer(view, record.key, sub, at):
            state.subs[sub_id] = sub
    if known is not None or state.subs:
        _keep_or_drop(view, record.key, state)


def _keep_or_drop(view: View, key: str, state: MatchState) -> None:
    if state.subs:
        view.matches.put(key, state)
    else:
        view.matches.delete(key)


def _answer(view: View, key: str, sub: Subscription, at: int) -> bool:
    """Look for the earliest acceptable one among the kept events that were not consumed. Whether it was offered."""
    first = min(sub.upto + 1, *sub.but) if sub.but else sub.upto + 1
    if sub.own is None:
        found = view.kept.since(key, first, sub.since, view.offset)
        return any(_offer_if(view, key, sub, _Copy(kept), at) for kept in found)
    # The order of the copies here may decide what came after the trigger: see `_is_after`.
    sub.blind = view.meta.inseq.get(sub.source, 0) < sub.own
    if sub.blind:
        return False
    rows = list(view.kept.since(key, first, sub.since, view.offset))
    trigger = next((kept.position for kept in rows if kept.event.id == sub.event_id), -1)
    return any(_offer_if(view, key, sub, _Copy(kept), at, trigger) for kept in rows)


def _is_after(sub: Subscription, kept: KeptEvent, trigger: int) -> bool:
    """Whether it came after the trigger, whose own copy stands at `trigger`.

    Where both came by the topic of events, its order decides: they may have been taken in in another. What it does not
    tell is the order within one millisecond of two of its partitions. Then, as without such a topic, it is the order of
    the copies on the trigger's own key, since two partitions' clocks cannot tell; and elsewhere the time.
    """
    one, other = sub.came, kept.came
    if one is not None and other is not None:
        if one.at != other.at:
            return one.at < other.at
        if one.partition == other.partition:
            return one.offset < other.offset
    return kept.position > trigger if sub.own is not None else kept.moment >= sub.since


def _offer_if(view: View, key: str, sub: Subscription, copy: _Copy, at: int, trigger: int = -1) -> bool:
    """Offer one event, if it is after the trigger, not consumed, and accepted by a listed wait."""
    kept = copy.kept
    if kept.event.id == sub.event_id or kept.at <= at - sub.lookback_ms:
        return False
    if not _is_after(sub, kept, trigger):
        return False
    if sub.until is not None and kept.moment > sub.until:
        return False
    position = kept.position
    if position not in sub.but and (position <= sub.upto or position in sub.also):
        return False
    wait = next((wait for wait in sub.waits if not wait.where or copy.takes(wait.where)), None)
    if wait is None:
        if sub.hole is None:
            sub.hole = position
        return False
    view.send_to_run(
        sub.run,
        MatchOffered(
            sub.run,
            key,
            sub.g,
            kept.event.id,
            position,
            payload_of(kept.event),
            op=wait.op,
            rule=sub.rule,
            hole=sub.hole,
            v=V,
        ),
    )
    return True
