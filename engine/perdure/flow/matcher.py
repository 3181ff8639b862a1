"""Matcher: the keyed join of waits and cancel rules with events (model/waits.py states the protocol).

A run has one numbered subscription per key. It is answered once, by the earliest kept event after the trigger that
was not consumed and that a listed wait accepts. Positions are journal offsets of this partition.
"""

from collections.abc import Mapping
from typing import Any

import msgspec
from perdure_schemas.payload import INLINE_LIMIT_BYTES, Payload, Ref
from perdure_schemas.records import V, EventKeyed, ListedWait, MatchOffered, MatchSubscribed

from perdure.flow.expressions import compile_where
from perdure.flow.intake import event_view
from perdure.flow.states import KeptEvent, MatchState, Subscription
from perdure.flow.view import View

_ENCODE = msgspec.json.Encoder().encode
DEFAULT_LOOKBACK_MS = 86_400_000


def event_keyed(view: View, record: EventKeyed, at: int) -> None:
    """A copy arrives: kept for the look-back, and offered to who subscribed."""
    kept = KeptEvent(view.offset, record.event, record.at)
    row = _row(record.key, view.offset)
    view.kept.put(row, kept)
    name_paths = view.meta.paths.get(record.event.name, {})
    lookback_ms = max(name_paths.values(), default=DEFAULT_LOOKBACK_MS)
    view.expiries.add(at + lookback_ms + 1, b"k/" + row.encode())
    state = view.matches.get(record.key)
    if state is None:
        return
    for sub_id in list(state.subs):
        sub = state.subs[sub_id]
        answered = _answer(view, record.key, sub, at) if sub.blind else _offer_if(view, record.key, sub, kept, at)
        if answered:
            del state.subs[sub_id]
    _keep_or_drop(view, record.key, state)


def match_subscribed(view: View, record: MatchSubscribed, at: int) -> None:
    """A newer subscription replaces the run's earlier one on this key; an empty list ends it."""
    state = view.matches.get(record.key) or MatchState()
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
            own=record.own,
            source=record.source,
            until=record.until,
            lookback_ms=record.lookback_ms,
        )
        if not _answer(view, record.key, sub, at):
            state.subs[sub_id] = sub
    _keep_or_drop(view, record.key, state)


def _keep_or_drop(view: View, key: str, state: MatchState) -> None:
    if state.subs:
        view.matches.put(key, state)
    else:
        view.matches.delete(key)


def _row(key: str, position: int) -> str:
    return f"{key}\0{position:016x}"


def _answer(view: View, key: str, sub: Subscription, at: int) -> bool:
    """Look through all kept events for the earliest acceptable one. Whether it was offered."""
    after = -1
    rows = [kept for _, kept in view.kept.items(key + "\0")]
    if sub.own is not None:
        # The order of the copies here decides what came after the trigger: two partitions' clocks cannot.
        sub.blind = view.meta.inseq.get(sub.source, 0) < sub.own
        if sub.blind:
            return False
        after = next((kept.position for kept in rows if kept.event.id == sub.event_id), -1)
    return any(_offer_if(view, key, sub, kept, at) for kept in rows if kept.position > after)


def _offer_if(view: View, key: str, sub: Subscription, kept: KeptEvent, at: int) -> bool:
    """Offer one event, if it is after the trigger, not consumed, and accepted by a listed wait."""
    if kept.event.id == sub.event_id or kept.at <= at - sub.lookback_ms:
        return False
    if sub.own is None and kept.at < sub.since:
        return False
    if sub.until is not None and kept.at > sub.until:
        return False
    position = kept.position
    if position not in sub.but and (position <= sub.upto or position in sub.also):
        return False
    wait = _accepting(sub.waits, kept)
    if wait is None:
        if sub.hole is None:
            sub.hole = position
        return False
    whole = _ENCODE(kept.event)
    large = len(whole) > INLINE_LIMIT_BYTES
    view.send_to_run(
        sub.run,
        MatchOffered(
            sub.run,
            key,
            sub.g,
            kept.event.id,
            position,
            Payload(ref=Ref(view.partition, position)) if large else Payload(msgspec.Raw(whole)),
            op=wait.op,
            rule=sub.rule,
            hole=sub.hole,
            v=V,
        ),
    )
    return True


def _accepting(waits: tuple[ListedWait, ...], kept: KeptEvent) -> ListedWait | None:
    """The first-opened wait that takes the event. The event is decoded only if a condition asks for it."""
    seen: Mapping[str, Any] | None = None
    for wait in waits:
        if not wait.where:
            return wait
        if seen is None:
            seen = event_view(kept.event)
        if compile_where(wait.where).matches(None, seen):
            return wait
    return None
