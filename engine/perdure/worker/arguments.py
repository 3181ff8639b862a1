"""Arguments of runs: checked where they are given, as JSON in the log, typed where they arrive."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec
from msgspec import Raw, Struct, field
from msgspec.json import Decoder

from perdure.errors import PayloadError
from perdure.worker.payloads import Decode, decoder_for, decoder_of_each, encode, round_trip, show
from perdure.worker.spec import Callee

_Kind = inspect.Parameter
_decode_parts = Decoder(tuple[list[Raw], dict[str, Raw]]).decode


class _NoKeywords(Struct, forbid_unknown_fields=True, gc=False):
    """`{}`"""


class CallOptions(Struct, frozen=True, omit_defaults=True):
    """What `Function.options(...)` sets for a call or an enqueue."""

    delay_ms: int | None = None
    idempotency_key: str = ""
    discard_after_ms: int | None = None
    metadata: dict[str, str] = field(default_factory=dict[str, str])


class Shape(NamedTuple):
    """What of a signature a call is checked against. `positional` and `keywords` leave out the context."""

    positional: tuple[str, ...]
    keywords: frozenset[str]
    required: frozenset[str]
    positional_only: frozenset[str]
    rest: str
    """Name of the `*args` parameter."""
    extra: str
    """Name of the `**kwargs` parameter."""
    full: int
    """So many arguments by position, and none by name, are right in any case; -1 if there is no such number."""


@lru_cache(maxsize=4096)
def shape_of(fn: Callable[..., Any], takes_context: bool) -> Shape:
    """The shape of a function's parameters after the context."""
    parameters = list(inspect.signature(fn).parameters.values())[1 if takes_context else 0 :]
    by_position = (_Kind.POSITIONAL_ONLY, _Kind.POSITIONAL_OR_KEYWORD)
    by_name = (_Kind.POSITIONAL_OR_KEYWORD, _Kind.KEYWORD_ONLY)
    single = [p for p in parameters if p.kind in {*by_position, *by_name}]
    positional = tuple(p.name for p in single if p.kind in by_position)
    required = frozenset(p.name for p in single if p.default is _Kind.empty)
    return Shape(
        positional,
        frozenset(p.name for p in single if p.kind in by_name),
        required,
        frozenset(p.name for p in single if p.kind is _Kind.POSITIONAL_ONLY),
        next((p.name for p in parameters if p.kind is _Kind.VAR_POSITIONAL), ""),
        next((p.name for p in parameters if p.kind is _Kind.VAR_KEYWORD), ""),
        len(positional) if required.issubset(positional) else -1,
    )


