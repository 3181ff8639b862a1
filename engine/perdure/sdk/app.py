"""The app: functions and steps under one name."""

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar, Unpack, cast, overload

from perdure import schedule
from perdure.errors import DefinitionError
from perdure.sdk import definition, signatures, undurable
from perdure.sdk.declared import Declared
from perdure.sdk.events import Event, EventType, Trigger
from perdure.sdk.function import Function
from perdure.sdk.options import Options, check_flag, check_id, check_names, function_options
from perdure.sdk.step import Step, StepDecorator
from perdure.sdk.triggers import triggers_of
from perdure.worker.coding import Codec
from perdure.worker.spec import FunctionSpec, StepSpec
from perdure_schemas.definition import CronDefined, Definition

if TYPE_CHECKING:
    from perdure.sdk.context import Context
    from perdure.sdk.ended import Ended

A = TypeVar("A")
P = ParamSpec("P")
R = TypeVar("R")


class BackgroundDecorator:
    """`@app.background`, bare or with options."""

    def __init__(self, app: "App", options: Options) -> None:
        self._app = app
        self._options = options

    @overload
    def __call__(self, fn: "Callable[Concatenate[Context, P], Coroutine[Any, Any, R]]", /) -> Function[P, R]: ...
    @overload
    def __call__(self, fn: Callable[P, Coroutine[Any, Any, R]], /) -> Function[P, R]: ...
    @overload
    def __call__(self, fn: Callable[P, R], /) -> Function[P, R]: ...
    @overload
    def __call__(self, **o: Unpack[Options]) -> "BackgroundDecorator": ...
    def __call__(self, *fn: Callable[..., Any], **o: Unpack[Options]) -> Any:
        """Makes a function that is started by name, with arguments."""
        options: Options = {**self._options, **o}
        if not fn:
            check_names(options, Options.__annotations__, "@app.background")
            return BackgroundDecorator(self._app, options)
        plain = signatures.check_callable(fn[0], "app.background")
        signatures.check_async_with_context(plain)
        return self._app.declare("background", plain, options)


