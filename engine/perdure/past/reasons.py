"""Why a run would have begun or ended otherwise, in words."""

from typing import NamedTuple

from perdure.duration import human
from perdure.flow.patterns import name_matches
from perdure.flow.view import View
from perdure.past.tale import Fate, Tale, Told
from perdure_schemas.definition import FunctionDefined


class Sides(NamedTuple):
    """A function as it was when its run was requested, and as it would have been; None where it is not there."""

    then: FunctionDefined | None
    now: FunctionDefined | None


def sides_of(was: View, would: View, told: Told) -> Sides:
    return Sides(_defined(was, told), _defined(would, told))


def _defined(view: View, told: Told) -> FunctionDefined | None:
    definition = view.definitions.get(str(told.number))
    functions = definition.functions if definition is not None else ()
    return next((one for one in functions if one.id == told.function), None)


def why_starts(sides: Sides, told: Told) -> str:
    """It would have started, and did not."""
    match told.cause:
        case "event":
            fits = _triggers(sides.now, told)
            return _unlike(sides.then, told, "had", "was") + (f"; {fits} fits now" if fits else "")
        case "cron":
            return f"its schedule is {_schedule(sides.now)}, and was {_schedule(sides.then)}"
        case _:
            return _through(told, "would have")


def why_starts_not(sides: Sides, told: Told, missing: Tale) -> str:
    """It started, and would not have. `missing`: the tale in which it does not."""
    match told.cause:
        case "event" if told.event_id in missing.sent or sides.now != sides.then:
            return _unlike(sides.now, told, "has", "is")
        case "event":
            return "its event comes of a run that goes otherwise, and would not have been sent"
        case "cron":
            return f"its schedule is {_schedule(sides.now)}, and was {_schedule(sides.then)}"
        case _:
            return _through(told, "had")


def _unlike(function: FunctionDefined | None, told: Told, has: str, verb: str) -> str:
    """Why these triggers start nothing."""
    if function is None:
        return f"the app {has} no function {told.function!r}"
    fitting = [one for one in function.triggers if name_matches(one.event, told.event_name)]
    if not fitting:
        return f"it {has} no trigger for {told.event_name!r}"
    wheres = " and ".join(f"where={one.where!r}" for one in fitting if one.where)
    return f"{wheres} {verb} not true of it" if wheres else f"its trigger {verb} another"


def _triggers(function: FunctionDefined | None, told: Told) -> str:
    fitting = [one for one in function.triggers if name_matches(one.event, told.event_name)] if function else []
    return " or ".join(f"where={one.where!r}" if one.where else repr(one.event) for one in fitting)


def _schedule(function: FunctionDefined | None) -> str:
    cron = function.cron if function is not None else None
    return f"{cron.line!r} in {cron.tz}" if cron is not None else "none"


def _through(told: Told, verb: str) -> str:
    if not told.origin:
        return f"the run that {verb} asked for it goes otherwise"
    what = {"call": "called it", "handler": "it is the handler of", "rerun": "it is a rerun of"}.get(told.cause, "")
    return f"run {told.origin} goes otherwise" + (f" ({what})" if what else "")


def why_ends(sides: Sides, then: Fate | None, now: Fate | None) -> str:
    """`then` had ended it, `now` would have."""
    if now is not None and now.event_name:
        was = any(one.event == now.event_name for one in sides.then.cancel_on) if sides.then is not None else False
        return f"cancel_on {now.event_name!r} " + ("matches now" if was else "is new")
    if now is not None and now.reason:
        return now.reason
    if now is not None and now.what == "timed_out":
        return f"its timeout is {_timeout(sides.now)}, and was {_timeout(sides.then)}"
    if then is not None and then.event_name:
        still = any(one.event == then.event_name for one in sides.now.cancel_on) if sides.now is not None else False
        return f"cancel_on {then.event_name!r} " + ("does not match any more" if still else "is gone")
    if then is not None and then.what == "timed_out":
        return f"its timeout is {_timeout(sides.now)}, and was {_timeout(sides.then)}"
    return "it would have waited longer than it may" if now is not None else "what ended it does not happen"


def _timeout(function: FunctionDefined | None) -> str:
    return human(function.timeout_ms) if function is not None and function.timeout_ms is not None else "none"
