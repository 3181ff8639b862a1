"""Steps: named work whose result is recorded once."""

import inspect
from collections.abc import Callable, Coroutine
from functools import cached_property, update_wrapper
from typing import Any, Generic, ParamSpec, Self, TypeVar, Unpack, overload

from perdure.duration import parse_ms
from perdure.errors import DefinitionError
from perdure.sdk.options import Retry, StepOptions, check_flag, check_id, check_names, check_queue, retry_policy
from perdure.sdk.signatures import check_callable, local_names, type_hints
from perdure.sdk.source import source_digest
from perdure.worker.lineage import here, in_step
from perdure.worker.payloads import known_decoder
from perdure.worker.queued import queued
from perdure.worker.spec import StepSpec
from perdure.worker.steps import run_step

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
_branch, _in_step = here.get, in_step.get
"""Bound once: of a name that was imported, each call would make the method anew."""


class Step(Generic[P, R_co]):
    """A function made by `@app.step`. Awaited in a run it is an op: it runs once, and its result is recorded.

    Elsewhere, in another step too, it is the plain function: awaiting the call runs it. A `def` function then runs
    where it is awaited, not in a thread.
    """

    fn: Callable[..., Any]
    """The plain function, for unit tests."""

    def __init__(self, fn: Callable[..., Any], options: StepOptions, *, of: "Step[..., Any] | None" = None) -> None:
        """`of`: the step as it was defined, whose options these are in place of its own."""
        check_names(options, StepOptions.__annotations__, "@app.step")
        self.name = check_id(options.get("name", getattr(fn, "__name__", "")), "name")
        self._options = options
        self._retries = retry_policy(options.get("retries", Retry()))
        timeout = options.get("timeout")
        self._timeout_ms = None if timeout is None else parse_ms(timeout, what="timeout", positive=True)
        self._record_input = check_flag(options, "record_input", True)
        self.defined: str = self.name if of is None else of.defined
        """The name that a pool finds it by, which `options(name=…)` does not change."""
        self.origin: Callable[..., Any] = fn if of is None else of.origin
        self.queue = check_queue(options["queue"]) if "queue" in options else ""
        if self.queue:
            check_for_pool(self.name, self.queue, self.origin)
            if not self._record_input:
                raise DefinitionError(
                    f"step {self.name!r} has queue={self.queue!r} and record_input=False: a pool gets the arguments "
                    "through the log; App(codec=…) encrypts them there"
                )
        self._local = local_names(fn)
        self._spec: StepSpec | None = None
        self.fn = fn
        update_wrapper(self, fn)

    @property
    def spec(self) -> StepSpec:
        """What the worker runs. Made at first use, when the names in annotations are all defined."""
        spec = self._spec
        if spec is None:
            spec = self._spec = self._made()
        return spec

    @cached_property
    def source(self) -> str:
        """Digest of the function's source."""
        return source_digest(self.fn)

    def _made(self) -> StepSpec:
        hints = type_hints(self.fn, self._local)
        returns = hints.get("return", Any)
        return StepSpec(
            self.name,
            self.fn,
            is_async=is_async(self.fn),
            returns=returns,
            retries=self._retries,
            timeout_ms=self._timeout_ms,
            record_input=self._record_input,
            queue=self.queue,
            step=self.defined,
            origin=self.origin,
            parameters={name: hint for name, hint in hints.items() if name != "return"},
            decode=known_decoder(returns),
        )

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[object, object, R_co]:
        """To be awaited. Not a coroutine function: an op's identity is taken when it is called, not when it runs."""
        # `Coroutine[Any, Any, R_co]` would make mypy's choice among the overloads of asyncio.gather ambiguous.
        branch = _branch()
        if branch is not None and _in_step() is None:
            spec = self._spec or self.spec
            if spec.queue:
                return queued(branch, spec, args, kwargs)
            # As `worker.steps.step`, whose call would be paid for by each step.
            execution, op = branch.execution, branch.identity(spec.name)
            coroutine = execution.unawaited[op] = run_step(execution, branch, op, spec, args, kwargs)
            return coroutine
        if is_async(self.fn):
            plain: Coroutine[Any, Any, R_co] = self.fn(*args, **kwargs)
            return plain
        return self._plainly(*args, **kwargs)

    async def _plainly(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        result: R_co = self.fn(*args, **kwargs)
        return result

    def options(self, **o: Unpack[StepOptions]) -> Self:
        """The same step with other options: `await insert.options(retries=9)(row)`."""
        return type(self)(self.fn, {**self._options, **o}, of=self)

    def __repr__(self) -> str:
        return f"<step {self.name!r}>"


def check_for_pool(name: str, queue: str, fn: object) -> None:
    """A pool has what the modules of the app define, and nothing that a function makes when it runs."""
    outer, local, _ = getattr(fn, "__qualname__", "").rpartition(".<locals>.")
    if local:
        where = outer.rpartition(".")[2]
        raise DefinitionError(
            f"step {name!r} has queue={queue!r} but is defined inside {where!r}: a pool imports it; move it to "
            "module level"
        )


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