class App:
    """Functions and steps under one name, which is also the name of their journal.

    `include` names modules to import when the app is opened, whose decorators add to it. `lifespan` is entered once in
    each process that runs steps. `on_failure` runs where a failed function has none of its own. `codec` encodes
    payloads before they reach the log.
    """

    step: StepDecorator
    background: BackgroundDecorator

    def __init__(
        self,
        name: str,
        *,
        include: Sequence[str] = (),
        lifespan: Callable[[], AbstractAsyncContextManager[object]] | None = None,
        on_failure: "Callable[[Context, Ended], Awaitable[object]] | None" = None,
        codec: Codec | None = None,
    ) -> None:
        self.name = _check_topic_name(name)
        if isinstance(include, str):
            raise DefinitionError(f"include={include!r}: a list is needed, such as include=[{include!r}]")
        self.include = tuple(include)
        self.lifespan = lifespan
        self.codec = codec
        self.functions: dict[str, Function[..., Any]] = {}
        self.handlers: dict[str, Function[..., Any]] = {}
        """Runs that failures and cancellations start: functions of kind `handler`, by id."""
        self.steps: list[Step[..., Any]] = []
        """Steps of modules. One defined inside a function is part of that function's source."""
        self.step = StepDecorator(self._add_step, {})
        self.background = BackgroundDecorator(self, {})
        handler = self._handler("app", "on_failure", on_failure)
        if handler:
            self.handlers[handler.id] = handler
        self._on_failure = _id(handler)

    @overload
    def function(
        self, *, on: EventType[A] | Trigger[A], **o: Unpack[Options]
    ) -> "Callable[[Callable[[Context, Event[A]], Awaitable[R]]], Function[[Event[A]], R]]": ...
    @overload
    def function(
        self, *, on: str | Sequence[str], **o: Unpack[Options]
    ) -> "Callable[[Callable[[Context, Event[A]], Awaitable[R]]], Function[[Event[A]], R]]": ...
    def function(self, *, on: Any, **o: Unpack[Options]) -> Any:
        """Makes a function of `(ctx, event)` that each event of `on` starts once."""
        triggers, types = triggers_of(on)
        check_names(o, Options.__annotations__, "@app.function")

        def decorate(fn: Callable[..., Any]) -> Function[..., Any]:
            signatures.check_pair(signatures.check_callable(fn, "app.function"), "event")
            return self.declare("event", fn, o, triggers=triggers, types=types)

        return decorate

    def cron(
        self, line: str, *, tz: str = "UTC", catchup: bool = False, **o: Unpack[Options]
    ) -> "Callable[[Callable[[], Awaitable[R]] | Callable[[Context], Awaitable[R]]], Function[[], R]]":
        """Makes a function that runs by a schedule: `@app.cron("0 6 * * 1-5", tz="Europe/Rome")`.

        Of the times that were missed while nothing ran, the latest is made up for; with `catchup` each of them.
        `ctx.scheduled_at` is the time that a run is of.
        """
        schedule.check(line, tz)
        cron = CronDefined(line, tz, check_flag({"catchup": catchup}, "catchup", False))
        check_names(o, Options.__annotations__, "@app.cron")

        def decorate(fn: Callable[..., Any]) -> Function[..., Any]:
            signatures.check_cron(signatures.check_callable(fn, "app.cron"))
            return self.declare("cron", fn, o, cron=cron)

        return decorate

    def declare(self, kind: str, fn: Callable[..., Any], options: Options, **more: Any) -> Function[..., Any]:
        """Adds a function whose signature was checked; what all decorators share. Raises `DefinitionError`."""
        checked = function_options(options, getattr(fn, "__name__", ""), f"@app.{_DECORATORS[kind]}")
        known = self.functions.get(checked.id)
        if known is not None:
            places = f"{known.declared.place} and {signatures.place(fn)}"
            raise DefinitionError(f"two functions have the id {checked.id!r}, at {places}: give one of them id=…")
        handlers = [
            self._handler(checked.id, "on_failure", checked.on_failure),
            self._handler(checked.id, "on_cancel", checked.on_cancel),
        ]
        declared = Declared(
            self.name,
            checked.id,
            kind,
            fn,
            signatures.place(fn),
            checked,
            takes_context=kind == "event" or signatures.takes_context(fn),
            on_failure=_id(handlers[0]) or self._on_failure,
            on_cancel=_id(handlers[1]),
            local=signatures.local_names(fn),
            **more,
        )
        definition.check_rules(declared)
        # Added last and together: a function that is refused leaves nothing behind.
        self.handlers |= {handler.id: handler for handler in handlers if handler}
        function: Function[..., Any] = Function(declared)
        self.functions[declared.id] = function
        return function

    def _handler(self, of: str, name: str, fn: Callable[..., Any] | None) -> Function[..., Any] | None:
        """The handler of a function, or of the app (`of` = "app"), as a function of its own."""
        if fn is None:
            return None
        if isinstance(fn, Function | Step) or not callable(cast("object", fn)):
            raise DefinitionError(f"{name}={fn!r}: a plain async function (ctx, ended) is needed, without a decorator")
        signatures.check_pair(signatures.check_callable(fn, name), "ended")
        handler_id = f"{of}:{name}"
        if handler_id in self.handlers:
            raise DefinitionError(f"id={of!r}: handlers of the app itself have that name; give the function another id")
        options = function_options({}, "handler", name)
        local = signatures.local_names(fn)
        return Function(Declared(self.name, handler_id, "handler", fn, signatures.place(fn), options, local=local))

    def _add_step(self, step: Step[..., Any]) -> None:
        if "<locals>" in getattr(step.fn, "__qualname__", ""):
            return
        for other in self.steps:
            if other.name == step.name and (other.queue or step.queue):
                places = f"{signatures.place(other.fn)} and {signatures.place(step.fn)}"
                raise DefinitionError(
                    f"two steps have the name {step.name!r}, at {places}, and a pool would not know which: give one "
                    "of them name=…"
                )
        self.steps.append(step)

    @property
    def pool_steps(self) -> dict[str, StepSpec]:
        """Steps that a worker pool finds, by name: those of modules. A name that two have is none."""
        found: dict[str, StepSpec] = {}
        twice: set[str] = set()
        for step in self.steps:
            (twice.add(step.name) if step.name in found else found.update({step.name: step.spec}))
        return {name: spec for name, spec in found.items() if name not in twice}

    def load(self) -> None:
        """Imports the modules of `include` and makes every spec: what is wrong is said before anything runs."""
        for module in self.include:
            try:
                self._check_included(import_module(module))
            except ModuleNotFoundError as error:
                if error.name is None or not (module == error.name or module.startswith(error.name + ".")):
                    raise
                raise DefinitionError(f"include={list(self.include)!r}: there is no module {error.name!r}") from error
        undurable.warn_of(self.specs.values())

    def _check_included(self, module: ModuleType) -> None:
        """A script is imported a second time by the modules that it includes: they then add to another App."""
        for value in list(vars(module).values()):
            if not isinstance(value, Function):
                continue
            declared: Declared = value.declared
            known = self.functions.get(declared.id)
            if declared.app == self.name and (known is None or known.declared is not declared):
                raise DefinitionError(
                    f"include: {module.__name__!r} added {declared.id!r} to another App({self.name!r}) than the one "
                    "that includes it: if that one's module is run as a script, move App(…) into a module that both "
                    "import"
                )

    @property
    def specs(self) -> dict[str, FunctionSpec]:
        """What the worker runs, by id: functions and handlers."""
        return {id: function.spec for id, function in {**self.functions, **self.handlers}.items()}

    def definition(self) -> Definition:
        """The app as the log knows it."""
        return definition.definition_of(self.name, self.specs.values(), self.steps)

    def __repr__(self) -> str:
        return f"App({self.name!r})"


_DECORATORS = {"event": "function", "background": "background", "cron": "cron"}


def _id(handler: Function[..., Any] | None) -> str:
    return handler.id if handler else ""


def _check_topic_name(name: object) -> str:
    """Topics are named after the app, and brokers are particular about their names."""
    text = check_id(name, "App name")
    if not all(char.isascii() and (char.isalnum() or char in "._-") for char in text):
        raise DefinitionError(f"App name={text!r}: letters, digits, '.', '_' and '-' only: topics are named after it")
    return text
