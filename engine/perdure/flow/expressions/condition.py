"""A condition, ready to be asked."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from perdure.errors import DefinitionError
from perdure.flow.expressions.compiler import compile_node
from perdure.flow.expressions.nodes import MAX_SOURCE
from perdure.flow.expressions.parser import EVENTS, parse
from perdure.flow.expressions.values import ERRORS


class Condition:
    """A compiled expression. `names` are those of `event` and `async` that it depends on."""

    __slots__ = ("_run", "names", "source")

    def __init__(self, source: str, names: frozenset[str]) -> None:
        node = parse(source, names)
        self.source = source
        self.names = node.free
        self._run = compile_node(node)

    def matches(self, event: Mapping[str, Any] | None, incoming: Mapping[str, Any] | None) -> bool:
        """Whether the condition is true. Errors within it, a missing key among them, mean that it is not."""
        try:
            return self._run((event, incoming)) is True
        except ERRORS:
            return False

    def __repr__(self) -> str:
        return f"Condition({self.source!r})"


def compile_where(source: str, *, names: frozenset[str] = EVENTS) -> Condition:
    """The condition of a text over `names` (of `event` and `async`).

    Raises DefinitionError, with the position and a caret below it, for what cannot be right.
    """
    return (_compile_short if len(_text(source)) <= MAX_SOURCE else _compile_long)(source, names)


def _text(source: object) -> str:
    if isinstance(source, str):
        return source
    raise DefinitionError(f'an expression is a text such as "event.data.total > 100", not {type(source).__name__}')


_compile_short = lru_cache(maxsize=4_096)(Condition)
_compile_long = lru_cache(maxsize=32)(Condition)
