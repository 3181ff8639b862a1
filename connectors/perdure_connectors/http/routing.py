"""Operations: what can be asked, which scope it takes, what is answered. Routes and OpenAPI are made of them."""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, NewType

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from perdure.sdk.keys import Scope
from perdure_connectors.http.keys import authorize

EventStream = NewType("EventStream", str)
"""The type of an answer that is server-sent events."""

JsonLines = NewType("JsonLines", str)
"""The type of an answer that is a JSON object a line."""

Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True)
class Operation:
    """One method of one path. `scope`: what a key must be allowed; None: anybody may ask."""

    method: str
    path: str
    handler: Handler
    scope: Scope | None
    answers: Mapping[int, Any]
    """Status → the type of its JSON, `str` for plain text, `EventStream` or `JsonLines`."""
    query: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]])
    """The parameters that it takes, as JSON Schema."""
    body: Any = None
    """The type of the JSON that it takes; None for none."""
    refusals: Mapping[int, tuple[str, ...]] = field(default_factory=dict[int, tuple[str, ...]])
    """Status → names of errors of its own, beside those that any operation of its kind may end in."""
    asks_engine: bool = True
    """Whether the engine may refuse it: its log is full, broken, or elsewhere."""


def routes_of(operations: Iterable[Operation]) -> list[Route]:
    """One route a path, in the order of the paths: the Allow header of a 405 names all methods of it."""
    return [_route(path, list(those)) for path, those in groupby(operations, lambda operation: operation.path)]


def _route(path: str, operations: list[Operation]) -> Route:
    by_method = {operation.method: operation for operation in operations}

    async def answer(request: Request) -> Response:
        operation = by_method["GET" if request.method == "HEAD" else request.method]
        if operation.scope is not None:
            authorize(request, operation.scope)
        return await operation.handler(request)

    return Route(path, answer, methods=list(by_method))
