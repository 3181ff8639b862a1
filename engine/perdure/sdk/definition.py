"""From decorators to what the log knows: `FunctionDefined`, `Definition`, and the worker's `FunctionSpec`."""

import inspect
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple, cast

import msgspec
from msgspec.structs import FieldInfo
from xxhash import xxh3_64_hexdigest

from perdure.duration import parse_ms
from perdure.errors import DefinitionError
from perdure.flow.expressions import EXPRESSION_VERSION, canonical_path
from perdure.flow.patterns import check_event_name
from perdure.sdk.declared import Declared
from perdure.sdk.events import CancelOn, EventReader, EventType, is_event_type
from perdure.sdk.matching import Join, join, keys_below_data, paths_in
from perdure.sdk.paths import check_data_path
from perdure.sdk.signatures import event_data_type, type_hints
from perdure.sdk.source import Scanned, WaitCall, scan
from perdure.sdk.step import Step
from perdure.worker.payloads import decoder_for
from perdure.worker.spec import FunctionSpec
from perdure_schemas.definition import CancelDefined, Definition, FunctionDefined

WINDOW_MS = 172_800_000
_encode = msgspec.json.Encoder(order="deterministic").encode


class EventTypes(dict[str, Any]):
    """Event name → type of its data; names that it does not hold have `rest`, what the function's own hint says."""

    def __init__(self, types: Mapping[str, Any], rest: Any) -> None:
        super().__init__(types)
        self.rest = rest

    def get(self, key: str, default: Any = Any) -> Any:
        known = super().get(key, self.rest)
        return default if known is Any else known


def function_spec(declared: Declared) -> FunctionSpec:
    """What the worker runs. Made once, when all that the function's source and hints name is defined."""
    if declared.spec is None:
        declared.spec = _function_spec(declared)
    return declared.spec


class _Inputs(NamedTuple):
    """What a function gets and gives, as far as the names in its hints are defined yet."""

    parameters: Mapping[str, Any]
    types: Mapping[str, Any]
    """Of an event's data, by its name."""
    returns: Any


def _inputs(declared: Declared) -> _Inputs:
    hints = type_hints(declared.fn, declared.local)
    names = list(inspect.signature(declared.fn).parameters)[1 if declared.takes_context else 0 :]
    parameters = {name: hints.get(name, Any) for name in names}
    types: Mapping[str, Any] = {}
    if declared.kind == "event":
        # The hint speaks of names without an EventType; of a union it would only repeat what each name's type says.
        typed = all(trigger.event in declared.types for trigger in declared.triggers)
        types = EventTypes(declared.types, Any if typed else event_data_type(parameters[names[0]]))
        parameters = {names[0]: EventReader(types)}
    return _Inputs(parameters, types, hints.get("return", Any))


def _function_spec(declared: Declared) -> FunctionSpec:
    inputs = _inputs(declared)
    for name in {trigger.event for trigger in declared.triggers}:
        decoder_for(inputs.types.get(name, Any))
    if declared.kind == "background":
        for name, annotation in inputs.parameters.items():
            _check_parameter(declared, name, annotation)
    return FunctionSpec(
        declared.id,
        declared.kind,
        declared.fn,
        is_async=inspect.iscoroutinefunction(declared.fn),
        takes_context=declared.takes_context,
        defined=_defined(declared, inputs),
        data_types=inputs.types,
        parameters=inputs.parameters,
        returns=inputs.returns,
        retries=declared.options.retries,
    )


def _check_parameter(declared: Declared, name: str, annotation: Any) -> None:
    try:
        decoder_for(annotation)
        custom = _custom_class(annotation)
    except DefinitionError as error:
        raise DefinitionError(f"{declared.id}(), parameter {name!r}: {error}") from error
    if custom:
        raise DefinitionError(
            f"{declared.id}(), parameter {name!r}: {custom} cannot cross the log as JSON: pass an id, and open what "
            "cannot be passed in App(lifespan=…)"
        )


