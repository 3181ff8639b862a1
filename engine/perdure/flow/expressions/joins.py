"""Join keys: texts under which waits and events meet, so that cost does not grow with the number of waiters."""

from hashlib import blake2b
from typing import Any, NamedTuple

import msgspec

from perdure.flow.expressions.nodes import EVENT_FIELDS, Node, kind_of, make
from perdure.flow.expressions.parser import EVENTS, parse
from perdure.flow.expressions.paths import Path, format_path
from perdure.flow.expressions.render import render

Scalar = str | int | float | bool

MAX_JOIN_TEXT = 256
"""Characters of the longest text that stands as itself in a join value; longer ones by their digest."""

_ENCODE = msgspec.json.Encoder().encode


class Equality(NamedTuple):
    """A comparison that can become a join: the incoming event's value at `path` equals one that a run knows."""

    path: str
    """Canonical path within the incoming event."""
    equals: str
    """Path within the trigger, or empty where `value` is given."""
    value: Scalar | None
    """The literal, or None where `equals` is given."""
    rest: str
    """What remains of the condition when the join has answered for this comparison; empty if nothing."""


def equalities(source: str) -> list[Equality]:
    """The comparisons `async.<path> == event.<path>` and `async.<path> == literal`, in either order, that the whole
    condition requires, first written first. Raises DefinitionError for bad source.

    A join is narrower than `==` in one thing: null equals null, but joins nothing (nor do objects and lists).
    """
    node = parse(source, EVENTS)
    terms = node.args if node.kind == "and" else (node,)
    found: list[Equality] = []
    for position, term in enumerate(terms):
        sides = _sides(term)
        if sides is not None:
            found.append(Equality(*sides, _without(terms, position)))
    return found


def join_value(value: Any) -> str | None:
    """The text of a value in a join key, or None if it matches nothing: missing, null, objects, lists, NaN, infinity.

    Numbers are compared by their exact value, so that 1.0 equals 1, and 2**53 + 1 does not equal 2.0**53.
    `true`, `"1"` and `1` differ: `b:true`, `s:1`, `n:1`. A long text stands as its digest (`h:`).
    """
    kind = kind_of(value)
    if kind is str:
        if len(value) <= MAX_JOIN_TEXT:
            return f"s:{value}"
        return "h:" + blake2b(value.encode("utf-8", "surrogatepass"), digest_size=32).hexdigest()
    if kind is bool:
        return "b:true" if value else "b:false"
    if kind is int:
        return f"n:{value}"
    if kind is float and value - value == 0.0:
        return f"n:{int(value)}" if value.is_integer() else f"n:{value!r}"
    return None


def join_key(event_name: str, path: str, value: str) -> str:
    """One text for events of this name with this value (of `join_value`) at this canonical path.

    A JSON array, which no content of the three can make ambiguous. Empty path and value: a key of the name alone.
    """
    return _ENCODE((event_name, path, value)).decode()


def _without(terms: tuple[Node, ...], position: int) -> str:
    left = terms[:position] + terms[position + 1 :]
    if not left:
        return ""
    return render(left[0] if len(left) == 1 else make("and", 0, left))


def _sides(term: Node) -> tuple[str, str, Scalar | None] | None:
    if term.kind != "binary" or term.value != "==":
        return None
    for incoming, known in (term.args, term.args[::-1]):
        path = _path(incoming, "async")
        if path is None:
            continue
        if known.kind == "const" and join_value(known.value) is not None:
            return format_path(path), "", known.value
        trigger = _path(known, "event")
        if trigger is not None:
            return format_path(path), format_path(trigger), None
    return None


def _path(node: Node, root: str) -> Path | None:
    """Steps below `root`, if the node is a path that a join can use: to a field of data or user, or to id, name…"""
    steps: list[str | int] = []
    while node.kind in ("field", "index"):
        step = node.value if node.kind == "field" else node.args[1].value
        if node.kind == "index" and (node.args[1].kind != "const" or type(step) is not int or step < 0):
            return None
        steps.append(step)
        node = node.args[0]
    if node.kind != "name" or node.value != root or not steps or steps[-1] not in EVENT_FIELDS:
        return None
    nested = steps[-1] in ("data", "user")
    return tuple(reversed(steps)) if nested is (len(steps) > 1) else None
