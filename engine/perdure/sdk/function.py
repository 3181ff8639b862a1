"""Functions: user code with an id, that runs as runs."""

from collections.abc import Callable, Coroutine, Mapping
from functools import cached_property, update_wrapper
from typing import TYPE_CHECKING, Any, Generic, Never, ParamSpec, Self, TypeVar, cast

from msgspec.structs import replace

from perdure.duration import parse_ms
from perdure.errors import DefinitionError, Duration
from perdure.sdk import definition
from perdure.sdk.binding import client_for
from perdure.sdk.declared import Declared
from perdure.worker import current
from perdure.worker.arguments import CallOptions, check_call
from perdure.worker.spec import FunctionSpec

if TYPE_CHECKING:
    from perdure.sdk.handle import RunHandle

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)


class Function(Generic[P, R_co]):
    """A function made by `@app.function`, `@app.background` or `@app.cron`.

    `await f.call(x)` waits for the result, `await f.enqueue(x)` starts a run and goes on; both are ops inside a run.
    There is deliberately no `f(x)`: it would hide which of the two is meant.
    """

    id: str
    fn: Callable[..., Any]
    """The plain function, for unit tests."""

    def __init__(self, declared: Declared, options: CallOptions | None = None) -> None:
        self.id = declared.id
        self.fn = declared.fn
        self.app = declared.app
        self.declared = declared
        self._options = options or CallOptions()
        update_wrapper(cast("Any", self), declared.fn)

    @cached_property
    def spec(self) -> FunctionSpec:
        """What the worker runs. Made at first use, when all that the function's source names is defined."""
        return definition.function_spec(self.declared)

    def call(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[object, object, R_co]:
        """Starts a run and waits for its result. Raises `RunFailed`, or the `NonRetriable` that ended it."""
        check_call(self.spec, args, kwargs)
        execution = current()
        if execution is not None:
            return execution.call(self.spec, args, kwargs, self._options, awaited=True)
        return client_for(self.app, self.id, ".call()").call(self, args, kwargs, self._options)

    def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> "Coroutine[object, object, RunHandle[R_co]]":
        """Starts a run and goes on with a handle of it, once the run is in the log."""
        check_call(self.spec, args, kwargs)
        execution = current()
        if execution is not None:
            return execution.call(self.spec, args, kwargs, self._options, awaited=False)
        return client_for(self.app, self.id, ".enqueue()").enqueue(self, args, kwargs, self._options)

    @property
    def call_options(self) -> CallOptions:
        """What `options()` set, for clients."""
        return self._options

    def options(
        self,
        *,
        delay: Duration | None = None,
        idempotency_key: str | None = None,
        discard_after: Duration | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> Self:
        """The same function with options for its next call or enqueue.

        `delay`: start no earlier. `idempotency_key`: a second run with the same key is the first one.
        `discard_after`: drop the run if it could not start by then. `metadata`: for people, shown and searchable.
        """
        given: dict[str, Any] = {}
        if delay is not None:
            given["delay_ms"] = parse_ms(delay, what="delay")
        if discard_after is not None:
            given["discard_after_ms"] = parse_ms(discard_after, what="discard_after", positive=True)
        if idempotency_key is not None:
            given["idempotency_key"] = _text("idempotency_key", idempotency_key)
        if metadata is not None:
            given["metadata"] = {_text("metadata", key): _text(f"metadata[{key!r}]", metadata[key]) for key in metadata}
        return type(self)(self.declared, replace(self._options, **given))

    def handle(self, run_id: str, /) -> "RunHandle[R_co]":
        """A handle of a run of this function, by its id."""
        from perdure.sdk.handle import RunHandle

        return RunHandle(self, run_id)

    def __repr__(self) -> str:
        return f"<{self.declared.kind} function {self.id!r}>"

    if not TYPE_CHECKING:
        # Type checkers shall call it an error; who does not ask them is told what to do instead.

        def __call__(self, *args: object, **kwargs: object) -> Never:
            name = getattr(self.fn, "__name__", self.id)
            if self.declared.kind == "cron":
                what = f"await {name}.enqueue() runs it now, await {name}.call() waits for the result"
            else:
                what = f"await {name}.call(x) waits for the result, await {name}.enqueue(x) starts it"
            raise DefinitionError(f"functions have no __call__: {what}; {name}.fn is the plain function")


def _text(what: str, value: object) -> str:
    if not isinstance(value, str) or not value:
        raise DefinitionError(f"{what}={value!r}: a text of at least one character is needed")
    return value