def _custom_class(annotation: Any) -> str:
    """The name of a class that JSON cannot be read into, or nothing."""
    if annotation is inspect.Parameter.empty or isinstance(annotation, str):
        return ""
    try:
        info = msgspec.inspect.type_info(annotation)
    except TypeError:
        return ""
    kinds = info.types if isinstance(info, msgspec.inspect.UnionType) else (info,)
    for kind in kinds:
        if isinstance(kind, msgspec.inspect.CustomType) and not hasattr(kind.cls, "model_validate_json"):
            return kind.cls.__name__
    return ""


def check_rules(declared: Declared) -> None:
    """Refuses conditions and paths that the types rule out, where the function is defined."""
    _rules(_Trigger(declared, _inputs(declared)))


def _rules(trigger: "_Trigger") -> tuple[CancelDefined, ...]:
    """What cancels the function; checks its triggers' conditions as well."""
    for defined in trigger.declared.triggers:
        for _, keys in paths_in(defined.where) if defined.where else ():
            check_data_path(f"where={defined.where!r}", keys, trigger.inputs.types.get(defined.event, Any))
    return tuple(rule for one in trigger.declared.options.cancel_on for rule in _cancel_rules(one, trigger))


def _defined(declared: Declared, inputs: _Inputs) -> FunctionDefined:
    options, scanned = declared.options, scan(declared.fn)
    trigger = _Trigger(declared, inputs)
    try:
        cancel_on = _rules(trigger)
        paths = dict.fromkeys([*((rule.event, rule.path) for rule in cancel_on), *_waits(options.waits)])
        paths |= dict.fromkeys(_scanned_waits(scanned, trigger))
    except DefinitionError as error:
        error.add_note(f"in {declared.kind} function {declared.id!r}, {declared.place}")
        raise
    return FunctionDefined(
        declared.id,
        declared.kind,
        triggers=declared.triggers,
        cancel_on=cancel_on,
        paths=tuple(sorted(paths)),
        cron=declared.cron,
        timeout_ms=options.timeout_ms,
        discard_after_ms=options.discard_after_ms,
        lookback_ms=options.lookback_ms,
        on_failure=declared.on_failure,
        on_cancel=declared.on_cancel,
        patches=scanned.patches,
        source=scanned.digest,
    )


class _Trigger(NamedTuple):
    """The trigger's side of a comparison: what `event.data` of a function can be."""

    declared: Declared
    inputs: _Inputs

    def check(self, shown: str, keys: list[str] | None) -> None:
        """Refuses a path that no trigger of the function has: keys below `data`, None for a path elsewhere."""
        if self.declared.kind == "background":
            self._check_parameters(shown, keys)
        elif self.declared.kind != "event":
            raise DefinitionError(
                f"{shown}: a {self.declared.kind} function has no event to compare with; give a value"
            )
        elif keys is not None:
            self._check_events(shown, keys)

    def _check_events(self, shown: str, keys: list[str]) -> None:
        """Of several triggers one is enough: the function may ask which it has."""
        refusals: list[DefinitionError] = []
        for trigger in self.declared.triggers:
            try:
                return check_data_path(shown, keys, self.inputs.types.get(trigger.event, Any))
            except DefinitionError as error:
                refusals.append(error)
        raise refusals[0]

    def _check_parameters(self, shown: str, keys: list[str] | None) -> None:
        """A background function's data are its arguments by name."""
        if not keys:
            raise DefinitionError(f"{shown}: a background function has no event; compare with a parameter, 'data.x'")
        if keys[0] not in self.inputs.parameters:
            has = ", ".join(self.inputs.parameters) or "none"
            raise DefinitionError(f"{shown}: {self.declared.id} has no parameter {keys[0]!r} (has {has})")
        check_data_path(shown, keys[1:], self.inputs.parameters[keys[0]])


def _cancel_rules(rule: CancelOn, trigger: _Trigger) -> Iterator[CancelDefined]:
    joined = join(rule.match, rule.where, "cancel_on")
    timeout_ms = None if rule.timeout is None else parse_ms(rule.timeout, what="cancel_on: timeout", positive=True)
    for name, data in _named(rule.event, "cancel_on"):
        _check_paths(joined, rule.match, rule.where, data, trigger)
        yield CancelDefined(name, joined.path, joined.equals, joined.value, joined.where, timeout_ms)


