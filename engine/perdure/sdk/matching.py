"""`match=` and `where=` as one join and a condition: for `cancel_on`, and for waits when they open."""

import json
from collections.abc import Iterator, Mapping
from typing import NamedTuple, cast

from perdure.errors import DefinitionError
from perdure.flow.expressions import canonical_path, compile_where, equalities, parse_path
from perdure.flow.expressions.parser import EVENTS, parse
from perdure.sdk.events import Match, Scalar


class Join(NamedTuple):
    """What an incoming event is joined on: its `path` equals `equals` of the trigger, or `value`; and `where` holds."""

    path: str
    """Canonical path in the incoming event; empty if nothing is compared, and events meet waits on their name alone."""
    equals: str = ""
    value: Scalar | None = None
    where: str = ""


def join(match: Match | object, where: str, what: str) -> Join:
    """`match` if it is given, else the first equality of `where` that events can be joined on.

    Raises `DefinitionError` for what cannot be right; `what` is whose options these are.
    """
    if where:
        compile_where(where)
    if isinstance(match, Mapping):
        return _by_values(cast("Mapping[str, object]", match), where, what)
    if not isinstance(match, str):
        raise DefinitionError(f"{what}: match={match!r}: a path such as 'data.id', or {{'data.id': value}}")
    if match:
        path = canonical_path(match)
        return Join(path, equals=path, where=where)
    for one in equalities(where) if where else ():
        # A float stands nowhere in `app.defined`; as a condition it does its work all the same.
        if not isinstance(one.value, float):
            return Join(one.path, one.equals, one.value, one.rest)
    return Join("", where=where)


def _by_values(match: Mapping[str, object], where: str, what: str) -> Join:
    """The first key is joined on; the others become conditions."""
    if not match:
        raise DefinitionError(f"{what}: match={{}} compares nothing: leave it out, or say match={{'data.id': value}}")
    values: list[tuple[str, Scalar]] = []
    for path, value in match.items():
        if not isinstance(value, str | int):
            raise DefinitionError(
                f"{what}: match={{{path!r}: {value!r}}}: a text, a whole number or a bool is needed, "
                f"not {type(value).__name__}; other comparisons go into where="
            )
        values.append((canonical_path(path), value))
    (first, wanted), *more = values
    conditions = [f"async.{path} == {json.dumps(other, ensure_ascii=False)}" for path, other in more]
    if where:
        conditions.append(f"({where})" if conditions else where)
    return Join(first, value=wanted, where=" && ".join(conditions))


def paths_in(where: str) -> Iterator[tuple[str, list[str]]]:
    """The fields of `data` that a condition reads, as (`event` or `async`, keys below `data`)."""
    nodes = [parse(where, EVENTS)]
    while nodes:
        node = nodes.pop()
        nodes.extend(node.args)
        keys: list[str] = []
        while node.kind == "field":
            keys.append(node.value)
            node = node.args[0]
        if node.kind == "name" and node.value in EVENTS and keys and keys.pop() == "data":
            yield node.value, keys[::-1]


def keys_below_data(path: str) -> list[str] | None:
    """The keys of a path below `data`, as far as they are keys; None for a path elsewhere."""
    steps = parse_path(path)
    if steps[0] != "data":
        return None
    keys: list[str] = []
    for step in steps[1:]:
        if isinstance(step, int):
            break
        keys.append(step)
    return keys
