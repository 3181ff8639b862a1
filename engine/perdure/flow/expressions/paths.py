"""Paths into events: `data.cart_id`, `data.items[0].sku`, `data["odd key"]`."""

import difflib
import json
import re
from collections.abc import Mapping
from enum import Enum
from functools import lru_cache
from typing import Any, Final

from perdure.errors import DefinitionError
from perdure.flow.expressions.lexer import IDENTIFIER, fault
from perdure.flow.expressions.nodes import EVENT_FIELDS, kind_of

Path = tuple[str | int, ...]

MAX_PATH = 256
"""Characters of the longest path."""

_STEP = re.compile(
    r"""(?P<dot>\.?)(?P<word>[^\W\d][\w$@-]*)
      | \[(?P<index>\d{1,9})\]
      | \[(?P<text>"(?:[^"\\]|\\.)*"|'[^'\\]*')\]""",
    re.VERBOSE,
)
_OBJECTS = ("data", "user")


class Missing(Enum):
    """The type of `MISSING`."""

    MISSING = "missing"


MISSING: Final = Missing.MISSING
"""What `get_path` gives where the path leads nowhere. Not None, which is JSON's null."""


def get_path(document: Mapping[str, Any], path: str) -> Any:
    """The value at `path`, or MISSING. Raises DefinitionError for what is no path."""
    value: Any = document
    try:
        for step in split_path(path):
            kind = kind_of(value)
            if kind is str:
                return MISSING
            value = value[step]
    except (LookupError, TypeError):
        return MISSING
    return value


@lru_cache(maxsize=4_096)
def parse_path(path: str, *, what: str = "match") -> Path:
    """The steps of a path that events can be joined on. `what` is the option's name, for messages.

    Raises DefinitionError for what cannot be right: other syntax, a start that events do not have, and places that
    hold an object or lie within a text, where nothing ever matches.
    """
    shown = f"{what}={path!r}"
    steps = split_path(path, what=what)
    root = steps[0]
    if root in ("event", "async"):
        raise DefinitionError(f"{shown}: a path starts within the event; say {format_path(steps[1:] or ('data',))!r}")
    if root not in EVENT_FIELDS:
        near = difflib.get_close_matches(str(root), EVENT_FIELDS, 1)
        hint = (
            f"did you mean {near[0]!r}?" if near else f"say {format_path(('data', *steps))!r} for a field of its data"
        )
        raise DefinitionError(f"{shown}: an event has no {root!r} (it has {', '.join(EVENT_FIELDS)}); {hint}")
    if root in _OBJECTS and len(steps) == 1:
        raise DefinitionError(f"{shown}: {root!r} is an object, and objects match nothing; say '{root}.id' or the like")
    if root not in _OBJECTS and len(steps) > 1:
        raise DefinitionError(f"{shown}: {root!r} is not an object: nothing is within it")
    return steps


@lru_cache(maxsize=4_096)
def split_path(path: str, *, what: str = "path") -> Path:
    """The steps of any path: texts for keys, ints for positions. Raises DefinitionError for what is none."""
    if not path.strip():
        raise DefinitionError(f"{what} is empty; say for example 'data.cart_id'")
    if len(path) > MAX_PATH:
        raise DefinitionError(f"{what}={path[:40]!r}…: {len(path)} characters long; at most {MAX_PATH}")
    steps: list[str | int] = []
    at = 0
    while at < len(path):
        match = _STEP.match(path, at)
        if match is None or (match["word"] is not None and bool(match["dot"]) is not bool(steps)):
            raise fault(path, at, f"{what}={path!r}: not a path; {_advice(path, at)}")
        steps.append(_step(match))
        at = match.end()
    if not isinstance(steps[0], str):
        raise fault(path, 0, f"{what}={path!r}: a path starts with a name, as in 'data.items[0]'")
    return tuple(steps)


def format_path(steps: Path) -> str:
    """The one text of these steps, which `parse_path` reads back."""
    text = ""
    for step in steps:
        if isinstance(step, int):
            text += f"[{step}]"
        elif IDENTIFIER.fullmatch(step):
            text += f".{step}" if text else step
        else:
            text += f"[{json.dumps(step, ensure_ascii=False)}]"
    return text


def canonical_path(path: str, *, what: str = "match") -> str:
    """The path as join keys have it, however it was written: `data["id"]` and `data.id` are one.

    Raises DefinitionError as `parse_path` does.
    """
    return format_path(parse_path(path, what=what))


def _step(match: re.Match[str]) -> str | int:
    if match["word"] is not None:
        return match["word"]
    if match["index"] is not None:
        return int(match["index"])
    quoted = match["text"]
    return str(json.loads(quoted)) if quoted[0] == '"' else quoted[1:-1]


def _advice(path: str, at: int) -> str:
    rest = path[at:].lstrip(".")
    if rest[:1].isdigit():
        return "say [0] for a position"
    if any(sign in path for sign in "=<>&|!"):
        return "conditions go into where=, a path only names a field"
    return 'write names with dots between them, [0] for positions and ["…"] for other keys'
