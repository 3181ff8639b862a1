"""Steps: named work whose result is recorded once."""

import inspect
from collections.abc import Callable, Coroutine
from functools import cached_property, update_wrapper
from typing import Any, Generic, ParamSpec, Self, TypeVar, Unpack, overload

from perdure.duration import parse_ms
from perdure.sdk.options import Retry, StepOptions, check_flag, check_id, check_names, retry_policy
from perdure.sdk.signatures import check_callable, local_names, type_hints
from perdure.worker.lineage import here, in_step
from perdure.worker.spec import StepSpec
from perdure.worker.steps import step

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class Step(Generic[P, R_co]):
    """A function made by `@app.step`. Awaited in a run it is an op: it runs once, and its result is recorded.

    Elsewhere, in another step too, it is the plain function: awaiting the call runs it. A `def` function then runs
    where it is awaited, not in a thread.
    """

    fn: Callable[..., Any]
    """The plain function, for unit tests."""

    def __init__(self, fn: Callable[..., Any], options: StepOptions) -> None:
        check_names(options, StepOptions.__annotations__, "@app.step")
        self.name = check_id(options.get("name", getattr(fn, "__name__", "")), "name")
        self._options = options
        self._retries = retry_policy(options.get("retries", Retry()))
        timeout = options.get("timeout")
        self._timeout_ms = None if timeout is None else parse_ms(timeout, what="timeout", positive=True)
        self._record_input = check_flag(options, "record_input", True)
        self._local = local_names(fn)
        self.fn = fn
        update_wrapper(self, fn)

    @cached_property
    def spec(self) -> StepSpec:
        """What the worker runs. Made at first use, when the names in annotations are all defined."""
        return StepSpec(
            self.name,
            self.fn,
            is_async=is_async(self.fn),
            returns=type_hints(self.fn, self._local).get("return", Any),
            retries=self._retries,
            timeout_ms=self._timeout_ms,
            record_input=self._record_input,
        )

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[object, object, R_co]:
        """To be awaited. Not a coroutine function: an op's identity is taken when it is called, not when it runs."""
        # `Coroutine[Any, Any, R_co]` would make mypy's choice among the overloads of asyncio.gather ambiguous.
        branch = here.get()
        if branch is not None and in_step.get() is None:
            return step(branch, self.spec, args, kwargs)
        if is_async(self.fn):
            plain: Coroutine[Any, Any, R_co] = self.fn(*args, **kwargs)
            return plain
        return self._plainly(*args, **kwargs)

    async def _plainly(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        result: R_co = self.fn(*args, **kwargs)
        return result

    def options(self, **o: Unpack[StepOptions]) -> Self:
        """The same step with other options: `await insert.options(retries=9)(row)`."""
        return type(self)(self.fn, {**self._options, **o})

    def __repr__(self) -> str:
        return f"<step {self.name!r}>"


def is_async(fn: Callable[..., Any]) -> bool:
    """Whether calling it gives a coroutine: an async function, or an object with an async `__call__`."""
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(getattr(fn, "__call__", None))  # noqa: B004


class StepDecorator:
    """`@app.step`, bare or with options."""

    def __init__(self, added: Callable[[Step[..., Any]], None], options: StepOptions) -> None:
        self._added = added
        self._options = options

    @overload
    def __call__(self, fn: Callable[P, Coroutine[Any, Any, R]], /) -> Step[P, R]: ...
    @overload
    def __call__(self, fn: Callable[P, R], /) -> Step[P, R]: ...
    @overload
    def __call__(self, **o: Unpack[StepOptions]) -> "StepDecorator": ...
    def __call__(self, *fn: Callable[..., Any], **o: Unpack[StepOptions]) -> Any:
        """Makes a step of a `def` or `async def` function."""
        options: StepOptions = {**self._options, **o}
        if not fn:
            check_names(options, StepOptions.__annotations__, "@app.step")
            return StepDecorator(self._added, options)
        step: Step[..., Any] = Step(check_callable(fn[0], "app.step"), options)
        self._added(step)
        return step
