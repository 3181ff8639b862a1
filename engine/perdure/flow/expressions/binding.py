"""Partial evaluation: a condition over trigger and incoming event becomes one over the incoming event alone."""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from perdure.flow.expressions.compiler import compile_node
from perdure.flow.expressions.nodes import EVENT_FIELDS, MACROS, Node, const, is_condition, make
from perdure.flow.expressions.parser import EVENTS, parse
from perdure.flow.expressions.render import render
from perdure.flow.expressions.values import ERRORS

_Binder = Callable[[Mapping[str, Any]], Node]
_ERROR = make("error", 0)
_FALSE = const(False)
_TRUE = const(True)


def bind(source: str, event: Mapping[str, Any]) -> str:
    """The condition with the trigger's values written out: an expression over `async` alone.

    For every incoming event it matches exactly if `source` matches with `event`. A condition that no incoming event
    can meet any more, e.g. for a key that the trigger lacks, becomes `false`. Raises DefinitionError for bad source.
    """
    return render(_wanted(_binder(source)(event)))


@lru_cache(maxsize=1_024)
def _binder(source: str) -> _Binder:
    return _plan(parse(source, EVENTS))


def _plan(node: Node) -> _Binder:
    if "event" not in node.free:
        return lambda event: node
    if len(node.free) == 1:
        return _value_of(node)
    parts = [_plan(arg) for arg in node.args]
    return lambda event: _reduce(node, tuple(part(event) for part in parts))


def _value_of(node: Node) -> _Binder:
    closure = compile_node(node)

    def value(event: Mapping[str, Any]) -> Node:
        try:
            return const(closure((event, None)), node.at)
        except ERRORS:
            return _ERROR

    return value


def _reduce(node: Node, args: tuple[Node, ...]) -> Node:
    """The node with its parts replaced, and computed as far as they allow. Exact in every context."""
    kind = node.kind
    if kind in ("and", "or"):
        return _reduce_logic(node, args)
    if kind == "if":
        return _reduce_if(node, args)
    if args[0].kind == "error" or (kind not in MACROS and any(arg.kind == "error" for arg in args)):
        return _ERROR
    if kind == "not" or kind in MACROS:
        args = (*args[:-1], _as_bool(args[-1]))
    if kind == "index" and args[1].kind == "const":
        return _reduce_index(node, args)
    reduced = make(kind, node.at, args, node.value)
    return reduced if reduced.free else _constant(reduced)


def _constant(node: Node) -> Node:
    closure = compile_node(node)
    try:
        return const(closure((None, None)), node.at)
    except ERRORS:
        return _ERROR


def _reduce_index(node: Node, args: tuple[Node, ...]) -> Node:
    target, key = args
    if target.kind == "name" and target.value in EVENTS and key.value not in EVENT_FIELDS:
        return _ERROR
    if isinstance(key.value, str):
        return make("field", node.at, (target,), key.value)
    return make("index", node.at, args)


def _reduce_logic(node: Node, args: tuple[Node, ...]) -> Node:
    decides = _FALSE if node.kind == "and" else _TRUE
    operands: list[Node] = []
    for arg in map(_as_bool, args):
        if arg.kind == "const":
            if arg.value is decides.value:
                return decides
        elif arg is not _ERROR or _ERROR not in operands:
            operands.append(arg)
    if len(operands) > 1:
        return make(node.kind, node.at, tuple(operands))
    # Alone, an operand that is no bool would be its own result, where it was an error.
    if operands and not _is_bool(operands[0]):
        return make(node.kind, node.at, (const(not decides.value), operands[0]))
    return operands[0] if operands else const(not decides.value)


def _reduce_if(node: Node, args: tuple[Node, ...]) -> Node:
    condition = _as_bool(args[0])
    if condition.kind == "error":
        return _ERROR
    if condition.kind == "const":
        return args[1] if condition.value else args[2]
    return make("if", node.at, (condition, args[1], args[2]))


def _as_bool(node: Node) -> Node:
    """The node where a bool is needed: what never gives one is an error there."""
    return node if is_condition(node) else _ERROR


def _is_bool(node: Node) -> bool:
    """Whether it gives a bool or an error, and nothing else."""
    return node.kind in ("and", "or", "not", "has", "error", *MACROS) or (node.kind == "binary" and is_condition(node))


def _wanted(node: Node) -> Node:
    """The node where only `true` counts: at the top, errors and all other values are as good as `false`."""
    if node.kind == "and":
        return _all_wanted([_wanted(arg) for arg in node.args])
    if node.kind == "or":
        operands = [arg for arg in map(_wanted, node.args) if arg is not _FALSE]
        return make("or", node.at, tuple(operands)) if len(operands) > 1 else operands[0] if operands else _FALSE
    if node.kind == "if":
        then, otherwise = _wanted(node.args[1]), _wanted(node.args[2])
        return _FALSE if then is otherwise is _FALSE else make("if", node.at, (node.args[0], then, otherwise))
    if node.kind == "const" and node.value is True:
        return _TRUE
    return node if is_condition(node) and node.kind not in ("const", "error") else _FALSE


def _all_wanted(operands: list[Node]) -> Node:
    if any(operand is _FALSE for operand in operands):
        return _FALSE
    left = [operand for operand in operands if operand is not _TRUE]
    flat = [part for operand in left for part in (operand.args if operand.kind == "and" else (operand,))]
    return make("and", 0, tuple(flat)) if len(flat) > 1 else flat[0] if flat else _TRUE
