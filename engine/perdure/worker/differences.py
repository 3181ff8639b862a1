"""Where a value and what came back from JSON differ, in words. Runs only when they are not equal."""

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, cast

import msgspec

Items = Mapping[Any, Any]


def difference(value: object, back: object, path: str = "") -> str:
    """The first place where `back` is not what `value` was; empty if there is none that a user could see."""
    if path and value == back:
        return ""
    if type(value) is not type(back):
        return _say(path, _name(value), _name(back))
    if isinstance(value, dict):
        return _of_dicts(cast("Items", value), cast("Items", back), path)
    if isinstance(value, list | tuple):
        return _of_lists(cast("list[Any]", value), cast("list[Any]", back), path)
    return _of_objects(value, back, path)


def _of_lists(value: list[Any], back: list[Any], path: str) -> str:
    if len(value) != len(back):
        return _say(path, f"{len(value)} items", str(len(back)))
    return _first((f"{path}[{i}]", a, b) for i, (a, b) in enumerate(zip(value, back, strict=True)))


def _of_objects(value: object, back: object, path: str) -> str:
    names = _field_names(value)
    if names is not None:
        return _first((f"{path}.{name}", getattr(value, name, None), getattr(back, name, None)) for name in names)
    compare: object = type(value).__eq__
    if value == back or compare is object.__eq__:
        # A class without __eq__ says nothing about its content; that it was read into its own type must do.
        return ""
    return _say(path, _show(value), _show(back))


def _of_dicts(value: Items, back: Items, path: str) -> str:
    for key in value:
        if key not in back:
            other = next((k for k in back if str(k) == str(key)), None)
            return _say(path, f"the key {key!r}", "nothing" if other is None else f"{other!r}")
    return _first((f"{path}[{key!r}]", item, back[key]) for key, item in value.items())


def _first(pairs: Iterator[tuple[str, Any, Any]]) -> str:
    for path, value, back in pairs:
        if found := difference(value, back, path):
            return found
    return ""


def _field_names(value: object) -> tuple[str, ...] | None:
    if isinstance(value, msgspec.Struct):
        return value.__struct_fields__
    if is_dataclass(value):
        return tuple(field.name for field in fields(value) if field.compare)
    return None


def _say(path: str, was: str, comes: str) -> str:
    at = f"at {path.lstrip('.')}, " if path else ""
    return f"{at}{was} comes back as {comes}"


def _name(value: object) -> str:
    if value is None:
        return "None"
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return "NaN" if value != value else "Infinity"
    return type(value).__name__


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