def check_call(spec: Callee, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Shape:
    """Refuses arguments that the function's signature does not take, as a `PayloadError` that names the parameter."""
    shape = shape_of(spec.fn, spec.takes_context)
    if len(args) == shape.full and not kwargs:
        return shape
    given = shape.positional[: len(args)]
    if len(args) > len(shape.positional) and not shape.rest:
        raise PayloadError(f"{spec.id}() takes {_count(shape)}, got {len(args)}")
    for name in kwargs:
        if name in shape.keywords:
            if name in given:
                raise PayloadError(f"{spec.id}() got {name!r} twice: by position and by name")
        elif name in shape.positional_only and not shape.extra:
            raise PayloadError(f"{spec.id}() takes {name!r} by position only")
        elif not shape.extra:
            raise PayloadError(f"{spec.id}() has no parameter {name!r}{_guess(name, shape)}")
    if len(given) + len(kwargs) < len(shape.required) or not shape.required.issubset({*given, *kwargs}):
        missing = [name for name in shape.positional if name in shape.required] + sorted(shape.required)
        name = next(name for name in missing if name not in given and name not in kwargs)
        raise PayloadError(f"{spec.id}() misses {name!r}")
    return shape


def arguments_json(spec: Callee, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Raw:
    """`[[positional…], {keyword: …}]` for the log. Raises `PayloadError` for what the function could not get as it is.

    Dicts keep the order of their keys: compare calls by `payloads.digest`, which does not depend on it.
    """
    raw = None if kwargs else _json_at_once(spec, args)
    return _json_by_parts(spec, args, kwargs) if raw is None else raw


def _json_by_parts(spec: Callee, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Raw:
    shape = check_call(spec, args, kwargs)
    names = _names(shape, len(args))
    positional = b",".join([_one(spec, name, value) for name, value in zip(names, args, strict=False)])
    keywords = b",".join(encode(key) + b":" + _one(spec, _at(spec, key, shape), kwargs[key]) for key in sorted(kwargs))
    return Raw(b"[[" + positional + b"],{" + keywords + b"}]")


def decode_arguments(spec: Callee, raw: bytes | Raw) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What `arguments_json` wrote, in the annotated types. Parameters that are not given keep their defaults.

    Raises `PayloadError` for arguments that do not fit: they may come from anywhere.
    """
    read = _read_at_once(spec, spec.fn, spec.takes_context)
    if read is not None:
        try:
            return read(raw)[0], {}
        except (msgspec.DecodeError, RecursionError):
            # Some may be left out or named, and what does not fit is to be told.
            pass
    return _read_by_parts(spec, raw)


def _read_by_parts(spec: Callee, raw: bytes | Raw) -> tuple[tuple[Any, ...], dict[str, Any]]:
    try:
        positional, keywords = _decode_parts(raw)
    except msgspec.DecodeError as error:
        raise PayloadError(f"{spec.id}(): arguments are written as [[positional…], {{keyword: …}}]: {error}") from error
    shape = check_call(spec, positional, keywords)
    names = _names(shape, len(positional))
    args = tuple([_read(spec, name, value) for name, value in zip(names, positional, strict=False)])
    return args, {key: _read(spec, _at(spec, key, shape), value) for key, value in keywords.items()}


def _json_at_once(spec: Callee, args: Sequence[Any]) -> Raw | None:
    """Most calls, in one go; None for those that have to be looked at part by part, or refused."""
    read = _read_at_once(spec, spec.fn, spec.takes_context)
    if read is None:
        return None
    try:
        raw = b"[%b,{}]" % encode(args)
        back = read(raw)[0]
    except (PayloadError, msgspec.DecodeError, RecursionError):
        return None
    return Raw(raw) if back == args and [*map(type, back)] == [*map(type, args)] else None


@lru_cache(maxsize=4096)
def _read_at_once(spec: Callee, fn: Callable[..., Any], takes_context: bool) -> Decode | None:
    """Reads calls that give every parameter by position; None where there is no such call. `fn` may be a fake."""
    shape = shape_of(fn, takes_context)
    if shape.full < 0:
        return None
    return decoder_of_each([spec.parameters.get(name, Any) for name in shape.positional], _NoKeywords)


def _names(shape: Shape, count: int) -> tuple[str, ...]:
    """A parameter for each of `count` arguments by position, at least."""
    more = count - len(shape.positional)
    return shape.positional if more <= 0 else shape.positional + (shape.rest,) * more


def _at(spec: Callee, key: str, shape: Shape) -> str:
    return key if key in shape.keywords else shape.extra


def _one(spec: Callee, name: str, value: object) -> bytes:
    annotation = spec.parameters.get(name, Any)
    return round_trip(value, annotation, None, f"argument {name!r} of {spec.id}()", f"the parameter {name!r}")[0]


def _read(spec: Callee, name: str, raw: Raw) -> Any:
    annotation = spec.parameters.get(name, Any)
    try:
        return decoder_for(annotation)(raw)
    except (msgspec.DecodeError, RecursionError) as error:
        raise PayloadError(f"argument {name!r} of {spec.id}() does not fit {show(annotation)}: {error}") from error


def _count(shape: Shape) -> str:
    count = len(shape.positional)
    names = f" ({', '.join(shape.positional)})" if count else ""
    return f"{count or 'no'} positional argument{'' if count == 1 else 's'}{names}"


def _guess(name: str, shape: Shape) -> str:
    near = get_close_matches(name, shape.keywords, n=1)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f" (it has {', '.join(sorted(shape.keywords))})" if shape.keywords else ": it takes none"
