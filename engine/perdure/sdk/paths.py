"""Whether a path such as `data.cart_id` exists in the type of an event's data, and what to say if not."""

import dataclasses
import types
from collections.abc import Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin, get_type_hints, is_typeddict
from uuid import UUID

import msgspec

from perdure.errors import DefinitionError

_SCALARS = (str, int, float, bool, bytes, Decimal, UUID, datetime, date, time, timedelta, type(None), Enum)


def check_data_path(shown: str, keys: Sequence[str], data: Any) -> None:
    """Refuses a path into `data` (its keys after `data`) that the type rules out. `shown` begins the message.

    An open type (a dict, `Any`, one that cannot be resolved) rules nothing out.
    """
    at = data
    for key in keys:
        fields = fields_of(at)
        if fields is None:
            return
        if key not in fields:
            has = f"has {', '.join(fields)}" if fields else "has no fields"
            raise DefinitionError(f"{shown}: {_name(at)} has no {key!r} ({has})")
        at = fields[key]


def fields_of(data: Any) -> Mapping[str, Any] | None:
    """The keys that JSON of this type can have, with their types; None if it can have any."""
    data = _plain(data)
    origin = get_origin(data)
    if origin is Literal:
        return {}
    if origin in (Union, types.UnionType):
        return _of_union(get_args(data))
    kind = cast("object", origin if isinstance(origin, type) else data)
    if not isinstance(kind, type):
        return None
    try:
        return _of_class(kind)
    except Exception:
        # A name in the type's own annotations is not defined yet: msgspec says so when the type is used.
        return None


def _plain(data: Any) -> Any:
    while get_origin(data) is Annotated:
        data = get_args(data)[0]
    return data


def _of_union(members: Sequence[Any]) -> Mapping[str, Any] | None:
    """What one member has, the union may have; `None` in it only means that it may be missing."""
    found: dict[str, Any] = {}
    for member in members:
        if member is not type(None):
            fields = fields_of(member)
            if fields is None:
                return None
            found.update(fields)
    return found


def _of_class(kind: type[Any]) -> Mapping[str, Any] | None:
    if issubclass(kind, msgspec.Struct):
        return {field.encode_name: field.type for field in msgspec.structs.fields(kind)}
    if dataclasses.is_dataclass(kind):
        hints = get_type_hints(kind)
        return {field.name: hints[field.name] for field in dataclasses.fields(kind)}
    if is_typeddict(kind) or hasattr(kind, "__attrs_attrs__"):
        return get_type_hints(kind)
    if hasattr(kind, "model_fields"):
        return _of_pydantic(kind)
    return {} if issubclass(kind, _SCALARS) else None


def _of_pydantic(kind: Any) -> Mapping[str, Any] | None:
    config: Mapping[str, Any] = kind.model_config
    if config.get("extra") == "allow" or (hasattr(kind, "__pydantic_root_model__") and kind.__pydantic_root_model__):
        return None
    found: dict[str, Any] = {}
    for name, field in kind.model_fields.items():
        alias = field.validation_alias
        if alias is not None and not isinstance(alias, str):
            return None
        found[alias or name] = field.annotation
        if config.get("populate_by_name") or config.get("validate_by_name"):
            found[name] = field.annotation
    return found


def _name(data: Any) -> str:
    data = _plain(data)
    if get_origin(data) in (Union, types.UnionType):
        return " | ".join(_name(member) for member in get_args(data) if member is not type(None))
    return getattr(data, "__name__", str(data))
