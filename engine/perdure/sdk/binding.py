"""Which open client serves an app in this process.

Process-wide and not by context variable: FastAPI runs handlers in contexts that the lifespan's never reach.
"""

from collections.abc import Coroutine, Mapping, Sequence
from threading import Lock
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from perdure.errors import OutsideRun
from perdure.worker.arguments import CallOptions

if TYPE_CHECKING:
    from perdure.sdk.function import Function
    from perdure.sdk.handle import RunHandle

R = TypeVar("R")


class Caller(Protocol):
    """What a function needs of an open `Engine` or `Client`."""

    def call(
        self, function: "Function[..., R]", args: Sequence[Any], kwargs: Mapping[str, Any], options: CallOptions, /
    ) -> Coroutine[Any, Any, R]: ...

    def enqueue(
        self, function: "Function[..., R]", args: Sequence[Any], kwargs: Mapping[str, Any], options: CallOptions, /
    ) -> "Coroutine[Any, Any, RunHandle[R]]": ...


_bound: dict[str, list[Caller]] = {}
_lock = Lock()


def bind(app: str, client: Caller) -> None:
    """`client` serves `app` from now on, until it is unbound; what served it before waits below."""
    with _lock:
        _bound.setdefault(app, []).append(client)


def unbind(app: str, client: Caller) -> None:
    """Takes `client` out, wherever in the stack it stands: engines need not close in the order they opened."""
    with _lock:
        stack = _bound.get(app, [])
        for at in range(len(stack) - 1, -1, -1):
            if stack[at] is client:
                del stack[at]
                break
        if not stack:
            _bound.pop(app, None)


def bound(app: str) -> Caller | None:
    """The client opened last for `app`, if there is one."""
    # Without the lock: one look at a dict, whose lists are never empty.
    stack = _bound.get(app)
    return stack[-1] if stack else None


def client_for(app: str, *what: str) -> Caller:
    """The client opened last for `app`. `what`, in parts, wanted it, for the message. Raises `OutsideRun`."""
    stack = _bound.get(app)
    if not stack:
        wanted = f"{''.join(what)}: " if what else ""
        raise OutsideRun(f"{wanted}no engine for {app!r} in this process: open Engine(app) or Client(app)")
    return stack[-1]
