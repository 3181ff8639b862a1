"""A tree into Python closures: nothing of the tree is walked when a condition is asked.

A closure takes the scope, `(event, incoming, item)`, and gives a JSON value or raises one of `ERRORS`.
"""

from collections.abc import Callable
from typing import Any, Final

from perdure.flow.expressions.nodes import Node, kind_of
from perdure.flow.expressions.regex import compile_regex
from perdure.flow.expressions.values import (
    ERRORS,
    ONE_VALUE,
    OPERATORS,
    TWO_TEXTS,
    NoValue,
    element,
    field,
    negate,
    search,
)

Scope = tuple[Any, ...]
Closure = Callable[[Scope], Any]

_SLOTS: Final = {"event": 0, "async": 1}
_ITEM: Final = 2


def compile_node(node: Node) -> Closure:
    """The closure of a tree. What depends on nothing is computed once, now."""
    if node.kind == "const":
        value = node.value
        return lambda scope: value
    closure = _BUILD[node.kind](node)
    if node.free:
        return closure
    try:
        value = closure((None, None))
    except ERRORS:
        return _fail
    return lambda scope: value


def _fail(scope: Scope) -> Any:
    raise NoValue


def _name(node: Node) -> Closure:
    if node.value not in _SLOTS:
        return lambda scope: scope[_ITEM]
    slot = _SLOTS[node.value]

    def name(scope: Scope) -> Any:
        if scope[slot] is None:
            raise NoValue
        return scope[slot]

    return name


def _field(node: Node) -> Closure:
    # A subscript of a dict by a text raises by itself where CEL has an error, and so do those of all other values.
    path = _path(node)
    if path is None:
        target, key = compile_node(node.args[0]), node.value
        return lambda scope: target(scope)[key]
    slot, keys = path
    if len(keys) == 1:
        (only,) = keys
        return lambda scope: scope[slot][only]
    if len(keys) == 2:
        first, second = keys
        return lambda scope: scope[slot][first][second]
    first, second, *more = keys

    def walk(scope: Scope) -> Any:
        value = scope[slot][first][second]
        for key in more:
            value = value[key]
        return value

    return walk


def _path(node: Node) -> tuple[int, list[str]] | None:
    """Slot and keys of `event.a.b`, if the node is nothing but that."""
    keys: list[str] = []
    while node.kind == "field":
        keys.append(node.value)
        (node,) = node.args
    return (_SLOTS.get(node.value, _ITEM), keys[::-1]) if node.kind == "name" else None


def _binary(node: Node) -> Closure:
    left, right = node.args
    if right.kind == "const":
        return _against_constant(node.value, compile_node(left), right.value)
    if left.kind == "const" and node.value in ("==", "!="):
        return _against_constant(node.value, compile_node(right), left.value)
    apply, first, second = OPERATORS[node.value], compile_node(left), compile_node(right)
    return lambda scope: apply(first(scope), second(scope))


def _against_constant(operator: str, operand: Closure, constant: Any) -> Closure:
    apply, kind = OPERATORS[operator], kind_of(constant)
    if operator == "==" and kind is str:
        return lambda scope: operand(scope) == constant
    if operator == "!=" and kind is str:
        return lambda scope: operand(scope) != constant
    if operator == "==" and kind is bool:
        return lambda scope: operand(scope) is constant
    if operator == "in" and kind is list and all(type(item) is str for item in constant):
        texts = frozenset(constant)

        def among(scope: Scope) -> bool:
            value = operand(scope)
            return type(value) is str and value in texts

        return among
    return lambda scope: apply(operand(scope), constant)


def _and(node: Node) -> Closure:
    return _absorbing([compile_node(arg) for arg in node.args], decides=False)


def _or(node: Node) -> Closure:
    return _absorbing([compile_node(arg) for arg in node.args], decides=True)


def _absorbing(operands: list[Closure], *, decides: bool) -> Closure:
    """`&&` and `||`: one operand that decides makes up for errors of the others, on either side."""
    otherwise = not decides

    def absorb(scope: Scope) -> Any:
        failed = False
        for operand in operands:
            try:
                value = operand(scope)
            except ERRORS:
                failed = True
                continue
            if value is decides:
                return decides
            if value is not otherwise:
                failed = True
        if failed:
            raise NoValue
        return otherwise

    return absorb


def _exists(node: Node) -> Closure:
    return _over_items(node, decides=True)


def _all(node: Node) -> Closure:
    return _over_items(node, decides=False)


def _over_items(node: Node, *, decides: bool) -> Closure:
    items, body = compile_node(node.args[0]), compile_node(node.args[1])
    otherwise = not decides

    def over(scope: Scope) -> Any:
        values = items(scope)
        kind = kind_of(values)
        if kind is not list and kind is not dict:
            raise NoValue
        event, incoming = scope[0], scope[1]
        failed = False
        for item in values:
            try:
                value = body((event, incoming, item))
            except ERRORS:
                failed = True
                continue
            if value is decides:
                return decides
            if value is not otherwise:
                failed = True
        if failed:
            raise NoValue
        return otherwise

    return over


def _not(node: Node) -> Closure:
    operand = compile_node(node.args[0])

    def invert(scope: Scope) -> bool:
        value = operand(scope)
        if value is True or value is False:
            return not value
        raise NoValue

    return invert


def _if(node: Node) -> Closure:
    condition, then, otherwise = (compile_node(arg) for arg in node.args)

    def choose(scope: Scope) -> Any:
        value = condition(scope)
        if value is True:
            return then(scope)
        if value is False:
            return otherwise(scope)
        raise NoValue

    return choose


def _call(node: Node) -> Closure:
    target = compile_node(node.args[0])
    if node.value == "matches":
        regex = compile_regex(node.args[1].value)
        return lambda scope: search(regex, target(scope))
    if node.value in TWO_TEXTS:
        test, part = TWO_TEXTS[node.value], compile_node(node.args[1])
        return lambda scope: test(target(scope), part(scope))
    convert = ONE_VALUE[node.value]
    return lambda scope: convert(target(scope))


def _has(node: Node) -> Closure:
    target, key = compile_node(node.args[0]), node.value
    return lambda scope: field(target(scope), key)


def _neg(node: Node) -> Closure:
    operand = compile_node(node.args[0])
    return lambda scope: negate(operand(scope))


def _index(node: Node) -> Closure:
    target, key = compile_node(node.args[0]), compile_node(node.args[1])
    return lambda scope: element(target(scope), key(scope))


def _list(node: Node) -> Closure:
    items = [compile_node(arg) for arg in node.args]
    return lambda scope: [item(scope) for item in items]


def _map(node: Node) -> Closure:
    items = [(key, compile_node(arg)) for key, arg in zip(node.value, node.args, strict=True)]
    return lambda scope: {key: item(scope) for key, item in items}


def _error(node: Node) -> Closure:
    return _fail


_BUILD: Final[dict[str, Callable[[Node], Closure]]] = {
    "error": _error,
    "name": _name,
    "field": _field,
    "index": _index,
    "has": _has,
    "list": _list,
    "map": _map,
    "call": _call,
    "binary": _binary,
    "and": _and,
    "or": _or,
    "not": _not,
    "neg": _neg,
    "if": _if,
    "exists": _exists,
    "all": _all,
}