def _check_paths(joined: Join, match: object, where: str, data: Any, trigger: _Trigger) -> None:
    """Refuses what the types of either event rule out: it would match nothing, and nobody would know why."""
    shown = f"match={joined.path!r}"
    keys = keys_below_data(joined.path) if match else None
    if keys is not None:
        check_data_path(shown, keys, data)
    if match and joined.equals:
        trigger.check(shown, keys)
    for root, below in paths_in(where) if where else ():
        if root == "async":
            check_data_path(f"where={where!r}", below, data)
        else:
            trigger.check(f"where={where!r}", below)


def _named(event: EventType[Any] | str, what: str) -> Iterator[tuple[str, Any]]:
    if isinstance(event, EventType):
        yield from event.types.items()
    else:
        yield check_event_name(event, what=what), Any


def _waits(waits: Iterable[EventType[Any] | str]) -> Iterator[tuple[str, str]]:
    """`waits=`: an event type or a name for waits on the name alone; name, blank, path for keyed ones."""
    for wait in waits:
        if isinstance(wait, EventType):
            yield from ((name, "") for name in wait.names)
            continue
        name, _, path = wait.partition(" ")
        yield check_event_name(name, what="waits"), canonical_path(path.strip(), what="waits") if path else ""


def _scanned_waits(scanned: Scanned, trigger: _Trigger) -> Iterator[tuple[str, str]]:
    """Waits that the source shows whole. The others are refused when they are opened, unless `waits=` has them."""
    for wait in scanned.waits:
        event, joined = wait.event, _static_join(wait)
        if joined is None or not (isinstance(event, str) or is_event_type(event)):
            continue
        for name, data in _named(event, "wait_for_event"):
            if trigger.declared.kind != "handler":
                where = wait.where if isinstance(wait.where, str) else ""
                _check_paths(joined, wait.match, where, data, trigger)
            yield name, joined.path


def _static_join(wait: WaitCall) -> Join | None:
    match = wait.match
    if isinstance(match, dict):
        # The values are known when it runs; which path is joined on does not depend on them.
        match = dict.fromkeys(cast("dict[str, object]", match), 0)
    elif not isinstance(match, str):
        return None
    if isinstance(wait.where, str):
        return join(match, wait.where, "wait_for_event")
    return join(match, "", "wait_for_event") if match else None


def check_wait(defined: FunctionDefined, event: str, path: str) -> None:
    """Refuses a wait that no partition copies events for. `path` is empty for a wait on the name alone."""
    if "*" in event:
        raise DefinitionError(f"wait_for_event({event!r}): a wait is for one event name; race several with ctx.race")
    if (event, path) in defined.paths:
        return
    needed = f"{event} {path}" if path else event
    known = ", ".join(repr(f"{name} {at}".strip()) for name, at in defined.paths) or "none"
    shown = f", match={path!r}" if path else ""
    raise DefinitionError(
        f"wait_for_event({event!r}{shown}): the source of {defined.id!r} does not show this wait; "
        f"declare it with waits=[{needed!r}] (declared: {known})"
    )


def definition_of(app: str, specs: Iterable[FunctionSpec], steps: Iterable[Step[..., Any]]) -> Definition:
    """The whole app. Its digest covers what folds read, and the source of functions and of module-level steps."""
    functions = tuple(spec.defined for spec in sorted(specs, key=lambda spec: spec.id))
    sources = sorted((step.name, step.source) for step in steps)
    window_ms = max([WINDOW_MS, *(function.lookback_ms for function in functions)])
    blank = Definition(app, "", functions, EXPRESSION_VERSION, window_ms)
    return msgspec.structs.replace(blank, digest="x3:" + xxh3_64_hexdigest(_encode((_meaning(blank), sources))))


def _meaning(value: object) -> object:
    """A definition as plain data without what is at its default, so that a field added later changes no digest.

    Not what `omit_defaults` leaves: that goes by identity, and one number may be two objects.
    """
    if isinstance(value, tuple):
        return [_meaning(item) for item in cast("tuple[object, ...]", value)]
    if not isinstance(value, msgspec.Struct):
        return value
    fields = ((field, getattr(value, field.name)) for field in _fields(type(value)))
    return {field.name: _meaning(held) for field, held in fields if held != field.default}


@cache
def _fields(kind: type[msgspec.Struct]) -> tuple[FieldInfo, ...]:
    return msgspec.structs.fields(kind)
