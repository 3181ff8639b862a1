"""Tokens into a tree, by precedence. What cannot be right is refused here, at definition time."""

import difflib
from collections.abc import Iterable
from functools import lru_cache

from perdure.errors import DefinitionError
from perdure.flow.expressions.lexer import MIN_INT, RESERVED, Token, fault, tokens
from perdure.flow.expressions.nodes import (
    EVENT_FIELDS,
    FUNCTIONS,
    MACROS,
    MAX_DEPTH,
    MAX_LITERAL_DEPTH,
    MAX_NESTING,
    MAX_SOURCE,
    METHODS,
    Node,
    const,
    is_condition,
    make,
)
from perdure.flow.expressions.regex import compile_regex

EVENTS = frozenset({"event", "async"})
"""Names that stand for an event, and so have its fields."""

_LEVELS = {"==": 1, "!=": 1, "<": 1, "<=": 1, ">": 1, ">=": 1, "in": 1, "+": 2, "-": 2, "*": 3, "/": 3, "%": 3}
_WORDS = {"and": "&&", "or": "||", "not": "!", "is": "==", "None": "null", "True": "true", "False": "false"}


def parse(source: str, names: frozenset[str]) -> Node:
    """The tree of an expression over `names`. Raises DefinitionError with the position of what is wrong.

    The limits (2,048 characters, depth 32) hold for texts that mention `event`. A text over `async` alone may be what
    `bind` left, where values of the trigger stand written out: it may be as long and deep as those make it.
    """
    if len(source) <= MAX_SOURCE:
        return _parse_short(source, names)
    return _parse_long(source, names)


def _parse(source: str, names: frozenset[str]) -> Node:
    if not source.strip():
        raise DefinitionError('the expression is empty; say for example "event.data.total > 100"')
    node = _Parser(source, names).whole()
    bound = "event" not in node.free
    if not bound and len(source) > MAX_SOURCE:
        raise DefinitionError(f"the expression has {len(source)} characters; at most {MAX_SOURCE}")
    if not is_condition(node):
        raise fault(source, node.at, "not a condition: it never gives true or false; compare it with something")
    return node


_parse_short = lru_cache(maxsize=4_096)(_parse)
_parse_long = lru_cache(maxsize=32)(_parse)


