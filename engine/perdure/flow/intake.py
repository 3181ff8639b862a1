"""Intake: the first fold of every event. Duplicates end here; what an event starts and whom it concerns is sent on."""

from collections.abc import Mapping
from typing import Any

import msgspec

from perdure.flow.expressions import bind, get_path, join_key, join_value
from perdure.flow.routes import Routes, Trigger
from perdure.flow.routing import run_id
from perdure.flow.view import View
from perdure_schemas.definition import CancelDefined, FunctionDefined
from perdure_schemas.event import EventBody
from perdure_schemas.payload import Payload
from perdure_schemas.records import CancelRule, EventKeyed, EventReceived, RunRequested, V

_DECODE = msgspec.json.Decoder().decode
_ENCODE = msgspec.json.Encoder().encode


def event_view(event: EventBody) -> Mapping[str, Any]:
    """The event as expressions and paths see it."""
    return {
        "id": event.id,
        "name": event.name,
        "data": _DECODE(event.data),
        "user": _DECODE(event.user),
        "ts": event.ts,
        "v": event.v,
    }


def event_received(view: View, record: EventReceived, at: int) -> None:
    event = record.event
    if view.seen.get(event.id) is not None:
        return
    routes = view.routes()
    view.seen.put(event.id, 1)
    view.expiries.add(at + view.window_ms(), b"e/" + event.id.encode())
    paths = view.meta.paths.get(event.name)
    triggered = routes.triggered_by(event.name) if routes else []
    if not paths and not triggered:
        return
    seen = event_view(event)
    copies = _send_copies(view, record, seen, paths) if paths else {}
    if routes is not None and triggered:
        _start_triggered(view, routes, triggered, record, seen, copies)


def _send_copies(
    view: View, record: EventReceived, seen: Mapping[str, Any], paths: Mapping[str, int]
) -> dict[str, int]:
    event = record.event
    copies: dict[str, int] = {}
    for path in paths:
        value = join_value(get_path(seen, path)) if path else ""
        if value is None:
            continue
        key = join_key(event.name, path, value)
        copies[key] = view.send(view.partition_of(key), EventKeyed(key, event, view.stamp, record.came, v=V))
    return copies


def _start_triggered(
    view: View,
    routes: Routes,
    triggered: list[Trigger],
    record: EventReceived,
    seen: Mapping[str, Any],
    copies: dict[str, int],
) -> None:
    event, came = record.event, record.came
    trigger: Payload | None = None
    started: set[str] = set()
    for function, where in triggered:
        if function.id in started or (where is not None and not where.matches(seen, None)):
            continue
        started.add(function.id)
        trigger = trigger or payload_of(event)
        run = run_id(routes.definition.app, function.id, event.id)
        view.send_to_run(
            run,
            RunRequested(
                run,
                function.id,
                "event",
                number=routes.number,
                event=trigger,
                event_id=event.id,
                source=view.partition,
                since=view.stamp if came is None else came.at,
                came=came,
                copies=copies,
                rules=cancel_rules(function, seen),
                due=event.ts if event.ts is not None and event.ts > view.at else None,
                discard_after_ms=function.discard_after_ms,
                traceparent=event.traceparent,
                v=V,
            ),
        )


def backfill_request(routes: Routes, function: str, event: EventBody, command: str) -> RunRequested | None:
    """The run that a past event starts of a function that it did not start then; None if no trigger of it fits.

    It is the run that intake would have asked for: of one event and one function there is one, whoever asks for it
    (I10). For its waits and rules counts what comes after this request.
    """
    seen = event_view(event)
    for defined, where in routes.triggered_by(event.name):
        if defined.id == function and (where is None or where.matches(seen, None)):
            return RunRequested(
                run_id(routes.definition.app, function, event.id),
                function,
                "backfill",
                event=payload_of(event),
                event_id=event.id,
                rules=cancel_rules(defined, seen),
                discard_after_ms=defined.discard_after_ms,
                command=command,
                traceparent=event.traceparent,
                v=V,
            )
    return None


def payload_of(event: EventBody) -> Payload:
    """A whole event as a payload."""
    return Payload(msgspec.Raw(_ENCODE(event)))


def cancel_rules(function: FunctionDefined, trigger: Mapping[str, Any]) -> tuple[CancelRule, ...]:
    """A function's `cancel_on` with the trigger's values filled in. A rule whose value is missing matches nothing."""
    rules = (_rule(defined, trigger) for defined in function.cancel_on)
    return tuple(rule for rule in rules if rule is not None)


def _rule(defined: CancelDefined, trigger: Mapping[str, Any]) -> CancelRule | None:
    where = bind(defined.where, trigger) if defined.where else ""
    if not defined.path:
        return CancelRule(join_key(defined.event, "", ""), where, defined.timeout_ms)
    value = join_value(get_path(trigger, defined.equals) if defined.equals else defined.value)
    return (
        None if value is None else CancelRule(join_key(defined.event, defined.path, value), where, defined.timeout_ms)
    )
