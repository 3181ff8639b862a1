"""Why an event started what it started, and why not the rest. Pure.

What is known: the event, the code that is active now, and the runs that there are. Which code was active when the event
came is not kept: a trigger that fits now and started nothing was not there then.
"""

from collections.abc import Collection, Iterator, Mapping
from difflib import get_close_matches

from perdure.flow.expressions import compile_where, get_path, join_value
from perdure.flow.intake import event_view
from perdure.flow.patterns import is_own, name_matches
from perdure.sdk.port import Decision
from perdure_schemas.definition import Definition, FunctionDefined
from perdure_schemas.event import EventBody


def decisions_of(
    event: EventBody,
    code: Definition | None,
    started: Mapping[str, str],
    used_by: Collection[str],
    *,
    behind: bool = False,
) -> tuple[Decision, ...]:
    """For each function that the event concerns. `started`: function → run; `used_by`: functions of runs that used it.

    `behind`: runs may be missing.
    """
    found = [Decision(one, "started", "its trigger fits", run) for one, run in started.items()]
    for function in code.functions if code is not None else ():
        if not is_own(function.id):
            found += _triggers(event, function, started, behind)
            found += _waits(event, function, used_by)
    return tuple(found)


def why_nothing(event: EventBody, code: Definition | None, decisions: Collection[Decision]) -> str:
    """In one sentence; empty where the decisions say it."""
    if decisions:
        return ""
    if code is None:
        return "no code is known in this process: start the app"
    names = sorted({name for one in code.functions if not is_own(one.id) for name in _names(one)})
    close = get_close_matches(event.name, names, 1)
    known = f"did you mean {close[0]!r}?" if close else f"they are for {', '.join(names) or 'none'}"
    return f"no function has a trigger, a wait or a cancel rule for {event.name!r}: {known}"


def _triggers(
    event: EventBody, function: FunctionDefined, started: Mapping[str, str], behind: bool
) -> Iterator[Decision]:
    if function.id in started:
        return
    fitting = [trigger for trigger in function.triggers if name_matches(trigger.event, event.name)]
    if not fitting:
        return
    seen = event_view(event)
    false = [one.where for one in fitting if one.where and not compile_where(one.where).matches(seen, None)]
    if len(false) == len(fitting):
        said = " and ".join(f"where={where!r}" for where in false)
        yield Decision(function.id, "where_false", f"{said} is not true of it")
    elif behind:
        yield Decision(function.id, "not_read_yet", "its trigger fits; history has not read what came of it")
    else:
        why = "its trigger fits now; when the event came, it was not there or asked for something else"
        yield Decision(function.id, "added_later", why)


def _waits(event: EventBody, function: FunctionDefined, used_by: Collection[str]) -> Iterator[Decision]:
    if function.id in used_by:
        return
    seen = event_view(event)
    for name, path in function.paths:
        if name != event.name:
            continue
        by = f" by {path}" if path else ""
        if path and join_value(get_path(seen, path)) is None:
            why = f"its runs wait for such events{by}, and this one has no value there that could match"
        else:
            why = f"its runs wait for such events, or are cancelled by them{by}: no run waited for this one"
        yield Decision(function.id, "not_awaited", why)


def _names(function: FunctionDefined) -> Iterator[str]:
    yield from (trigger.event for trigger in function.triggers)
    yield from (name for name, _ in function.paths)