class _Parser:
    def __init__(self, source: str, names: frozenset[str]) -> None:
        self._source = source
        self._names = names
        self._local = ""
        self._tokens = tokens(source)
        self._next = 0
        self._depth = 0

    def whole(self) -> Node:
        node = self._ternary()
        if self._peek().kind != "end":
            raise self._unexpected("here the expression should end")
        if node.height > MAX_DEPTH and "event" in node.free:
            raise fault(self._source, node.at, f"the expression is nested {node.height} deep; at most {MAX_DEPTH}")
        return node

    def _peek(self) -> Token:
        return self._tokens[self._next]

    def _take(self, *texts: str) -> Token | None:
        token = self._tokens[self._next]
        if token.text in texts and token.kind in ("op", "word"):
            self._next += 1
            return token
        return None

    def _expect(self, text: str) -> Token:
        token = self._take(text)
        if token is None:
            raise self._unexpected(f"expected {text!r}")
        return token

    def _unexpected(self, wanted: str) -> DefinitionError:
        token = self._peek()
        if token.text in _WORDS:
            wanted = f"say {_WORDS[token.text]!r} instead of {token.text!r}"
        elif token.text.startswith("="):
            wanted = "say '==' to compare"
        elif token.kind == "end":
            wanted += ", but the expression ends"
        else:
            wanted += f", not {token.text!r}"
        return fault(self._source, token.at, wanted)

    def _checked(self, node: Node) -> Node:
        if node.height > MAX_DEPTH + MAX_LITERAL_DEPTH:
            raise self._too_deep(node.at)
        return node

    def _too_deep(self, at: int) -> DefinitionError:
        return fault(self._source, at, "the expression is nested too deep; split it, or compute a part in the function")

    def _ternary(self) -> Node:
        self._depth += 1
        if self._depth > MAX_NESTING:
            raise self._too_deep(self._peek().at)
        node = self._chain("||", "or")
        mark = self._take("?")
        if mark is not None:
            self._need_bool(node)
            then = self._ternary()
            self._expect(":")
            node = self._checked(make("if", mark.at, (node, then, self._ternary())))
        self._depth -= 1
        return node

    def _chain(self, text: str, kind: str) -> Node:
        first = self._chain("&&", "and") if kind == "or" else self._binary(1)
        operands = [first]
        at = self._peek().at
        while self._take(text):
            operands.append(self._chain("&&", "and") if kind == "or" else self._binary(1))
        if len(operands) == 1:
            return first
        for operand in operands:
            self._need_bool(operand)
        return self._checked(make(kind, at, tuple(operands)))

    def _need_bool(self, node: Node) -> None:
        if not is_condition(node):
            raise fault(self._source, node.at, "true or false is needed here; compare this with something")

    def _binary(self, level: int) -> Node:
        left = self._unary()
        while True:
            token = self._peek()
            found = _LEVELS.get(token.text, 0) if token.kind in ("op", "word") else 0
            if found < level:
                return left
            self._next += 1
            right = self._binary(found + 1)
            left = self._checked(make("binary", token.at, (left, right), token.text))

    def _unary(self) -> Node:
        signs: list[Token] = []
        while sign := self._take("!", "-"):
            signs.append(sign)
        if len(signs) > MAX_NESTING:
            raise self._too_deep(signs[0].at)
        token = self._peek()
        if signs and signs[-1].text == "-" and token.kind == "value" and type(token.value) in (int, float):
            # Read with its sign at once: the smallest number of 64 bit has no positive counterpart.
            if type(token.value) is int and token.value > -MIN_INT:
                raise fault(self._source, token.at, "the number does not fit in 64 bit")
            self._next += 1
            node = self._postfix(const(-token.value, signs.pop().at))
        else:
            node = self._postfix(self._primary())
        for sign in reversed(signs):
            if sign.text == "!":
                self._need_bool(node)
            node = self._checked(make("not" if sign.text == "!" else "neg", sign.at, (node,)))
        return node

    def _postfix(self, node: Node) -> Node:
        while True:
            if self._take("."):
                node = self._member(node)
            elif token := self._take("["):
                key = self._ternary()
                self._expect("]")
                self._check_field(node, key.value if key.kind == "const" else "data", token.at)
                constant = key.kind == "const" and isinstance(key.value, str)
                node = make("field", token.at, (node,), key.value) if constant else make("index", token.at, (node, key))
            else:
                return node
            self._checked(node)

    def _member(self, node: Node) -> Node:
        token = self._peek()
        if token.text in RESERVED:
            raise fault(self._source, token.at, f'{token.text!r} is a word of the language; write ["{token.text}"]')
        if token.kind != "word":
            raise self._unexpected("expected a field's name")
        self._next += 1
        if not self._take("("):
            self._check_field(node, token.text, token.at)
            return make("field", token.at, (node,), token.text)
        if token.text in MACROS:
            return self._macro(node, token)
        if token.text not in METHODS:
            raise self._unknown_function(token, METHODS)
        args = (node, *self._arguments(")"))
        return self._call(token, args, METHODS)

    def _primary(self) -> Node:
        token = self._peek()
        if token.kind == "value":
            self._next += 1
            return const(token.value, token.at)
        if token.kind == "word" and token.text not in RESERVED and token.text not in _WORDS:
            self._next += 1
            return self._function(token) if self._take("(") else self._name(token)
        if self._take("("):
            node = self._ternary()
            self._expect(")")
            return node
        if token.text in ("[", "{"):
            start = self._next
            constant = self._constant(0)
            if constant is not None:
                return constant
            self._next = start + 1
            return self._map(token) if token.text == "{" else make("list", token.at, tuple(self._arguments("]")))
        raise self._unexpected("expected a value")

    def _constant(self, depth: int) -> Node | None:
        """A literal, lists and objects among them, or None: read in one frame a level, not by way of all operators."""
        token = self._peek()
        if depth > MAX_LITERAL_DEPTH:
            raise self._too_deep(token.at)
        self._next += 1
        if token.kind == "value":
            return const(token.value, token.at)
        if token.text == "-" and type(self._peek().value) in (int, float) and self._peek().value <= -MIN_INT:
            self._next += 1
            return const(-self._tokens[self._next - 1].value, token.at)
        if token.text not in ("[", "{"):
            return None
        close = "]" if token.text == "[" else "}"
        keys: list[str] = []
        items: list[Node] = []
        while not self._take(close):
            if items and not self._take(","):
                return None
            if close == "}" and not self._constant_key(keys):
                return None
            item = self._constant(depth + 1)
            if item is None:
                return None
            items.append(item)
        values = [item.value for item in items]
        height = 1 + max((item.height for item in items), default=0)
        return const(values if close == "]" else dict(zip(keys, values, strict=True)), token.at, height)

    def _constant_key(self, keys: list[str]) -> bool:
        token = self._peek()
        if token.kind != "value" or not isinstance(token.value, str) or token.value in keys:
            return False
        self._next += 1
        keys.append(token.value)
        return self._take(":") is not None

    def _arguments(self, close: str) -> list[Node]:
        found: list[Node] = []
        while not self._take(close):
            if found:
                self._expect(",")
                if close != ")" and self._take(close):
                    break
            found.append(self._ternary())
        return found

    def _map(self, start: Token) -> Node:
        keys: list[str] = []
        values: list[Node] = []
        while not self._take("}"):
            if keys:
                self._expect(",")
                if self._take("}"):
                    break
            key = self._peek()
            if key.kind != "value" or not isinstance(key.value, str):
                raise self._unexpected("expected a key, a text in quotes")
            if key.value in keys:
                raise fault(self._source, key.at, f"the key {key.text} stands twice")
            self._next += 1
            self._expect(":")
            keys.append(key.value)
            values.append(self._ternary())
        return make("map", start.at, tuple(values), tuple(keys))

    def _macro(self, target: Node, token: Token) -> Node:
        variable = self._peek()
        if self._local:
            raise fault(self._source, token.at, f"{token.text}() within exists() or all(): its cost would multiply")
        if variable.kind != "word" or variable.text in RESERVED or variable.text in self._names:
            raise self._unexpected(f"expected a new name for the item, as in {token.text}(item, item.price > 10)")
        self._next += 1
        self._expect(",")
        self._local = variable.text
        body = self._ternary()
        self._local = ""
        self._expect(")")
        self._need_bool(body)
        return make(token.text, token.at, (target, body), variable.text)

    def _function(self, token: Token) -> Node:
        if token.text == "has":
            return self._has(token)
        if token.text not in FUNCTIONS:
            raise self._unknown_function(token, FUNCTIONS)
        return self._call(token, tuple(self._arguments(")")), FUNCTIONS)

    def _has(self, token: Token) -> Node:
        args = self._arguments(")")
        if len(args) != 1 or args[0].kind != "field":
            raise fault(self._source, token.at, "has() takes one field, as in has(event.data.coupon)")
        return make("has", token.at, args[0].args, args[0].value)

    def _call(self, token: Token, args: tuple[Node, ...], known: dict[str, int]) -> Node:
        given, wanted = len(args), known[token.text]
        if known is METHODS:
            given, wanted = given - 1, wanted - 1
        if given != wanted:
            raise fault(
                self._source, token.at, f"{token.text}() takes {wanted} value{'s' * (wanted != 1)}, not {given}"
            )
        if token.text == "matches":
            self._check_regex(args[1])
        return make("call", token.at, args, token.text)

    def _check_regex(self, pattern: Node) -> None:
        if pattern.kind != "const" or not isinstance(pattern.value, str):
            raise fault(self._source, pattern.at, "the pattern of matches() must be written out, in quotes")
        try:
            compile_regex(pattern.value)
        except ValueError as problem:
            raise fault(self._source, pattern.at, f"matches(): {problem}") from None

    def _unknown_function(self, token: Token, known: dict[str, int]) -> DefinitionError:
        where = "behind a value" if known is METHODS else "by itself"
        names = sorted((*known, *(MACROS if known is METHODS else ("has",))))
        return fault(
            self._source,
            token.at,
            f"no function {token.text!r} can stand {where}{_guess(token.text, names)}; there are {', '.join(names)}",
        )

    def _name(self, token: Token) -> Node:
        if token.text in self._names or token.text == self._local:
            return make("name", token.at, (), token.text)
        if token.text in EVENT_FIELDS and "event" in self._names:
            raise fault(self._source, token.at, f"{token.text!r} of which event? say 'event.{token.text}'")
        names = sorted(self._names)
        known = f"; known here: {', '.join(names)}" if names else ""
        raise fault(self._source, token.at, f"unknown name {token.text!r}{_guess(token.text, names)}{known}")

    def _check_field(self, node: Node, key: object, at: int) -> None:
        if node.kind != "name" or node.value not in EVENTS or node.value == self._local or key in EVENT_FIELDS:
            return
        hint = _guess(str(key), EVENT_FIELDS) or f"; say '{node.value}.data.{key}' for its data"
        raise fault(self._source, at, f"{node.value!r} has no {key!r}{hint} (it has {', '.join(EVENT_FIELDS)})")


def _guess(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(known), 1)
    return f"; did you mean {near[0]!r}?" if near else ""
