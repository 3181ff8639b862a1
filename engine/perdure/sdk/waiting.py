"""What a wait waits for: a join key and a condition over the incoming event alone."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from perdure.errors import DefinitionError
from perdure.flow.expressions import bind, get_path, join_key, join_value
from perdure.sdk.definition import check_wait
from perdure.sdk.events import EventType, Match
from perdure.sdk.matching import join
from perdure_schemas.definition import FunctionDefined


class WaitKey(NamedTuple):
    event: str
    key: str
    where: str
    type: Any


def wait_key(
    defined: FunctionDefined, event: EventType[Any] | str, match: Match, where: str, trigger: Mapping[str, Any]
) -> WaitKey:
    """Raises DefinitionError for what cannot match: a wildcard, an undeclared path, a value the trigger lacks."""
    if isinstance(event, EventType) and len(event.types) > 1:
        raise DefinitionError(f"wait_for_event({event!r}): a wait is for one event; race several with ctx.race")
    name, data_type = (event, Any) if isinstance(event, str) else (event.name, event.types.get(event.name, Any))
    joined = join(match, where, "wait_for_event")
    check_wait(defined, name, joined.path)
    condition = bind(joined.where, trigger) if joined.where else ""
    if not joined.path:
        return WaitKey(name, join_key(name, "", ""), condition, data_type)
    value = join_value(get_path(trigger, joined.equals) if joined.equals else joined.value)
    if value is None:
        raise DefinitionError(
            f"wait_for_event({name!r}, match={joined.path!r}): this run's trigger has no {joined.equals!r} to compare "
            "with: missing, null, objects and lists match nothing"
        )
    return WaitKey(name, join_key(name, joined.path, value), condition, data_type)
