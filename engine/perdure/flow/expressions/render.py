"""A tree back into text. What it writes reads back as the same tree."""

import json
import math
from typing import Any

from perdure.flow.expressions.lexer import IDENTIFIER, RESERVED
from perdure.flow.expressions.nodes import MACROS, METHODS, Node, kind_of

NO_VALUE = "{}.missing"
"""An expression that has no value, for what `bind` found to have none: a key that is missing from an empty object."""

_LEVELS = {"+": 4, "-": 4, "*": 5, "/": 5, "%": 5}
_KINDS = {"if": 0, "or": 1, "and": 2, "not": 6, "neg": 6}
_RELATION, _UNARY, _ATOM = 3, 6, 8


def render(node: Node) -> str:
    """The text of a tree."""
    args = node.args
    match node.kind:
        case "const":
            return literal(node.value)
        case "error":
            return NO_VALUE
        case "name":
            return str(node.value)
        case "field":
            return _within(args[0], _ATOM) + _key(node.value)
        case "has":
            return f"has({_within(args[0], _ATOM)}{_key(node.value)})"
        case "index":
            return f"{_within(args[0], _ATOM)}[{render(args[1])}]"
        case "list":
            return f"[{', '.join(map(render, args))}]"
        case "map":
            pairs = zip(node.value, args, strict=True)
            return "{" + ", ".join(f"{literal(key)}: {render(arg)}" for key, arg in pairs) + "}"
        case _:
            return _operation(node)


def literal(value: Any) -> str:
    """The text of a JSON value, as the language writes it."""
    kind = kind_of(value)
    if kind is dict:
        return "{" + ", ".join(f"{literal(key)}: {literal(item)}" for key, item in value.items()) + "}"
    if kind is list:
        return "[" + ", ".join(map(literal, value)) + "]"
    if kind is float and not math.isfinite(value):
        return f'double("{value}")'
    return json.dumps(value, ensure_ascii=False)


def _operation(node: Node) -> str:
    args = node.args
    if node.kind in ("and", "or"):
        joint = " && " if node.kind == "and" else " || "
        return joint.join(_within(arg, _level(node) + 1) for arg in args)
    if node.kind == "not":
        return "!" + _within(args[0], _UNARY)
    if node.kind == "neg":
        # In parentheses, or the sign would become part of a number that stands there.
        return f"-({render(args[0])})" if args[0].kind == "const" else "-" + _within(args[0], _UNARY)
    if node.kind == "if":
        return f"{_within(args[0], 1)} ? {_within(args[1], 1)} : {render(args[2])}"
    if node.kind == "binary":
        level = _level(node)
        return f"{_within(args[0], level)} {node.value} {_within(args[1], level + 1)}"
    if node.kind in MACROS:
        return f"{_within(args[0], _ATOM)}.{node.kind}({node.value}, {render(args[1])})"
    if node.value in METHODS and node.value != "size":
        return f"{_within(args[0], _ATOM)}.{node.value}({', '.join(map(render, args[1:]))})"
    return f"{node.value}({render(args[0])})"


def _level(node: Node) -> int:
    if node.kind == "binary":
        return _LEVELS.get(node.value, _RELATION)
    if node.kind == "const" and isinstance(node.value, int | float) and not isinstance(node.value, bool):
        return _UNARY
    return _KINDS.get(node.kind, _ATOM)


def _within(node: Node, level: int) -> str:
    return render(node) if _level(node) >= level else f"({render(node)})"


def _key(key: str) -> str:
    return f".{key}" if IDENTIFIER.fullmatch(key) and key not in RESERVED else f"[{literal(key)}]"
