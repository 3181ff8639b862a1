"""Text into tokens, and errors that show where in the text they are."""

import re
from typing import Any, NamedTuple

from perdure.errors import DefinitionError

KEYWORDS = {"true": True, "false": False, "null": None}
IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
RESERVED = frozenset({*KEYWORDS, "in"})
"""Words that cannot be a name or stand behind a dot."""

_TOKEN = re.compile(
    r"""(?P<blank>(?:\s|//[^\n]*)+)
      | (?P<float>(?:\d+\.\d+(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?|\d+[eE][+-]?\d+)(?![\w.]))
      | (?P<int>(?:0[xX][0-9a-fA-F]+|\d+)(?![\w]))
      | (?P<raw>[rR](?:"[^"\n]*"|'[^'\n]*'))
      | (?P<string>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
      | (?P<word>[A-Za-z_][A-Za-z0-9_]*)
      | (?P<op>==|!=|<=|>=|&&|\|\||[-<>!+*/%?:.,()\[\]{}])""",
    re.VERBOSE | re.ASCII,
)
_ESCAPE = re.compile(r"\\(?:([0-3][0-7]{2})|x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))", re.DOTALL)
_SIMPLE = dict(zip("abfnrtv\\\"'`?", "\a\b\f\n\r\t\v\\\"'`?", strict=True))
MAX_INT, MIN_INT = 2**64 - 1, -(2**63)
"""Integers of JSON events: what 64 bit can hold, with or without a sign."""
_WINDOW = 100


class Token(NamedTuple):
    """`kind` is `value` for literals, `word`, `op` or `end`."""

    kind: str
    text: str
    at: int
    value: Any = None


def fault(source: str, at: int, message: str) -> DefinitionError:
    """The error with its position, and the line of the source with a caret below it."""
    start = source.rfind("\n", 0, at) + 1
    line, column = source[start:].split("\n", 1)[0], at - start
    cut = max(0, column - _WINDOW // 2)
    shown = "".join(c if c.isprintable() else " " for c in line[cut : cut + _WINDOW])
    return DefinitionError(f"{message} (at character {at + 1})\n  {shown}\n  {' ' * (column - cut)}^")


def tokens(source: str) -> list[Token]:
    """All tokens and an `end`. Raises DefinitionError at what is none."""
    found: list[Token] = []
    at = 0
    while at < len(source):
        match = _TOKEN.match(source, at)
        if match is None:
            raise fault(source, at, _puzzle(source, at))
        kind = str(match.lastgroup)
        if kind != "blank":
            found.append(_token(source, kind, match[0], at))
        at = match.end()
    found.append(Token("end", "", len(source)))
    return found


def _token(source: str, kind: str, text: str, at: int) -> Token:
    if kind == "word":
        return Token("value", text, at, KEYWORDS[text]) if text in KEYWORDS else Token(kind, text, at)
    if kind == "int":
        return Token("value", text, at, _int(source, text, at))
    if kind == "float":
        return Token("value", text, at, float(text))
    if kind == "raw":
        return Token("value", text, at, text[2:-1])
    if kind == "string":
        return Token("value", text, at, _unescape(source, text, at))
    return Token(kind, text, at)


def _int(source: str, text: str, at: int) -> int:
    value = int(text, 16) if text[:2] in ("0x", "0X") else int(text) if len(text) <= 20 else MAX_INT + 1
    if value > MAX_INT:
        raise fault(source, at, "the number does not fit in 64 bit")
    return value


def _unescape(source: str, text: str, at: int) -> str:
    def one(match: re.Match[str]) -> str:
        octal, byte, short, long, plain = match.groups()
        if plain is None:
            code = int(octal, 8) if octal else int(byte or short or long, 16)
            if code > 0x10FFFF or 0xD800 <= code <= 0xDFFF:
                raise fault(source, at + 1 + match.start(), "the escape is no character")
            return chr(code)
        if plain not in _SIMPLE:
            raise fault(source, at + 1 + match.start(), f"unknown escape '\\{plain}'; write '\\\\' for a backslash")
        return _SIMPLE[plain]

    return _ESCAPE.sub(one, text[1:-1]) if "\\" in text else text[1:-1]


def _puzzle(source: str, at: int) -> str:
    char = source[at]
    if char in "\"'":
        return "the text is not closed: its second quote is missing on this line"
    if char in "=&|":
        return f"{char!r} alone means nothing here; say {char * 2!r}"
    if char.isdigit():
        return "not a number: write 12, 1.5 or 1e3, without suffix"
    return f"unexpected character {char!r}"
