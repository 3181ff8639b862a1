"""Event names and the patterns that triggers match them with: `cart/added`, `cart/*`, `*`."""

from perdure.errors import DefinitionError

MAX_NAME = 256
"""Characters of the longest event name."""

RESERVED = "perdure/"
"""Names of events that the engine itself sends (`perdure/function.failed`), and ids of functions that it has."""


def is_own(function: str) -> bool:
    """Whether the function of this id is the engine's: no user's function has such an id."""
    return function.startswith(RESERVED)


def name_matches(pattern: str, name: str) -> bool:
    """Whether an event of this name matches: `*` at the end of the pattern stands for any rest, also an empty one.

    Names of the engine's own events match only a pattern that spells out `perdure/`: a function triggered by `*`
    that fails would otherwise trigger itself by its own failure, for ever.
    """
    if not pattern.endswith("*"):
        return pattern == name
    stem = pattern[:-1]
    return name.startswith(stem) and (stem.startswith(RESERVED) or not name.startswith(RESERVED))


def check_event_name(name: object, *, what: str = "event name") -> str:
    """The name, if an event can have it. Raises DefinitionError with the reason if not.

    A name is 1 to 256 characters, without control characters, blanks at its ends, or `*`.
    """
    text = _check_text(name, what)
    if "*" in text:
        raise DefinitionError(f"{what} {text!r}: '*' stands for many names; an event has one")
    return text


def check_pattern(pattern: object, *, what: str = "event") -> str:
    """The pattern, if a trigger can have it: an event name, or one that ends in a single `*`.

    Raises DefinitionError with the reason if not.
    """
    text = _check_text(pattern, what)
    if "*" in text[:-1]:
        raise DefinitionError(f"{what} {text!r}: '*' can stand only once and at the end, as in 'cart/*'")
    return text


def _check_text(name: object, what: str) -> str:
    if not isinstance(name, str):
        raise DefinitionError(f"{what} {name!r}: a text such as 'cart/added' is needed, not {type(name).__name__}")
    if not name:
        raise DefinitionError(f"{what} is empty; say for example 'cart/added'")
    if len(name) > MAX_NAME:
        raise DefinitionError(f"{what} {name[:40]!r}…: {len(name)} characters long; at most {MAX_NAME}")
    if name != name.strip():
        raise DefinitionError(f"{what} {name!r}: begins or ends with a blank; take it away")
    if not name.replace(" ", "x").isprintable():
        raise DefinitionError(f"{what} {name!r}: has a control or other unprintable character; take it away")
    return name
