"""User data to JSON and back. What a function gets live is what it would get on replay, so both go through here.

`round_trip` and `digest` run once per step: they allocate nothing that the result does not need, and keep decoders by
the identity of the annotation (hashing `dict[str, Any]` costs more than decoding a small dict).
"""

import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Never, NoReturn, ParamSpec, TypeVar, cast, get_origin

import msgspec
from msgspec import Raw
from msgspec.json import Decoder, Encoder
from xxhash import xxh3_64_hexdigest

from perdure.errors import DefinitionError, PayloadError, qualified_name
from perdure.worker.differences import difference

Decode = Callable[[bytes | Raw], Any]

DEPTH_LIMIT = 64
"""JSON nested deeper than this is refused before it reaches the log: readers refuse it too."""
_SHALLOW_BYTES = 2 * DEPTH_LIMIT

_PLAIN = frozenset((str, int, bool, type(None)))
_UNTYPED: tuple[Any, ...] = (Any, object, inspect.Parameter.empty, Never, NoReturn)
_REMEMBERED = 4096


def _name(value: object) -> str:
    return qualified_name(type(value))


def _enc_hook(value: object) -> Any:
    """What msgspec does not know: pydantic models, and subclasses of scalars (numpy.float64 is a float)."""
    model: Any = value
    if hasattr(type(value), "model_validate_json"):
        return model.model_dump(mode="json", by_alias=True, round_trip=True)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, tuple):
        raise PayloadError("a dict with tuples as keys cannot be written as JSON: make its keys strings")
    raise PayloadError(
        f"{_name(value)} cannot be written as JSON: use plain data, a msgspec Struct, a dataclass or a pydantic model"
    )


def _dec_hook(annotation: Any, value: Any) -> Any:
    """Custom classes; msgspec turns the errors raised here into ones that name the path."""
    kind = get_origin(annotation) or annotation
    validate = getattr(kind, "model_validate_json", None)
    if validate is not None:
        return annotation.model_validate_json(_encode(value))
    if isinstance(value, kind):
        return value
    raise TypeError(f"{show(annotation)} cannot be read from JSON: use a msgspec Struct, dataclass or pydantic model")


_encode = Encoder(enc_hook=_enc_hook).encode
_decode_any: Decode = Decoder().decode
_decoders: dict[int, tuple[Any, Decode]] = {}


def show(annotation: Any) -> str:
    """An annotation as a reader would write it."""
    if isinstance(annotation, type) and get_origin(annotation) is None:
        return annotation.__name__
    return str(annotation).replace("typing.", "")


def encode(value: object) -> bytes:
    """JSON in the order of the value's own keys. Raises `PayloadError` for what JSON cannot hold."""
    try:
        raw = _encode(value)
    except Exception as error:
        raise _unwritable(value, error) from error
    if len(raw) > _SHALLOW_BYTES:
        check_depth(raw)
    return raw


def _unwritable(value: object, error: Exception) -> PayloadError:
    if isinstance(error, PayloadError):
        return error
    return PayloadError(f"{_name(value)} cannot be written as JSON: {error}")


def check_depth(raw: bytes) -> None:
    """Refuses JSON nested deeper than `DEPTH_LIMIT`. Few brackets settle it at the cost of two scans in C."""
    if raw.count(b"[") + raw.count(b"{") <= DEPTH_LIMIT:
        return
    depth = 0
    for bracket in re.findall(rb"[\[\]{}]", re.sub(rb'"(?:[^"\\]|\\.)*"', b"", raw)):
        depth += 1 if bracket in b"[{" else -1
        if depth > DEPTH_LIMIT:
            raise PayloadError(f"nested deeper than {DEPTH_LIMIT} levels: flatten it, or keep it elsewhere by a key")


def decoder_for(annotation: Any) -> Decode:
    """JSON into the annotated type. What it returns raises `msgspec.DecodeError` for JSON that does not fit.

    Raises `DefinitionError` for an annotation that nothing can be read into. An annotation that is not a type may
    bring its own `__perdure_decode__(raw)`.
    """
    known = _decoders.get(id(annotation))
    if known is not None:
        return known[1]
    decode = _build(annotation)
    if len(_decoders) >= _REMEMBERED:
        # Annotations made on the fly (`returns=list[Row]`) are new objects each time; the cache must not hold all.
        _decoders.clear()
    _decoders[id(annotation)] = (annotation, decode)
    return decode


def known_decoder(annotation: Any) -> Decode | None:
    """`decoder_for`, to be kept by who reads often; None for an annotation that nothing can be read into."""
    try:
        return decoder_for(annotation)
    except DefinitionError:
        return None


