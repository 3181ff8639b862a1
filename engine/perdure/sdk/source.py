"""Reads the source of functions: what it waits for, its patches, and a digest that only a changed meaning changes."""

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator, Mapping
from types import CodeType, FunctionType
from typing import Any, NamedTuple, cast

from xxhash import xxh3_64

Fn = Callable[..., Any]
UNKNOWN = object()
"""What an expression in the source is, when only running it would tell."""


class WaitCall(NamedTuple):
    """A `wait_for_event(...)` in the source. Each part is its value, or `UNKNOWN`."""

    event: object
    match: object
    """A path, or a mapping whose keys are known and whose values need not be."""
    where: object


class Scanned(NamedTuple):
    """What the source of a function, and of the helpers of its module that it names, says."""

    waits: tuple[WaitCall, ...]
    patches: tuple[str, ...]
    digest: str


def scan(fn: Fn) -> Scanned:
    """Reads `fn` and its helpers. Without source (REPL, exec) there are no waits, and the digest is of the bytecode."""
    plain = inspect.unwrap(fn)
    waits: list[WaitCall] = []
    patches: dict[str, None] = {}
    whole = xxh3_64()
    for one, tree in _with_helpers(plain):
        whole.update(_of_tree(tree) if tree is not None else _of_code(getattr(one, "__code__", None)))
        for call in _calls(tree):
            if call.func.attr == "wait_for_event":
                waits.append(_wait(call.node, one))
            elif call.func.attr == "patched" and call.node.args:
                change = value_of(call.node.args[0], one)
                if isinstance(change, str):
                    patches[change] = None
    return Scanned(tuple(waits), tuple(patches), whole.hexdigest())


def source_digest(fn: Fn) -> str:
    """Digest of one function's syntax tree, without its helpers."""
    plain = inspect.unwrap(fn)
    tree = tree_of(plain)
    return xxh3_64(_of_tree(tree) if tree is not None else _of_code(getattr(plain, "__code__", None))).hexdigest()


def tree_of(fn: Fn) -> ast.AST | None:
    """The definition's syntax tree with its decorators; None if its source cannot be found."""
    try:
        source = inspect.getsource(fn)
    except (OSError, TypeError):
        return None
    try:
        return _parse(textwrap.dedent(source))
    except SyntaxError:
        pass
    try:
        # A text that spans lines may stand left of the function's own indentation, which then cannot be taken away.
        return _parse("if True:\n" + source)
    except SyntaxError:
        return None


def _parse(source: str) -> ast.AST:
    try:
        return ast.parse(source)
    except SystemError:
        # CPython 3.11, "AST constructor recursion depth mismatch": the collector ran a finalizer meanwhile.
        return ast.parse(source)


def _with_helpers(fn: Fn) -> Iterator[tuple[Fn, ast.AST | None]]:
    """`fn`, then each plain function of its module that it names, and that those name."""
    found: dict[Fn, None] = {fn: None}
    waiting = [fn]
    while waiting:
        one = waiting.pop(0)
        tree = tree_of(one)
        yield one, tree
        for name in _names(tree):
            named = _lookup(name, one)
            helper = inspect.unwrap(named) if isinstance(named, FunctionType) else None
            if helper is not None and helper.__module__ == fn.__module__ and helper not in found:
                found[helper] = None
                waiting.append(helper)


def _names(tree: ast.AST | None) -> list[str]:
    nodes = ast.walk(tree) if tree is not None else ()
    return list(dict.fromkeys(node.id for node in nodes if isinstance(node, ast.Name)))


class _Call(NamedTuple):
    node: ast.Call
    func: ast.Attribute


def _calls(tree: ast.AST | None) -> Iterator[_Call]:
    for node in ast.walk(tree) if tree is not None else ():
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            yield _Call(node, node.func)


def _wait(call: ast.Call, fn: Fn) -> WaitCall:
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    if None in given:  # `**options`
        return WaitCall(UNKNOWN, UNKNOWN, UNKNOWN)
    event = call.args[0] if call.args else given.get("event")
    return WaitCall(
        UNKNOWN if event is None else value_of(event, fn),
        value_of(given["match"], fn) if "match" in given else "",
        value_of(given["where"], fn) if "where" in given else "",
    )


def value_of(node: ast.expr, fn: Fn) -> object:
    """What an expression is, if its names are defined outside of the function; else `UNKNOWN`."""
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name):
        return _lookup(node.id, fn)
    if isinstance(node, ast.Attribute):
        owner = value_of(node.value, fn)
        return UNKNOWN if owner is UNKNOWN else getattr(owner, node.attr, UNKNOWN)
    if isinstance(node, ast.Dict):
        keys = [UNKNOWN if key is None else value_of(key, fn) for key in node.keys]
        if UNKNOWN in keys:
            return UNKNOWN
        return {key: value_of(value, fn) for key, value in zip(keys, node.values, strict=True)}
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr | ast.Add):
        return _joined(value_of(node.left, fn), value_of(node.right, fn), node.op)
    return UNKNOWN


def _joined(left: Any, right: Any, op: ast.operator) -> object:
    """`ADDED | REMOVED`, or a long text in two parts."""
    if left is UNKNOWN or right is UNKNOWN:
        return UNKNOWN
    try:
        return left | right if isinstance(op, ast.BitOr) else left + right
    except Exception:
        return UNKNOWN


def _lookup(name: str, fn: Fn) -> object:
    code: CodeType | None = getattr(fn, "__code__", None)
    if code is None or name in code.co_varnames or name in code.co_cellvars:
        return UNKNOWN
    if name in code.co_freevars:
        try:
            return (fn.__closure__ or ())[code.co_freevars.index(name)].cell_contents
        except ValueError:  # not filled yet
            return UNKNOWN
    scope: Mapping[str, object] = getattr(fn, "__globals__", {})
    return scope.get(name, UNKNOWN)


def _of_tree(tree: ast.AST) -> bytes:
    return "".join(_dump(tree)).encode("utf-8", "backslashreplace")


def _dump(node: object) -> Iterator[str]:
    """A syntax tree as text, without positions and docstrings.

    Not `ast.dump`, whose text differs between Python versions for the same code: empty fields are left out, so that
    fields that a version added do not show. Decorators stay: they are code that runs with the function.
    """
    if isinstance(node, ast.AST):
        yield type(node).__name__ + "("
        for name, value in ast.iter_fields(node):
            if name == "body" and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                value = _without_docstring(value)
            if value is not None and value != []:
                yield name + "="
                yield from _dump(value)
                yield ","
        yield ")"
    elif isinstance(node, list):
        yield "["
        for item in cast("list[object]", node):
            yield from _dump(item)
            yield ","
        yield "]"
    else:
        yield f"{type(node).__name__} {node!r}"


def _without_docstring(body: list[ast.stmt]) -> list[ast.stmt]:
    first = body[0] if body else None
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        return body[1:]
    return body


def _of_code(code: CodeType | None) -> bytes:
    """Bytecode with its constants; the one thing to go by where there is no source."""
    if code is None:
        return b""
    return b"\0".join([code.co_code, " ".join(code.co_names).encode(), *map(_of_constant, code.co_consts)])


def _of_constant(value: object) -> bytes:
    if isinstance(value, CodeType):
        return _of_code(value)
    # A set of texts has another order in every process.
    return repr(sorted(map(repr, cast("frozenset[object]", value))) if isinstance(value, frozenset) else value).encode()
