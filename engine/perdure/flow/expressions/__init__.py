"""Conditions over events: the subset of CEL that Inngest's users know, compiled to closures. Pure.

    event.data.total > 100 && async.data.cart_id == event.data.cart_id

`event` is the trigger, `async` the incoming event; each has `id`, `name`, `data`, `user`, `ts`, `v`. The language has
field access and `["x"]`, `[0]`; texts, numbers, true, false, null, lists and objects; `== != < <= > >= in`,
`&& || !`, `+ - * / %`, `? :`; `has(x.y)`, `size(x)`, `int(x)`, `double(x)`, `string(x)`; `x.startsWith(y)`,
`endsWith`, `contains`, `matches`, `lowerAscii`, `upperAscii`; `xs.exists(x, …)` and `xs.all(x, …)`.

There is no truthiness: where a bool is needed, anything else is an error. An error (a missing key, a wrong type)
that no `||` or `&&` makes up for means that the condition does not match. Wider than CEL only in this: ints and doubles
may be added to each other, and integers reach up to 2**64 - 1.
"""

from perdure.flow.expressions.binding import bind
from perdure.flow.expressions.condition import Condition, compile_where
from perdure.flow.expressions.joins import Equality, equalities, join_key, join_value
from perdure.flow.expressions.paths import MISSING, Missing, canonical_path, format_path, get_path, parse_path

EXPRESSION_VERSION = 1
"""Stands in `app.defined`. A change of meaning is a new version, because folds evaluate old definitions again."""

__all__ = [
    "EXPRESSION_VERSION",
    "MISSING",
    "Condition",
    "Equality",
    "Missing",
    "bind",
    "canonical_path",
    "compile_where",
    "equalities",
    "format_path",
    "get_path",
    "join_key",
    "join_value",
    "parse_path",
]
