"""What operators and functions do with JSON values, as CEL defines it: no truthiness, and a bool is never a number.

Errors are exceptions of `ERRORS`; a condition that ends in one does not match. One thing is wider than CEL: numbers
of both kinds may be added and compared with each other, because JSON does not tell `100` from `100.0`.
"""

import math
import operator
import re
from collections.abc import Callable
from typing import Any

from perdure.flow.expressions.lexer import MIN_INT
from perdure.flow.expressions.nodes import kind_of
from perdure.flow.expressions.regex import MAX_TEXT, Regex


class NoValue(LookupError):
    """An operation without a result: a missing key, a wrong type, a division by zero."""


ERRORS = (LookupError, TypeError, ArithmeticError)
"""`document[key]` raises the first two by itself, which is why they are not all NoValue."""

_INT = re.compile(r"[+-]?[0-9]{1,20}")
_DOUBLE = re.compile(
    r"[+-]?(?:[0-9]+\.?[0-9]*(?:[eE][+-]?[0-9]+)?|\.[0-9]+(?:[eE][+-]?[0-9]+)?|inf(?:inity)?|nan)", re.IGNORECASE
)
_MAX_SIGNED = 2**63 - 1


def equal(left: Any, right: Any) -> bool:
    """`==`: values of different types are unequal, numbers are compared by value whatever their kind."""
    kind = kind_of(left)
    other = kind_of(right)
    if kind is str or left is None:
        return bool(left == right)
    if kind is bool:
        return left is right
    if kind is dict:
        return (
            other is dict
            and len(left) == len(right)
            and all(key in right and equal(value, right[key]) for key, value in left.items())
        )
    if kind is list:
        return other is list and len(left) == len(right) and all(map(equal, left, right))
    return other is not bool and bool(left == right)


def _is_number(value: Any) -> bool:
    kind = kind_of(value)
    return kind is int or kind is float


def _comparison(compare: Callable[[Any, Any], Any]) -> Callable[[Any, Any], bool]:
    def ordered(left: Any, right: Any) -> bool:
        kind = kind_of(left)
        if (kind is type(right) and (kind is str or kind is bool)) or (_is_number(left) and _is_number(right)):
            return bool(compare(left, right))
        raise NoValue

    return ordered


def contained(item: Any, container: Any) -> bool:
    """`in`: an item of a list, a key of an object."""
    kind = kind_of(container)
    if kind is list:
        return any(equal(item, other) for other in container)
    if kind is dict:
        return type(item) is str and item in container
    raise NoValue


def add(left: Any, right: Any) -> Any:
    """`+` of two numbers, texts or lists."""
    if _is_number(left) and _is_number(right):
        return _fits(left + right)
    if type(left) is type(right) and type(left) in (str, list):
        return left + right
    raise NoValue


def subtract(left: Any, right: Any) -> Any:
    """`-` of two numbers."""
    _need_numbers(left, right)
    return _fits(left - right)


def multiply(left: Any, right: Any) -> Any:
    """`*` of two numbers."""
    _need_numbers(left, right)
    return _fits(left * right)


def divide(left: Any, right: Any) -> Any:
    """`/`: between ints it drops the fraction and needs a divisor; otherwise as IEEE 754 has it."""
    _need_numbers(left, right)
    if kind_of(left) is int and kind_of(right) is int:
        quotient = abs(left) // abs(right)
        return _fits(quotient if (left < 0) == (right < 0) else -quotient)
    if right:
        return left / right
    negative = math.copysign(1.0, left) != math.copysign(1.0, right)
    return math.nan if not left or left != left else -math.inf if negative else math.inf


def remainder(left: Any, right: Any) -> int:
    """`%` of two ints, with the sign of the left one."""
    if type(left) is not int or type(right) is not int:
        raise NoValue
    rest = abs(left) % abs(right)
    return -rest if left < 0 else rest


def negate(value: Any) -> Any:
    """Unary minus."""
    _need_numbers(value, value)
    return _fits(-value)


def element(container: Any, key: Any) -> Any:
    """`container[key]`: a list by position, an object by key."""
    kind = kind_of(container)
    if kind is dict:
        return container[key]
    if kind is not list or not _is_number(key) or not key >= 0 or key != int(key):
        raise NoValue
    return container[int(key)]


def field(container: Any, key: str) -> bool:
    """`has(container.key)`."""
    if type(container) is not dict:
        raise NoValue
    return key in container


def _need_numbers(left: Any, right: Any) -> None:
    if not _is_number(left) or not _is_number(right):
        raise NoValue


def _fits(value: Any) -> Any:
    if type(value) is int and not MIN_INT <= value <= _MAX_SIGNED:
        raise NoValue
    return value


def size(value: Any) -> int:
    """Characters of a text, items of a list, keys of an object."""
    if type(value) in (str, list, dict):
        return len(value)
    raise NoValue


def to_int(value: Any) -> int:
    """`int()`: of a number without its fraction, or of decimal digits."""
    if (type(value) is str and _INT.fullmatch(value)) or (type(value) is float and value == value):
        value = int(value)
    if type(value) is not int or not MIN_INT <= value <= _MAX_SIGNED:
        raise NoValue
    return value


def to_double(value: Any) -> float:
    """`double()`: of a number, or of its decimal text."""
    if _is_number(value) or (type(value) is str and _DOUBLE.fullmatch(value)):
        return float(value)
    raise NoValue


def to_string(value: Any) -> str:
    """`string()`: a double without fraction is written as an int, because JSON does not tell them apart."""
    if type(value) is str:
        return value
    if type(value) is bool:
        return "true" if value else "false"
    _need_numbers(value, value)
    return repr(value).removesuffix(".0")


def _text_test(test: Callable[[str, str], bool]) -> Callable[[Any, Any], bool]:
    def check(text: Any, part: Any) -> bool:
        if type(text) is not str or type(part) is not str:
            raise NoValue
        return test(text, part)

    return check


def _in_ascii(change: Callable[[str], str], letters: str) -> Callable[[Any], str]:
    table = str.maketrans({letter: change(letter) for letter in letters})

    def convert(text: Any) -> str:
        if type(text) is not str:
            raise NoValue
        return text.translate(table)

    return convert


def search(regex: Regex, text: Any) -> bool:
    """`matches()`: whether the pattern is found anywhere in the text."""
    if type(text) is not str or len(text) > MAX_TEXT:
        raise NoValue
    return regex.search(text)


OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "==": equal,
    "!=": lambda left, right: not equal(left, right),
    "<": _comparison(operator.lt),
    "<=": _comparison(operator.le),
    ">": _comparison(operator.gt),
    ">=": _comparison(operator.ge),
    "in": contained,
    "+": add,
    "-": subtract,
    "*": multiply,
    "/": divide,
    "%": remainder,
}

ONE_VALUE: dict[str, Callable[[Any], Any]] = {
    "size": size,
    "int": to_int,
    "double": to_double,
    "string": to_string,
    "lowerAscii": _in_ascii(str.lower, "ABCDEFGHIJKLMNOPQRSTUVWXYZ"),
    "upperAscii": _in_ascii(str.upper, "abcdefghijklmnopqrstuvwxyz"),
}

TWO_TEXTS: dict[str, Callable[[Any, Any], bool]] = {
    "startsWith": _text_test(str.startswith),
    "endsWith": _text_test(str.endswith),
    "contains": _text_test(str.__contains__),
}
