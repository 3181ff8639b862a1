"""What `on=` says: event names with conditions, and the types of their data."""

from collections.abc import Iterator, Sequence
from typing import Any, TypeGuard, cast

from perdure.errors import DefinitionError
from perdure.flow.expressions import compile_where
from perdure.flow.patterns import check_pattern
from perdure.sdk.events import Trigger, is_event_type
from perdure_schemas.definition import TriggerDefined

_EVENT = frozenset({"event"})


def triggers_of(on: object) -> tuple[tuple[TriggerDefined, ...], dict[str, Any]]:
    """The triggers of `on=`, and event name → type of its data where that is known. Raises `DefinitionError`."""
    types: dict[str, Any] = {}
    triggers = tuple(dict.fromkeys(_triggers(on, "", types)))
    if not triggers:
        raise DefinitionError("on=[]: at least one event is needed, such as on='cart/added'")
    return triggers, types


def _triggers(on: object, where: str, types: dict[str, Any]) -> Iterator[TriggerDefined]:
    if is_event_type(on):
        for name, data in on.types.items():
            if types.setdefault(name, data) is not data:
                raise DefinitionError(f"on=: {name!r} cannot carry two types")
            yield TriggerDefined(name, where)
    elif _is_trigger(on):
        compile_where(on.where, names=_EVENT)
        yield from _triggers(on.event, on.where, types)
    elif isinstance(on, str):
        yield TriggerDefined(check_pattern(on, what="on"), where)
    elif isinstance(on, Sequence) and not where:
        for item in cast("Sequence[object]", on):
            yield from _triggers(item, "", types)
    else:
        raise DefinitionError(
            f"on={on!r}: an EventType, a name, a pattern such as 'cart/*', a Trigger, or a list of these"
        )


def _is_trigger(value: object) -> TypeGuard[Trigger[Any]]:
    return isinstance(value, Trigger)
