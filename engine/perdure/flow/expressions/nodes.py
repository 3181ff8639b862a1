"""The tree of an expression. One shape for all nodes, so that every walk over it is short."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

kind_of: Final[Callable[[object], object]] = type
"""`type` as a plain function: JSON values are told apart by their exact class, and checkers need not follow."""

EVENT_FIELDS = ("id", "name", "data", "user", "ts", "v")
"""What `event` and `async` have."""

MAX_SOURCE = 2_048
"""Characters of the longest expression that a person may write."""

MAX_DEPTH = 32
"""Depth of the deepest tree that a person may write."""

MAX_LITERAL_DEPTH = 100
"""Depth of the deepest list or object of constants: `bind` writes out JSON of depth 64."""

MAX_NESTING = 40
"""Parentheses within parentheses and the like: each costs the parser up to nine frames of Python's stack."""

METHODS = {"startsWith": 2, "endsWith": 2, "contains": 2, "matches": 2, "lowerAscii": 1, "upperAscii": 1, "size": 1}
"""Functions written behind their target, and how many values they take with it."""

FUNCTIONS = {"size": 1, "int": 1, "double": 1, "string": 1}
"""Functions written before their value."""

MACROS = ("exists", "all")

BOOLEAN = frozenset({"and", "or", "not", "has", "exists", "all", "==", "!=", "<", "<=", ">", ">=", "in"})
"""Kinds (and binary operators) that give a bool or an error."""

BOOLEAN_METHODS = frozenset({"startsWith", "endsWith", "contains", "matches"})


class Node(NamedTuple):
    """One node: what it is (`kind`), of what (`args`), and its constant part (`value`).

        const    value = the JSON value           name     value = the name
        field    args = (target,), value = key    index    args = (target, key)
        has      args = (target,), value = key    list     args = items
        map      args = values, value = keys      call     args = values, value = the function
        binary   args = (left, right), value = the operator
        and, or  args = two or more               not, neg args = (operand,)
        if       args = (condition, then, else)   exists, all  args = (range, body), value = the variable
        error    what `bind` found to have no value

    `at` is where it stands in the source, `height` the depth of the tree below, `free` the names it depends on.
    """

    kind: str
    at: int
    args: tuple[Node, ...]
    value: Any
    height: int
    free: frozenset[str]


def make(kind: str, at: int, args: tuple[Node, ...] = (), value: Any = None) -> Node:
    """A node with its height and free names."""
    height = 1 + max((arg.height for arg in args), default=0)
    if kind == "name":
        return Node(kind, at, args, value, height, frozenset((value,)))
    if kind in MACROS:
        return Node(kind, at, args, value, height, args[0].free | (args[1].free - {value}))
    free = args[0].free if len(args) == 1 else frozenset[str]().union(*(arg.free for arg in args))
    return Node(kind, at, args, value, height, free)


def const(value: Any, at: int = 0, height: int = 1) -> Node:
    """A constant. `height` is that of its text, so that limits hold for written lists as well."""
    return Node("const", at, (), value, height, frozenset())


def is_condition(node: Node) -> bool:
    """Whether the node may give a bool. False only where it surely does not."""
    if node.kind == "const":
        return isinstance(node.value, bool)
    if node.kind == "binary":
        return node.value in BOOLEAN
    if node.kind == "call":
        return node.value in BOOLEAN_METHODS
    if node.kind == "if":
        return is_condition(node.args[1]) or is_condition(node.args[2])
    return node.kind not in ("list", "map", "neg")