def decoder_of_each(annotations: Sequence[Any], then: Any) -> Decode | None:
    """JSON `[[a value of each annotation…], then]` in one go; None if one of them is not read by msgspec alone."""
    if any(hasattr(one, "__perdure_decode__") or hasattr(one, "model_validate_json") for one in annotations):
        return None
    types = tuple([Any if _is_untyped(one) else one for one in annotations])
    try:
        return _build(tuple[tuple[types], then])  # type: ignore[valid-type]
    except DefinitionError:
        return None


def _is_untyped(annotation: Any) -> bool:
    return annotation in _UNTYPED or isinstance(annotation, str | TypeVar | ParamSpec)


def _build(annotation: Any) -> Decode:
    if _is_untyped(annotation):
        return _decode_any
    own = getattr(annotation, "__perdure_decode__", None)
    if own is not None:
        return own  # type: ignore[no-any-return]
    validate = getattr(annotation, "model_validate_json", None)
    if validate is not None:
        return _by_pydantic(validate)
    try:
        return Decoder(annotation, dec_hook=_dec_hook).decode
    except Exception as error:
        raise DefinitionError(f"{show(annotation)} cannot be read back from JSON: {error}") from error


def _by_pydantic(validate: Callable[[bytes], Any]) -> Decode:
    def decode(raw: bytes | Raw) -> Any:
        try:
            return validate(bytes(raw))
        except ValueError as error:
            raise msgspec.ValidationError(str(error)) from error

    return decode


def round_trip(
    value: object,
    annotation: Any = Any,
    decode: Decode | None = None,
    what: str = "the result",
    annotate: str = "the return type",
) -> tuple[bytes, Any]:
    """`value` as JSON, and what a replay would make of that JSON.

    Raises `PayloadError` if the two differ, since code that works live would then fail on replay. `decode`: the
    annotation's, where the caller has it. `what` and `annotate` word the error: what it is, and where its type is to be
    written down.
    """
    try:  # As in `encode`, whose call would be a tenth of what a small dict costs here.
        raw = _encode(value)
    except Exception as error:
        raise _unwritable(value, error) from error
    if len(raw) > _SHALLOW_BYTES:
        check_depth(raw)
    kind = type(value)
    if kind in _PLAIN and (annotation is kind or annotation is Any):
        return raw, value
    try:
        back = (decode or decoder_for(annotation))(raw)
    except (msgspec.DecodeError, RecursionError) as error:
        raise PayloadError(f"{what} does not fit {annotate}, {show(annotation)}: {error}") from error
    if back != value or (annotation is Any and type(back) is not kind):
        found = difference(value, back)
        if found:
            raise PayloadError(_different(what, annotate, annotation, found))
    return raw, back


def _different(what: str, annotate: str, annotation: Any, found: str) -> str:
    if annotation is Any:
        return f"{what} would come back different ({found}): annotate {annotate}"
    return f"{what} would come back different ({found}): annotate {annotate} as what it is, not {show(annotation)}"


def _by_name(value: object) -> Any:
    """A database pool or a Context among the arguments counts by what it is, not by what it holds."""
    try:
        return _enc_hook(value)
    except PayloadError:
        return f"<{_name(value)}>"


_canonical = Encoder(enc_hook=_by_name, order="deterministic").encode


def digest(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[str, bytes]:
    """Identifies what was asked for: `x3:` and xxh3 of the name and its arguments; and these as canonical JSON.

    Never fails: what JSON cannot hold counts by its qualified type name.
    """
    try:
        raw = _canonical((args, kwargs))
    except Exception:
        raw = _canonical(_plain((args, kwargs), 0))
    return "x3:" + xxh3_64_hexdigest(name.encode() + raw), raw


def _plain(value: object, depth: int) -> Any:
    """The slow way round what stops msgspec: odd keys, unsortable sets, lone surrogates, cycles."""
    if depth > DEPTH_LIMIT:
        return f"<{_name(value)}>"
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, Mapping):
        items = cast("Mapping[object, object]", value).items()
        pairs = [(_plain(key, depth + 1), _plain(item, depth + 1)) for key, item in items]
        return sorted(pairs, key=_canonical)
    if isinstance(value, set | frozenset):
        return sorted((_plain(item, depth + 1) for item in cast("Iterable[object]", value)), key=_canonical)
    if isinstance(value, list | tuple):
        return [_plain(item, depth + 1) for item in cast("Iterable[object]", value)]
    try:
        return Raw(_canonical(value))
    except Exception:
        return f"<{_name(value)}>"
