"""What a user's function looks like: its context, its parameters, its types. Says what is wrong with a bad one."""

import ast
import inspect
import sys
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from perdure.errors import DefinitionError

Fn = Callable[..., Any]


def place(fn: Fn) -> str:
    """`file:line` of a function, as editors understand it."""
    code = getattr(inspect.unwrap(fn), "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code else repr(fn)


def check_callable(fn: object, decorator: str) -> Fn:
    """A plain function or coroutine function; anything else is refused with what to write instead."""
    if isinstance(fn, str):
        raise DefinitionError(f"@{decorator}({fn!r}): options are given by name, such as @{decorator}(name={fn!r})")
    if isinstance(fn, type) or not callable(fn):
        raise DefinitionError(f"@{decorator}: a function is needed, not {fn!r}")
    if inspect.isasyncgenfunction(fn) or inspect.isgeneratorfunction(fn):
        raise DefinitionError(f"@{decorator}: {_name(fn)} yields, and a generator cannot be replayed: return a list")
    names = list(inspect.signature(fn).parameters)
    if names and names[0] in ("self", "cls") and inspect.isfunction(fn):
        raise DefinitionError(
            f"@{decorator}: {_name(fn)} is a method, and {names[0]!r} cannot be written to the log: "
            "make it a function of its module"
        )
    return fn


def is_context(annotation: object) -> bool:
    """Whether an annotation, resolved or still a string, means `perdure.Context`.

    By name: importing the class here would close a circle, and under `if TYPE_CHECKING` there is only the string.
    """
    if isinstance(annotation, str):
        return annotation.rpartition(".")[2].strip("'\" ") == "Context"
    kinds: tuple[type, ...] = getattr(annotation, "__mro__", ())
    return any(kind.__name__ == "Context" and kind.__module__.startswith("perdure.") for kind in kinds)


def takes_context(fn: Fn) -> bool:
    """Whether the first parameter is the context. Refuses a context that stands elsewhere, or nobody declared."""
    parameters = list(inspect.signature(fn).parameters.values())
    for at, parameter in enumerate(parameters):
        if is_context(parameter.annotation) and at > 0:
            rest = ", ".join(p.name for p in parameters if p is not parameter)
            raise DefinitionError(f"{_name(fn)}: Context is the first parameter: ({parameter.name}: Context, {rest})")
        if parameter.name in ("ctx", "context") and parameter.annotation is inspect.Parameter.empty:
            raise DefinitionError(f"{_name(fn)}: annotate {parameter.name}: Context, or call the parameter otherwise")
    return bool(parameters) and is_context(parameters[0].annotation)


def check_pair(fn: Fn, second: str) -> None:
    """Functions of events take `(ctx, event)`, handlers `(ctx, ended)`, both async."""
    wanted = f"async def {_name(fn)}(ctx: Context, {second}: {second.capitalize()})"
    if not inspect.iscoroutinefunction(fn):
        raise DefinitionError(f"{_name(fn)} cannot wait for anything: write {wanted}")
    parameters = list(inspect.signature(fn).parameters.values())
    first_two = parameters[:2]
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    more = [p for p in parameters[2:] if p.default is inspect.Parameter.empty and p.kind in positional]
    if len(first_two) < 2 or more or any(p.kind not in positional for p in first_two):
        raise DefinitionError(f"{_name(fn)} takes {inspect.signature(fn)}: write {wanted}")
    first = first_two[0].annotation
    if is_context(first_two[1].annotation) or not (first is inspect.Parameter.empty or is_context(first)):
        raise DefinitionError(f"{_name(fn)}: Context is the first parameter: write {wanted}")


def check_async_with_context(fn: Fn) -> None:
    """Ops are awaited: a `def` function could do nothing with a context."""
    if takes_context(fn) and not inspect.iscoroutinefunction(fn):
        raise DefinitionError(f"{_name(fn)} takes a Context, but only async def can await its ops: write async def")


def check_cron(fn: Fn) -> None:
    """Nobody gives a scheduled function arguments."""
    if not inspect.iscoroutinefunction(fn):
        raise DefinitionError(f"{_name(fn)} cannot wait for anything: write async def {_name(fn)}(ctx: Context)")
    skip = 1 if takes_context(fn) else 0
    needed = [p.name for p in list(inspect.signature(fn).parameters.values())[skip:] if p.default is p.empty]
    if needed:
        raise DefinitionError(f"{_name(fn)}: a schedule has no {needed[0]!r} to give: (ctx: Context) or nothing")


def type_hints(fn: Fn, local: Mapping[str, Any]) -> dict[str, Any]:
    """Parameter and `return` annotations, resolved. What cannot be resolved is `Any`, and harms no other."""
    try:
        return get_type_hints(fn, localns=dict(local), include_extras=True)
    except Exception:
        plain = inspect.unwrap(fn)
        found: dict[str, Any] = getattr(plain, "__annotations__", {})
        return {name: _resolved(plain, name, hint, local) for name, hint in found.items()}


def _resolved(fn: Fn, name: str, hint: object, local: Mapping[str, Any]) -> Any:
    class _One:
        __annotations__ = {name: hint}

    try:
        return get_type_hints(_One, getattr(fn, "__globals__", {}), dict(local), include_extras=True)[name]
    except Exception:
        return Any


def local_names(fn: Fn) -> dict[str, Any]:
    """Values of the names that string annotations use, from the functions around `fn`, while these still run.

    Annotations that are strings (`from __future__ import annotations`) do not close over local classes.
    """
    plain = inspect.unwrap(fn)
    hints = [hint for hint in getattr(plain, "__annotations__", {}).values() if isinstance(hint, str)]
    if not hints or "<locals>" not in plain.__qualname__:
        return {}
    wanted = {node.id for hint in hints for node in ast.walk(_parsed(hint)) if isinstance(node, ast.Name)}
    file, found = plain.__code__.co_filename, dict[str, Any]()
    frame: FrameType | None = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
    while frame is not None:
        if frame.f_code.co_filename == file:
            found = {name: frame.f_locals[name] for name in wanted & frame.f_locals.keys()} | found
        frame = frame.f_back
    return found


def _parsed(hint: str) -> ast.AST:
    try:
        return ast.parse(hint, mode="eval")
    except SyntaxError:
        return ast.Module([], [])


def event_data_type(annotation: Any) -> Any:
    """`Cart` of an `Event[Cart]`; `Any` where the annotation says nothing of the data."""
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    origin, args = get_origin(annotation), get_args(annotation)
    return args[0] if getattr(origin, "__name__", "") == "Event" and args else Any


def _name(fn: object) -> str:
    return getattr(fn, "__name__", type(fn).__name__)
