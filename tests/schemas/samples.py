"""Sample records in their wire form, made from the structs themselves, so that no kind and no field is left out.

`python -m tests.schemas.samples` writes golden.json again. Look at what changed: logs written by the older code
must still be read, so a line that goes or changes in a `least` sample is a break.
"""

import json
from pathlib import Path
from typing import Any, get_args

import msgspec
from msgspec import inspect

from perdure_schemas import AnyRecord

GOLDEN = Path(__file__).with_name("golden.json")
KINDS: dict[str, type[msgspec.Struct]] = {str(struct.__struct_config__.tag): struct for struct in get_args(AnyRecord)}


def samples(kind: str) -> list[dict[str, Any]]:
    """The record with its required fields alone, then with all fields, once for each variant of a union in it."""
    info = inspect.type_info(KINDS[kind])
    assert isinstance(info, inspect.StructType)
    return [_struct(info, only_required=True), *_structs(info)]


def _structs(info: inspect.StructType) -> list[dict[str, Any]]:
    variants = max((len(_variants(field.type)) for field in info.fields), default=1)
    return [_struct(info, variant=number) for number in range(variants)]


def _struct(info: inspect.StructType, *, only_required: bool = False, variant: int = 0) -> dict[str, Any]:
    made: dict[str, Any] = {} if info.tag_field is None else {info.tag_field: info.tag}
    for number, field in enumerate(info.fields):
        if field.required or not only_required:
            choices = _variants(field.type)
            made[field.encode_name] = _value(choices[variant % len(choices)], field.encode_name, number)
    return made


def _variants(of: inspect.Type) -> list[inspect.Type]:
    """A union's members without null, which stands for a field that is left out."""
    if not isinstance(of, inspect.UnionType):
        return [of]
    return [one for one in of.types if not isinstance(one, inspect.NoneType)]


def _value(of: inspect.Type, name: str, number: int) -> Any:
    """Something that is not a default: texts say which field they are in, numbers which one of it."""
    match of:
        case inspect.StrType():
            return f"some {name}"
        case inspect.IntType():
            return 1 if name == "v" else 100 + number
        case inspect.FloatType():
            return 0.5 + number
        case inspect.BoolType():
            return True
        case inspect.RawType():
            return {"raw": name}
        case inspect.ListType(item_type=item) | inspect.VarTupleType(item_type=item):
            return [_value(one, name, number) for one in _variants(item)]
        case inspect.TupleType(item_types=items):
            return [_value(item, f"{name} {place}", number + place) for place, item in enumerate(items)]
        case inspect.DictType(value_type=value):
            return {f"key of {name}": _value(_variants(value)[0], name, number)}
        case inspect.StructType():
            return _struct(of)
        case _:
            raise TypeError(f"no sample for {of}: teach tests/schemas/samples.py this type")


def written(kind: str) -> list[dict[str, Any]]:
    """The kind's samples as the structs write them now."""
    decode = msgspec.json.Decoder(AnyRecord).decode
    return [json.loads(msgspec.json.encode(decode(json.dumps(one)))) for one in samples(kind)]


if __name__ == "__main__":
    lines = {kind: written(kind) for kind in KINDS}
    GOLDEN.write_text(json.dumps(lines, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
