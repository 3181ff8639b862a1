"""The pattern language of `matches()`, read into a tree. `regex.py` says what it holds and why."""

import re
from typing import NamedTuple

MAX_GROUPS = 24
"""Groups within groups."""

_DIGIT, _WORD = ((48, 57),), ((48, 57), (65, 90), (95, 95), (97, 122))
_SPACE = ((9, 10), (12, 13), (32, 32))
_CLASSES = {"d": _DIGIT, "w": _WORD, "s": _SPACE}
_CONTROL = dict(zip("abfnrtv", "\a\b\f\n\r\t\v", strict=True)) | {"b": ""}
_ASSERTIONS = {"A": "A", "z": "Z", "b": "b", "B": "B"}
_REPEAT = re.compile(r"\{(\d{1,4})(,(\d{0,4}))?\}", re.ASCII)
_HEX = re.compile(r"x(?:([0-9a-fA-F]{2})|\{([0-9a-fA-F]{1,6})\})")
_GROUP = re.compile(r"\?(?::|P?<[A-Za-z_]\w*>)", re.ASCII)
_FLAGS = re.compile(r"\(\?([ims]+)\)")


class Chars(NamedTuple):
    """A set of characters: `ranges` of code points, perhaps all but these, perhaps in any case."""

    ranges: tuple[tuple[int, int], ...]
    negated: bool = False
    fold: bool = False

    def holds(self, char: str) -> bool:
        """Whether the character is in the set."""
        forms = {char, char.lower(), char.upper()} if self.fold else {char}
        codes = [ord(form) for form in forms if len(form) == 1]
        return any(low <= code <= high for code in codes for low, high in self.ranges) != self.negated


class Assertion(NamedTuple):
    """`A` start of text, `Z` end of text, `^` and `$` those of a line, `b` a word boundary, `B` none."""

    kind: str


class Together(NamedTuple):
    """One tree after another."""

    items: tuple["Tree", ...]


class Either(NamedTuple):
    """One of the trees."""

    branches: tuple["Tree", ...]


class Repeat(NamedTuple):
    """The tree, from `low` to `high` times (None: without end)."""

    tree: "Tree"
    low: int
    high: int | None


Tree = Chars | Assertion | Together | Either | Repeat


