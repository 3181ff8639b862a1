"""Finds asyncio's own clocks in the code of functions: they start anew with every replay, and `ctx` has durable ones.

Read from the source, since a timer of the loop leaves no trace where the run waits. Steps may use them as they like:
what is decorated, what is passed to `ctx.step` and lambdas are left out. (What the source does not show, the worker
names when a run waits on it: `worker/idle.py`.)
"""

import ast
import asyncio
import inspect
import logging
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from types import FunctionType
from typing import Any, NamedTuple
from weakref import WeakSet

from perdure.sdk.source import tree_of, value_of
from perdure.worker.asyncio_in_runs import as_completed, asyncios_as_completed
from perdure.worker.spec import FunctionSpec

log = logging.getLogger("perdure.app")
Fn = Callable[..., Any]
_looked_at: "WeakSet[Fn]" = WeakSet()


class Undurable(NamedTuple):
    name: str
    instead: str
    place: str
    """`file:line`"""


_TIMEOUTS: tuple[tuple[object, str], ...] = (
    (asyncio.wait_for, "asyncio.wait_for"),
    (asyncio.timeout, "asyncio.timeout"),
    (asyncio.timeout_at, "asyncio.timeout_at"),
)
_WITH_TIMEOUT: tuple[tuple[object, str], ...] = (
    (asyncio.wait, "asyncio.wait(timeout=…)"),
    (asyncios_as_completed, "asyncio.as_completed(timeout=…)"),
    (as_completed, "asyncio.as_completed(timeout=…)"),
)


def warn_of(specs: Iterable[FunctionSpec]) -> None:
    """One warning for each function that uses asyncio's own clocks outside of steps."""
    for spec in specs:
        if not isinstance(spec.fn, FunctionType) or spec.fn in _looked_at:
            continue
        _looked_at.add(spec.fn)
        found = next(undurable(spec.fn), None)
        if found is not None:
            log.warning(
                "function %r uses %s outside of steps (%s): it is not durable, and begins anew with every replay; "
                "use %s",
                spec.id,
                found.name,
                found.place,
                found.instead,
            )


def undurable(fn: Fn) -> Iterator[Undurable]:
    """In the function itself, and in the functions of its module that it calls."""
    seen: set[Fn] = set()
    waiting = [inspect.unwrap(fn)]
    while waiting:
        one = waiting.pop(0)
        tree = tree_of(one)
        if tree is None or one in seen:
            continue
        seen.add(one)
        for call in _calls(tree):
            target = value_of(call.func, one)
            found = _named(call, target)
            if found:
                code = one.__code__
                yield Undurable(*found, f"{code.co_filename}:{code.co_firstlineno + call.lineno - 1}")
            if isinstance(target, FunctionType) and target.__module__ == one.__module__:
                waiting.append(inspect.unwrap(target))


def _named(call: ast.Call, target: object) -> tuple[str, str] | None:
    if target is asyncio.sleep:
        # `asyncio.sleep(0)` waits for nothing: it lets others run.
        zero = bool(call.args) and isinstance(call.args[0], ast.Constant) and call.args[0].value == 0
        return None if zero else ("asyncio.sleep", "ctx.sleep")
    timed = any(keyword.arg == "timeout" for keyword in call.keywords)
    for known, name in (*_TIMEOUTS, *(_WITH_TIMEOUT if timed else ())):
        if target is known:
            return name, "ctx.timeout or ctx.race"
    return None


def _calls(tree: ast.AST) -> Iterator[ast.Call]:
    """Calls in the function's own code, not in that of its steps."""
    stepped = set(_passed_to_step(tree))
    definitions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    nodes: list[ast.AST] = [statement for definition in islice(definitions, 1) for statement in definition.body]
    while nodes:
        node = nodes.pop(0)
        if isinstance(node, ast.Call):
            yield node
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (node.decorator_list or node.name in stepped):
            continue
        if not isinstance(node, ast.Lambda):
            nodes.extend(ast.iter_child_nodes(node))


def _passed_to_step(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "step":
            yield from (arg.id for arg in node.args if isinstance(arg, ast.Name))