class Syntax:
    """One pattern being read. Raises ValueError with what is wrong and where."""

    def __init__(self, pattern: str) -> None:
        flags = _FLAGS.match(pattern)
        self._pattern = pattern
        self._at = flags.end() if flags else 0
        self._flags = flags[1] if flags else ""
        self._groups = 0

    def tree(self) -> Tree:
        """The whole pattern."""
        tree = self._alternatives()
        if self._at < len(self._pattern):
            raise self._wrong("a ')' without its '('")
        return tree

    def _wrong(self, why: str) -> ValueError:
        return ValueError(f"{why}, at character {self._at + 1} of the pattern {self._pattern!r}")

    def _peek(self) -> str:
        return self._pattern[self._at : self._at + 1]

    def _alternatives(self) -> Tree:
        branches = [self._sequence()]
        while self._peek() == "|":
            self._at += 1
            branches.append(self._sequence())
        return branches[0] if len(branches) == 1 else Either(tuple(branches))

    def _sequence(self) -> Tree:
        items: list[Tree] = []
        while self._peek() not in ("", "|", ")"):
            items.append(self._repeated(self._item()))
        return items[0] if len(items) == 1 else Together(tuple(items))

    def _repeated(self, item: Tree) -> Tree:
        bounds = self._bounds()
        if bounds is None:
            return item
        low, high = bounds
        if high is not None and low > high:
            raise self._wrong("a repetition from more to less")
        if self._peek() == "?":
            self._at += 1
        if self._bounds() is not None:
            raise self._wrong("a repetition of a repetition; put the inner one in a group")
        return Repeat(item, low, high)

    def _bounds(self) -> tuple[int, int | None] | None:
        char = self._peek()
        if char in ("*", "+", "?") and char:
            self._at += 1
            return (1 if char == "+" else 0), (1 if char == "?" else None)
        match = _REPEAT.match(self._pattern, self._at)
        if match is None:
            return None
        self._at = match.end()
        low = int(match[1])
        return low, (low if match[2] is None else int(match[3]) if match[3] else None)

    def _item(self) -> Tree:
        char = self._peek()
        if char in "*+?":
            raise self._wrong(f"nothing stands before {char!r} to repeat")
        self._at += 1
        if char == "(":
            return self._group()
        if char == "[":
            return self._class()
        if char == "\\":
            return self._escape()
        if char == ".":
            return Chars((), True) if "s" in self._flags else Chars(((10, 10),), True)
        if char in "^$":
            line = "m" in self._flags
            return Assertion(char if line else "A" if char == "^" else "Z")
        return self._chars(((ord(char), ord(char)),))

    def _chars(self, ranges: tuple[tuple[int, int], ...], negated: bool = False) -> Chars:
        return Chars(ranges, negated, "i" in self._flags)

    def _group(self) -> Tree:
        if self._peek() == "?":
            opening = _GROUP.match(self._pattern, self._at)
            if opening is None:
                raise self._wrong("look-around and flags within a pattern are not possible; (?ims) only at its start")
            self._at = opening.end()
        self._groups += 1
        if self._groups > MAX_GROUPS:
            raise self._wrong(f"groups are nested more than {MAX_GROUPS} deep")
        tree = self._alternatives()
        if self._peek() != ")":
            raise self._wrong("a '(' without its ')'")
        self._at += 1
        self._groups -= 1
        return tree

    def _escape(self) -> Tree:
        char = self._peek()
        if char and char in _ASSERTIONS:
            self._at += 1
            return Assertion(_ASSERTIONS[char])
        if char and char.lower() in _CLASSES:
            self._at += 1
            return self._chars(_CLASSES[char.lower()], char.isupper())
        code = self._escaped_code()
        return self._chars(((code, code),))

    def _escaped_code(self) -> int:
        char = self._peek()
        hexadecimal = _HEX.match(self._pattern, self._at)
        if hexadecimal is not None:
            self._at = hexadecimal.end()
            return int(hexadecimal[1] or hexadecimal[2], 16)
        if not char:
            raise self._wrong("the pattern ends in a backslash")
        if char.isdigit():
            raise self._wrong("back references are not possible here")
        if char.isascii() and char.isalpha():
            if not _CONTROL.get(char):
                raise self._wrong(f"unknown escape '\\{char}'")
            char = _CONTROL[char]
        self._at += 1
        return ord(char)

    def _class(self) -> Chars:
        negated = self._peek() == "^"
        self._at += negated
        ranges: list[tuple[int, int]] = []
        first = True
        while first or self._peek() != "]":
            first = False
            ranges.extend(self._class_item())
        self._at += 1
        return self._chars(tuple(ranges), negated)

    def _class_item(self) -> tuple[tuple[int, int], ...]:
        char = self._peek()
        if char == "\\" and self._pattern[self._at + 1 : self._at + 2].lower() in _CLASSES:
            letter = self._pattern[self._at + 1]
            self._at += 2
            return _CLASSES[letter] if letter.islower() else _complement(_CLASSES[letter.lower()])
        low = self._class_code()
        if self._peek() != "-" or self._pattern[self._at + 1 : self._at + 2] in ("]", ""):
            return ((low, low),)
        self._at += 1
        high = self._class_code()
        if high < low:
            raise self._wrong("a range from high to low")
        return ((low, high),)

    def _class_code(self) -> int:
        char = self._peek()
        if not char:
            raise self._wrong("a '[' without its ']'")
        if self._pattern.startswith("[:", self._at):
            raise self._wrong("named classes such as [:alpha:] are not possible here")
        self._at += 1
        return self._escaped_code() if char == "\\" else ord(char)


def _complement(ranges: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
    edges = [-1, *(edge for pair in ranges for edge in pair), 0x110000]
    pairs = zip(edges[::2], edges[1::2], strict=True)
    return tuple((low + 1, high - 1) for low, high in pairs if low + 1 <= high - 1)
